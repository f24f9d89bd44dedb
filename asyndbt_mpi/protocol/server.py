"""The parameter server: a state machine whose only input is the order in which messages arrive.

It never sends, waits, reads a clock or draws a random number that is not keyed: fed with the
same messages in the same order it goes through the same iterates, bit for bit.

    output = server.receive(worker, message, time)
    # send output.messages, log output.records

Workers are numbered 1..R; row v-1 of an array belongs to worker v.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from asyndbt_mpi.algorithm.lower_level import LowerLevel, LowerSteps, residual
from asyndbt_mpi.algorithm.optimizer import OPTIMIZERS
from asyndbt_mpi.algorithm.polyhedron import Polyhedron
from asyndbt_mpi.algorithm.simplex import onto_simplex
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.algorithm.updates import DualSteps, update_duals
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.closing import Closing
from asyndbt_mpi.protocol.estimation import LowerEstimation
from asyndbt_mpi.protocol.evaluations import Evaluations
from asyndbt_mpi.protocol.messages import (
    Assignment,
    Candidate,
    Costs,
    EvaluationReport,
    EvaluationRequest,
    Failure,
    Hello,
    LowerReport,
    MalformedMessage,
    Report,
    Shapes,
    Split,
    Stop,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.records import (
    Estimation,
    Event,
    EventKind,
    Iteration,
    Record,
    UsedReport,
)
from asyndbt_mpi.protocol.validation import Validation


class WorkerFailed(RuntimeError):
    """A worker cannot go on, and says why."""


@dataclass(slots=True)
class Output:
    """What a step of the server gives its driver: messages to send, records to log."""

    messages: list[tuple[int, ToWorker]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


@dataclass(slots=True)
class _Open:
    """The iteration under way: its used reports and, once z and the duals moved, the rest."""

    active: BoolArray
    reports: list[UsedReport]
    planes: IntArray
    duals: FloatArray
    duals_before: FloatArray


class Server:
    """Algorithm 1 of the paper, on the server's side.

    Attributes
    ----------
    iteration : int
        t, the number of committed iterations.
    p, q, z : arrays (R, M, N), (R, U, V), (M, N)
        The newest p and q used of every worker, and the consensus.
    live, delay : arrays (R,)
        Workers that count, and iterations since each one's last report was used.
    finished : bool
        Every worker has been told to stop.
    spent : Costs
        Calls and tokens of every answer so far.
    failure : str or None
        Why the run had to end before its time.
    """

    def __init__(self, config: Config, shapes: Shapes, workers: int) -> None:
        algorithm, steps = config.algorithm, config.steps
        self.config = config
        self.shapes = shapes
        self.workers = workers
        self.iteration = 0
        self.z: FloatArray = np.full((shapes.positions, shapes.words), 1.0 / shapes.words)
        self.p: FloatArray = np.repeat(self.z[None], workers, axis=0)
        self.q: FloatArray = np.zeros((workers, shapes.classes, shapes.pool))
        self.loss: FloatArray = np.zeros(workers)
        self.live: BoolArray = np.ones(workers, dtype=bool)
        self.delay: IntArray = np.zeros(workers, dtype=np.int64)
        self.spent = Costs()
        self.finished = False
        self.failure: str | None = None
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
        self.lower_steps = LowerSteps(
            steps.lower_z, steps.rho, algorithm.penalty, algorithm.robust_weight
        )
        self.validation = Validation(
            workers, config.run.evaluate_every, config.run.early_stopping_patience
        )
        self._initial_q = self.q.copy()
        self._live = workers
        self._joined: set[int] = set()
        self._heard: set[int] = set()
        self._reported: dict[int, Report] = {}
        self._outstanding: dict[int, Assignment] = {}
        self._assignments = np.zeros(workers, dtype=np.int64)
        self.evaluations = Evaluations()
        self._estimations = 0
        self._estimation: LowerEstimation | None = None
        self._open: _Open | None = None
        self._closing: Closing | None = None
        self._working = set(range(1, workers + 1))
        self._output = Output()
        self._now = 0.0

    # ------------------------------------------------------------ what the driver calls

    def receive(self, worker: int, message: ToServer, time: float) -> Output:
        """Take ``message`` of ``worker``, which arrived at ``time`` seconds of the run's clock.

        Raises
        ------
        WorkerFailed
            The message is a `Failure`.
        MalformedMessage
            The message answers nothing that was asked; the state is unchanged, and the driver
            should call `exclude`.
        """
        self._begin(time)
        if not self.live[worker - 1]:
            return self._output  # an excluded worker's last words
        match message:
            case Hello():
                self._record_event(EventKind.HELLO, worker, message.description)
                self._admit(worker, message)
            case Report():
                self._accept_report(worker, message)
            case LowerReport():
                self._accept_lower_report(worker, message)
            case EvaluationReport():
                self._accept_evaluation(worker, message)
            case Failure(text=text):
                raise WorkerFailed(text)
        self._proceed()
        return self._output

    def exclude(self, worker: int, reason: str, time: float) -> Output:
        """Go on without ``worker``: its values stay, it is neither waited for nor answered.

        With fewer than `algorithm.min_workers` left the run ends; `failure` then says why.
        """
        self._begin(time)
        if not self.live[worker - 1]:
            return self._output
        self.live[worker - 1] = False
        self._live -= 1
        self._reported.pop(worker, None)
        self._outstanding.pop(worker, None)
        self._record_event(EventKind.EXCLUDED, worker, reason)
        if self._estimation:
            self._estimation.exclude(worker)
        self._stop(worker)
        left, needed = self._live, self.config.algorithm.min_workers
        if left >= needed:
            self._proceed()
            return self._output
        self.failure = (
            f"{left} workers are left, algorithm.min_workers is {needed};"
            f" the last to go was worker {worker}: {reason}"
        )
        self._stop_all()
        return self._output

    def interrupt(self, time: float) -> Output:
        """Tell every worker to stop, now; the committed iterations are what there is."""
        self._begin(time)
        self._stop_all()
        return self._output

    # ------------------------------------------------------------ messages in

    def _admit(self, worker: int, message: Hello) -> None:
        if worker in self._joined:
            raise MalformedMessage(f"worker {worker} said hello twice")
        self._joined.add(worker)
        self.q[worker - 1] = self._initial_q[worker - 1] = onto_simplex(message.q)
        self._assign([worker])

    def _accept_report(self, worker: int, report: Report) -> None:
        assigned = self._outstanding.get(worker)
        if assigned is None or (report.number, report.iteration) != (
            assigned.number,
            assigned.iteration,
        ):
            raise MalformedMessage(
                f"report {report.number} (read at iteration {report.iteration}) answers no"
                f" outstanding assignment of worker {worker}"
            )
        self._record_report(EventKind.REPORT, worker, report)
        del self._outstanding[worker]
        if self._closing:
            self._close_worker(worker)  # it was too late to be used
        else:
            self._reported[worker] = report

    def _accept_lower_report(self, worker: int, report: LowerReport) -> None:
        estimation = self._estimation
        if (
            estimation is None
            or worker not in estimation.awaited
            or report.number != estimation.assignment_number
        ):
            raise MalformedMessage(
                f"lower-level report {report.number} of worker {worker} was not asked for"
            )
        if not 0 <= min(report.k) <= max(report.k) < self.shapes.pool:
            raise MalformedMessage(f"demonstrations {report.k} are outside the pool")
        self._record_report(EventKind.LOWER_REPORT, worker, report)
        estimation.calls += report.costs.calls
        estimation.prompt_tokens += report.costs.prompt_tokens
        estimation.accept(worker, report.p, report.k)

    def _accept_evaluation(self, worker: int, report: EvaluationReport) -> None:
        evaluation = self.evaluations.accept(worker, report, self._now)
        self._record_evaluation(worker, report)
        self._output.records.append(evaluation)
        if evaluation.split is Split.VALIDATION:
            self.validation.add(
                worker,
                evaluation.loss,
                evaluation.words,
                evaluation.demonstrations,
                self._live,
            )
        elif self._closing:
            self._close_worker(worker)

    # ------------------------------------------------------------ Algorithm 1

    def _proceed(self) -> None:
        """Everything that the messages so far allow."""
        if self._estimation and self._advance_estimation(self._estimation):
            self._conclude()
        while self._ready():
            self._update()
            if self._starts_estimation():
                return
            self._conclude()

    def _ready(self) -> bool:
        """At least min(S, live) have reported, and no live worker's delay would exceed tau."""
        if self._open or self._closing or self.finished or not self._reported:
            return False
        algorithm = self.config.algorithm
        if len(self._reported) < min(algorithm.active_workers, self._live):
            return False
        late = np.flatnonzero(self.delay >= algorithm.max_delay).tolist()
        return all(index + 1 in self._reported or not self.live[index] for index in late)

    def _update(self) -> None:
        """Use the reports, then (21) and (22)."""
        workers = sorted(self._reported)
        reports = [self._reported.pop(worker) for worker in workers]
        indices = np.array(workers) - 1
        reported_p = np.array([report.p for report in reports])
        reported_q = np.array([report.q for report in reports])
        p, q = onto_simplex(reported_p), onto_simplex(reported_q)
        if p is not reported_p or q is not reported_q:
            reports = [replace(report, p=p[i], q=q[i]) for i, report in enumerate(reports)]
        if len(self.polyhedron):
            self.polyhedron.move_workers(indices, p - self.p[indices])
        self.p[indices], self.q[indices] = p, q
        self.loss[indices] = [report.loss for report in reports]
        self._heard.update(workers)
        used = [
            UsedReport(worker, report, self._now)
            for worker, report in zip(workers, reports, strict=True)
        ]
        self.delay += 1
        self.delay[indices] = 0
        active = np.zeros(self.workers, dtype=bool)
        active[indices] = True
        if len(self.polyhedron):
            gradient = self.polyhedron.consensus_gradient()  # (25)
            self.z = self.z_optimizer.step(self.z, gradient)  # (21)
        before = update_duals(self.polyhedron, self.z, self.dual_steps, self.iteration)  # (22)
        slots = self.polyhedron.slots
        self._open = _Open(
            active,
            used,
            self.polyhedron.identifier[slots],
            self.polyhedron.dual[slots],
            before,
        )

    def _starts_estimation(self) -> bool:
        """Start to estimate phi if it is time to; whether it was."""
        algorithm = self.config.algorithm
        due = (self.iteration + 1) % algorithm.plane_period == 0
        if not due or self.iteration >= algorithm.plane_until:
            return False
        busy = set() if algorithm.lower_participation == "all" else set(self._outstanding)
        participants = sorted((self._joined & self._working) - busy)
        lower = LowerLevel.start(self.p, self.z, self.live.copy(), self.lower_steps)
        self._estimation = LowerEstimation(
            self._estimations, lower, participants, algorithm.lower_steps, self.shapes.classes
        )
        self._estimations += 1
        self._output.messages.extend(self._estimation.assignments())
        return True

    def _advance_estimation(self, estimation: LowerEstimation) -> bool:
        """Close a round if it is complete; True once all K rounds are done."""
        while not estimation.finished and estimation.advance():
            if not estimation.finished:
                self._output.messages.extend(estimation.assignments())
        return estimation.finished

    def _conclude(self) -> None:
        """Cut, drop, log the iterate, count it, and answer the workers whose reports it used."""
        assert self._open is not None
        opened, self._open = self._open, None
        estimation, self._estimation = self._estimation, None
        self._output.records.append(
            Iteration(
                number=self.iteration,
                z=self.z.copy(),
                active=opened.active,
                delay=self.delay.copy(),
                time=self._now,
                objective=float(np.add.reduce(self.loss)) / len(self._heard),
                reports=opened.reports,
                planes=opened.planes,
                duals=opened.duals,
                estimation=self._cut(estimation, opened.duals_before) if estimation else None,
            )
        )
        self.iteration += 1
        if self.iteration == self.config.run.iterations or self.validation.exhausted:
            self._close()
        else:
            self._assign([u.worker for u in opened.reports if self.live[u.worker - 1]])

    def _cut(self, estimation: LowerEstimation, duals_before: FloatArray) -> Estimation:
        """Update the polyhedron with a finished estimate of phi, eqs. (28)-(33)."""
        algorithm = self.config.algorithm
        phi_p, phi_z = estimation.lower.p, estimation.lower.z
        h = residual(self.p, self.z, phi_p, phi_z, algorithm.lower_distance)  # (5)
        drops = self.polyhedron.drop_slack(duals_before, algorithm.plane_threshold)
        plane, displaced = self.polyhedron.add(
            self.p, self.z, phi_p, phi_z, h, algorithm.tolerance, self.iteration
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

    # ------------------------------------------------------------ messages out

    def _assign(self, workers: list[int]) -> None:
        """Give ``workers`` their next upper step, after their validation if that is due."""
        if self._closing:
            for worker in workers:
                self._close_worker(worker)
            return
        indices = np.array(workers, dtype=np.int64) - 1
        self._assignments[indices] += 1
        each = zip(
            workers,
            self._assignments[indices].tolist(),
            self.polyhedron.forces(indices),
            strict=True,
        )
        for worker, number, force in each:
            if self.validation.due(worker, self.iteration):
                words, demonstrations = self._prompt(worker)
                self._evaluate(
                    worker,
                    EvaluationRequest(
                        self.iteration, Split.VALIDATION, Candidate.TUNED, words, demonstrations
                    ),
                )
            assignment = Assignment(number, self.iteration, force)
            self._outstanding[worker] = assignment
            self._output.messages.append((worker, assignment))

    def _prompt(self, worker: int) -> tuple[IntArray, IntArray]:
        """The most probable words (M,) and demonstrations (U,) of ``worker``."""
        return self.p[worker - 1].argmax(axis=1), self.q[worker - 1].argmax(axis=1)

    def _evaluate(self, worker: int, request: EvaluationRequest) -> None:
        self.evaluations.ask(worker, request)
        self._output.messages.append((worker, request))

    def _close(self) -> None:
        """The iterations are over: score the test split where evaluation is on, then stop."""
        joined = [worker for worker in sorted(self._working) if worker in self._joined]
        tuned = {}
        for worker in joined:
            best = self.validation.best.get(worker)
            tuned[worker] = (best.words, best.demonstrations) if best else self._prompt(worker)
        self._closing = Closing(
            self.iteration, tuned, self.z.argmax(axis=1), self._initial_q, self.config.run.seed
        )
        for worker in joined:
            if worker not in self._outstanding:  # the others when their last report is in
                self._close_worker(worker)

    def _close_worker(self, worker: int) -> None:
        assert self._closing is not None
        scored = self.validation.every and self.config.task.test
        request = self._closing.next(worker) if scored else None
        if request:
            self._evaluate(worker, request)
        else:
            self._stop(worker)

    def _stop_all(self) -> None:
        for worker in sorted(self._working):
            self._stop(worker)

    def _stop(self, worker: int) -> None:
        self._working.discard(worker)
        self._output.messages.append((worker, Stop()))
        self.finished = not self._working
        if self.finished:
            words, classes = self.z.argmax(axis=1), self.shapes.classes
            of_consensus = self.evaluations.consensus(words, classes, self._now)
            if of_consensus:
                self._output.records.append(of_consensus)

    # ------------------------------------------------------------ bookkeeping

    def _begin(self, time: float) -> None:
        self._output = Output()
        self._now = time

    def _record_event(self, kind: EventKind, worker: int, text: str = "") -> None:
        self._output.records.append(Event(kind, worker, -1, self.iteration, self._now, text=text))

    def _record_report(self, kind: EventKind, worker: int, report: Report | LowerReport) -> None:
        self._spend(report.costs)
        sent_time = report.sent_time if isinstance(report, Report) else 0.0
        self._output.records.append(
            Event(
                kind, worker, report.number, self.iteration, self._now, report.costs,
                sent_time, report.losses,
            )
        )  # fmt: skip

    def _record_evaluation(self, worker: int, report: EvaluationReport) -> None:
        self._spend(report.costs)
        kind = EventKind.TEST if report.split is Split.TEST else EventKind.EVALUATION
        self._output.records.append(
            Event(
                kind, worker, report.iteration, self.iteration, self._now, report.costs,
                losses=np.array([report.loss]), accuracy=report.accuracy,
            )
        )  # fmt: skip

    def _spend(self, costs: Costs) -> None:
        self.spent.calls += costs.calls
        self.spent.prompt_tokens += costs.prompt_tokens
        self.spent.completion_tokens += costs.completion_tokens
