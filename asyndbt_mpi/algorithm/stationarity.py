"""How far from stationary an iterate is: the projected gradient of the Lagrangian.

For each variable x with step eta and constraint set X the gradient mapping is

    (x - proj_X(x - eta * grad_x L_p)) / eta        for p, q and z,
    (lambda - clip(lambda + eta * grad_lambda L_p)) / eta   for the duals,

with L_p of eq. (17), without the regulariser of (18). It is zero where no projected step would
move. ||grad G||^2 is the sum of its squares over all variables, and the iteration complexity of
Theorem 2 is T(epsilon) = min{ t : ||grad G^t||^2 <= epsilon }.
"""

import numpy as np

from asyndbt_mpi.algorithm.simplex import project
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray


def on_simplex(
    x: FloatArray, gradient: FloatArray, step_size: float, allowed: BoolArray | None = None
) -> FloatArray:
    """Gradient mapping of rows on the simplex; all arrays (..., n).

    ``allowed`` are the entries that may carry mass.
    """
    mapping: FloatArray = (x - project(x - step_size * gradient, allowed)) / step_size
    return mapping


def of_duals(
    dual: FloatArray, values: FloatArray, active: BoolArray, step_size: float, bound: float
) -> FloatArray:
    """Gradient mapping of the duals (planes, M) in [0, bound]; 0 where not ``active``.

    ``values`` are the planes' left-hand sides, which are the derivatives of L_p.
    """
    moved = np.clip(dual + step_size * values, 0.0, bound)
    mapping: FloatArray = np.where(active, (dual - moved) / step_size, 0.0)
    return mapping


def squared_norm(first: FloatArray, second: FloatArray) -> float:
    """Inner product of two mappings of the same point.

    With the same exact mapping twice it is the squared norm. With two from independent estimates
    of the gradient it estimates the squared norm without the noise's bias, as far as the projection
    is linear; it may be negative.
    """
    return float(np.vdot(first, second))
