"""The parameter server: a state machine whose only input is the order in which messages arrive.

It never sends, waits, reads a clock or draws a random number that is not keyed: fed with the
same messages in the same order it goes through the same iterates, bit for bit.

    output = server.receive(worker, message, time)
    # send output.messages, log output.records

Workers are numbered 1..R; row v-1 of an array belongs to worker v.
"""

from collections.abc import Callable, Mapping

import numpy as np

from asyndbt_mpi.algorithm.simplex import onto_simplex
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.asyndbt import AsynDBT
from asyndbt_mpi.protocol.closing import Closing
from asyndbt_mpi.protocol.divergence import Diverged
from asyndbt_mpi.protocol.estimation import LowerEstimation, not_asked_for
from asyndbt_mpi.protocol.evaluations import Evaluations
from asyndbt_mpi.protocol.membership import BARRED, COUNTED, MOST_RETURNS, Membership, State
from asyndbt_mpi.protocol.messages import (
    Assignment,
    Candidate,
    EvaluationReport,
    EvaluationRequest,
    Failure,
    Hello,
    LowerAssignment,
    LowerReport,
    MalformedMessage,
    Report,
    Reset,
    Shapes,
    Split,
    Stop,
    ToServer,
)
from asyndbt_mpi.protocol.models import Models
from asyndbt_mpi.protocol.records import (
    Event,
    EventKind,
    Iteration,
    Output,
    answer_event,
    hello_event,
)
from asyndbt_mpi.protocol.spending import Purpose, Spending
from asyndbt_mpi.protocol.validation import Validation


class Server:
    """Feeds Algorithm 1 with messages, and answers them.

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
            config, workers, {v: hello.needs for v, hello in self.expected.items()}
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
        self._closing: Closing | None = None
        self._output = Output()
        self._now = 0.0

    # ------------------------------------------------------------ what the driver calls

    @property
    def iteration(self) -> int:
        """t, the number of committed iterations."""
        return self.algorithm.iteration

    @property
    def running(self) -> bool:
        """There are iterations to come."""
        return not (self._closing or self.finished)

    def receive(self, worker: int, message: ToServer, time: float) -> Output:
        """Take ``message`` of ``worker``, which arrived at ``time`` seconds of the run's clock.

        Raises
        ------
        MalformedMessage
            The message answers nothing that was asked; the state is unchanged, and the driver
            should call `exclude`.
        """
        self._begin(time)
        state = self.members.state(worker)
        if state in BARRED:
            return self._output  # its last words
        if state not in COUNTED:
            self._hear_again(worker, message)
            return self._output
        match message:
            case Hello() if self._is_stranger(worker, message):
                return self._output
            case Hello():
                self._admit(worker, message)
            case Report():
                self._accept_report(worker, message)
            case LowerReport():
                self._accept_lower_report(worker, message)
            case EvaluationReport():
                self._accept_evaluation(worker, message)
            case Failure(text=text, refuses=True) if not self.iteration:
                self._refuse(f"worker {worker}: {text}")
                return self._output
            case Failure(text=text):
                self._leave(worker, State.DISMISSED, text)
                self._tell_to_stop(worker)
                return self._output
        self.members.heard(worker, time)
        self._proceed()
        return self._output

    def exclude(self, worker: int, reason: str, time: float) -> Output:
        """Go on without ``worker`` for good: its values stay, nothing of it is believed any more.

        With fewer than `algorithm.min_workers` left the run ends; `failure` then says why.
        """
        self._begin(time)
        self._exclude(worker, reason)
        return self._output

    def refuse(self, reason: str, time: float) -> Output:
        """End the run at once, for it must not go on as it is; `refusal` then says why."""
        self._begin(time)
        self._refuse(reason)
        return self._output

    def lose(self, worker: int, reason: str, time: float) -> Output:
        """Go on without ``worker``, which died or fell silent, unless it is heard of again.

        As `exclude`, but if ever a message of it arrives, it is let in again with fresh state.
        """
        self._begin(time)
        if worker in self.members.working:  # one that was told to stop may go
            self._leave(worker, State.LOST, reason)
        return self._output

    def take_back(self, worker: int, time: float) -> Output:
        """A lost ``worker`` is there again: have it forget everything, and say hello."""
        self._begin(time)
        self._take_back(worker)
        return self._output

    def tick(self, time: float, is_heard: Callable[[int], bool] = lambda worker: False) -> Output:
        """Take notice of the ``time``, whether something arrives or not.

        Workers that have owed an answer for too long are lost, unless ``is_heard`` says that
        something of them is there to be received; and a budget of seconds may end.
        """
        self._begin(time)
        timeout = self.config.run.worker_timeout
        for worker, reason in self.members.overdue(time, timeout):
            if not (self.finished or is_heard(worker)):
                self._leave(worker, State.LOST, reason)
        if self.running and (short := self.members.shortage(time, timeout)):
            self._fail(f"{short}; {self.members.gone}")
        seconds = self.config.budget.seconds
        if seconds and time >= seconds:
            self._end_by(f"budget.seconds = {seconds:g}")
        return self._output

    def judge(self, time: float) -> Output:
        """End a run that was gone through again, if by today's settings it must not go on.

        What was under way has to be covered by the budget; lost workers may still come back.
        """
        self._begin(time)
        patience = self.config.run.worker_timeout if self.running else -1.0
        if not self.replaying and (short := self.members.shortage(time, patience)):
            self._fail(f"{short}; {self.members.gone}")
        elif limit := self.spending.overdrawn(0, time, testing=self._closing is not None):
            self._end_by(limit)
        return self._output

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._stop_all()
        self._finish_if_all_stopped()

    def _end_by(self, limit: str) -> None:
        """End at once: no tests are made, for they would take time and money."""
        if self.finished:
            return
        self.limit = limit
        if not self._closing:
            self._record_event(EventKind.CLOSING, 0, limit)
        self._stop_all()

    # ------------------------------------------------------------ messages in

    def _admit(self, worker: int, message: Hello) -> None:
        if worker in self.members.joined:
            raise MalformedMessage(f"worker {worker} said hello twice")
        self.check_hello(worker, message)
        self.models.note(worker, message.description, message.digest)
        self._output.records.append(hello_event(worker, message, self.iteration, self._now))
        self.members.become(worker, State.JOINED)
        self.spending.join(worker, message.needs)
        q = self._initial_q[worker - 1] = onto_simplex(message.q)
        self.algorithm.q[worker - 1] = q
        self._assign([worker])

    def check_hello(self, worker: int, message: Hello) -> None:
        """Refuse a hello that the data of ``worker`` do not give.

        Raises
        ------
        MalformedMessage
        """
        expected = self.expected.get(worker)
        if expected and not self.replaying and not np.array_equal(expected.q, message.q):
            raise MalformedMessage(f"worker {worker} begins with another q than its data give")
        self.spending.check_needs(worker, message.needs)

    def _is_stranger(self, worker: int, message: Hello) -> bool:
        """Whether ``worker`` holds another model; before the first iteration nobody then goes on.

        What the log has of a run was judged when it happened.
        """
        model = worker, message.description, message.digest
        why = None if self.replaying else self.models.difference(*model)
        if why and not self.iteration:
            self._refuse(why)
        elif why:
            self._exclude(worker, why)
        return why is not None

    def _accept_report(self, worker: int, report: Report) -> None:
        asked = self._outstanding.get(worker)
        if asked is None or (report.number, report.iteration) != (asked.number, asked.iteration):
            raise MalformedMessage(
                f"report {report.number} (read at iteration {report.iteration}) answers no"
                f" outstanding assignment of worker {worker}"
            )
        self.spending.check(worker, "assignment", report.costs)
        self._record_answer(worker, report)
        del self._outstanding[worker]
        if self._closing:
            self._close_worker(worker)  # it was too late to be used
        else:
            self.algorithm.reported[worker] = report

    def _accept_lower_report(self, worker: int, report: LowerReport) -> None:
        if self.algorithm.estimation is None:
            raise not_asked_for(worker, report)
        self.spending.check(worker, "assignment", report.costs)
        self.algorithm.estimation.accept(worker, report)
        self._record_answer(worker, report)

    def _accept_evaluation(self, worker: int, report: EvaluationReport) -> None:
        self.spending.check(worker, _purpose(report.split), report.costs)
        evaluation = self.evaluations.accept(worker, report, self._now)
        self._record_answer(worker, report)
        self._output.records.append(evaluation)
        if evaluation.split is Split.VALIDATION:
            prompt = evaluation.words, evaluation.demonstrations
            self.validation.add(worker, evaluation.loss, *prompt, self.members.count)
        elif self._closing:
            self._close_worker(worker)

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

    # ------------------------------------------------------------ messages out

    def _assign(self, workers: list[int]) -> None:
        """Give ``workers`` their next upper step, after their validation if that is due."""
        if self._closing:
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
            self.algorithm.polyhedron.forces(indices),
            strict=True,
        )
        for worker, number, force in each:
            if self.validation.due(worker, self.iteration):
                prompt = Split.VALIDATION, Candidate.TUNED, *self.algorithm.prompt(worker)
                self._evaluate(worker, EvaluationRequest(self.iteration, *prompt))
            assignment = Assignment(number, self.iteration, force)
            self._outstanding[worker] = assignment
            self._ask(worker, assignment, "assignment")

    def _evaluate(self, worker: int, request: EvaluationRequest) -> None:
        self.evaluations.ask(worker, request)
        self._ask(worker, request, _purpose(request.split))

    def _ask(
        self,
        worker: int,
        message: Assignment | LowerAssignment | EvaluationRequest,
        purpose: Purpose,
    ) -> None:
        """Send what ``worker`` is to answer."""
        self.members.asked(worker, self._now)
        self.spending.hand_out(worker, purpose)
        self._output.messages.append((worker, message))

    def _close(self) -> None:
        """The iterations are over: score the test split where evaluation is on, then stop."""
        self._record_event(EventKind.CLOSING, 0, self.limit or "")
        joined = sorted(self.members.joined)
        tuned = {v: self.validation.prompt(v) or self.algorithm.prompt(v) for v in joined}
        consensus, seed = self.algorithm.z.argmax(axis=1), self.config.run.seed
        self._closing = Closing(self.iteration, tuned, consensus, self._initial_q, seed)
        for worker in joined:
            if worker not in self._outstanding:  # the others when their last report is in
                self._close_worker(worker)

    def _close_worker(self, worker: int) -> None:
        assert self._closing is not None
        scored = self.validation.every and self.config.task.test
        request = self._closing.next(worker) if scored else None
        calls = self.spending.needs(worker).test if request else 0
        if request and not self.spending.overdrawn(calls, self._now, testing=True):
            self._evaluate(worker, request)
        else:
            self._stop(worker)

    def _stop_all(self) -> None:
        for worker in sorted(self.members.working):
            self._stop(worker)

    def _stop(self, worker: int) -> None:
        self.members.become(worker, State.STOPPED)
        self._tell_to_stop(worker)
        self._finish_if_all_stopped()

    def _finish_if_all_stopped(self) -> None:
        if not self.members.working and not self.finished:
            self.finished = True
            words, classes = self.algorithm.z.argmax(axis=1), self.shapes.classes
            of_consensus = self.evaluations.consensus(words, classes, self._now)
            if of_consensus:
                self._output.records.append(of_consensus)

    # ------------------------------------------------------------ who takes part

    def _exclude(self, worker: int, reason: str) -> None:
        state = self.members.state(worker)
        if state in BARRED:
            return
        self._tell_to_stop(worker)
        if state in COUNTED:
            self._leave(worker, State.EXCLUDED, reason)
        else:
            self._record_event(EventKind.EXCLUDED, worker, reason)
            self.members.become(worker, State.EXCLUDED)

    def _dismiss(self, worker: int) -> None:
        """Tell ``worker``, which does not count, to stop; whatever it still says is not heard."""
        self.members.become(worker, State.DISMISSED)
        self._tell_to_stop(worker)

    def _tell_to_stop(self, worker: int) -> None:
        self._output.messages.append((worker, Stop()))

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        self._stop_all()

    def _leave(self, worker: int, state: State, reason: str) -> None:
        """Go on without ``worker``, which is in ``state`` now; end the run if too few are left."""
        # A traceback may follow the first line, with texts that are nobody's business.
        first = reason.partition("\n")[0]
        kind = EventKind.EXCLUDED if state is State.EXCLUDED else EventKind.LOST
        self._record_event(kind, worker, first)
        self.members.become(worker, state)
        self.algorithm.reported.pop(worker, None)
        self._outstanding.pop(worker, None)
        self._unassigned.discard(worker)
        self.validation.forget(worker)
        self.spending.lose(worker)
        unanswered = self.evaluations.forget(worker)
        if self._closing:
            self._closing.give_back(unanswered)
        if self.algorithm.estimation:
            self.algorithm.estimation.exclude(worker)
        short = None if self.replaying else self.members.shortage(self._now, patience=-1.0)
        if short is None:
            if self._closing:  # else the lost may come back, and others are at work
                self._finish_if_all_stopped()
            self._proceed()
        elif not self.finished:
            self._fail(f"{short}; the last to go was worker {worker}: {reason}")

    def _hear_again(self, worker: int, message: ToServer) -> None:
        """A message of a ``worker`` that was lost."""
        if isinstance(message, Failure):  # it is there, but cannot go on
            self._dismiss(worker)
        elif worker not in self.members.restarting:
            if self.members.returns[worker] < MOST_RETURNS:
                self._take_back(worker)
            else:
                self._exclude(worker, f"was lost and came back {MOST_RETURNS} times")
        elif not isinstance(message, Hello) and self.members.is_noise(worker):
            self._exclude(worker, "was told to start afresh, and does not")
        elif isinstance(message, Hello) and not (self._closing or self.finished):
            if self._is_stranger(worker, message):
                return
            self.check_hello(worker, message)  # before it counts again
            self.algorithm.delay[worker - 1] = 0
            self._admit(worker, message)
            self.members.heard(worker, self._now)
            self._proceed()

    def _take_back(self, worker: int) -> None:
        if self._closing or self.finished:
            self._dismiss(worker)
            return
        self._record_event(EventKind.RETURNED, worker)
        self.members.starts_afresh(worker, self._now)
        self._output.messages.append((worker, Reset(self.algorithm.z.copy())))

    # ------------------------------------------------------------ the budget

    def _limit_to(self, workers: list[int]) -> str | None:
        """The limit that stands against the next step of ``workers``, if there is one.

        An estimate of phi that is due at the end of this iteration has to be covered as well.
        """
        if self.iteration < self.least_iterations:
            return None
        validating = [v for v in workers if self.validation.is_due(v, self.iteration)]
        rounds = self.config.algorithm.lower_steps if self.algorithm.estimation_due else 0
        needs = self.spending.needs
        calls = sum(needs(worker).assignment for worker in workers)
        calls += sum(needs(worker).validation for worker in validating)
        calls += rounds * sum(needs(worker).assignment for worker in self.members.joined)
        return self.spending.overdrawn(calls, self._now)

    # ------------------------------------------------------------ bookkeeping

    def _begin(self, time: float) -> None:
        self._output = Output()
        self._now = time

    def _record_event(self, kind: EventKind, worker: int, text: str = "") -> None:
        self._output.records.append(Event(kind, worker, -1, self.iteration, self._now, text=text))

    def _record_answer(self, worker: int, report: Report | LowerReport | EvaluationReport) -> None:
        self.spending.answered(worker, report.costs)
        self._output.records.append(answer_event(worker, report, self.iteration, self._now))


def _purpose(split: Split) -> Purpose:
    return "test" if split is Split.TEST else "validation"
