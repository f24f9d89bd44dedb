"""Gradients of an expected loss from sampled losses alone, eq. (27).

A prompt draws one category per row of a stack of categorical distributions: a word for each
position of the fragment (rows of p), a demonstration for each class (rows of q).
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray

BDPL_NORM = 3.0
"""Norm to which the estimator of BDPL (Diao et al., TMLR 2023) clips its gradient."""

SMALLEST_PROBABILITY = 1e-12

LARGEST_UNIFORM = 1.0 - 1e-11
"""Far enough below 1 that adding a row's number cannot round it up into the next row."""

Estimator: TypeAlias = Callable[[FloatArray, IntArray, FloatArray], FloatArray]


def sample(probabilities: FloatArray, samples: int, generator: np.random.Generator) -> IntArray:
    """Draw ``samples`` categories from each row of ``probabilities`` (rows, n).

    Returns
    -------
    array (samples, rows): category indices, by inversion of the cumulative distribution.
    """
    rows, categories = probabilities.shape
    cumulative = np.cumsum(probabilities, axis=1)
    cumulative /= cumulative[:, -1:]
    # One search for all rows: row r's distribution function runs from r to r + 1.
    offset = np.arange(rows)
    uniform = np.minimum(generator.random((samples, rows)), LARGEST_UNIFORM) + offset
    found = np.searchsorted((cumulative + offset[:, None]).ravel(), uniform, side="right")
    drawn: IntArray = found - offset * categories
    return drawn


def leave_one_out(probabilities: FloatArray, drawn: IntArray, losses: FloatArray) -> FloatArray:
    """Score-function gradient with the leave-one-out baseline, eq. (27); unbiased.

    Parameters
    ----------
    probabilities : array (rows, n), rows on the simplex
    drawn : array (I, rows), the categories of each of the I >= 2 samples
    losses : array (I,)

    Returns
    -------
    array (rows, n): estimate of the gradient of E[loss] with respect to ``probabilities``.
    """
    # Centring by the mean and dividing by I - 1 is the leave-one-out baseline.
    weights = (losses - losses.mean()) / (len(losses) - 1)
    # d log Cat(j; p) / dp = e_j / p_j for the drawn category j.
    weight_drawn = _weight_drawn(probabilities, drawn, weights)
    gradient: FloatArray = weight_drawn / np.maximum(probabilities, SMALLEST_PROBABILITY)
    return gradient


def _weight_drawn(probabilities: FloatArray, drawn: IntArray, weights: FloatArray) -> FloatArray:
    """Sum of the ``weights`` (I,) of the samples that drew each category; (rows, n)."""
    rows, categories = probabilities.shape
    cells = (drawn + categories * np.arange(rows)).ravel()
    total: FloatArray = np.bincount(
        cells, np.repeat(weights, rows), minlength=rows * categories
    ).astype(np.float64, copy=False)
    return total.reshape(rows, categories)


def bdpl(probabilities: FloatArray, drawn: IntArray, losses: FloatArray) -> FloatArray:
    """Estimator of BDPL: +1/p for the drawn category, -1/p for every other, norm at most 3.

    Kept for comparison. Its mean before clipping is twice the gradient centred by the
    baseline, at a far higher variance. Parameters and result as in `leave_one_out`.
    """
    weights = (losses - losses.mean()) / (len(losses) - 1)
    signed = 2.0 * _weight_drawn(probabilities, drawn, weights) - weights.sum()
    gradient: FloatArray = signed / np.maximum(probabilities, SMALLEST_PROBABILITY)
    norm = float(np.linalg.norm(gradient))
    return gradient * (BDPL_NORM / norm) if norm > BDPL_NORM else gradient


ESTIMATORS: dict[str, Estimator] = {"loo": leave_one_out, "bdpl": bdpl}
