"""What workers learn about words from each other: a hierarchical model of their effects.

    A_v = S + D_v,    D_v ~ N(0, tau^2)

A_v are the effects of words at worker v (see `additive`), S is common to all and D_v is the
worker's own deviation. From its own losses each worker has a precision and an information
(precision times mean) for every word; both add up over workers. The sums over the others give S,
the mean of a worker's prior; weights that take account of each one's own tau^2 would need a sum for
each of `SPREADS`. Each worker learns for itself how much workers differ: every tau^2 of
`SPREADS` predicts the losses of its next samples, and is trusted as far as its predictions hold (a
Bayesian mixture by prequential likelihood; Dawid, 1984). So a worker unlike the others ends with
its own effects alone, and bad advice does not last.
"""

import numpy as np

from asyndbt_mpi.algorithm import filtering
from asyndbt_mpi.algorithm.aggregation import PLAIN, Aggregation, outlying
from asyndbt_mpi.algorithm.types import FloatArray, IntArray

SPREADS = np.array([0.1, 0.3, 1.0])
"""Values of tau^2, as share of an effect's prior variance; at 1 others do not count."""

CORRECTED = 20
"""Past steps that are put right when the model changes its mind."""


def trust(scores: FloatArray) -> FloatArray:
    """Weights (..., G) of `SPREADS` from their negative log-likelihoods ``scores`` (..., G)."""
    weights: FloatArray = np.exp(scores.min(axis=-1, keepdims=True) - scores)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def corrected(effects: FloatArray, told: FloatArray, steps: FloatArray | int) -> FloatArray:
    """The gradient for a step by ``effects``, when the last of ``steps`` steps was by ``told``.

    A step is taken by the sum of all gradients so far (exactly so by mirror descent). Where a
    model changes its mind by d, the earlier gradients were wrong by d as well: the new one makes
    up for the latest of them.
    """
    gradient: FloatArray = effects + np.minimum(steps, CORRECTED) * (effects - told)
    return gradient


class Pool:
    """The server's side: the newest that every worker knows of words.

    What a worker reports is cut to what it can know: a precision of 1 for every sample that it
    was asked for, and effects `OUTLYING` times those of the median worker (D6). Whoever has not
    reported yet counts there with effects of 0, so that the first to report cannot set the bound.

    Parameters
    ----------
    shape : (R, M, N)
    prior : variance of an effect of which nobody knows anything
    samples : I, prompts of a step
    aggregation : the rule by which what several workers know becomes one

    Attributes
    ----------
    precision, information : arrays (R, M, N)
    effects : array (R, M, N), those by which each worker takes its steps
    known, lost : bool arrays (R,), who has reported, and who has left since
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        prior: float,
        samples: int,
        aggregation: Aggregation = PLAIN,
    ) -> None:
        self.prior = prior
        self.aggregation = aggregation
        self.samples = samples
        self.known = np.zeros(shape[0], dtype=bool)
        self.lost = np.zeros(shape[0], dtype=bool)
        self.precision: FloatArray = np.zeros(shape)
        self.information: FloatArray = np.zeros(shape)
        self.effects: FloatArray = np.zeros(shape)
        # As reported, before effects are cut.
        self._reported = np.zeros(shape)
        self._largest = np.zeros(shape[0])
        self._trust = np.zeros((shape[0], len(SPREADS)))
        self._is_cut = np.zeros(shape[0], dtype=bool)
        self._total = np.zeros(shape[1:]), np.zeros(shape[1:])
        self._told = np.zeros(shape[1:])
        self._steps = 0

    def take(
        self,
        workers: IntArray,
        steps: IntArray,
        precision: FloatArray,
        information: FloatArray,
        trust: FloatArray,
    ) -> None:
        """What ``workers`` (W,), from 0, know after so many ``steps`` (W,) each.

        precision, information are (W, M, N), trust (W, G).
        """
        self.precision[workers] = np.minimum(precision, (self.samples * steps)[:, None, None])
        reported = information / (self.precision[workers] + 1.0 / self.prior)
        self._reported[workers] = reported
        self._largest[workers] = np.abs(reported).max(axis=(1, 2))
        self._trust[workers] = trust
        self.known[workers], self.lost[workers] = True, False
        self._refresh(workers)

    def forget(self, worker: int) -> None:
        """Go on without what ``worker``, from 0, knows."""
        self.known[worker], self.lost[worker] = False, True
        for held in (self.precision, self._reported, self._largest, self.effects):
            held[worker] = 0.0
        self._refresh(np.arange(len(self.known)))  # it counts in everybody's effects

    def _refresh(self, workers: IntArray) -> None:
        """Work out what follows from the reports of ``workers`` and the bound that they change."""
        bound = outlying(self._largest[~self.lost])
        is_cut = self._largest > bound
        changed = self._is_cut | is_cut
        changed[workers] = True
        self._is_cut = is_cut
        certain = self.precision[changed] + 1.0 / self.prior
        self.information[changed] = certain * self._reported[changed].clip(-bound, bound)
        # Not as running sums, which would keep the rounding of all that ever passed through them.
        self._total = self._sum(self.precision), self._sum(self.information)
        self._mix(np.flatnonzero(changed & self.known))

    def _mix(self, workers: IntArray) -> None:
        own = self.precision[workers], self.information[workers]
        # One that trusts nothing trusts all alike.
        weights = self._trust[workers] + np.finfo(float).tiny
        weights /= weights.sum(axis=-1, keepdims=True)
        others = self.others(workers)
        self.effects[workers] = filtering.mixed(*own, *others, weights, SPREADS, self.prior)

    def _sum(self, held: FloatArray) -> FloatArray:
        """Over the workers that have reported: by a rule, their number times its robust mean.

        Precision and information each by itself: in a joint vector the counts would outweigh the
        effects.
        """
        if self.aggregation.is_mean or not self.known.any():
            total: FloatArray = held.sum(axis=0)
        else:
            count = int(self.known.sum())
            total = count * self.aggregation.mean(held[self.known], self._steps)
        return total

    def others(self, workers: IntArray) -> tuple[FloatArray, FloatArray]:
        """Precision and information (W, M, N) of all but each of ``workers``, from 0.

        A robust mean is of all that have reported, the worker itself included, for it cannot be
        taken out again; then it is their number times that mean.
        """
        precision, information = self._total
        if not self.aggregation.is_mean:
            known = self.known[workers]
            share = ((self.known.sum() - known) / max(int(self.known.sum()), 1))[:, None, None]
            return share * precision, share * information
        # Rounding can leave less than nothing.
        rest = np.maximum(precision - self.precision[workers], 0.0)
        return rest, information - self.information[workers]

    def step(self) -> FloatArray:
        """Gradient (M, N) for the next step of z: the mean of all grad g_v at p = z.

        Of those that have reported, and `corrected`.
        """
        if self.aggregation.is_mean or not self.known.any():
            mean = self.effects.sum(axis=0) / max(int(self.known.sum()), 1)
        else:
            mean = self.aggregation.mean(self.effects[self.known], self._steps)
        gradient = corrected(mean, self._told, self._steps)
        self._told, self._steps = mean, self._steps + 1
        return gradient
