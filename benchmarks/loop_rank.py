"""One rank of benchmarks/loop.py: the package's server and workers with a black box that is free.

Started by mpiexec with the settings as JSON; rank 0 prints what it measured as JSON.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
from mpi4py import MPI

from asyndbt_mpi.assemble import Materials, prepare
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.blackbox import Answer, AnyQuery, DataSizes, Query
from asyndbt_mpi.protocol.messages import Assignment, Costs, Report, Split
from asyndbt_mpi.protocol.records import Iteration, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.drive import serve, work
from asyndbt_mpi.transport.mpi import SERVER, WORLD, Channel

WARMING_UP = 100
"""Iterations that do not count: what is compiled is loaded in them."""
UNCOUNTED = 50
"""Calls of a part of the program that do not count, for the same reason."""
EXCHANGES = 3000
PARTS = ("decode", "receive", "encode", "log", "ask", "step")
"""Of the server the first four, of a worker decode, encode, ask (draw a query) and step."""


class Free:
    """A black box that costs next to nothing: losses are sums of the words' numbers."""

    def __init__(self, materials: Materials, workers: Sequence[int]) -> None:
        shapes = materials.shapes
        held = DataSizes(np.full(shapes.classes, shapes.pool), dict.fromkeys(Split, 20))
        self.data_sizes = dict.fromkeys(workers, held)
        self.descriptions = dict.fromkeys(workers, "free")
        self.digests = dict.fromkeys(workers, "")

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        """A loss for each prompt."""
        answers = []
        for query in queries:
            assert isinstance(query, Query)
            losses = np.add.reduce(query.words, axis=1) * 0.01
            calls = len(losses)
            answers.append(Answer(losses, np.zeros_like(losses), calls, 0, prompts=calls))
        return answers


class Sink:
    """Takes the records, into a log or nowhere, and notes when each iteration was over."""

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


class Clock:
    """Adds up the CPU time of parts of the program."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = defaultdict(int)
        self.counted: dict[str, float] = defaultdict(float)

    def seconds(self, part: str) -> float:
        """Of all calls of ``part``, the first few taken to be like the rest."""
        calls = self.calls[part]
        return self.counted[part] * calls / (calls - UNCOUNTED) if calls > UNCOUNTED else 0.0

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Count the time of ``owner.method`` as that of ``part``."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*arguments: Any) -> Any:
            started = time.thread_time()
            result = original(*arguments)
            self.calls[part] += 1
            if self.calls[part] > UNCOUNTED:
                self.counted[part] += time.thread_time() - started
            return result

        setattr(owner, method, timed)


def raw_bytes(path: Path) -> int:
    """What the numbers of all datasets take."""
    sizes: list[int] = []
    with h5py.File(path) as file:
        file.visititems(
            lambda _, item: sizes.append(item.nbytes) if isinstance(item, h5py.Dataset) else None
        )
    return sum(sizes)


def run_server(channel: Channel, server: Server, writer: Writer | None, clock: Clock) -> None:
    """Serve to the end, and print the rate and the seconds of each part."""
    sink = Sink(writer)
    if not serve(channel, server, sink):
        sys.exit("interrupted")
    found: dict[str, Any] = {}
    if writer is not None:
        writer.close("finished")
        found["bytes"], found["raw"] = writer.path.stat().st_size, raw_bytes(writer.path)
    times = sink.times[WARMING_UP:]
    found["rate"] = (len(times) - 1) / (times[-1] - times[0])
    found["server"] = {part: clock.seconds(part) / len(sink.times) for part in PARTS}
    of_workers = np.zeros(len(PARTS))
    WORLD.Reduce(np.zeros(len(PARTS)), of_workers, MPI.SUM, SERVER)
    found["workers"] = dict(zip(PARTS, (of_workers / len(sink.times)).tolist(), strict=True))
    channel.close(60.0)
    print(json.dumps(found))


def run_worker(channel: Channel, config: Config, materials: Materials, clock: Clock | None) -> None:
    """Work to the end, and hand in the seconds of each part."""
    rank, workers = WORLD.Get_rank(), WORLD.Get_size() - 1
    box = Free(materials, [rank])
    state = Workers(config, materials.shapes, box.data_sizes)
    if clock is not None:
        clock.watch(state, "receive", "ask")
        clock.watch(state, "answer", "step")
    delays = Delays(config.delay, config.run.seed, rank, workers)
    work(channel, lambda: (state, box), delays)
    own = np.array([clock.seconds(part) if clock else 0.0 for part in PARTS])
    WORLD.Reduce(own, None, MPI.SUM, SERVER)
    channel.close(float("inf"))


def exchange(codec: Codec, materials: Materials) -> None:
    """Ping-pong between two ranks of a report and an assignment; prints the median seconds."""
    shapes = materials.shapes
    p = np.zeros((shapes.positions, shapes.words))
    report = Report(
        0,
        0,
        0.0,
        0.0,
        0.0,
        Costs(),
        0.0,
        p,
        np.zeros((shapes.classes, shapes.pool)),
        np.zeros(shapes.samples),
    )
    up, down = codec.encode(report), codec.encode(Assignment(0, 0, p))
    seconds = []
    for _ in range(EXCHANGES):
        started = time.perf_counter()
        if WORLD.Get_rank() == SERVER:
            WORLD.Recv([up, MPI.BYTE], 1)
            WORLD.Send([down, MPI.BYTE], 1)
        else:
            WORLD.Send([up, MPI.BYTE], SERVER)
            WORLD.Recv([down, MPI.BYTE], SERVER)
        seconds.append(time.perf_counter() - started)
    if WORLD.Get_rank() == SERVER:
        print(json.dumps({"exchange": float(np.median(seconds))}))


def main() -> None:
    request = json.loads(sys.argv[1])
    settings = [f"{key}={json.dumps(value)}" for key, value in request["settings"].items()]
    config = load("synthetic", settings)
    materials = prepare(config, WORLD.Get_size() - 1)
    codec = Codec(materials.shapes, pools=config.algorithm.pools)
    if request["what"] == "exchange":
        exchange(codec, materials)
        return
    clock = Clock()
    if request["what"] == "profile":
        clock.watch(codec, "encode", "encode")
        clock.watch(codec, "decode", "decode")
    channel = Channel(WORLD, codec)
    if WORLD.Get_rank() != SERVER:
        run_worker(channel, config, materials, clock if request["what"] == "profile" else None)
        return
    workers = WORLD.Get_size() - 1
    server = Server(config, materials.shapes, workers)
    with TemporaryDirectory() as folder:
        writer = None
        if request["logging"]:
            writer = Writer(
                Path(folder, "loop.h5"),
                config,
                materials.shapes,
                workers,
                materials.vocabulary,
                "mpi",
                server.algorithm.z,
            )
        if request["what"] == "profile":
            clock.watch(server, "receive", "receive")
            if writer is not None:
                clock.watch(writer, "write", "log")
        run_server(channel, server, writer, clock)


if __name__ == "__main__":
    main()
