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
from asyndbt_mpi.protocol.blackbox import calibration_of
from asyndbt_mpi.protocol.conduct import ANSWER_KINDS, Conduct
from asyndbt_mpi.protocol.estimation import not_asked_for
from asyndbt_mpi.protocol.membership import BARRED, COUNTED, MOST_RETURNS, State
from asyndbt_mpi.protocol.messages import (
    Candidate,
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
from asyndbt_mpi.protocol.spending import AnswerKind


class Server(Conduct):
    """Takes the messages: which are believed, and who takes part."""

    def receive(self, worker: int, message: ToServer, time: float) -> Output:
        """Take ``message`` of ``worker``, which arrived at ``time`` seconds of the run's clock.

        Raises
        ------
        MalformedMessage
            The message answers nothing that was asked; the state is unchanged, and the driver
            should call `strike`.
        """
        out = Output(time)
        state = self.members.state(worker)
        if state in BARRED:
            return out  # its last words
        if state not in COUNTED:
            self._hear_again(out, worker, message)
            return out
        match message:
            case Hello() if why := self._objection(worker, message):
                self._turn_away(out, worker, why)
                return out
            case Hello():
                self._admit(out, worker, message)
            case Report():
                self._accept_report(out, worker, message)
            case LowerReport():
                self._accept_lower_report(out, worker, message)
            case EvaluationReport():
                self._accept_evaluation(out, worker, message)
            case Failure(text=text, refuses=True) if not self.iteration:
                self._refuse(out, f"worker {worker}: {text}")
                return out
            case Failure(text=text):
                self._leave(out, worker, State.DISMISSED, text)
                self._tell_to_stop(out, worker)
                return out
        self.members.heard(worker, time)
        self._proceed(out)
        return out

    def strike(self, worker: int, reason: str, time: float) -> Output:
        """Drop a malformed message of ``worker``; exclude it after `defence.strikes`."""
        out = Output(time)
        if self.members.state(worker) in BARRED:
            return out
        self.members.strikes[worker] += 1
        if self.members.strikes[worker] < self.config.defence.strikes:
            self._record_event(out, EventKind.DROPPED, worker, reason.partition("\n")[0])
        else:
            self._exclude(out, worker, reason)
        return out

    def exclude(self, worker: int, reason: str, time: float) -> Output:
        """Go on without ``worker`` for good: its values stay, nothing of it is believed any more.

        With fewer than `algorithm.min_workers` left the run ends; `failure` then says why.
        """
        out = Output(time)
        self._exclude(out, worker, reason)
        return out

    def refuse(self, reason: str, time: float) -> Output:
        """End the run at once, for it must not go on as it is; `refusal` then says why."""
        out = Output(time)
        self._refuse(out, reason)
        return out

    def lose(self, worker: int, reason: str, time: float) -> Output:
        """Go on without ``worker``, which died or fell silent, unless it is heard of again.

        As `exclude`, but if ever a message of it arrives, it is let in again with fresh state.
        """
        out = Output(time)
        if worker in self.members.working:  # one that was told to stop may go
            self._leave(out, worker, State.LOST, reason)
        return out

    def take_back(self, worker: int, time: float) -> Output:
        """A lost ``worker`` is there again: have it forget everything, and say hello."""
        out = Output(time)
        self._take_back(out, worker)
        return out

    def tick(self, time: float, is_heard: Callable[[int], bool] = lambda worker: False) -> Output:
        """Take notice of the ``time``, whether something arrives or not.

        Workers that have owed an answer for too long are lost, unless ``is_heard`` says that
        something of them is there to be received; and a budget of seconds may end.
        """
        out = Output(time)
        timeout = self.config.run.worker_timeout
        self.members.account(time)
        for worker, reason in self.members.overdue(time, timeout):
            if not (self.finished or is_heard(worker)):
                self._leave(out, worker, State.LOST, reason)
        if self.running and (short := self.members.shortage(time, timeout)):
            self._fail(out, f"{short}; {self.members.gone}")
        seconds = self.config.budget.seconds
        if seconds and time >= seconds:
            self._end_by(out, f"budget.seconds = {seconds:g}")
        return out

    def judge(self, time: float) -> Output:
        """End a run that was gone through again, if by today's settings it must not go on.

        What was under way has to be covered by the budget; lost workers may still come back.
        """
        out = Output(time)
        patience = self.config.run.worker_timeout if self.running else -1.0
        stage: AnswerKind = "test" if self._final_tests else "assignment"
        if not self.replaying and (short := self.members.shortage(time, patience)):
            self._fail(out, f"{short}; {self.members.gone}")
        elif limit := self.spending.overdrawn(0, time, stage):
            self._end_by(out, limit)
        return out

    # ------------------------------------------------------------ messages in

    def _admit(self, out: Output, worker: int, message: Hello) -> None:
        if self.members.has_greeted(worker):
            raise MalformedMessage(f"worker {worker} said hello twice")
        self.check_hello(worker, message)
        self.models.note(worker, message.description, message.digest)
        out.records.append(hello_event(worker, message, self.iteration, out.time))
        self.members.become(worker, State.JOINED)
        self.spending.join(worker, message.cost_bounds)
        if self.config.log.private:
            self.algorithm.choice[worker - 1] = message.choice
        else:
            q = self._initial_q[worker - 1] = onto_simplex(message.q)
            self.algorithm.q[worker - 1] = q
        self._assign(out, [worker])

    def check_hello(self, worker: int, message: Hello) -> None:
        """Refuse a hello that the data of ``worker`` do not give.

        Raises
        ------
        MalformedMessage
        """
        expected = self.expected.get(worker)
        if expected and not self.replaying and not np.array_equal(expected.q, message.q):
            raise MalformedMessage(f"worker {worker} begins with another q than its data give")
        held, told = self.held.get(worker), message.cost_bounds.race_rows
        if held and not self.replaying and told != held.rows[Split.RACE]:
            raise MalformedMessage(
                f"worker {worker} says that its race has {told} rows: {held.rows[Split.RACE]}"
            )
        self.spending.check_cost_bounds(worker, message.cost_bounds)

    def _objection(self, worker: int, message: Hello) -> str | None:
        """Why ``worker`` may not take part: it holds another model.

        What the log has of a run was judged when it happened.
        """
        if self.replaying:
            return None
        return self.models.difference(worker, message.description, message.digest)

    def _turn_away(self, out: Output, worker: int, why: str) -> None:
        """Go on without ``worker``; before the first iteration end the run instead."""
        if self.iteration:
            self._exclude(out, worker, why)
        else:
            self._refuse(out, why)

    def _accept_report(self, out: Output, worker: int, report: Report) -> None:
        asked = self._outstanding.get(worker)
        if asked is None or (report.number, report.iteration) != (asked.number, asked.iteration):
            raise MalformedMessage(
                f"report {report.number} (read at iteration {report.iteration}) answers no"
                f" outstanding assignment of worker {worker}"
            )
        self.spending.check(worker, "assignment", report.costs)
        self._check_pool(worker, report)
        self._record_answer(out, worker, report)
        del self._outstanding[worker]
        if self._final_tests:
            self._close_worker(out, worker)  # it was too late to be used
        else:
            self.algorithm.reported[worker] = report

    def _accept_lower_report(self, out: Output, worker: int, report: LowerReport) -> None:
        if self.algorithm.estimation is None:
            raise not_asked_for(worker, report)
        self.spending.check(worker, "assignment", report.costs)
        self._check_pool(worker, report)
        self.algorithm.estimation.accept(worker, report)
        self._record_answer(out, worker, report)

    def _accept_evaluation(self, out: Output, worker: int, report: EvaluationReport) -> None:
        kind = ANSWER_KINDS.get(report.split)
        if kind is None:
            raise MalformedMessage(f"nothing is evaluated on {report.split.name} rows")
        self.spending.check(worker, kind, report.costs)
        self._check_calibration(worker, report)
        if report.split is Split.RACE and worker in self._races:
            self._races[worker].check(report.losses)
        if report.candidate is Candidate.MODEL:
            self._check_pool(worker, report)
        held = None if self.replaying else self.held.get(worker)
        evaluation = self.evaluations.accept(worker, report, out.time, held)
        self._record_answer(out, worker, report)
        out.records.append(evaluation)
        if evaluation.split is Split.VALIDATION:
            self.validation.add(evaluation, self.members.count)
            return
        if evaluation.split is Split.RACE:
            prompt = evaluation.words, evaluation.demonstrations
            # That of each row stays with the worker: there is one number, their mean.
            mean = np.array([evaluation.loss])
            losses = mean if self.config.log.private else evaluation.losses
            self._races[worker].take(prompt, losses)
        self._close_worker(out, worker)

    def _check_pool(self, worker: int, report: Report | LowerReport | EvaluationReport) -> None:
        """Refuse demonstrations that ``worker`` does not have, also as the most probable ones."""
        held = self._initial_q[worker - 1] > 0
        if self.replaying or self.config.log.private or held.all():
            return
        match report:
            case Report(q=q):
                # As the algorithm will take it, with mass wherever the projection puts some.
                shown = onto_simplex(q).argmax(axis=1)
            case LowerReport(k=shown) | EvaluationReport(demonstrations=shown):
                pass
        if not held[np.arange(self.shapes.classes), shown].all():
            raise MalformedMessage(
                f"worker {worker} shows demonstrations {shown.tolist()}, which it does not have"
            )

    def _check_calibration(self, worker: int, report: EvaluationReport) -> None:
        method = self.config.task.calibration
        calibration = calibration_of(report.candidate, report.split, method)
        if self.config.privacy.noise:  # the bias, which is exact, stays with the worker
            calibration = "none"
        if report.bias.any() != (calibration != "none") and not self.replaying:
            raise MalformedMessage(
                f"worker {worker} reports the bias {report.bias.tolist()} for its"
                f" {report.candidate.name} prompt, whose calibration is {calibration!r}"
            )

    def _record_answer(
        self, out: Output, worker: int, report: Report | LowerReport | EvaluationReport
    ) -> None:
        self.spending.answered(worker, report.costs)
        out.records.append(answer_event(worker, report, self.iteration, out.time))

    # ------------------------------------------------------------ who takes part

    def _exclude(self, out: Output, worker: int, reason: str) -> None:
        state = self.members.state(worker)
        if state in BARRED:
            return
        self._tell_to_stop(out, worker)
        if state in COUNTED:
            self._leave(out, worker, State.EXCLUDED, reason)
        else:
            self._record_event(out, EventKind.EXCLUDED, worker, reason)
            self.members.become(worker, State.EXCLUDED)

    def _dismiss(self, out: Output, worker: int) -> None:
        """Tell ``worker``, which does not count, to stop; whatever it still says is not heard."""
        self.members.become(worker, State.DISMISSED)
        self._tell_to_stop(out, worker)

    def _refuse(self, out: Output, reason: str) -> None:
        self.refusal = reason
        self._stop_all(out)

    def _leave(self, out: Output, worker: int, state: State, reason: str) -> None:
        """Go on without ``worker``, which is in ``state`` now; end the run if too few are left."""
        # A traceback may follow the first line, with texts that are nobody's business.
        first = reason.partition("\n")[0]
        kind = EventKind.EXCLUDED if state is State.EXCLUDED else EventKind.LOST
        self._record_event(out, kind, worker, first)
        self.members.become(worker, state)
        self.algorithm.forget(worker)
        self._outstanding.pop(worker, None)
        self._unassigned.discard(worker)
        self.validation.forget(worker)
        self.spending.lose(worker)
        unanswered = self.evaluations.forget(worker)
        if self._final_tests:
            self._final_tests.give_back(unanswered)
        short = None if self.replaying else self.members.shortage(out.time, patience=-1.0)
        if short is None:
            if self._final_tests:  # else the lost may come back, and others are at work
                self._finish_if_all_stopped(out)
            self._proceed(out)
        elif not self.finished:
            self._fail(out, f"{short}; the last to go was worker {worker}: {reason}")

    def _hear_again(self, out: Output, worker: int, message: ToServer) -> None:
        """A message of a ``worker`` that was lost."""
        if isinstance(message, Failure):  # it is there, but cannot go on
            self._dismiss(out, worker)
        elif worker not in self.members.restarting:
            if self.members.returns[worker] < MOST_RETURNS:
                self._take_back(out, worker)
            else:
                self._exclude(out, worker, f"was lost and came back {MOST_RETURNS} times")
        elif not isinstance(message, Hello):
            self.members.note_noise(worker)
            if self.members.is_noisy(worker):
                self._exclude(out, worker, "was told to start afresh, and does not")
        elif self.running:
            if why := self._objection(worker, message):
                self._turn_away(out, worker, why)
                return
            self._admit(out, worker, message)
            self.algorithm.delay[worker - 1] = 0
            self.members.heard(worker, out.time)
            self._proceed(out)

    def _take_back(self, out: Output, worker: int) -> None:
        if self._final_tests or self.finished:
            self._dismiss(out, worker)
            return
        self._record_event(out, EventKind.RETURNED, worker)
        self.members.starts_afresh(worker, out.time)
        out.messages.append((worker, Reset(self.algorithm.z.copy())))
