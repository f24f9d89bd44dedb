"""The server's variables, and its share of the mathematics: eqs. (21), (22) and (28)-(33)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from asyndbt_mpi.algorithm.lower_level import LowerLevel, LowerSteps, residual
from asyndbt_mpi.algorithm.optimizer import OPTIMIZERS
from asyndbt_mpi.algorithm.polyhedron import Polyhedron
from asyndbt_mpi.algorithm.simplex import onto_simplex
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.algorithm.updates import DualSteps, update_duals
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.estimation import LowerEstimation
from asyndbt_mpi.protocol.messages import Report, Shapes
from asyndbt_mpi.protocol.records import Estimation, Iteration, UsedReport


@dataclass(slots=True)
class Update:
    """What an iteration used, and the planes (L,) and duals (L, M) after it.

    ``duals_before`` are all slots' duals before it.
    """

    active: BoolArray
    reports: list[UsedReport]
    planes: IntArray
    duals: FloatArray
    duals_before: FloatArray


class Iterates:
    """The newest p and q of every worker, the consensus, and the planes with their duals.

    Attributes
    ----------
    p, q, z : arrays (R, M, N), (R, U, V), (M, N)
    loss : array (R,), the newest of every worker; 0 before its first
    polyhedron : Polyhedron
    known_phi : phi_p (R, M, N) and phi_z (M, N), or None
        What the next estimate of phi gives, in a run that is gone through again and whose log
        does not say how it came about.
    """

    def __init__(self, config: Config, shapes: Shapes, workers: int) -> None:
        algorithm, steps = config.algorithm, config.steps
        self.tolerance = algorithm.tolerance
        self.threshold = algorithm.plane_threshold
        self.distance = algorithm.lower_distance
        self.z: FloatArray = np.full((shapes.positions, shapes.words), 1.0 / shapes.words)
        self.p: FloatArray = np.repeat(self.z[None], workers, axis=0)
        self.q: FloatArray = np.zeros((workers, shapes.classes, shapes.pool))
        self.loss: FloatArray = np.zeros(workers)
        self.known_phi: tuple[FloatArray, FloatArray] | None = None
        self._heard: set[int] = set()
        self.polyhedron = Polyhedron(
            workers, shapes.positions, shapes.words, algorithm.max_planes, self.distance
        )
        self.z_optimizer = OPTIMIZERS[steps.optimizer](steps.z, self.z.shape)
        self.dual_steps = DualSteps(
            steps.lam,
            algorithm.dual_bound,
            algorithm.dual_regularisation,
            algorithm.dual_regularisation_floor,
        )
        self.lower_steps = LowerSteps(
            steps.lower_z, steps.rho, algorithm.penalty, algorithm.robust_weight
        )

    @property
    def objective(self) -> float:
        """Mean of the newest losses of the workers that have reported."""
        return float(np.add.reduce(self.loss)) / len(self._heard)

    def prompt(self, worker: int) -> tuple[IntArray, IntArray]:
        """The most probable words (M,) and demonstrations (U,) of ``worker``."""
        return self.p[worker - 1].argmax(axis=1), self.q[worker - 1].argmax(axis=1)

    def update(self, reports: Mapping[int, Report], iteration: int, time: float) -> Update:
        """Use the ``reports``, by worker, then (21) and (22)."""
        workers = sorted(reports)
        used = [UsedReport(worker, reports[worker], time) for worker in workers]
        indices = np.array(workers) - 1
        self._take(used, indices)
        self._heard.update(workers)
        active = np.zeros(len(self.p), dtype=bool)
        active[indices] = True
        if len(self.polyhedron):
            gradient = self.polyhedron.consensus_gradient()  # (25)
            self.z = self.z_optimizer.step(self.z, gradient)  # (21)
        before = update_duals(self.polyhedron, self.z, self.dual_steps, iteration)  # (22)
        slots = self.polyhedron.slots
        planes, duals = self.polyhedron.identifier[slots], self.polyhedron.dual[slots]
        return Update(active, used, planes, duals, before)

    def record(
        self, used: Update, cut: Estimation | None, number: int, delay: IntArray, time: float
    ) -> Iteration:
        """The committed iteration ``number``; ``delay`` (R,) after it."""
        return Iteration(
            number=number,
            z=self.z.copy(),
            active=used.active,
            delay=delay.copy(),
            time=time,
            objective=self.objective,
            reports=used.reports,
            planes=used.planes,
            duals=used.duals,
            estimation=cut,
        )

    def _take(self, used: list[UsedReport], indices: IntArray) -> None:
        """The workers' newest values, put on the simplex wherever they lie (D6)."""
        reported_p = np.array([each.report.p for each in used])
        reported_q = np.array([each.report.q for each in used])
        p, q = onto_simplex(reported_p), onto_simplex(reported_q)
        if p is not reported_p or q is not reported_q:
            for row, each in enumerate(used):
                each.report = replace(each.report, p=p[row], q=q[row])
        if len(self.polyhedron):
            self.polyhedron.move_workers(indices, p - self.p[indices])
        self.p[indices], self.q[indices] = p, q
        self.loss[indices] = [each.report.loss for each in used]

    def start_estimate(self, live: BoolArray) -> LowerLevel:
        """The scratch copy for an estimate of phi."""
        return LowerLevel.start(self.p, self.z, live.copy(), self.lower_steps)

    def cut(
        self, estimation: LowerEstimation, duals_before: FloatArray, iteration: int
    ) -> Estimation:
        """Update the polyhedron with a finished estimate of phi, eqs. (28)-(33)."""
        phi_p, phi_z = self.known_phi or (estimation.lower.p, estimation.lower.z)
        self.known_phi = None
        h = residual(self.p, self.z, phi_p, phi_z, self.distance)  # (5)
        drops = self.polyhedron.drop_slack(duals_before, self.threshold)
        plane, displaced = self.polyhedron.add(
            self.p, self.z, phi_p, phi_z, h, self.tolerance, iteration
        )
        return Estimation(
            iteration=iteration,
            k=estimation.k,
            phi_p=phi_p,
            phi_z=phi_z,
            h=h,
            calls=estimation.calls,
            prompt_tokens=estimation.prompt_tokens,
            plane=plane,
            drops=drops + displaced,
        )
