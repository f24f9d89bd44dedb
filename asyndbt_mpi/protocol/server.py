"""The parameter server: a state machine whose only input is the order in which messages arrive.

It never sends, waits, reads a clock or draws a random number that is not keyed: fed with the
same messages in the same order it goes through the same iterates, bit for bit.

    output = server.receive(worker, message, time)
    # send output.messages, log output.records

Workers are numbered 1..R; row v-1 of an array belongs to worker v.
"""

from collections.abc import Callable

import numpy as np

from asyndbt_mpi.algorithm.simplex import onto_simplex
from asyndbt_mpi.protocol.conduct import Conduct, purpose_of
from asyndbt_mpi.protocol.estimation import not_asked_for
from asyndbt_mpi.protocol.membership import BARRED, COUNTED, MOST_RETURNS, State
from asyndbt_mpi.protocol.messages import (
    EvaluationReport,
    Failure,
    Hello,
    LowerReport,
    MalformedMessage,
    Report,
    Reset,
    Split,
    ToServer,
)
from asyndbt_mpi.protocol.records import (
    EventKind,
    Output,
    answer_event,
    hello_event,
)


class Server(Conduct):
    """Takes the messages: which are believed, and who takes part."""

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
        elif limit := self.spending.overdrawn(0, time, testing=self._final_tests is not None):
            self._end_by(limit)
        return self._output

    # ------------------------------------------------------------ messages in

    def _admit(self, worker: int, message: Hello) -> None:
        if self.members.has_greeted(worker):
            raise MalformedMessage(f"worker {worker} said hello twice")
        self.check_hello(worker, message)
        self.models.note(worker, message.description, message.digest)
        self._output.records.append(hello_event(worker, message, self.iteration, self._now))
        self.members.become(worker, State.JOINED)
        self.spending.join(worker, message.cost_bounds)
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
        self.spending.check_cost_bounds(worker, message.cost_bounds)

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
        if self._final_tests:
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
        self.spending.check(worker, purpose_of(report.split), report.costs)
        evaluation = self.evaluations.accept(worker, report, self._now)
        self._record_answer(worker, report)
        self._output.records.append(evaluation)
        if evaluation.split is Split.VALIDATION:
            prompt = evaluation.words, evaluation.demonstrations
            self.validation.add(worker, evaluation.loss, *prompt, self.members.count)
        elif self._final_tests:
            self._close_worker(worker)

    def _record_answer(self, worker: int, report: Report | LowerReport | EvaluationReport) -> None:
        self.spending.answered(worker, report.costs)
        self._output.records.append(answer_event(worker, report, self.iteration, self._now))

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
        if self._final_tests:
            self._final_tests.give_back(unanswered)
        if self.algorithm.estimation:
            self.algorithm.estimation.exclude(worker)
        short = None if self.replaying else self.members.shortage(self._now, patience=-1.0)
        if short is None:
            if self._final_tests:  # else the lost may come back, and others are at work
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
        elif isinstance(message, Hello) and not (self._final_tests or self.finished):
            if self._is_stranger(worker, message):
                return
            self._admit(worker, message)
            self.algorithm.delay[worker - 1] = 0
            self.members.heard(worker, self._now)
            self._proceed()

    def _take_back(self, worker: int) -> None:
        if self._final_tests or self.finished:
            self._dismiss(worker)
            return
        self._record_event(EventKind.RETURNED, worker)
        self.members.starts_afresh(worker, self._now)
        self._output.messages.append((worker, Reset(self.algorithm.z.copy())))
