"""What workers learn about words from each other: a hierarchical model of their effects.

    A_v = S + D_v,    D_v ~ N(0, tau^2)

A_v are the effects of words at worker v (see `additive`), S is common to all and D_v is the
worker's own deviation. From its own losses each worker has a precision and an information
(precision times mean) for every word; both add up over workers. The sums over the others give S,
the mean of a worker's prior. Each worker learns for itself how much workers differ: every tau^2 of
`SPREADS` predicts the losses of its next samples, and is trusted as far as its predictions hold (a
Bayesian mixture by prequential likelihood; Dawid, 1984). So a worker unlike the others ends with
its own effects alone, and bad advice does not last.
"""

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray

SPREADS = np.array([0.1, 0.3, 1.0])
"""Values of tau^2, as share of an effect's prior variance; at 1 others do not count."""

CORRECTED = 20
"""Past steps that are put right when the model changes its mind."""

OUTLYING = 3.0
"""Effects beyond so many times the largest of the median worker are cut there."""


def priors(
    precision: FloatArray, information: FloatArray, prior: float
) -> tuple[FloatArray, FloatArray]:
    """Means (G, ...) and variances (G, ...) of effects, by what others know of them.

    Parameters
    ----------
    precision, information : arrays (...), sums over the others, in units of the noise
    prior : variance of an effect of which nobody knows anything
    """
    common = 1.0 / (precision + 1.0 / prior)
    spreads = (SPREADS * prior).reshape(-1, *(1,) * precision.ndim)
    alone = spreads >= prior
    means = np.where(alone, 0.0, information * common)
    variances = np.where(alone, prior, np.minimum(spreads + common, prior))
    return means, variances


def combine(
    own: tuple[FloatArray, FloatArray], others: tuple[FloatArray, FloatArray], prior: float
) -> tuple[FloatArray, FloatArray]:
    """Effects and their variances, both (G, ...), one for each of `SPREADS`.

    ``own`` and ``others`` are (precision, information), each array (...).
    """
    means, variances = priors(*others, prior)
    precision, information = own
    variance = 1.0 / (precision + 1.0 / variances)
    return (information + means / variances) * variance, variance


def trust(scores: FloatArray) -> FloatArray:
    """Weights (..., G) of `SPREADS` from their negative log-likelihoods ``scores`` (..., G)."""
    weights: FloatArray = np.exp(scores.min(axis=-1, keepdims=True) - scores)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def mix(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean of ``values`` (G, W, ...) by ``weights`` (W, G); (W, ...)."""
    mixed: FloatArray = np.einsum("gw...,wg->w...", values, weights)
    return mixed


def corrected(effects: FloatArray, told: FloatArray, steps: FloatArray | int) -> FloatArray:
    """The gradient for a step by ``effects``, when the last of ``steps`` steps was by ``told``.

    A step is taken by the sum of all gradients so far (exactly so by mirror descent). Where a
    model changes its mind by d, the earlier gradients were wrong by d as well: the new one makes
    up for the latest of them.
    """
    gradient: FloatArray = effects + np.minimum(steps, CORRECTED) * (effects - told)
    return gradient


class Pool:
    """The server's side: the newest that every worker knows of words, and the sums.

    What a worker reports is cut to what it can know: a precision of 1 for every sample that it
    was asked for, and effects `OUTLYING` times those of the median worker (D6).

    Parameters
    ----------
    shape : (R, M, N)
    prior : variance of an effect of which nobody knows anything
    samples : I, prompts of a step

    Attributes
    ----------
    precision, information : arrays (R, M, N)
    effects : array (R, M, N), those by which each worker takes its steps
    """

    def __init__(self, shape: tuple[int, int, int], prior: float, samples: int) -> None:
        self.prior = prior
        self.samples = samples
        self.known = np.zeros(shape[0], dtype=bool)
        self._largest = np.zeros(shape[0])
        self.precision: FloatArray = np.zeros(shape)
        self.information: FloatArray = np.zeros(shape)
        self.effects: FloatArray = np.zeros(shape)
        self._total = np.zeros(shape[1:]), np.zeros(shape[1:])
        self._sum = np.zeros(shape[1:])
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
        precision = np.minimum(precision, (self.samples * steps)[:, None, None])
        certain = precision + 1.0 / self.prior
        effects = information / certain
        self._largest[workers] = np.abs(effects).max(axis=(1, 2))
        self.known[workers] = True
        bound = OUTLYING * float(np.median(self._largest[self.known]))
        self._enter(workers, precision, certain * effects.clip(-bound, bound))
        values, _ = combine(
            (self.precision[workers], self.information[workers]), self.others(workers), self.prior
        )
        weights = trust + np.finfo(float).tiny  # one that trusts nothing trusts all alike
        effects = mix(values, weights / weights.sum(axis=-1, keepdims=True))
        self._sum += (effects - self.effects[workers]).sum(axis=0)
        self.effects[workers] = effects

    def forget(self, worker: int) -> None:
        """Go on without what ``worker``, from 0, knows."""
        one, nothing = np.array([worker]), np.zeros((1, *self._sum.shape))
        self._enter(one, nothing, nothing)
        self._sum -= self.effects[worker]
        self.effects[worker] = 0.0
        self.known[worker] = False

    def _enter(self, workers: IntArray, precision: FloatArray, information: FloatArray) -> None:
        for total, held, new in zip(
            self._total, (self.precision, self.information), (precision, information), strict=True
        ):
            total += (new - held[workers]).sum(axis=0)
            held[workers] = new

    def others(self, workers: IntArray) -> tuple[FloatArray, FloatArray]:
        """Precision and information (W, M, N) of all but each of ``workers``, from 0."""
        precision, information = self._total
        # Rounding of a running sum can leave less than nothing.
        rest = np.maximum(precision - self.precision[workers], 0.0)
        return rest, information - self.information[workers]

    def step(self) -> FloatArray:
        """Gradient (M, N) for the next step of z: the mean of all grad g_v at p = z.

        Of those that have reported, and `corrected`.
        """
        mean = self._sum / max(int(self.known.sum()), 1)
        gradient = corrected(mean, self._told, self._steps)
        self._told, self._steps = mean, self._steps + 1
        return gradient
