"""Gradients of an expected loss from sampled losses alone, eq. (27).

A prompt draws one category per row of a stack of categorical distributions: a word for each
position of the fragment (rows of p), a demonstration for each class (rows of q). Every function
also takes several workers at once, along leading axes of all its arrays.
"""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import numpy as np

from asyndbt_mpi.algorithm import kernels
from asyndbt_mpi.algorithm.types import FloatArray, IntArray

BDPL_NORM = 3.0
"""Norm to which the estimator of BDPL (Diao et al., TMLR 2023) clips its gradient."""

SMALLEST_PROBABILITY = 1e-12

Array = TypeVar("Array", FloatArray, IntArray)

Estimator: TypeAlias = Callable[[FloatArray, IntArray, FloatArray], FloatArray]


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
    kernels.sample(_stack(probabilities), _stack(uniform), _stack(drawn))
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
    array (..., rows, n): estimate of the gradient of E[loss] in ``probabilities``.
    """
    # d log Cat(j; p) / dp = e_j / p_j for the drawn category j.
    weight_drawn = _weight_drawn(probabilities.shape, drawn, _weights(losses))
    gradient: FloatArray = weight_drawn / np.maximum(probabilities, SMALLEST_PROBABILITY)
    return gradient


def _weights(losses: FloatArray) -> FloatArray:
    """Weight of each sample: centring by the mean, over I - 1, is the leave-one-out baseline."""
    samples = losses.shape[-1]
    weights: FloatArray = losses - np.add.reduce(losses, axis=-1, keepdims=True) / samples
    weights /= samples - 1
    return weights


def _weight_drawn(shape: tuple[int, ...], drawn: IntArray, weights: FloatArray) -> FloatArray:
    """Sum of the ``weights`` (..., I) of the samples that drew each category; ``shape``."""
    weighed: FloatArray = np.zeros(shape)
    samples = weights.shape[-1]
    kernels.weigh_drawn(_stack(drawn), weights.reshape(-1, samples), _stack(weighed))
    return weighed


def _stack(x: Array) -> Array:
    """(..., rows, n) as one stack (W, rows, n)."""
    stacked: Array = x.reshape(-1, *x.shape[-2:])
    return stacked


def bdpl(probabilities: FloatArray, drawn: IntArray, losses: FloatArray) -> FloatArray:
    """Estimator of BDPL: +1/p for the drawn category, -1/p for every other, norm at most 3.

    Kept for comparison. Its mean before clipping is twice the gradient centred by the
    baseline, at a far higher variance. Parameters and result as in `leave_one_out`.
    """
    weights = _weights(losses)
    drawn_less_others = (
        2.0 * _weight_drawn(probabilities.shape, drawn, weights)
        - weights.sum(axis=-1)[..., None, None]
    )
    gradient: FloatArray = drawn_less_others / np.maximum(probabilities, SMALLEST_PROBABILITY)
    norm = np.linalg.norm(gradient, axis=(-2, -1), keepdims=True)
    gradient *= np.minimum(1.0, BDPL_NORM / np.maximum(norm, SMALLEST_PROBABILITY))
    return gradient


ESTIMATORS: dict[str, Estimator] = {"loo": leave_one_out, "bdpl": bdpl}
