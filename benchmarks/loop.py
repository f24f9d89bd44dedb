"""Iterations per second over MPI with a black box that is free, and what they are made of.

Example: python benchmarks/loop.py

I = 8 samples, an estimate of the lower level (3 rounds, all workers) every 10 iterations, up to 20
planes, as by default; V = 50. Workers estimate by leave-one-out and step by Adam, which leaves
the loop to be measured: the default estimator, which learns, takes them longer. The limit is what
MPI alone could do: a ping-pong between two ranks of a report and an assignment of the same sizes,
S of them one after the other. The first iterations do not count. Runs with and without a log take
turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from loop_rank import PARTS, Free
from machine import describe

from asyndbt_mpi.assemble import delays_of_workers, prepare
from asyndbt_mpi.config import load
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.transport.virtual import VirtualCluster

RANK = Path(__file__).with_name("loop_rank.py")
SIZES = [(22, 2), (75, 100)]
RUNS = [(4, 2), (8, 4), (32, 8)]  # R, S
GOALS = {(4, 2, 22, 2): 1500, (4, 2, 75, 100): 500}
SECONDS = 300.0
SERVED = [(1, 22, 2), (2, 22, 2), (4, 22, 2), (8, 22, 2)] + [(s, 75, 100) for s in (1, 2, 4, 8)]


def settings(active: int, positions: int, words: int, iterations: int) -> dict[str, Any]:
    """The keys of a run of this size."""
    return {
        "run.iterations": iterations,
        "algorithm.active_workers": active,
        "algorithm.plane_until": iterations,
        "defence.aggregator": "rsa",
        "estimator.name": "loo",
        "steps.optimizer": "adam",
        "prompt.fragment_length": positions,
        "prompt.vocabulary": [f"w{number}" for number in range(words)],
        "prompt.vocabulary_size": words,
        "prompt.pool": 50,
    }


def launch(ranks: int, what: str, keys: dict[str, Any], logging: bool = False) -> dict[str, Any]:
    """What rank 0 of a run measured."""
    request = json.dumps({"what": what, "logging": logging, "settings": keys})
    command = ["mpiexec", "-n", str(ranks), sys.executable, str(RANK), request]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rates(repeats: int) -> None:
    """The table of iterations per second."""
    print(
        f"{'R':>3}{'S':>3}{'M x N':>9}{'logged':>9}{'sink':>9}{'cost':>7}{'bytes':>8}"
        f"{'MPI alone':>11}{'share':>7}   goal"
    )
    exchanges = {size: launch(2, "exchange", settings(1, *size, 1))["exchange"] for size in SIZES}
    for workers, active in RUNS:
        for positions, words in SIZES:
            iterations = (4000 if words < 10 else 1000) * 4 // workers + 200
            keys = settings(active, positions, words, iterations)
            logged, sink = [], []
            for _ in range(repeats if workers == RUNS[0][0] else 1):
                logged.append(launch(workers + 1, "rate", keys, logging=True))
                sink.append(launch(workers + 1, "rate", keys))
            rate = statistics.median(run["rate"] for run in logged)
            bare = statistics.median(run["rate"] for run in sink)
            limit = 1.0 / (active * exchanges[positions, words])
            goal = GOALS.get((workers, active, positions, words), "")
            print(
                f"{workers:3}{active:3}{f'{positions}x{words}':>9}{rate:9.0f}{bare:9.0f}"
                f"{1 - rate / bare:7.0%}{logged[0]['bytes'] / logged[0]['raw']:8.3f}"
                f"{limit:11.0f}{bare / limit:7.1%}   {goal}",
                flush=True,
            )


def profile() -> None:
    """CPU time of the parts, for R = 4 and S = 2."""
    print("\nCPU microseconds per iteration, R = 4, S = 2, logged")
    print(f"{'M x N':>9}{'':>10}" + "".join(f"{part:>9}" for part in PARTS) + f"{'sum':>9}")
    for positions, words in SIZES:
        keys = settings(2, positions, words, 2000 if words < 10 else 700)
        found = launch(5, "profile", keys, logging=True)
        for side in ("server", "workers"):
            micro = [1e6 * found[side][part] for part in PARTS]
            row = "".join(f"{value:9.0f}" for value in [*micro, sum(micro)])
            print(f"{f'{positions}x{words}':>9}{side:>10}{row}", flush=True)


class Timed(Server):
    """A server that notes the CPU time of each iteration."""

    seconds: list[float]
    busy = 0.0

    def receive(self, *arguments: Any) -> Any:
        """As the server's own."""
        started, iteration = time.thread_time(), self.iteration
        output = super().receive(*arguments)
        self.busy += time.thread_time() - started
        if self.iteration > iteration:
            self.seconds.append(self.busy)
            self.busy = 0.0
        return output


def growth() -> None:
    """CPU time of the server alone, in one process, against S, M, N and t."""
    print("\nserver's CPU microseconds per iteration, R = 8, in one process")
    print(f"{'S':>3}{'M x N':>9}{'S M N':>9}{'first third':>13}{'last third':>12}")
    for active, positions, words in SERVED:
        iterations = 1200 if words < 10 else 400
        keys = settings(active, positions, words, iterations)
        config = load("synthetic", [f"{key}={json.dumps(value)}" for key, value in keys.items()])
        materials = prepare(config, 8)
        server = Timed(config, materials.shapes, 8)
        server.seconds = []
        box = Free(materials, range(1, 9))
        workers = Workers(config, materials.shapes, box.data_sizes)
        VirtualCluster(server, workers, box, delays_of_workers(config, 8)).run(lambda _: None)
        counted = 1e6 * np.array(server.seconds[100:])
        third = len(counted) // 3
        print(
            f"{active:3}{f'{positions}x{words}':>9}{active * positions * words:9}"
            f"{counted[:third].mean():13.0f}{counted[-third:].mean():12.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2, help="of the runs with R = 4")
    arguments = parser.parse_args()
    print(describe())
    rates(arguments.repeats)
    profile()
    growth()


if __name__ == "__main__":
    main()
