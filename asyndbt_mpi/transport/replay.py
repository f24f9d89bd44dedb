"""Replay: the same arrivals, in the order in which a log recorded them.

The server is a function of the order of its messages, and a worker of its assignments. Feeding
both again what the log says arrived must therefore give the same iterates, bit for bit.
"""

from collections import deque
from collections.abc import Callable, Iterable

from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.messages import ToServer, ToWorker
from asyndbt_mpi.protocol.records import Event, EventKind, Record
from asyndbt_mpi.protocol.server import Output, Server
from asyndbt_mpi.protocol.worker import Completed, Workers


class ReplayError(RuntimeError):
    """The recorded order of arrivals cannot have been that of this run."""


class Replay:
    """A server and its workers in one process, whose messages arrive as recorded."""

    def __init__(self, server: Server, workers: Workers, black_box: BlackBox) -> None:
        self.server = server
        self.workers = workers
        self.black_box = black_box
        self._inboxes: dict[int, deque[ToWorker]] = {
            worker: deque() for worker in black_box.holdings
        }

    def run(self, events: Iterable[Event], write: Callable[[list[Record]], None]) -> None:
        """Let ``events`` happen in their order; ``write`` takes the records they cause.

        Raises
        ------
        ReplayError
            A worker has nothing to answer when the log says that it did.
        """
        for event in events:
            if event.kind is EventKind.EXCLUDED:
                output = self.server.exclude(event.worker, event.text, event.time)
            else:
                message = self._answer(event)
                output = self.server.receive(event.worker, message, event.time)
            self._deliver(output)
            write(output.records)

    def _answer(self, event: Event) -> ToServer:
        if event.kind is EventKind.HELLO:
            return self.workers.hello(event.worker, event.text)
        inbox = self._inboxes[event.worker]
        asked = self.workers.receive([(event.worker, inbox.popleft())]) if inbox else [None]
        if asked[0] is None:
            raise ReplayError(
                f"worker {event.worker} has nothing to answer in iteration {event.iteration}, where"
                f" the log has its {event.kind.name.lower()} {event.number}"
            )
        [answer] = self.black_box.answer([asked[0]])
        # How long it took is not part of the iterates.
        [reply] = self.workers.answer([Completed(event.worker, answer, 0.0, event.time)])
        return reply

    def _deliver(self, output: Output) -> None:
        for number, message in output.messages:
            self._inboxes[number].append(message)
