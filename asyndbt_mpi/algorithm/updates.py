"""The upper level's updates that belong to the server, eqs. (21)-(22), and the worker's sums."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from asyndbt_mpi.algorithm.polyhedron import Polyhedron
from asyndbt_mpi.algorithm.types import FloatArray

LARGEST_COEFFICIENT = 2.0
"""Largest coefficient of a plane: twice a difference of probabilities (squared distance)."""

Regularisation = Literal["constant", "decay"]


@dataclass(frozen=True, slots=True)
class DualSteps:
    """Settings of (22): eta_lambda, the bound sqrt(alpha_3), and the schedule of c_1."""

    step_size: float
    bound: float
    regularisation: Regularisation
    floor: float

    def regulariser(self, iteration: int) -> float:
        """c_1^t of (18).

        The theoretical schedule 1 / (eta (t+1)^(1/4)) keeps the duals so small that planes stay
        violated and pile up; the default is a constant floor (D8).
        """
        if self.regularisation == "constant":
            return self.floor
        return max(self.floor, 1.0 / (self.step_size * math.pow(iteration + 1, 0.25)))


def ascend_duals(
    dual: FloatArray, values: FloatArray, active: np.ndarray, steps: DualSteps, iteration: int
) -> FloatArray:
    """One projected ascent step on every dual, eqs. (22), (26); all arrays (planes, M)."""
    gradient = values - steps.regulariser(iteration) * dual  # (26)
    gradient *= steps.step_size
    gradient += dual
    ascended: FloatArray = np.minimum(np.maximum(gradient, 0.0), steps.bound)  # (22)
    ascended *= active
    return ascended


def update_duals(
    polyhedron: Polyhedron, z: FloatArray, steps: DualSteps, iteration: int
) -> FloatArray:
    """(22) on the polyhedron in place, at the newest p and the new ``z``.

    Returns
    -------
    array (capacity, M): the duals before the update.

    Raises
    ------
    FloatingPointError
        The duals are not finite, or so large that sums of planes weighted by them would not be.
    """
    before = polyhedron.dual
    polyhedron.dual = ascend_duals(
        before, polyhedron.values(z), polyhedron.active, steps, iteration
    )
    if len(polyhedron) and not math.isfinite(LARGEST_COEFFICIENT * polyhedron.dual.sum()):
        raise FloatingPointError("the duals are not finite, or too large")
    return before
