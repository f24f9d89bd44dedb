"""The course of a run, as far as it is the server's own doing, whatever the messages were."""

from collections.abc import Mapping

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.asyndbt import AsynDBT
from asyndbt_mpi.protocol.divergence import Diverged
from asyndbt_mpi.protocol.estimation import LowerEstimation
from asyndbt_mpi.protocol.evaluations import Evaluations
from asyndbt_mpi.protocol.final_tests import FinalTests
from asyndbt_mpi.protocol.membership import Membership, State
from asyndbt_mpi.protocol.messages import (
    Assignment,
    Candidate,
    EvaluationRequest,
    Hello,
    LowerAssignment,
    Shapes,
    Split,
    Stop,
)
from asyndbt_mpi.protocol.models import Models
from asyndbt_mpi.protocol.records import (
    Event,
    EventKind,
    Iteration,
    Output,
)
from asyndbt_mpi.protocol.spending import AnswerKind, Spending
from asyndbt_mpi.protocol.validation import Validation


class Conduct:
    """What the server does of itself: steps, estimates, evaluations, tests, stops.

    Attributes
    ----------
    algorithm : AsynDBT
        Algorithm 1: t, z, the newest p and q used of every worker, the planes.
    members : Membership
        Which workers count.
    spending : Spending
        What the answers have cost, and what the budget still allows.
    finished : bool
        Every worker has been told to stop.
    replaying : bool
        What happens has happened before; `judge` says whether the run may go on after it.
    limit : str or None
        The limit of the budget that ended the run.
    failure : str or None
        Why the run had to end before its time: too few workers are left, or it `Diverged`.
    refusal : str or None
        Why the run must not be made, or go on, as it is.
    models : Models
        What is known of the workers' language models.

    Parameters
    ----------
    least_iterations
        Neither the budget nor early stopping ends the run before so many are committed: one that
        is gone through again has got there, if under other limits.
    expected
        By worker the hello that its data give, where that is known without asking it: its q is to
        be that, and what it may need at most so much.
    """

    def __init__(
        self,
        config: Config,
        shapes: Shapes,
        workers: int,
        least_iterations: int = 0,
        expected: Mapping[int, Hello] | None = None,
    ) -> None:
        self.config = config
        self.shapes = shapes
        self.workers = workers
        self.algorithm = AsynDBT(config, shapes, workers)
        self.least_iterations = least_iterations
        self.replaying = False
        self.members = Membership(workers, config.algorithm.min_workers)
        self.expected = expected or {}
        self.spending = Spending(
            config, workers, {v: hello.cost_bounds for v, hello in self.expected.items()}
        )
        self.finished = False
        self.limit: str | None = None
        self.failure: str | None = None
        self.refusal: str | None = None
        self.models = Models(config.llm.model_may_differ)
        self._has_model = config.llm.backend != "synthetic"
        self.validation = Validation(
            workers, config.run.evaluate_every, config.run.early_stopping_patience
        )
        self._initial_q: FloatArray = np.zeros_like(self.algorithm.q)
        self._outstanding: dict[int, Assignment] = {}
        self._unassigned: set[int] = set()
        self._assignments = np.zeros(workers, dtype=np.int64)
        self.evaluations = Evaluations()
        self._final_tests: FinalTests | None = None
        self._output = Output()
        self._now = 0.0

    @property
    def iteration(self) -> int:
        """t, the number of committed iterations."""
        return self.algorithm.iteration

    @property
    def running(self) -> bool:
        """There are iterations to come."""
        return not (self._final_tests or self.finished)

    def _begin(self, time: float) -> None:
        self._output = Output()
        self._now = time

    # ------------------------------------------------------------ Algorithm 1

    def _proceed(self) -> None:
        """Everything that the messages so far allow."""
        try:
            while self._may_iterate() and self.algorithm.ready(self.members):
                self.algorithm.update(self._now)  # (21), (22)
                if self.algorithm.estimation_due and not self._estimated():
                    return  # rounds of (8)-(10) are in flight
                self._send(self.algorithm.commit(self._now))  # (28)-(33), t <- t + 1
        except Diverged as error:  # the iteration is not committed
            self.failure = f"iteration {self.iteration}: {error}"
            self._stop_all()

    def _may_iterate(self) -> bool:
        """Whether there are iterations to come, and nobody may still hold another model."""
        unknown = not self.iteration and self._has_model and self.members.awaits_hellos
        return self.running and not unknown

    def _estimated(self) -> bool:
        """Start the rounds of (8)-(10), or go on with them; whether all K are done."""
        estimation = self.algorithm.estimation
        if estimation is None:
            busy = (
                set()
                if self.config.algorithm.lower_participation == "all"
                else {*self._outstanding}
            )
            participants = sorted(self.members.joined - busy)
            estimation = self.algorithm.start_estimation(self.members.live, participants)
            self._start_round(estimation)
        while not estimation.finished and estimation.advance():
            if not estimation.finished:
                self._start_round(estimation)
        return estimation.finished

    def _start_round(self, estimation: LowerEstimation) -> None:
        for worker, assignment in estimation.assignments():
            self._ask(worker, assignment, "assignment")

    def _send(self, committed: Iteration) -> None:
        """Log the iterate, and give those whose reports it used their next step."""
        self._output.records.append(committed)
        self.limit = None
        if self.iteration >= self.config.run.iterations or (
            self.validation.exhausted and self.iteration >= self.least_iterations
        ):
            self._close()
            return
        # Also those who came in the middle of it and had to wait. Who was lost and came back
        # meanwhile has its assignment, or has reported on it.
        used = [each.worker for each in committed.reports]
        due = dict.fromkeys(used + sorted(self._unassigned))
        self._unassigned.clear()
        self._assign([
            worker for worker in due
            if worker in self.members.joined
            and worker not in self._outstanding
            and worker not in self.algorithm.reported
        ])  # fmt: skip

    # ------------------------------------------------------------ what workers are to do

    def _assign(self, workers: list[int]) -> None:
        """Give ``workers`` their next upper step, after their validation if that is due."""
        if self._final_tests:
            for worker in workers:
                self._close_worker(worker)
            return
        self.limit = self._limit_to(workers)
        if self.limit:
            if self.algorithm.is_open:  # a hello can come in the middle of an iteration
                self._unassigned.update(workers)
            else:
                self._close()
            return
        indices = np.array(workers, dtype=np.int64) - 1
        self._assignments[indices] += 1
        each = zip(
            workers,
            self._assignments[indices].tolist(),
            self.algorithm.polyhedron.dual_gradients(indices),
            strict=True,
        )
        for worker, number, dual_gradient in each:
            if self.validation.due(worker, self.iteration):
                prompt = Split.VALIDATION, Candidate.TUNED, *self.algorithm.prompt(worker)
                self._evaluate(worker, EvaluationRequest(self.iteration, *prompt))
            assignment = Assignment(number, self.iteration, dual_gradient)
            self._outstanding[worker] = assignment
            self._ask(worker, assignment, "assignment")

    def _evaluate(self, worker: int, request: EvaluationRequest) -> None:
        self.evaluations.ask(worker, request)
        self._ask(worker, request, purpose_of(request.split))

    def _ask(
        self,
        worker: int,
        message: Assignment | LowerAssignment | EvaluationRequest,
        purpose: AnswerKind,
    ) -> None:
        """Send what ``worker`` is to answer."""
        self.members.asked(worker, self._now)
        self.spending.hand_out(worker, purpose)
        self._output.messages.append((worker, message))

    def _limit_to(self, workers: list[int]) -> str | None:
        """The limit that stands against the next step of ``workers``, if there is one.

        An estimate of phi that is due at the end of this iteration has to be covered as well.
        """
        if self.iteration < self.least_iterations:
            return None
        validating = [v for v in workers if self.validation.is_due(v, self.iteration)]
        rounds = self.config.algorithm.lower_steps if self.algorithm.estimation_due else 0
        cost_bounds = self.spending.cost_bounds
        calls = sum(cost_bounds(worker).assignment for worker in workers)
        calls += sum(cost_bounds(worker).validation for worker in validating)
        calls += rounds * sum(cost_bounds(worker).assignment for worker in self.members.joined)
        return self.spending.overdrawn(calls, self._now)

    # ------------------------------------------------------------ the end

    def _close(self) -> None:
        """The iterations are over: score the test split where evaluation is on, then stop."""
        self._record_event(EventKind.CLOSING, 0, self.limit or "")
        joined = sorted(self.members.joined)
        tuned = {v: self.validation.prompt(v) or self.algorithm.prompt(v) for v in joined}
        consensus, seed = self.algorithm.z.argmax(axis=1), self.config.run.seed
        self._final_tests = FinalTests(self.iteration, tuned, consensus, self._initial_q, seed)
        for worker in joined:
            if worker not in self._outstanding:  # the others when their last report is in
                self._close_worker(worker)

    def _close_worker(self, worker: int) -> None:
        assert self._final_tests is not None
        scored = self.validation.every and self.config.task.test
        request = self._final_tests.next(worker) if scored else None
        calls = self.spending.cost_bounds(worker).test if request else 0
        if request and not self.spending.overdrawn(calls, self._now, testing=True):
            self._evaluate(worker, request)
        else:
            self._stop(worker)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._stop_all()
        self._finish_if_all_stopped()

    def _end_by(self, limit: str) -> None:
        """End at once: no tests are made, for they would take time and money."""
        if self.finished:
            return
        self.limit = limit
        if not self._final_tests:
            self._record_event(EventKind.CLOSING, 0, limit)
        self._stop_all()

    def _stop_all(self) -> None:
        for worker in sorted(self.members.working):
            self._stop(worker)

    def _stop(self, worker: int) -> None:
        self.members.become(worker, State.STOPPED)
        self._tell_to_stop(worker)
        self._finish_if_all_stopped()

    def _tell_to_stop(self, worker: int) -> None:
        self._output.messages.append((worker, Stop()))

    def _finish_if_all_stopped(self) -> None:
        if not self.members.working and not self.finished:
            self.finished = True
            words, classes = self.algorithm.z.argmax(axis=1), self.shapes.classes
            of_consensus = self.evaluations.consensus(words, classes, self._now)
            if of_consensus:
                self._output.records.append(of_consensus)

    def _record_event(self, kind: EventKind, worker: int, text: str = "") -> None:
        self._output.records.append(Event(kind, worker, -1, self.iteration, self._now, text=text))


def purpose_of(split: Split) -> AnswerKind:
    """What an evaluation on ``split`` is for."""
    return "test" if split is Split.TEST else "validation"
