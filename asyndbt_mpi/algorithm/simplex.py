"""Euclidean projection onto the probability simplex, row by row.

All arrays may have any number of leading axes: a stack of matrices of rows.
"""

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, FloatArray

ON_SIMPLEX = 1e-9
"""Rows this close to the simplex are taken as they are; others are projected first (D6)."""


def project(x: FloatArray, allowed: BoolArray | None = None) -> FloatArray:
    """Nearest point to each row of ``x`` among the probability vectors.

    The projection is ``max(0, x - nu)`` with the threshold ``nu`` of each row such that the
    row sums to one; it is found exactly by sorting (Held, Wolfe & Crowder, 1974), and may be
    negative, so that mass is added where a row holds too little.

    Parameters
    ----------
    x : array (..., n), finite, of any size
    allowed : array (..., n) of bool, optional
        Entries that may carry mass (every row needs one); the others become 0.

    Returns
    -------
    array (..., n): rows on the simplex.
    """
    if allowed is not None:
        x = np.where(allowed, x, -np.inf)
    # In place where it can be: thousands of workers' rows are bound by memory.
    descending = np.sort(x, axis=-1)[..., ::-1]
    greatest = descending[..., :1].copy()
    # A shift of a row changes nothing; huge numbers would swallow the 1 that is to be shared out.
    with np.errstate(over="ignore"):
        descending -= greatest
        # The threshold is the greatest of those that the k greatest entries would need, each k.
        excess = np.cumsum(descending, axis=-1, out=descending)
        excess -= 1.0
        excess /= np.arange(1, x.shape[-1] + 1)
        projected: FloatArray = x - greatest
        projected -= excess.max(axis=-1, keepdims=True)
    return np.maximum(projected, 0.0, out=projected)


def distance_to_simplex(x: FloatArray) -> FloatArray:
    """Largest violation over the rows of each matrix (..., rows, n); shape (...).

    It is that of non-negativity, or of summing to one.
    """
    negative = -x.min(axis=(-2, -1), initial=0.0)
    excess = np.abs(x.sum(axis=-1) - 1.0).max(axis=-1, initial=0.0)
    distance: FloatArray = np.maximum(negative, excess)
    return distance


def onto_simplex(x: FloatArray) -> FloatArray:
    """Each matrix of ``x`` (..., rows, n), or its projection if it is not on the simplex."""
    outside = distance_to_simplex(x) > ON_SIMPLEX
    if not outside.any():
        return x
    return np.where(outside[..., None, None], project(x), x)
