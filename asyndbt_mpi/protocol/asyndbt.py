"""Algorithm 1 of the paper: the server's variables, and what it does with them.

the paper's line                                                    what does it
--------------------------------------------------------------------------------------------
t = 0; z; no planes                                                 `AsynDBT`
repeat
  wait until min(S, live) workers have reported, and nobody who
  counts would be more than tau iterations late                     `AsynDBT.ready`
  z, lambda <- one step each                        (21), (22)      `AsynDBT.update`
  if (t + 1) mod delta = 0 and t < T1:                              `AsynDBT.estimation_due`
    K rounds of (8) at the workers, (9), (10) here                  `LowerEstimation`
    drop slack planes, add one                      (28)-(33)       `AsynDBT.commit`
  t <- t + 1                                                        `AsynDBT.commit`
  send sum_l lambda^l a^l(v) to those it used; each
  steps and reports                                 (19), (20)      `Server`, `Workers`
until the iterations, the budget or the patience are over           `Server`

while algorithm.ready(members):
    algorithm.update(now)
    if algorithm.estimation_due and not estimate().finished:    # its rounds are messages, too
        return
    send(algorithm.commit(now))
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from asyndbt_mpi.algorithm.additive import prior_variance
from asyndbt_mpi.algorithm.aggregation import Aggregation, outlying
from asyndbt_mpi.algorithm.lower_level import LowerLevel, LowerSteps, residual
from asyndbt_mpi.algorithm.optimizer import OPTIMIZERS
from asyndbt_mpi.algorithm.polyhedron import Polyhedron
from asyndbt_mpi.algorithm.pooling import Pool
from asyndbt_mpi.algorithm.simplex import onto_simplex
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.algorithm.updates import DualSteps, update_duals
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.divergence import Step
from asyndbt_mpi.protocol.estimation import LowerEstimation
from asyndbt_mpi.protocol.membership import Membership
from asyndbt_mpi.protocol.messages import NOTHING, WITHOUT, Report, Shapes
from asyndbt_mpi.protocol.records import Estimation, Iteration, UsedReport

Z_STEP = Step("z", "steps.z or algorithm.dual_bound")
DUAL_STEP = Step("a sum of the duals", "algorithm.dual_bound or steps.lam")


@dataclass(slots=True)
class _Update:
    """What an open iteration used, and the planes (L,) and duals (L, M) after (22).

    ``duals_before`` are all slots' duals before it, ``gradient`` (M, N) is the workers' in (21).
    """

    active: BoolArray
    reports: list[UsedReport]
    planes: IntArray
    duals: FloatArray
    duals_before: FloatArray
    gradient: FloatArray


def aggregation_of(config: Config, workers: int) -> Aggregation:
    """The rule that [defence] names, of a run with so many ``workers``."""
    defence = config.defence
    liars = defence.tolerated(workers)
    return Aggregation(defence.aggregator, defence.preaggregator, liars, config.run.seed)


class AsynDBT:
    """The newest p and q of every worker, the consensus, the planes with their duals, and t.

    Attributes
    ----------
    iteration : int
        t, the number of committed iterations.
    p, q, z : arrays (R, M, N), (R, U, V), (M, N)
    choice : array (R,)
        With `log.private`, in the place of q the numbers of the most probable demonstrations.
    loss : array (R,), the newest of every worker; 0 before its first
    delay : array (R,)
        Iterations since each worker's last report was used.
    reported : dict of worker to Report
        What has come and was not used yet.
    polyhedron : Polyhedron
    estimation : LowerEstimation or None
        The estimate of phi that is being made.
    pool : Pool or None
        What the workers know of words, where they share it.
    known_gradient : array (M, N) or None
        The models' gradient in the next iteration, in a run that is replayed and in which a worker
        reported what its answers do not explain.
    known_phi : phi_p (R, M, N) and phi_z (M, N), or None
        What the next estimate of phi gives, in a run that is replayed and whose log does not say
        how it came about.
    """

    def __init__(self, config: Config, shapes: Shapes, workers: int) -> None:
        algorithm, steps = config.algorithm, config.steps
        self.config = algorithm
        self.shapes = shapes
        self._is_private = config.log.private
        self.iteration = 0
        self.delay: IntArray = np.zeros(workers, dtype=np.int64)
        self.reported: dict[int, Report] = {}
        self.estimation: LowerEstimation | None = None
        self._estimations = 0
        self._open: _Update | None = None
        self.z: FloatArray = np.full((shapes.positions, shapes.words), 1.0 / shapes.words)
        self.p: FloatArray = np.repeat(self.z[None], workers, axis=0)
        unknown = float("nan") if self._is_private else 0.0
        self.q: FloatArray = np.full((workers, shapes.classes, shapes.pool), unknown)
        self.choice: IntArray = np.full(workers, WITHOUT)
        self.loss: FloatArray = np.zeros(workers)
        self.known_phi: tuple[FloatArray, FloatArray] | None = None
        self.known_gradient: FloatArray | None = None
        self._heard: BoolArray = np.zeros(workers, dtype=bool)
        self.polyhedron = Polyhedron(
            workers, shapes.positions, shapes.words, algorithm.max_planes, algorithm.lower_distance
        )
        self.z_optimizer = OPTIMIZERS[steps.optimizer](steps.z, self.z.shape)
        self.dual_steps = DualSteps(
            steps.lam,
            algorithm.dual_bound,
            algorithm.dual_regularisation,
            algorithm.dual_regularisation_floor,
        )
        self.aggregation = aggregation_of(config, workers)
        self.lower_steps = LowerSteps(
            steps.lower_z, steps.rho, algorithm.penalty, algorithm.robust_weight
        )
        self.pool: Pool | None = None
        if algorithm.pools:
            prior = prior_variance(shapes.positions, shapes.classes)
            self.pool = Pool(self.p.shape, prior, shapes.samples, self.aggregation)

    @property
    def objective(self) -> float:
        """Mean of the newest losses, by the aggregation, of those that have reported and not left.

        A worker that came back counts again from its next report that is used. Who leaves an open
        iteration that has used its report counts in it: nobody else may have reported.
        """
        counted = self._heard | self._open.active if self._open else self._heard
        if self.aggregation.is_mean:
            there = np.where(counted, self.loss, 0.0)
            return float(np.add.reduce(there)) / int(np.count_nonzero(counted))
        return float(self.aggregation.mean(self.loss[counted], self.iteration))

    def prompt(self, worker: int) -> tuple[IntArray, IntArray]:
        """The most probable words (M,) and demonstrations (U,) of ``worker``."""
        words = self.p[worker - 1].argmax(axis=1)
        if self._is_private:
            return words, np.full(self.shapes.classes, self.choice[worker - 1])
        return words, self.q[worker - 1].argmax(axis=1)

    # ------------------------------------------------------------ Algorithm 1

    @property
    def is_open(self) -> bool:
        """Whether an iteration was begun, by `update`, and is not committed."""
        return self._open is not None

    def ready(self, members: Membership) -> bool:
        """Whether an iteration is open, or can be: >= min(S, live) reports, no delay above tau."""
        if self.is_open:
            return True
        enough = min(self.config.active_workers, members.count)
        if not self.reported or len(self.reported) < enough:
            return False
        if members.count < self.config.min_workers:
            return False
        late = np.flatnonzero(self.delay >= self.config.max_delay).tolist()
        return all(i + 1 in self.reported or not members.live[i] for i in late)

    def update(self, time: float) -> None:
        """Use the reports: their workers are the active ones, (21) and (22); or go on with it.

        Raises
        ------
        Diverged
            z or the duals would not be finite.
        """
        if self.is_open:
            return
        reports, self.reported = self.reported, {}
        workers = sorted(reports)
        used = [UsedReport(worker, reports[worker], time) for worker in workers]
        indices = np.array(workers) - 1
        self._take(used, indices)
        self._heard[indices] = True
        if self.pool:
            report = [each.report for each in used]
            self.pool.take(
                indices,
                np.array([each.number for each in report]),
                np.array([each.precision for each in report]),
                np.array([each.information for each in report]),
                np.array([each.trust for each in report]),
            )
        active = np.zeros(len(self.p), dtype=bool)
        active[indices] = True
        gradient = self.pool.step() if self.pool else np.zeros_like(self.z)  # (D9)
        if self.known_gradient is not None:
            gradient, self.known_gradient = self.known_gradient, None
        if self.pool or len(self.polyhedron):
            with Z_STEP:
                whole = gradient + self.polyhedron.consensus_gradient()  # (25)
                self.z = self.z_optimizer.step(self.z, whole)  # (21)
        with DUAL_STEP:
            before = update_duals(self.polyhedron, self.z, self.dual_steps, self.iteration)  # (22)
        slots = self.polyhedron.slots
        planes, duals = self.polyhedron.identifier[slots], self.polyhedron.dual[slots]
        self._open = _Update(active, used, planes, duals, before, gradient)
        self.delay += 1
        self.delay[active] = 0

    @property
    def estimation_due(self) -> bool:
        """Whether phi is to be estimated at the end of this iteration: (t + 1) mod delta, T1."""
        due = (self.iteration + 1) % self.config.plane_period == 0
        return due and self.iteration < self.config.plane_until

    def start_estimation(self, live: BoolArray, participants: list[int]) -> LowerEstimation:
        """Begin the K rounds of (8)-(10), on a scratch copy, among the ``participants``.

        Where the workers' models are known, the rounds are done at once, and cost no call (D9).

        Raises
        ------
        Diverged
            phi would not be finite.
        """
        lower = LowerLevel.start(self.p, self.z, live.copy(), self.lower_steps, self.aggregation)
        self.estimation = LowerEstimation(
            self._estimations, lower, participants, self.config.lower_steps, self.shapes.classes
        )
        self._estimations += 1
        if self.pool:
            self.estimation.solve(self.pool.effects)
        return self.estimation

    def knowledge_of_others(self, indices: IntArray) -> list[tuple[FloatArray, FloatArray]]:
        """Precision and information (M, N) for each of the workers at ``indices``, from 0."""
        if not self.pool:
            return [(NOTHING, NOTHING)] * len(indices)
        return list(zip(*self.pool.others(indices), strict=True))

    def forget(self, worker: int) -> None:
        """Go on without ``worker``, which has left."""
        self.reported.pop(worker, None)
        self._heard[worker - 1] = False
        if self.pool:
            self.pool.forget(worker - 1)
        if self.estimation:
            self.estimation.exclude(worker)

    def commit(self, time: float) -> Iteration:
        """End the open iteration: cut if phi was estimated, (28)-(33), and t <- t + 1."""
        assert self._open is not None
        objective = self.objective
        used, self._open = self._open, None
        estimation, self.estimation = self.estimation, None
        cut = self._cut(estimation, used.duals_before) if estimation else None
        committed = Iteration(
            number=self.iteration,
            z=self.z.copy(),
            gradient=used.gradient,
            active=used.active,
            delay=self.delay.copy(),
            time=time,
            objective=objective,
            reports=used.reports,
            planes=used.planes,
            duals=used.duals,
            estimation=cut,
        )
        self.iteration += 1
        return committed

    def _take(self, used: list[UsedReport], indices: IntArray) -> None:
        """The workers' newest values."""
        p = _on_simplex(used, "p")
        if len(self.polyhedron):
            self.polyhedron.move_workers(indices, p - self.p[indices])
        self.p[indices] = p
        if self._is_private:
            self.choice[indices] = [each.report.choice for each in used]
        else:
            self.q[indices] = _on_simplex(used, "q")
        self.loss[indices] = [each.report.loss for each in used]

    def _plausible(self, lower: LowerLevel) -> FloatArray:
        """phi_p (R, M, N), and p for a worker that is much further from it than the median one.

        Such a worker then adds nothing to h (5) and no plane holds it: otherwise one that reports
        at random would keep planes violated, and the others bound by ever larger duals. The median
        is that of the workers that have moved: with "quorum" most of them may have kept their last
        p. Without a rule in [defence] phi is what it is.
        """
        if self.aggregation.is_mean:
            return lower.p
        distances = np.abs(self.p - lower.p).sum(axis=(1, 2))
        is_outlying = distances > outlying(distances[lower.live & (distances > 0.0)])
        return np.where(is_outlying[:, None, None], self.p, lower.p)

    def _cut(self, estimation: LowerEstimation, duals_before: FloatArray) -> Estimation:
        """Update the polyhedron with a finished estimate of phi, eqs. (28)-(33)."""
        phi_p, phi_z = self.known_phi or (self._plausible(estimation.lower), estimation.lower.z)
        self.known_phi = None
        h = residual(self.p, self.z, phi_p, phi_z, self.config.lower_distance)  # (5)
        drops = self.polyhedron.drop_slack(duals_before, self.config.plane_threshold)
        plane, displaced = self.polyhedron.add(
            self.p, self.z, phi_p, phi_z, h, self.config.tolerance, self.iteration
        )
        return Estimation(
            iteration=self.iteration,
            k=estimation.k,
            phi_p=phi_p,
            phi_z=phi_z,
            h=h,
            calls=estimation.calls,
            prompt_tokens=estimation.prompt_tokens,
            plane=plane,
            drops=drops + displaced,
        )


def _on_simplex(used: list[UsedReport], name: Literal["p", "q"]) -> FloatArray:
    """What the reports have of ``name``, put on the simplex wherever it lies, there too (D6)."""
    reported: FloatArray = np.array([getattr(each.report, name) for each in used])
    projected = onto_simplex(reported)
    if projected is not reported:
        for row, each in enumerate(used):
            moved: dict[str, Any] = {name: projected[row]}
            each.report = replace(each.report, **moved)
    return projected
