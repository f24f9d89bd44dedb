"""Euclidean projection onto the probability simplex, row by row.

All arrays may have any number of leading axes: a stack of matrices of rows.
"""

import numpy as np

from asyndbt_mpi.algorithm import kernels
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray

ON_SIMPLEX = 1e-9
"""Rows this close to the simplex are used unchanged; others are projected first (D6)."""

ALL_ALLOWED: BoolArray = np.zeros((0, 0, 0), dtype=np.bool_)


LARGEST = float(np.finfo(np.float64).max)


def check_finite(x: FloatArray) -> None:
    """Raise a FloatingPointError if a number is infinite or NaN."""
    if not kernels.within(x.reshape(-1), -LARGEST, LARGEST):
        raise not_finite()


def not_finite() -> FloatingPointError:
    """The error of a step that leads nowhere."""
    return FloatingPointError("a step has led to numbers that are not finite")


def project(x: FloatArray, allowed: BoolArray | None = None) -> FloatArray:
    """Nearest point to each row of ``x`` among the probability vectors.

    The projection is ``max(0, x - nu)`` with the threshold ``nu`` for which the row sums to one. It
    is found exactly (Michelot, 1986), and may be negative: then mass is added to a row with too
    little.

    Parameters
    ----------
    x : array (..., n), finite, of any size
    allowed : array (..., n) of bool, optional
        Entries that may carry mass (every row needs one); the others become 0.

    Returns
    -------
    array (..., n): rows on the simplex.
    """
    projected = np.array(x, order="C")
    project_in_place(projected, allowed)
    return projected


def project_in_place(x: FloatArray, allowed: BoolArray | None = None) -> None:
    """`project`, on the contiguous array ``x`` itself.

    Raises
    ------
    FloatingPointError
        A number is not finite: there is no nearest point.
    """
    assert x.flags.c_contiguous  # else reshape would copy
    check_finite(x)
    rows = -1, 1, x.shape[-1]
    kernels.project(x.reshape(rows), ALL_ALLOWED if allowed is None else allowed.reshape(rows))


def distance_to_simplex(x: FloatArray) -> FloatArray:
    """Largest violation over the rows of each matrix (..., rows, n); shape (...).

    Either of non-negativity, or of summing to one.
    """
    return kernels.distance_to_simplex(x.reshape(-1, *x.shape[-2:])).reshape(x.shape[:-2])


def onto_simplex(x: FloatArray) -> FloatArray:
    """Each matrix of ``x`` (..., rows, n), or its projection if it is not on the simplex."""
    outside = distance_to_simplex(x) > ON_SIMPLEX
    if not outside.any():
        return x
    return np.where(outside[..., None, None], project(x), x)
