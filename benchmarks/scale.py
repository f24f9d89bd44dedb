"""When rank 0 is the bottleneck: its seconds, bytes and memory against the number of workers.

Example: python benchmarks/scale.py --most 10000 --ranks 4 16 64 128

S = R/4 of R workers are active, M x N = 16 x 32, U x V = 2 x 16, 8 samples, an estimate of the
lower level every 10 iterations, up to 20 planes. The server is the package's own, fed by simulated
workers; every message goes through the wire's code and its time counts, that of the workers does
not. With ranks the same is measured over MPI, where processes share the machine's cores. From the
simulated numbers follows how many workers one server can take if an assignment (all the calls of a
step) takes a worker 0.1, 1 or 10 seconds: as many as keep rank 0 busy all the time.
"""

import argparse
import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from loop import launch, settings
from loop_rank import Free
from machine import describe

from asyndbt_mpi.assemble import delays_of_workers, prepare
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.messages import LowerReport, Report, ToServer
from asyndbt_mpi.protocol.records import Output, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.transport.virtual import VirtualCluster

WORKERS = (4, 16, 64, 256, 1000, 4000, 10000)
PARTICIPATION = 4
"""R/S."""
POSITIONS, WORDS, POOL = 16, 32, 16
WARMING_UP, ITERATIONS = 10, 20
SETTINGS = {
    "the paper's": ("defence.aggregator=rsa", "algorithm.lower_gradient=black_box"),
    "words learnt together, summed": ("defence.aggregator=rsa",),
    "default": (),
}
MOST_DEFAULT = 1000
"""Beyond, the default's pairwise distances of all reports take minutes."""
ANSWERS = (0.1, 1.0, 10.0)
"""Seconds of an assignment."""


@dataclass
class Measured:
    """Of one run, per iteration where nothing else is said."""

    seconds: float
    reports: float
    received: float
    sent: float
    log_seconds: float
    log_bytes: float
    memory: int


def config_of(workers: int, setting: str, planes: int = 20) -> Config:
    """The run that is measured."""
    return load(
        "synthetic",
        [
            f"run.iterations={WARMING_UP + ITERATIONS}",
            f"algorithm.active_workers={max(1, workers // PARTICIPATION)}",
            f"algorithm.plane_until={WARMING_UP + ITERATIONS}",
            f"algorithm.max_planes={planes}",
            f"prompt.fragment_length={POSITIONS}",
            "prompt.vocabulary=english",
            f"prompt.vocabulary_size={WORDS}",
            f"prompt.pool={POOL}",
            "delay.model=lognormal",
            "delay.mean=1.0",
            *SETTINGS[setting],
        ],
    )


class Watched(Server):
    """A server whose every message goes over the wire; adds up what that costs."""

    codec: Codec
    seconds = 0.0
    reports = received = sent = 0

    def receive(self, worker: int, message: ToServer, time_: float) -> Output:
        """As the server's own."""
        buffer = self.codec.encode(message)
        started = time.thread_time()
        read = self.codec.decode(buffer)
        output = super().receive(worker, read, time_)  # type: ignore[arg-type]
        written = [self.codec.encode(answer) for _, answer in output.messages]
        self.seconds += time.thread_time() - started
        self.reports += isinstance(message, Report | LowerReport)
        self.received += len(buffer)
        self.sent += sum(map(len, written))
        return output


def size_of(root: object) -> int:
    """Bytes of all that is reachable from ``root``, but for classes, modules and functions."""
    seen, total, waiting = {id(root)}, 0, [root]
    while waiting:
        each = waiting.pop()
        total += sys.getsizeof(each)
        for found in gc.get_referents(each):
            if id(found) not in seen and not isinstance(found, type) and not callable(found):
                seen.add(id(found))
                waiting.append(found)
    return total


def measured(workers: int, setting: str, folder: Path) -> Measured:
    """A run with so many workers."""
    config = config_of(workers, setting)
    materials = prepare(config, workers)
    shapes = materials.shapes
    server = Watched(config, shapes, workers)
    server.codec = Codec(shapes, pools=config.algorithm.pools)
    box = Free(materials, range(1, workers + 1))
    state = Workers(config, shapes, box.data_sizes)
    cluster = VirtualCluster(server, state, box, delays_of_workers(config, workers))
    path = folder / "scale.h5"
    path.unlink(missing_ok=True)
    log_seconds, before = 0.0, np.zeros(0)

    def so_far() -> np.ndarray:
        counts = server.reports, server.received, server.sent
        return np.array([server.iteration, server.seconds, *counts, log_seconds])

    def write(records: list[Record]) -> None:
        nonlocal log_seconds, before
        started = time.thread_time()
        writer.write_all(records)
        log_seconds += time.thread_time() - started
        if server.iteration >= WARMING_UP and not len(before):  # two may have come together
            writer.flush()
            before = so_far()

    start = server.algorithm.z
    with Writer(path, config, shapes, workers, materials.vocabulary, "virtual", start) as writer:
        cluster.run(write)
        started = time.thread_time()
        writer.flush()
        log_seconds += time.thread_time() - started
    iterations, *spent = (so_far() - before).tolist()
    seconds, reports, received, sent, of_log = (each / iterations for each in spent)
    logged = path.stat().st_size / server.iteration
    held = size_of(server.algorithm)
    return Measured(seconds, reports, received, sent, of_log, logged, held)


def simulated(most: int) -> dict[str, dict[int, Measured]]:
    """The table of all sizes and settings up to ``most`` workers."""
    found: dict[str, dict[int, Measured]] = {}
    print(
        f"\n{'':30}{'R':>6}{'S':>6}{'ms/iteration':>14}{'us/report':>11}{'KB in':>10}{'KB out':>10}"
        f"{'log ms':>9}{'log KB':>10}{'server MiB':>12}"
    )
    with TemporaryDirectory() as folder:
        measured(WORKERS[0], "default", Path(folder))  # compiles and loads
        for setting in SETTINGS:
            for workers in WORKERS:
                if workers > (min(most, MOST_DEFAULT) if setting == "default" else most):
                    continue
                of = measured(workers, setting, Path(folder))
                found.setdefault(setting, {})[workers] = of
                print(
                    f"{setting:30}{workers:6}{max(1, workers // PARTICIPATION):6}"
                    f"{1e3 * of.seconds:14.1f}{1e6 * of.seconds / of.reports:11.0f}"
                    f"{of.received / 1e3:10.0f}{of.sent / 1e3:10.0f}{1e3 * of.log_seconds:9.1f}"
                    f"{of.log_bytes / 1e3:10.0f}{of.memory / 2**20:12.1f}",
                    flush=True,
                )
    return found


def memory() -> None:
    """Bytes of the server for one more worker, and for one more plane and worker."""
    print("\nbytes of the server's state for each worker, and for each worker and plane besides")
    for setting in SETTINGS:

        def held(workers: int, planes: int, setting: str = setting) -> int:
            config = config_of(workers, setting, planes)
            return size_of(Server(config, prepare(config, workers).shapes, workers).algorithm)

        plane = (held(200, 40) - held(200, 20)) / (200 * 20)
        worker = (held(400, 20) - held(200, 20)) / 200 - 20 * plane
        print(f"{setting:30}{worker:10.0f}{plane:10.0f}")


def busy_at(found: dict[int, Measured], seconds: float) -> str:
    """R at which rank 0 has no time left, if an assignment takes a worker so many ``seconds``.

    R workers make R / seconds / S iterations per second, each of which takes the server and its log
    so long as was measured, and between the sizes a power of R.
    """
    sizes = np.array(list(found))
    cost = np.array([of.seconds + of.log_seconds for of in found.values()])
    active = np.maximum(1, sizes // PARTICIPATION)
    load = np.log(sizes / active / seconds * cost)
    above = np.flatnonzero(load > 0)
    if not len(above):
        return f"> {sizes[-1]:,}"
    if not above[0]:
        return f"< {sizes[0]}"
    pair = slice(above[0] - 1, above[0] + 1)
    return f"{np.exp(np.interp(0.0, load[pair], np.log(sizes[pair]))):,.0f}"


def over_mpi(ranks: list[int]) -> None:
    """Rank 0's CPU time with real ranks, which share the cores."""
    print(
        "\nover MPI, leave-one-out estimates, Adam, summed; CPU microseconds of rank 0 per report"
    )
    print(f"{'R':>6}{'S':>6}{'iterations/s':>14}{'decode':>9}{'receive':>9}{'encode':>9}{'log':>9}")
    for workers in ranks:
        active = max(1, workers // PARTICIPATION)
        iterations = max(250, 4000 // workers)
        keys = settings(active, POSITIONS, WORDS, iterations) | {"prompt.pool": POOL}
        found = launch(workers + 1, "profile", keys, logging=True)
        parts = [
            1e6 * found["server"][part] / active for part in ("decode", "receive", "encode", "log")
        ]
        row = "".join(f"{part:9.0f}" for part in parts)
        print(f"{workers:6}{active:6}{found['rate']:14.0f}{row}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=WORKERS[-1], help="simulated workers")
    parser.add_argument(
        "--ranks", type=int, nargs="*", default=[4, 16, 64], help="workers over MPI"
    )
    chosen = parser.parse_args()
    print(describe())
    found = simulated(chosen.most)
    memory()
    print("\nR at which rank 0 is busy all the time, by seconds of an assignment, S = R/4")
    print(f"{'':30}" + "".join(f"{f'{seconds:g} s':>10}" for seconds in ANSWERS))
    for setting, sizes in found.items():
        print(f"{setting:30}" + "".join(f"{busy_at(sizes, seconds):>10}" for seconds in ANSWERS))
    over_mpi(chosen.ranks)


if __name__ == "__main__":
    main()
