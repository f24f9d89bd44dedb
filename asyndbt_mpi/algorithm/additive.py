"""Gradients from an additive model of the loss, learnt from all samples that a worker has scored.

    L = b_assignment + sum_i A[i, J_i] + sum_u C[u, K_u] + noise

Under independent J ~ p, K ~ q the derivatives of E[L] in p and q are A and C. An assignment's
samples are scored on the same queries, whose difficulty b is removed by centring. The effects
follow a random walk, because with interactions a word's effect depends on the other words, whose
distributions move. They are filtered by Kalman (1960) with a diagonal covariance, since that of all
M N + U V effects would be too large. A score function learns nothing about a word that is not drawn
again, and pays 1 / p for one that is; the filter keeps and refines what it knows.
"""

import numpy as np

from asyndbt_mpi.algorithm.coupling import latin_hypercube
from asyndbt_mpi.algorithm.types import FloatArray, IntArray

SIGNAL = 10.0
"""Prior variance of all effects of a prompt together, in units of the noise's variance."""

DRIFT = 0.02
"""Share of the reduction of an effect's variance that each assignment forgets."""

CORRECTED = 20
"""Past upper steps that are corrected when the model's estimate changes."""

OUTLIER = 4.0
"""Residuals are clipped at this many times their usual size (Huber, 1964)."""

AGREEING = 1e-3
"""Share of the residuals' usual square below which samples count as equal."""

SCALE_RATE = 0.1
"""Weight of an assignment in the usual size of the residuals."""


class Additive:
    """The models of a stack of workers, each learning from its own losses alone.

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
    """

    def __init__(self, p_shape: tuple[int, ...], q_shape: tuple[int, ...]) -> None:
        workers, *self.of_words = p_shape
        _, *self.of_demonstrations = q_shape
        (m, n), (u, v) = self.of_words, self.of_demonstrations
        self.first = np.concatenate((n * np.arange(m), m * n + v * np.arange(u)))
        self.prior = SIGNAL / (m + u)
        self.effects: FloatArray = np.zeros((workers, m * n + u * v))
        self.variances: FloatArray = np.full_like(self.effects, self.prior)
        self.told: FloatArray = np.zeros_like(self.effects)
        self.steps: FloatArray = np.zeros((workers, 1))
        self.scale: FloatArray = np.zeros((workers, 1))

    @property
    def state(self) -> list[FloatArray]:
        """As `Estimator`."""
        return [self.effects, self.variances, self.told, self.steps, self.scale]

    def couple(self, uniform: FloatArray) -> FloatArray:
        """See `Estimator`; samples that differ tell more about more of the effects."""
        return latin_hypercube(uniform)

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

        A step is taken by the sum of all gradients so far (exactly so by mirror descent). Where
        the model's estimate changes by d, the earlier gradients were wrong by d as well; the new
        one corrects the latest of them.
        """
        effects = self._learn(members, words, demonstrations, losses)
        steps = self.steps[members]
        gradient = effects + np.minimum(steps, CORRECTED) * (effects - self.told[members])
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
        return self._of_words(self._learn(members, words, demonstrations, losses))

    def _of_words(self, effects: FloatArray) -> FloatArray:
        return effects[:, : np.prod(self.of_words)].reshape(-1, *self.of_words)

    def _of_demonstrations(self, effects: FloatArray) -> FloatArray:
        return effects[:, np.prod(self.of_words) :].reshape(-1, *self.of_demonstrations)

    def _learn(
        self, members: IntArray, words: IntArray, demonstrations: IntArray, losses: FloatArray
    ) -> FloatArray:
        """The filter's step with centred ``losses`` (W, I); the new effects of ``members``."""
        effects, variances = self.effects[members], self.variances[members]
        drawn = np.concatenate((words, demonstrations), axis=-1) + self.first  # (W, I, M + U)
        workers, samples, rows = drawn.shape
        residuals = losses - _taken(effects, drawn).sum(axis=-1)
        residuals = self._without_outliers(members, _centred(residuals))
        same = drawn[:, :, None] == drawn[:, None]  # (W, I, I, M + U)
        shared = (same * _taken(variances, drawn)[:, :, None]).sum(axis=-1)
        covariance = _centred(_centred(shared).swapaxes(1, 2)) + np.eye(samples)
        # The centred noise has the covariance I - 11'/I, which on centred vectors is that of I.
        precision = np.linalg.inv(covariance) - 1.0 / samples
        weights = (precision * residuals[:, None]).sum(axis=-1)
        learnt = (same * precision[..., None]).sum(axis=2)
        shape = workers, effects.shape[1]
        moves = _scattered(shape, drawn, np.repeat(weights[..., None], rows, axis=-1))
        moves *= variances
        effects += moves
        known = _scattered(shape, drawn, learnt)
        known *= variances
        known *= variances
        variances -= known
        variances += DRIFT * (self.prior - variances)
        self.effects[members], self.variances[members] = effects, variances
        return effects

    def _without_outliers(self, members: IntArray, residuals: FloatArray) -> FloatArray:
        """``residuals`` (W, I), with unusually large ones clipped."""
        scale, square = self.scale[members], (residuals**2).mean(axis=-1, keepdims=True)
        scale = np.where(scale > 0, scale, square)
        bound = OUTLIER * np.sqrt(scale)
        cut = np.clip(residuals, -bound, bound)
        square = (cut**2).mean(axis=-1, keepdims=True)
        # Equal samples, as when p and q are concentrated, say nothing about the noise.
        told = square > AGREEING * scale
        self.scale[members] = np.where(told, scale + SCALE_RATE * (square - scale), scale)
        return _centred(cut)


def _centred(values: FloatArray) -> FloatArray:
    centred: FloatArray = values - values.mean(axis=-1, keepdims=True)
    return centred


def _taken(values: FloatArray, drawn: IntArray) -> FloatArray:
    """Entries ``drawn`` (W, I, rows) of ``values`` (W, n)."""
    return np.take_along_axis(values, drawn.reshape(len(drawn), -1), axis=1).reshape(drawn.shape)


def _scattered(shape: tuple[int, int], drawn: IntArray, values: FloatArray) -> FloatArray:
    """Sum (W, n) of the ``values`` (W, I, rows) at each entry that was ``drawn``."""
    workers, entries = shape
    index = drawn + entries * np.arange(workers)[:, None, None]
    total = np.bincount(index.ravel(), values.ravel(), minlength=workers * entries)
    return total.astype(np.float64, copy=False).reshape(shape)
