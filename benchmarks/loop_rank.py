"""One rank of benchmarks/loop.py: the package's server and workers with a black box that is free.

Run by mpiexec, with the settings as JSON; rank 0 prints its measurements as JSON.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from asyndbt_mpi.assemble import Materials, prepare
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.blackbox import Answer, AnyQuery, Holdings, Query
from asyndbt_mpi.protocol.messages import Split, ToServer
from asyndbt_mpi.protocol.records import Iteration, Record
from asyndbt_mpi.protocol.server import Output, Server
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.mpi import WORLD, Channel, serve, work

WARMING_UP = 50
"""Iterations that do not count."""


class Free:
    """A black box that costs next to nothing: losses are the sums of the words' numbers."""

    def __init__(self, materials: Materials, worker: int) -> None:
        pool = np.full(materials.shapes.classes, materials.shapes.pool)
        self.holdings = {worker: Holdings(pool, dict.fromkeys(Split, 20))}
        self.descriptions = {worker: "free"}

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        """A loss for each prompt."""
        answers = []
        for query in queries:
            assert isinstance(query, Query)
            losses = np.add.reduce(query.words, axis=1) * 0.01
            answers.append(Answer(losses, np.zeros_like(losses), len(losses), 0))
        return answers


class Sink:
    """Takes the records: into a log, or nowhere; notes when each iteration was over."""

    def __init__(self, writer: Writer | None) -> None:
        self.writer = writer
        self.times: list[float] = []

    def write(self, records: list[Record]) -> None:
        """Log the records."""
        for record in records:
            if isinstance(record, Iteration):
                self.times.append(time.perf_counter())
            if self.writer is not None:
                self.writer.write(record)

    def idle(self) -> None:
        """Use a moment without messages."""
        if self.writer is not None:
            self.writer.flush_if_due()


class Timed(Server):
    """A server that adds up the CPU time of its own steps."""

    def __init__(self, config: Config, materials: Materials, workers: int) -> None:
        super().__init__(config, materials.shapes, workers)
        self.seconds: list[float] = []
        self._spent = 0.0

    def receive(self, worker: int, message: ToServer, time_: float) -> Output:
        """As the server's own."""
        started = time.thread_time()
        iteration = self.iteration
        output = super().receive(worker, message, time_)
        self._spent += time.thread_time() - started
        if self.iteration > iteration:
            self.seconds.append(self._spent)
            self._spent = 0.0
        return output


def main() -> None:
    settings = json.loads(sys.argv[1])
    logging = settings.pop("logging")
    config = load("synthetic", [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    rank, workers = WORLD.Get_rank(), WORLD.Get_size() - 1
    materials = prepare(config, workers)
    channel = Channel(WORLD, Codec(materials.shapes))
    if rank:
        box = Free(materials, rank)
        delays = Delays(config.delay, config.run.seed, rank, workers)
        work(channel, lambda: (Workers(config, materials.shapes, box.holdings), box), delays)
        channel.close(float("inf"))
        return
    server = Timed(config, materials, workers)
    with TemporaryDirectory() as folder:
        log = Path(folder) / "loop.h5"
        writer = None
        if logging:
            writer = Writer(
                log, config, materials.shapes, workers, materials.vocabulary, "mpi", server.z
            )
        sink = Sink(writer)
        if not serve(channel, server, sink):
            sys.exit("interrupted")
        if writer is not None:
            writer.close("finished")
        size = log.stat().st_size if logging else 0
    channel.close(60.0)
    # The first iterations load what is compiled.
    seconds = server.seconds[WARMING_UP:]
    times = sink.times[WARMING_UP:]
    third = len(seconds) // 3
    print(
        json.dumps(
            {
                "rate": (len(times) - 1) / (times[-1] - times[0]),
                "server_first": float(np.mean(seconds[:third])),
                "server_last": float(np.mean(seconds[-third:])),
                "server_mean": float(np.mean(seconds)),
                "bytes": size,
            }
        )
    )


if __name__ == "__main__":
    main()
