"""Euclidean projection onto the probability simplex, row by row."""

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, FloatArray


def project(x: FloatArray, allowed: BoolArray | None = None) -> FloatArray:
    """Nearest point to each row of ``x`` among the probability vectors.

    The projection is ``max(0, x - nu)`` with the threshold ``nu`` of each row such that the
    row sums to one; it is found exactly by sorting (Held, Wolfe & Crowder, 1974), and may be
    negative, so that mass is added where a row holds too little.

    Parameters
    ----------
    x : array (rows, n), finite, of any size
    allowed : array (rows, n) of bool, optional
        Entries that may carry mass (every row needs one); the others become 0.

    Returns
    -------
    array (rows, n): rows on the simplex.
    """
    if allowed is not None:
        x = np.where(allowed, x, -np.inf)
    # A shift of a row changes nothing, and what lies 1 below its greatest entry gets no mass.
    # Huge numbers would otherwise swallow the 1 that is to be shared out.
    with np.errstate(over="ignore"):
        x = np.maximum(x - x.max(axis=1, keepdims=True), -1.0)
    # The threshold is the greatest of those that the k greatest entries would need, each k.
    excess = np.cumsum(np.sort(x, axis=1)[:, ::-1], axis=1) - 1.0
    threshold = (excess / np.arange(1, x.shape[1] + 1)).max(axis=1, keepdims=True)
    projected: FloatArray = np.maximum(x - threshold, 0.0)
    return projected


def distance_to_simplex(x: FloatArray) -> float:
    """Largest violation over rows: of non-negativity, or of summing to one."""
    if not x.size:
        return 0.0
    return float(max(-x.min(), np.abs(x.sum(axis=1) - 1.0).max(), 0.0))
