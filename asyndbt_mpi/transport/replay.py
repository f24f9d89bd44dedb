"""Replay: the same arrivals, in the order in which a log recorded them.

The server is a function of the order of its messages, and a worker of its assignments and of the
black box's answers. Feeding both the logged arrivals again must therefore give the same iterates,
bit for bit; and if the answers come from the log, too, without paying for them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from asyndbt_mpi.adversary.colluders import Colluders
from asyndbt_mpi.protocol.blackbox import Answer, AnyQuery, BlackBox, Completed, ExactQuery
from asyndbt_mpi.protocol.messages import (
    Assignment,
    EvaluationRequest,
    Hello,
    LowerAssignment,
    Restore,
    RowLosses,
    RowScores,
    Stop,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.records import EVENT_OF, SPLIT_OF, Event, EventKind, Output, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.transport.adoption import Adoption

ANSWERS = (EventKind.REPORT, EventKind.LOWER_REPORT, *SPLIT_OF)
"""Events with a black box's answers."""


class ReplayError(RuntimeError):
    """The recorded order of arrivals cannot have been that of this run."""


class Recorded:
    """A black box that gives each worker its recorded answers, and then asks another one.

    Exact gradients cost nothing; they are not recorded, but computed again.
    """

    def __init__(self, events: Iterable[Event], box: BlackBox) -> None:
        self.box = box
        self.data_sizes, self.descriptions = box.data_sizes, box.descriptions
        self.digests = box.digests
        self._answers: dict[int, deque[Event]] = {worker: deque() for worker in box.data_sizes}
        for event in events:
            if event.kind in ANSWERS:
                self._answers[event.worker].append(event)

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        """See `BlackBox`."""
        known = {
            row: _answer(event, query)
            for row, query in enumerate(queries)
            if (event := self._next(query)) is not None
        }
        unknown = [query for row, query in enumerate(queries) if row not in known]
        asked = iter(self.box.answer(unknown) if unknown else [])
        return [known[row] if row in known else next(asked) for row in range(len(queries))]

    def _next(self, query: AnyQuery) -> Event | None:
        recorded = self._answers[query.worker]
        event = recorded.popleft() if recorded else None
        return None if isinstance(query, ExactQuery) else event


def _answer(event: Event, query: AnyQuery) -> Answer:
    assert event.losses is not None
    assert not isinstance(query, ExactQuery)
    samples = len(query.words)
    if not np.isfinite(event.losses[:samples]).all():
        raise ReplayError(
            f"iteration {event.iteration}: the answer to worker {event.worker}'s"
            f" {event.kind.name.lower()} {event.number} is not in the log"
        )
    costs = event.costs
    rows = event.rows if isinstance(event.rows, RowScores) else None
    own = event.rows if isinstance(event.rows, RowLosses) else None
    return Answer(
        event.losses[:samples],
        np.full(samples, event.accuracy),
        costs.calls,
        costs.prompt_tokens,
        prompts=costs.prompts,
        completion_tokens=costs.completion_tokens,
        unrecognised=costs.unrecognised,
        bias=None if event.bias is None else event.bias[None],
        log_probabilities=None if rows is None else rows.log_probabilities[None],
        labels=None if rows is None else rows.labels,
        row_losses=None if own is None else own.losses[None],
    )


def _is_about(event: Event, message: ToWorker | None) -> bool:
    """Whether ``event`` is an answer to ``message``."""
    match message:
        case Assignment(number=number):
            return (event.kind, event.number) == (EventKind.REPORT, number)
        case LowerAssignment(number=number):
            return (event.kind, event.number) == (EventKind.LOWER_REPORT, number)
        case EvaluationRequest(iteration=iteration, split=split):
            return (event.kind, event.number) == (EVENT_OF[split], iteration)
        case _:
            return False


class Replay:
    """A server and its workers in one process, whose messages arrive as recorded.

    Parameters
    ----------
    adoption : replaces replies that the recorded answers do not explain
    colluders : tell the same lies again if they know no more than the server had heard

    Attributes
    ----------
    answers : the number of its black box's answers that each worker has had, by its number
    """

    def __init__(
        self,
        server: Server,
        workers: Workers,
        black_box: BlackBox,
        adoption: Adoption | None = None,
        colluders: Colluders | None = None,
    ) -> None:
        self.server = server
        self.workers = workers
        self.black_box = black_box
        self.adoption = adoption
        self.colluders = colluders
        self.answers = dict.fromkeys(black_box.data_sizes, 0)
        self._inboxes: dict[int, deque[ToWorker]] = {
            worker: deque() for worker in black_box.data_sizes
        }
        self._greeted: set[int] = set()
        # Workers that came back with a different model, and how it differs.
        self._strangers: dict[int, str] = {}

    def run(self, events: Iterable[Event], write: Callable[[list[Record]], None]) -> None:
        """Replay ``events`` in order; ``write`` takes the records they cause.

        Raises
        ------
        ReplayError
            A worker has nothing to answer although the log says that it did, or a recorded
            answer is missing.
        """
        self._replaying(True)
        for event in events:
            output = self._happen(event)
            if self.adoption is not None:
                self.adoption.concluded(output.records)
            self._take(output, write)
        self._replaying(False)

    def judge(self, time: float, write: Callable[[list[Record]], None]) -> None:
        """End the run if the current settings do not let it continue; see `Server.judge`."""
        self._take(self._judge(time), write)

    def _replaying(self, replaying: bool) -> None:
        self.server.replaying = self.server.spending.replaying = replaying

    def _take(self, output: Output, write: Callable[[list[Record]], None]) -> None:
        for worker, message in output.messages:
            self._inboxes[worker].append(message)
        write(output.records)

    def _judge(self, time: float) -> Output:
        before = self.server.finished
        output = self.server.judge(time)
        if self.server.finished and not before:
            for inbox in self._inboxes.values():
                inbox.clear()  # no longer to be answered
        return output

    def _happen(self, event: Event) -> Output:
        worker, time = event.worker, event.time
        match event.kind:
            case EventKind.CLOSING:
                # Repeated by the server itself, unless no message caused it.
                return self._judge(time) if self.server.running else Output(time)
            case EventKind.RESUMED:
                self.server.spending.count(event.costs)
                self.server.spending.write_off(event.number)
                return Output(time)
            case EventKind.DROPPED:
                return self.server.strike(worker, event.text, time)
            case EventKind.EXCLUDED:
                self._leave(worker)
                return self.server.exclude(worker, event.text, time)
            case EventKind.LOST:
                # It will be told to forget its earlier questions.
                self._inboxes[worker].clear()
                self._leave(worker)
                return self.server.lose(worker, event.text, time)
            case EventKind.RETURNED:
                return self.server.take_back(worker, time)
            case EventKind.HELLO:
                self._start_afresh(worker)
                hello = self.workers.hello(worker, event.text, event.model)
                if event.cost_bounds:  # those of the black box at that time
                    hello = replace(hello, cost_bounds=event.cost_bounds)
                return self.server.receive(worker, hello, time)
            case _:
                return self.server.receive(worker, self._answer(event), time)

    def _leave(self, worker: int) -> None:
        if self.adoption is not None:
            self.adoption.left(worker)

    def _start_afresh(self, worker: int) -> None:
        """Let ``worker`` read its messages, if any, before it says hello."""
        inbox = self._inboxes[worker]
        self.workers.receive([(worker, message) for message in inbox])
        inbox.clear()

    def _answer(self, event: Event) -> ToServer:
        inbox = self._inboxes[event.worker]
        row = next((row for row, each in enumerate(inbox) if _is_about(event, each)), None)
        if row is None:
            raise ReplayError(
                f"worker {event.worker} has nothing to answer in iteration {event.iteration}, where"
                f" the log has its {event.kind.name.lower()} {event.number}"
            )
        message = inbox[row]
        del inbox[row]
        [query] = self.workers.receive([(event.worker, message)])
        assert query is not None
        [answer] = self.black_box.answer([query])
        self.answers[event.worker] += 1
        completed = Completed(event.worker, answer, event.costs.compute_seconds, event.sent_time)
        [reply] = self.workers.answer([completed])
        if self.colluders is not None:
            reply = self.colluders.report(event.worker, reply)
        return reply if self.adoption is None else self.adoption.reply(event, reply)

    # ------------------------------------------------------------ continuing from here

    def holds(self, worker: int, message: ToWorker) -> bool:
        """Whether ``message`` must wait until ``worker``, just restarted, says hello.

        A message sent before its state would be answered from a different state.
        """
        if worker in self._greeted:
            return False
        self._inboxes[worker].append(message)
        return True

    def greet(self, worker: int, hello: Hello) -> list[ToWorker] | None:
        """The messages for a restarted ``worker`` that says its first hello.

        None if the server should receive the hello, because the replayed run never did, or lost
        the worker. One with a different model from the run's is sent nothing until `settle`.

        Raises
        ------
        MalformedMessage
            The hello does not follow from the worker's data.
        """
        if worker in self._greeted:
            return None
        members, models = self.server.members, self.server.models
        model = worker, hello.description, hello.digest
        why = models.difference(*model)
        if why and members.is_live(worker):
            self._strangers[worker] = why
            return []
        self._greeted.add(worker)
        models.note(*model)
        if worker in members.restarting:
            return list(self._inboxes[worker])  # it was told to start afresh anyway
        if members.has_greeted(worker):
            self.server.check_hello(worker, hello)
            self.server.spending.join(worker, hello.cost_bounds)
            state = Restore(self.answers[worker], self.workers.state(worker))
            return [state, *self._inboxes[worker]]
        return None if members.is_live(worker) or worker in members.lost else [Stop()]

    def settle(self, time: float) -> Output:
        """Turn away workers with a different model once one with the run's model is there.

        If no worker that counts has it, the run cannot continue, and none is turned away.
        """
        members = self.server.members
        strangers = {v: why for v, why in self._strangers.items() if members.is_live(v)}
        self._strangers = strangers
        output = Output(time)
        if not strangers:
            return output
        if any(members.is_live(worker) for worker in self._greeted):
            self._strangers = {}
            for worker, why in strangers.items():
                excluded = self.server.exclude(worker, why, time)
                output.messages += excluded.messages
                output.records += excluded.records
        elif len(strangers) == members.count:
            output = self.server.refuse(next(iter(strangers.values())), time)
        return output
