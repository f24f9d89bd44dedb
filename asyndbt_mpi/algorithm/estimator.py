"""Gradients of an expected loss from sampled losses alone, eq. (27).

A prompt draws one category per row of a stack of categorical distributions: a word for each
position of the fragment (rows of p), a demonstration for each class (rows of q). Every function
also takes several workers at once, along leading axes of all its arrays.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray

BDPL_NORM = 3.0
"""Norm to which the estimator of BDPL (Diao et al., TMLR 2023) clips its gradient."""

SMALLEST_PROBABILITY = 1e-12

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
    cumulative = np.cumsum(probabilities, axis=-1)
    cumulative /= cumulative[..., -1:]
    drawn: IntArray = (cumulative[..., None, :, :] > uniform[..., None]).argmax(axis=-1)
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
    weights: FloatArray = (losses - losses.mean(axis=-1, keepdims=True)) / (losses.shape[-1] - 1)
    return weights


def _weight_drawn(shape: tuple[int, ...], drawn: IntArray, weights: FloatArray) -> FloatArray:
    """Sum of the ``weights`` (..., I) of the samples that drew each category; ``shape``."""
    *stack, rows, categories = shape
    row = np.arange(int(np.prod(stack)) * rows).reshape(*stack, 1, rows)
    total: FloatArray = np.bincount(
        (drawn + categories * row).ravel(),
        np.repeat(weights.ravel(), rows),
        minlength=row.size * categories,
    ).astype(np.float64, copy=False)
    return total.reshape(shape)


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
