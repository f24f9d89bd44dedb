"""The virtual clock: server and workers in one process, time passing only in an event queue."""

import heapq
from collections.abc import Callable, Sequence

from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.messages import ToServer, ToWorker
from asyndbt_mpi.protocol.records import Record
from asyndbt_mpi.protocol.server import Output, Server
from asyndbt_mpi.protocol.worker import Worker
from asyndbt_mpi.transport.delay import DelayModel


class VirtualCluster:
    """Workers whose answers take as many virtual seconds as their delay models draw.

    A message takes no time to travel, and a worker works through its messages in the order
    in which they were sent; ties between arrivals go to the message that was sent first.

    Parameters
    ----------
    members : one (worker, black box, delay model) for each of the workers 1..R
    """

    def __init__(
        self, server: Server, members: Sequence[tuple[Worker, BlackBox, DelayModel]]
    ) -> None:
        self.server = server
        self.members = members
        self.now = 0.0
        self._free_at = [0.0] * len(members)
        self._arrivals: list[tuple[float, int, int, ToServer]] = []
        self._sent = 0

    def run(self, write: Callable[[list[Record]], None]) -> None:
        """Run until the server has finished; ``write`` takes the records as they come."""
        for number, (worker, black_box, _) in enumerate(self.members, start=1):
            self._arrive(0.0, number, worker.hello(black_box.description))
        while not self.server.finished:
            self.now, _, number, message = heapq.heappop(self._arrivals)
            output = self.server.receive(number, message, self.now)
            self._deliver(output)
            write(output.records)

    def _deliver(self, output: Output) -> None:
        for number, message in output.messages:
            self._work(number, message)

    def _work(self, number: int, message: ToWorker) -> None:
        """Let a worker answer at once; its reply arrives when the work would have been done."""
        worker, black_box, delay = self.members[number - 1]
        query = worker.receive(message)
        if query is None:
            return
        seconds = delay.draw()
        done = max(self.now, self._free_at[number - 1]) + seconds
        self._free_at[number - 1] = done
        self._arrive(done, number, worker.answer(black_box.answer(query), seconds, done))

    def _arrive(self, time: float, number: int, message: ToServer) -> None:
        self._sent += 1
        heapq.heappush(self._arrivals, (time, self._sent, number, message))
