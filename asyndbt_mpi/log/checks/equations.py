"""The server's mathematics done again from what a log says went into it."""

from collections.abc import Iterator

import numpy as np

from asyndbt_mpi.algorithm.lower_level import residual
from asyndbt_mpi.algorithm.optimizer import OPTIMIZERS
from asyndbt_mpi.algorithm.polyhedron import cut
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.algorithm.updates import DualSteps, ascend_duals
from asyndbt_mpi.log.iterates import InOrder, Planes
from asyndbt_mpi.log.reader import Log

TOLERANCE = 1e-9


def recompute(log: Log) -> Iterator[str]:
    """Everything in a log with all its iterates that differs from its equation, line by line.

    Each iteration is computed from the logged state before it, so that one wrong number shows
    where it stands and where it was used, and nowhere else.
    """
    algorithm, steps = log.config.algorithm, log.config.steps
    dual_steps = DualSteps(
        steps.lam,
        algorithm.dual_bound,
        algorithm.dual_regularisation,
        algorithm.dual_regularisation_floor,
    )
    optimizer = OPTIMIZERS[steps.optimizer](steps.z, log.rows("iteration/z", 0, 1)[0].shape)
    planes, estimates = Planes(log), _Estimates(log)
    gradients = InOrder(log, "iteration/gradient")
    logged_z, logged_p = InOrder(log, "iteration/z"), InOrder(log, "report/p")
    workers = log["report/worker"] - 1
    ends = np.searchsorted(log["report/iteration"], np.arange(log.committed + 1))
    z = logged_z[0]
    p = np.repeat(z[None], log.workers, axis=0)  # every worker starts from z
    for iteration in range(log.committed):
        expected_z, gradient = z, gradients[iteration]
        # With neither, (21) moves nothing, nor Adam's averages.
        if algorithm.pools or planes.identifier.size:
            expected_z = optimizer.step(z, gradient + planes.consensus_gradient())  # (21)
        z = logged_z[iteration + 1]
        yield from _compare(f"iteration {iteration}: z differs from (21)", z, expected_z)
        for row in range(ends[iteration], ends[iteration + 1]):
            p[workers[row]] = logged_p[row]
        expected = ascend_duals(
            planes.dual, planes.values(p, z), planes.active(iteration), dual_steps, iteration
        )  # (22)
        planes.read_duals(iteration)
        difference = np.abs(planes.dual - expected).max(axis=1, initial=0.0)
        for index in np.flatnonzero(~(difference <= TOLERANCE)):
            plane = planes.identifier[index]
            yield (
                f"iteration {iteration}, plane {plane}: lambda differs from (22) by "
                f"{difference[index]:.1e}"
            )
        yield from estimates.check(iteration, p, z)
        planes.end(iteration)


def _compare(what: str, logged: np.ndarray, expected: np.ndarray) -> Iterator[str]:
    difference = float(np.abs(logged - expected).max())
    if not difference <= TOLERANCE:  # NaN is a difference, too
        yield f"{what} by {difference:.1e}"


class _Estimates:
    """The estimates of phi and the planes that came of them."""

    def __init__(self, log: Log) -> None:
        algorithm = log.config.algorithm
        self.tolerance, self.distance = algorithm.tolerance, algorithm.lower_distance
        self.row = {int(iteration): row for row, iteration in enumerate(log["lower/iteration"])}
        self.plane = {int(iteration): row for row, iteration in enumerate(log["plane/created"])}
        self.phi_p, self.phi_z = InOrder(log, "lower/phi_p"), InOrder(log, "lower/phi_z")
        self.h, self.positions = log["lower/h"], log["plane/positions"]
        self.coefficients = [InOrder(log, f"plane/{name}") for name in "abc"]

    def check(self, iteration: int, p: FloatArray, z: FloatArray) -> Iterator[str]:
        """What is wrong with h and the plane of ``iteration``, if it made an estimate.

        p (R, M, N) and z (M, N) are those at its end.
        """
        if iteration not in self.row:
            if iteration in self.plane:
                yield f"iteration {iteration}: a plane without an estimate of phi"
            return
        row, place = self.row[iteration], f"iteration {iteration}"
        phi_p, phi_z, h = self.phi_p[row], self.phi_z[row], self.h[row]
        expected_h = residual(p, z, phi_p, phi_z, self.distance)
        yield from _compare(f"{place}: h differs from (5)", h, expected_h)
        positions, *expected = cut(p, z, phi_p, phi_z, h, self.tolerance, self.distance)
        if iteration not in self.plane:
            if positions.any():
                yield f"{place}: h exceeds the tolerance, but there is no plane"
            return
        plane = self.plane[iteration]
        if not np.array_equal(self.positions[plane], positions):
            yield f"{place}: the plane is not at the positions where h exceeds the tolerance"
        equations = ("a", "(31)"), ("b", "(32)"), ("c", "(33)")
        for (name, equation), logged, due in zip(
            equations, self.coefficients, expected, strict=True
        ):
            what = f"{place}: {name} of the plane differs from {equation}"
            yield from _compare(what, logged[plane], due)
