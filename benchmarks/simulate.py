"""Seconds and memory of a simulation with a thousand workers, and what they are made of.

Example: python benchmarks/simulate.py --repeats 3

R = 1,000 workers of which S = 100 are active, M = 16, N = 32, an estimate of the lower level
(K = 3 rounds, all workers) every 10 iterations, up to 20 planes, every iterate logged. The shares
are of a shorter run under a profiler, which makes calls look dearer than they are.
"""

import argparse
import cProfile
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

from asyndbt_mpi.job import Job, Request
from asyndbt_mpi.simulate import simulate_silently

WORKERS = 1000
SETTINGS = {
    "algorithm.active_workers": 100,
    "prompt.fragment_length": 16,
    "prompt.vocabulary": "english",
    "prompt.vocabulary_size": 32,
    "delay.model": "lognormal",
    "delay.mean": 1.0,
}
PARTS = {
    ("worker.py", "receive"): "workers: drawing rows, words and demonstrations",
    ("worker.py", "answer"): "workers: gradients, steps and projections",
    ("synthetic.py", "answer"): "black box",
    ("server.py", "receive"): "server: updates, planes, rounds of the estimates",
    ("writer.py", "write_all"): "log",
}


def settings(iterations: int) -> list[str]:
    return [f"{key}={value}" for key, value in (SETTINGS | {"run.iterations": iterations}).items()]


def measure(iterations: int, output: Path) -> tuple[float, float, float]:
    """Wall-clock seconds of the whole command, its peak memory in MiB, the log's size in MiB."""
    command = ["asyndbt", "simulate", "synthetic", "--workers", str(WORKERS)]
    command += ["--output", str(output), "--overwrite"]
    for setting in settings(iterations):
        command += ["--set", setting]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    seconds = time.perf_counter() - started
    return seconds, usage.ru_maxrss / 1024, output.stat().st_size / 2**20


def shares(iterations: int, output: Path) -> dict[str, float]:
    """Share of the time that each part takes, in per cent."""
    request = Request("synthetic", tuple(settings(iterations)), str(output), True, False)
    job = Job.of(request, WORKERS)
    profile = cProfile.Profile()
    profile.runcall(simulate_silently, job, 1)
    stats = pstats.Stats(profile, stream=sys.stderr)
    total: float = stats.total_tt  # type: ignore[attr-defined]
    found = {}
    for (file, _, function), (*_, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
        part = PARTS.get((Path(file).name, function))
        if part:
            found[part] = 100 * cumulative / total
    found["event queue, start and end"] = 100 - sum(found.values())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "simulate.h5"
        runs = [measure(arguments.iterations, output) for _ in range(arguments.repeats)]
        seconds, memory, size = zip(*runs, strict=True)
        print(f"{arguments.iterations} iterations: {statistics.median(seconds):.1f} s"
              f" ({min(seconds):.1f} - {max(seconds):.1f}),"
              f" {max(memory):.0f} MiB, log {max(size):.0f} MiB")  # fmt: skip
        profiled = shares(max(1, arguments.iterations // 10), output)
        for part, share in sorted(profiled.items(), key=lambda item: -item[1]):
            print(f"{share:6.1f} %   {part}")


if __name__ == "__main__":
    main()
