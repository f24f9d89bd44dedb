"""The virtual clock: server and workers in one process, time passing only in an event queue."""

import heapq
from collections.abc import Callable, Iterator, Mapping

from asyndbt_mpi.adversary.colluders import Colluders
from asyndbt_mpi.protocol.blackbox import BlackBox, Completed
from asyndbt_mpi.protocol.divergence import Diverged
from asyndbt_mpi.protocol.messages import (
    EvaluationRequest,
    MalformedMessage,
    Split,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.records import Output, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.transport.delay import Delays


class VirtualCluster:
    """Workers whose answers take as many virtual seconds as their delays say.

    A message takes no time to travel, and a worker works through its messages in the order
    in which they were sent; ties between arrivals go to the message that was sent first.

    Parameters
    ----------
    delays : by number of the worker, 1..R
    colluders : who lies to the server; they have seen every report that arrived before theirs

    Attributes
    ----------
    now : seconds of the virtual clock
    free_at : by number of the worker, when it will have finished all its work so far
    """

    def __init__(
        self,
        server: Server,
        workers: Workers,
        black_box: BlackBox,
        delays: Mapping[int, Delays],
        colluders: Colluders | None = None,
    ) -> None:
        self.server = server
        self.workers = workers
        self.black_box = black_box
        self.delays = delays
        self.colluders = colluders
        config = server.config
        free, pools = config.llm.is_function, config.algorithm.pools
        private = config.log.private
        self._codec = Codec(server.shapes, free_losses=free, pools=pools, private=private)
        self.now = 0.0
        self.free_at = dict.fromkeys(delays, 0.0)
        self._arrivals: list[tuple[float, int, int, ToServer]] = []
        self._sent = 0

    def run(self, write: Callable[[list[Record]], None]) -> None:
        """Run until the server has finished; ``write`` takes the records as they come.

        Raises
        ------
        Diverged
            A step of the server or of a worker would lead to numbers that are not finite.
        """
        for records in self.steps():
            write(records)

    def steps(self) -> Iterator[list[Record]]:
        """Like `run`, one arrival at a time; yields the server's records."""
        for worker in self.delays:
            box = self.black_box
            hello = self.workers.hello(worker, box.descriptions[worker], box.digests[worker])
            self._arrive(0.0, worker, hello)
        while not self.server.finished:
            output = self._next()
            yield output.records  # first: a worker's step may fail
            if output.messages:
                for together in _first_to_last(output.messages):
                    self._work(together)
        if self.server.failure:
            raise Diverged(self.server.failure)

    def _next(self) -> Output:
        """What becomes of the next arrival or, if there is none, of those that are waited for."""
        if self._arrivals:
            self.now, _, worker, message = heapq.heappop(self._arrivals)
            return self._take(worker, message)
        # The answers of all of them were dropped, and nobody asks again: they fall silent.
        self.now += 2 * self.server.config.run.worker_timeout
        output = self.server.tick(self.now)
        if not output.records:
            raise RuntimeError("the server waits, but nobody owes it an answer")
        return output

    def _take(self, worker: int, message: ToServer) -> Output:
        if self.colluders is None:
            return self.server.receive(worker, message, self.now)
        told = self.colluders.report(worker, message)
        try:
            if told is not message:  # only a lie may be refused
                told = self._refusing(told)
            return self.server.receive(worker, told, self.now)
        except MalformedMessage as error:
            return self.server.strike(worker, str(error), self.now)

    def _refusing(self, lie: ToServer) -> ToServer:
        """``lie`` as it comes out of the wire, which refuses what no worker can mean."""
        read = self._codec.decode(self._codec.encode(lie))
        assert isinstance(read, ToServer)
        return read

    def _work(self, messages: list[tuple[int, ToWorker]]) -> None:
        """Let workers answer at once; their replies arrive when the work would be done."""
        queries = [query for query in self.workers.receive(messages) if query is not None]
        if not queries:
            return
        completed = []
        for query, answer in zip(queries, self.black_box.answer(queries), strict=True):
            seconds = self.delays[query.worker].draw()
            done = max(self.now, self.free_at[query.worker]) + seconds
            self.free_at[query.worker] = done
            completed.append(Completed(query.worker, answer, seconds, done))
        for each, reply in zip(completed, self.workers.answer(completed), strict=True):
            self._arrive(each.sent_time, each.worker, reply)

    def _arrive(self, time: float, worker: int, message: ToServer) -> None:
        self._sent += 1
        heapq.heappush(self._arrivals, (time, self._sent, worker, message))


def _first_to_last(messages: list[tuple[int, ToWorker]]) -> list[list[tuple[int, ToWorker]]]:
    """``messages`` in turns: every worker's first, then every worker's second, and so on.

    The messages of a turn are of one kind, so that a black box can answer them together;
    evaluations are also of one split, as prompts are scored on all of its rows.
    """
    turns: dict[tuple[int, type, Split | None], list[tuple[int, ToWorker]]] = {}
    seen: dict[int, int] = {}
    for worker, message in messages:
        turn = seen[worker] = seen.get(worker, -1) + 1
        split = message.split if isinstance(message, EvaluationRequest) else None
        turns.setdefault((turn, type(message), split), []).append((worker, message))
    return [turns[key] for key in sorted(turns, key=lambda key: key[0])]
