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

Estimator: TypeAlias = Callable[[FloatArray, IntArray, FloatArray], FloatArray]


def sample(probabilities: FloatArray, samples: int, generator: np.random.Generator) -> IntArray:
    """Draw ``samples`` categories from each row of ``probabilities`` (rows, n).

    Returns
    -------
    array (samples, rows): category indices, by inversion of the cumulative distribution.
    """
    cumulative = np.cumsum(probabilities, axis=1)
    total = cumulative[:, -1]
    uniform = generator.random((samples, len(probabilities))) * total
    # Rounding must not carry a draw past the last category that has mass.
    uniform = np.minimum(uniform, np.nextafter(total, 0.0))
    drawn: IntArray = (uniform[:, :, None] >= cumulative).sum(axis=2)
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
    samples, rows = drawn.shape
    # Centring by the mean and dividing by I - 1 is the leave-one-out baseline.
    weights = (losses - losses.mean()) / (samples - 1)
    row = np.arange(rows)
    chosen = np.maximum(probabilities[row, drawn], SMALLEST_PROBABILITY)
    gradient = np.zeros_like(probabilities)
    # d log Cat(j; p) / dp = e_j / p_j for the drawn category j.
    np.add.at(gradient, (np.broadcast_to(row, drawn.shape), drawn), weights[:, None] / chosen)
    return gradient


def bdpl(probabilities: FloatArray, drawn: IntArray, losses: FloatArray) -> FloatArray:
    """Estimator of BDPL: +1/p for the drawn category, -1/p for every other, norm at most 3.

    Kept for comparison. Its mean before clipping is twice the gradient centred by the
    baseline, at a far higher variance. Parameters and result as in `leave_one_out`.
    """
    samples, rows = drawn.shape
    weights = (losses - losses.mean()) / (samples - 1)
    drawn_weight = np.zeros_like(probabilities)
    index = (np.broadcast_to(np.arange(rows), drawn.shape), drawn)
    np.add.at(drawn_weight, index, np.broadcast_to(weights[:, None], drawn.shape))
    signed = 2.0 * drawn_weight - weights.sum()
    gradient: FloatArray = signed / np.maximum(probabilities, SMALLEST_PROBABILITY)
    norm = float(np.linalg.norm(gradient))
    return gradient * (BDPL_NORM / norm) if norm > BDPL_NORM else gradient


ESTIMATORS: dict[str, Estimator] = {"loo": leave_one_out, "bdpl": bdpl}
