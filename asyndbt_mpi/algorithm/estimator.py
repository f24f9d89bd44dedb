"""Gradients of an expected loss from sampled losses alone, eq. (27).

A prompt draws one category per row of a stack of categorical distributions: a word for each
position of the fragment (rows of p), a demonstration for each class (rows of q). Every function
also takes several workers at once, along leading axes of all its arrays. One `Estimator` serves a
stack of workers; it may learn, and a `Model` may share what it learnt of words.
"""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from asyndbt_mpi.algorithm import kernels
from asyndbt_mpi.algorithm.additive import Additive
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray

BDPL_NORM = 3.0
"""Norm to which the estimator of BDPL (Diao et al., TMLR 2023) clips its gradient."""

SMALLEST_PROBABILITY = 1e-12

Array = TypeVar("Array", FloatArray, IntArray)

ScoreFunction: TypeAlias = Callable[[FloatArray, IntArray, FloatArray], FloatArray]


class Estimator(Protocol):
    """Gradients of the workers ``members`` (W,) of a stack, from their samples of an assignment.

    p, q are (W, M, N), (W, U, V); words, demonstrations and losses (W, I, M), (W, I, U), (W, I).
    Gradients have the shapes of p and q. W is the number of ``members``; the stack may have more.
    A worker's gradients must depend on its own arrays and its rows of ``state`` alone.
    """

    @property
    def state(self) -> list[FloatArray]:
        """What was learnt, [] if nothing; each array has a row for each worker of the stack.

        The arrays themselves, not copies: a row is overwritten when its worker restarts.
        """
        ...

    def couple(self, uniform: FloatArray) -> FloatArray:
        """Turn independent ``uniform`` (W, I, rows) in [0, 1) into the numbers to draw with."""
        ...

    def upper(
        self,
        members: IntArray,
        p: FloatArray,
        q: FloatArray,
        words: IntArray,
        demonstrations: IntArray,
        losses: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Gradients in p and in q, for a step on both."""
        ...

    def lower(
        self,
        members: IntArray,
        p: FloatArray,
        words: IntArray,
        demonstrations: IntArray,
        losses: FloatArray,
    ) -> FloatArray:
        """Gradient in p, from samples that all have the same demonstrations."""
        ...


@runtime_checkable
class Model(Estimator, Protocol):
    """An estimator with a model of the loss: it can share it, and say where to look."""

    def explore(
        self,
        members: IntArray,
        allowed: BoolArray,
        words: IntArray,
        demonstrations: IntArray,
        generators: Iterable[np.random.Generator],
    ) -> None:
        """Replace some of ``words`` (W, I, M) and ``demonstrations`` (W, I, U), drawn from p and q.

        ``allowed`` (W, U, V) tells which demonstrations there are; a generator for each worker.
        """
        ...

    def best(self, member: int, allowed: BoolArray, rank: int) -> tuple[IntArray, IntArray]:
        """The words (M,) and demonstrations (U,) with the least loss, of those ``allowed`` (U, V).

        Or with the next to least, for a ``rank`` of 1, and so on.
        """
        ...

    def hear(self, members: IntArray, precision: FloatArray, information: FloatArray) -> None:
        """Take what the others of each of ``members`` know of words, both (W, M, N)."""
        ...

    def knowledge(self, members: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What ``members`` know of words: precision, information (W, M, N) and trust (W, G)."""
        ...


EstimatorFactory: TypeAlias = Callable[[tuple[int, ...], tuple[int, ...]], Estimator]
"""Makes the estimator of a stack of workers from the shapes (W, M, N) of p and (W, U, V) of q."""


def sample(probabilities: FloatArray, uniform: FloatArray) -> IntArray:
    """Turn uniform draws into categories of each row of ``probabilities`` (..., rows, n).

    Parameters
    ----------
    uniform : array (..., I, rows) in [0, 1)

    Returns
    -------
    array (..., I, rows): category indices, by inversion of the cumulative distribution.
    """
    drawn: IntArray = np.empty(uniform.shape, dtype=np.int64)
    given, uniforms = _stack(probabilities), np.ascontiguousarray(_stack(uniform))
    assert len(given) == len(uniforms)
    kernels.sample(np.ascontiguousarray(given), uniforms, _stack(drawn))
    return drawn


def leave_one_out(probabilities: FloatArray, drawn: IntArray, losses: FloatArray) -> FloatArray:
    """Score-function gradient with the leave-one-out baseline, eq. (27); unbiased.

    Parameters
    ----------
    probabilities : array (..., rows, n), rows on the simplex
    drawn : array (..., I, rows), the categories of each of the I >= 2 samples
    losses : array (..., I)

    Returns
    -------
    array
        (..., rows, n), an estimate of the gradient of E[loss] in ``probabilities``
    """
    # d log Cat(j; p) / dp = e_j / p_j for the drawn category j.
    samples = losses.shape[-1]
    means = np.add.reduce(losses, axis=-1) / samples
    given, of_stack = _stack(probabilities), losses.reshape(-1, samples)
    gradient = kernels.leave_one_out(
        np.ascontiguousarray(given),
        _stack(drawn),
        of_stack,
        means.reshape(-1),
        SMALLEST_PROBABILITY,
    )
    return gradient.reshape(probabilities.shape)


def _stack(x: Array) -> Array:
    """(..., rows, n) as one stack (W, rows, n)."""
    stacked: Array = x.reshape(-1, *x.shape[-2:])
    return stacked


def bdpl(probabilities: FloatArray, drawn: IntArray, losses: FloatArray) -> FloatArray:
    """Estimator of BDPL: +1/p for the drawn category, -1/p for every other, norm at most 3.

    Kept for comparison. Its mean before clipping is twice the gradient centred by the
    baseline, at a far higher variance. Parameters and result as in `leave_one_out`.
    """
    samples = losses.shape[-1]
    weights = (losses - np.add.reduce(losses, axis=-1, keepdims=True) / samples) / (samples - 1)
    weighed = np.zeros(probabilities.shape)
    kernels.weigh_drawn(_stack(drawn), weights.reshape(-1, samples), _stack(weighed))
    drawn_less_others = 2.0 * weighed - weights.sum(axis=-1)[..., None, None]
    gradient: FloatArray = drawn_less_others / np.maximum(probabilities, SMALLEST_PROBABILITY)
    norm = np.linalg.norm(gradient, axis=(-2, -1), keepdims=True)
    gradient *= np.minimum(1.0, BDPL_NORM / np.maximum(norm, SMALLEST_PROBABILITY))
    return gradient


class FromScores:
    """Gradients in p and q each by a ``score_function``; nothing is learnt."""

    def __init__(self, score_function: ScoreFunction) -> None:
        self.score_function = score_function

    @property
    def state(self) -> list[FloatArray]:
        """Nothing."""
        return []

    def couple(self, uniform: FloatArray) -> FloatArray:
        """Independent samples: for others the leave-one-out baseline is biased."""
        return uniform

    def upper(
        self,
        members: IntArray,
        p: FloatArray,
        q: FloatArray,
        words: IntArray,
        demonstrations: IntArray,
        losses: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """See `Estimator`; both from the same samples, eq. (27)."""
        return self.score_function(p, words, losses), self.score_function(q, demonstrations, losses)

    def lower(
        self,
        members: IntArray,
        p: FloatArray,
        words: IntArray,
        demonstrations: IntArray,
        losses: FloatArray,
    ) -> FloatArray:
        """As `Estimator`."""
        return self.score_function(p, words, losses)


def estimator(name: str, p_shape: tuple[int, ...], q_shape: tuple[int, ...]) -> Estimator:
    """The estimator called ``name`` in the configuration, for p (W, M, N) and q (W, U, V)."""
    if name == "additive":
        return Additive(p_shape, q_shape)
    return FromScores({"loo": leave_one_out, "bdpl": bdpl}[name])
