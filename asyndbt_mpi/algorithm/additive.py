"""Gradients from an additive model of the loss, learnt from all samples that a worker has scored.

    L = b_assignment + sum_i A[i, J_i] + sum_u C[u, K_u] + noise

Under independent J ~ p, K ~ q the derivatives of E[L] in p and q are A and C. An assignment's
samples are scored on the same queries, whose difficulty b is removed by centring. What
samples tell is slowly forgotten, because with interactions a word's effect depends on the other
words, whose distributions move. The effects are filtered by Kalman (1960) with a diagonal
covariance, since that of all M N + U V effects would be too large. A score function learns nothing
about a word that is not drawn again, and pays 1 / p for one that is; the filter keeps and refines
what it knows.

What the other workers know of words is the prior of a worker's own effects (see `pooling`); the
filter itself learns from the worker's own losses alone, so that nothing returns to those it came
from. Unlike a score function the model does not mind where samples come from, so some words and
demonstrations are drawn by their chance of being the best (Thompson, 1933): a category that has
lost its probability is tried again as long as it may be worth it.
"""

from collections.abc import Iterable

import numpy as np

from asyndbt_mpi.algorithm import filtering, pooling
from asyndbt_mpi.algorithm.coupling import latin_hypercube
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray

SIGNAL = 5.0
"""Prior variance of all effects of a prompt together, in units of the noise's variance."""

DRIFT = 0.02
"""Share of what samples tell about an effect that each assignment forgets."""

OUTLIER = 4.0
"""Residuals are clipped at this many times their usual size (Huber, 1964)."""

MEDIAN_SQUARE = 0.455
"""Median of the square of a normal number, in units of its variance."""

ROUNDING = 1e-9
"""Share of the losses below which their differences are taken for rounding."""

AGREEING = 1e-3
"""Share of the residuals' usual square below which samples count as equal."""

SCALE_RATE = 0.1
"""Weight of an assignment in the usual size of the residuals."""

EXPLORED = 0.5
"""Share of the words and demonstrations that are drawn by their chance to be the best."""

TEMPERATURE = 0.5
"""Of an effect's standard deviation, which the diagonal of the covariance overstates."""

SAMPLED = 16
"""Prompts that were sampled, of which the best are remembered."""

BELIEVED = 0.5
"""Share of a sampled prompt's residual that is taken for its own, and not for chance."""


def prior_variance(positions: int, classes: int) -> float:
    """Of the effect of one of M + U categories of a prompt, where the noise's variance is 1."""
    return SIGNAL / (positions + classes)


class Additive:
    """The models of a stack of workers.

    Parameters
    ----------
    p_shape, q_shape : (W, M, N), (W, U, V)

    Attributes
    ----------
    effects, variances : arrays (W, M N + U V)
        Mean and variance of A and C, one after the other; variances are in units of the noise's.
    told : array (W, M N + U V), the effects at each worker's last upper step
    steps : array (W, 1), upper steps so far
    scale : array (W, 1), mean square of the residuals; 0 before the first
    scores : array (W, G), how badly each of `pooling.SPREADS` has predicted the losses
    sampled : array (W, SAMPLED, M + U), the best of the prompts that were sampled, as indices; -1
        where there is none yet
    residuals : array (W, SAMPLED), of their losses
    """

    def __init__(self, p_shape: tuple[int, ...], q_shape: tuple[int, ...]) -> None:
        workers, *self.of_words = p_shape
        _, *self.of_demonstrations = q_shape
        (m, n), (u, v) = self.of_words, self.of_demonstrations
        self.first = np.concatenate((n * np.arange(m), m * n + v * np.arange(u)))
        self.prior = prior_variance(m, u)
        self.effects: FloatArray = np.zeros((workers, m * n + u * v))
        self.variances: FloatArray = np.full_like(self.effects, self.prior)
        self.told: FloatArray = np.zeros_like(self.effects)
        self.steps: FloatArray = np.zeros((workers, 1))
        self.scale: FloatArray = np.zeros((workers, 1))
        self.scores: FloatArray = np.zeros((workers, len(pooling.SPREADS)))
        self.sampled: FloatArray = np.full((workers, SAMPLED, m + u), -1.0)
        self.residuals: FloatArray = np.zeros((workers, SAMPLED))
        self._others: FloatArray = np.zeros((2, workers, m * n))

    @property
    def state(self) -> list[FloatArray]:
        """As `Estimator`."""
        learnt = [self.effects, self.variances, self.told, self.steps, self.scale, self.scores]
        # The others' knowledge counts in `best`.
        return [*learnt, self.sampled, self.residuals, *self._others]

    # ------------------------------------------------------------ what others know

    def hear(self, members: IntArray, precision: FloatArray, information: FloatArray) -> None:
        """Take what the others of each of ``members`` know of words, both (W, M, N)."""
        self._others[0][members] = precision.reshape(len(members), -1)
        self._others[1][members] = information.reshape(len(members), -1)

    def knowledge(self, members: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What ``members`` know of words: precision, information (W, M, N) and trust (W, G)."""
        precision, information = self._own(members)
        shape = -1, *self.of_words
        trust = pooling.trust(self.scores[members])
        return precision.reshape(shape), information.reshape(shape), trust

    def _own(self, members: IntArray) -> tuple[FloatArray, FloatArray]:
        """Precision and information (W, M N) of words from own losses."""
        words = slice(int(np.prod(self.of_words)))
        precision = 1.0 / self.variances[members, words]
        information = self.effects[members, words] * precision
        return np.maximum(precision - 1.0 / self.prior, 0.0), information

    def _known(self, members: IntArray) -> tuple[FloatArray, FloatArray]:
        """All effects (W, M N + U V) by what everybody knows, and their variances."""
        weights = pooling.trust(self.scores[members])
        return filtering.known(
            self.effects, self.variances, self._others, members, weights, pooling.SPREADS,
            self.prior,
        )  # fmt: skip

    def _entries(self, words: IntArray, demonstrations: IntArray) -> IntArray:
        """Where the effects of each sample are, (W, I, M + U)."""
        return np.concatenate((words, demonstrations), axis=-1) + self.first

    # ------------------------------------------------------------ samples

    def couple(self, uniform: FloatArray) -> FloatArray:
        """See `Estimator`; samples that differ tell more about more of the effects."""
        return latin_hypercube(uniform)

    def explore(
        self,
        members: IntArray,
        allowed: BoolArray,
        words: IntArray,
        demonstrations: IntArray,
        generators: Iterable[np.random.Generator],
    ) -> None:
        """As `Estimator`: `EXPLORED` of the categories are the best by a draw of the effects."""
        effects, variances = self._known(members)
        deviations = TEMPERATURE * np.sqrt(variances * self.scale[members])
        m, n = self.of_words
        everything = np.ones((m, n), dtype=bool)
        for row, generator in enumerate(generators):
            for drawn, part, mask in (
                (words[row], slice(m * n), everything),
                (demonstrations[row], slice(m * n, None), allowed[row]),
            ):
                chosen = generator.random(drawn.shape) < EXPLORED
                normal = generator.standard_normal((np.count_nonzero(chosen), mask.shape[1]))
                mean = effects[row, part].reshape(mask.shape)
                deviation = deviations[row, part].reshape(mask.shape)
                filtering.choose(drawn, chosen, mean, deviation, normal, mask)

    def best(self, member: int, allowed: BoolArray, rank: int) -> tuple[IntArray, IntArray]:
        """As `Estimator`: the first by the effects alone, the others out of `sampled`.

        An additive model cannot see what one prompt is worth beyond its parts; a sample can.
        """
        effects = self._known(np.array([member]))[0]
        m, n = self.of_words
        shown = effects[0, m * n :].reshape(self.of_demonstrations)
        words = effects[0, : m * n].reshape(m, n).argmin(axis=-1)
        found = np.concatenate((words, np.where(allowed, shown, np.inf).argmin(axis=-1)))
        if rank:
            sampled = self.sampled[member].astype(np.int64)
            values = effects[0, sampled + self.first].sum(axis=-1)
            values += BELIEVED * self.residuals[member]
            values[(sampled < 0).any(axis=-1) | (sampled == found).all(axis=-1)] = np.inf
            if rank <= np.isfinite(values).sum():
                found = sampled[np.argsort(values, kind="stable")[rank - 1]]
        return found[:m], found[m:]

    # ------------------------------------------------------------ gradients

    def upper(
        self,
        members: IntArray,
        p: FloatArray,
        q: FloatArray,
        words: IntArray,
        demonstrations: IntArray,
        losses: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Learn, and return the gradients (W, M, N), (W, U, V) for an upper step.

        What the others know counts in both; see `pooling.corrected` for a model whose estimate
        changes.
        """
        entries = self._entries(words, demonstrations)
        filtering.judge(
            self.effects, self.variances, self._others, self.scale, self.scores, members, entries,
            len(self.first) - demonstrations.shape[-1], losses, pooling.SPREADS,
            (self.prior, DRIFT, OUTLIER),
        )  # fmt: skip
        self._learn(members, entries, losses)
        effects, _ = self._known(members)
        steps = self.steps[members]
        gradient = pooling.corrected(effects, self.told[members], steps)
        self.told[members], self.steps[members] = effects, steps + 1
        return self._of_words(gradient), self._of_demonstrations(gradient)

    def lower(
        self,
        members: IntArray,
        p: FloatArray,
        words: IntArray,
        demonstrations: IntArray,
        losses: FloatArray,
    ) -> FloatArray:
        """Learn, and return the gradient (W, M, N) in p at fixed demonstrations."""
        self._learn(members, self._entries(words, demonstrations), losses)
        return self._of_words(self._known(members)[0])

    def _of_words(self, effects: FloatArray) -> FloatArray:
        return effects[:, : np.prod(self.of_words)].reshape(-1, *self.of_words)

    def _of_demonstrations(self, effects: FloatArray) -> FloatArray:
        return effects[:, np.prod(self.of_words) :].reshape(-1, *self.of_demonstrations)

    def _learn(self, members: IntArray, entries: IntArray, losses: FloatArray) -> None:
        """The filter's step with ``losses`` (W, I) of the samples at ``entries`` (W, I, M + U)."""
        residuals, covariance = filtering.surprises(
            self.effects, self.variances, self.scale, members, entries, losses,
            (ROUNDING, MEDIAN_SQUARE, OUTLIER, AGREEING, SCALE_RATE),
        )  # fmt: skip
        inverse = np.asarray(np.linalg.inv(covariance), np.float64)
        filtering.learn(
            self.effects, self.variances, members, entries, residuals, inverse, DRIFT, self.prior
        )
        filtering.remember(
            self.effects, self.sampled, self.residuals, members, entries, self.first, losses,
            BELIEVED,
        )  # fmt: skip
