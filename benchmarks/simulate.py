"""Seconds and memory of a simulation with a thousand workers, and what they are made of.

Example: python benchmarks/simulate.py --repeats 3

R = 1,000 workers of which S = 100 are active, M = 16, N = 32, an estimate of the lower level
(K = 3 rounds) every 10 iterations, up to 20 planes, every iterate logged: with estimates in which
idle workers take part ("quorum"), and with all of them ("all"), which is three times a thousand
queries more for every estimate. The shares are of a shorter run under a profiler, which makes
calls look dearer than they are.
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

from asyndbt_mpi.commands.simulate import simulate_silently
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.log.reader import Log

WORKERS = 1000
SETTINGS = {
    "algorithm.active_workers": 100,
    "defence.aggregator": "rsa",
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


def settings(iterations: int, participation: str) -> list[str]:
    chosen = SETTINGS | {
        "run.iterations": iterations,
        "algorithm.lower_gradient": "black_box",
        "algorithm.lower_participation": participation,
    }
    return [f"{key}={value}" for key, value in chosen.items()]


def measure(chosen: list[str], output: Path) -> tuple[float, float, int]:
    """Wall-clock seconds of the whole command, its peak memory in MiB, and its messages."""
    command = ["asyndbt", "simulate", "synthetic", "--workers", str(WORKERS)]
    command += ["--output", str(output), "--overwrite"]
    for setting in chosen:
        command += ["--set", setting]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    seconds = time.perf_counter() - started
    with Log(output) as log:
        return seconds, usage.ru_maxrss / 1024, len(log["event/kind"])


def shares(chosen: list[str], output: Path) -> dict[str, float]:
    """Share of the time that each part takes, in per cent."""
    request = Request("synthetic", tuple(chosen), str(output), True, False)
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
        for participation in ("quorum", "all"):
            chosen = settings(arguments.iterations, participation)
            runs = [measure(chosen, output) for _ in range(arguments.repeats)]
            seconds, memory, messages = zip(*runs, strict=True)
            median = statistics.median(seconds)
            print(f"{participation}, {arguments.iterations} iterations: {median:.1f} s"
                  f" ({min(seconds):.1f} - {max(seconds):.1f}), {max(memory):.0f} MiB,"
                  f" {1e6 * median / messages[0]:.0f} us for each of {messages[0]:,} messages",
                  flush=True)  # fmt: skip
            profiled = shares(settings(max(1, arguments.iterations // 10), participation), output)
            for part, share in sorted(profiled.items(), key=lambda item: -item[1]):
                print(f"{share:6.1f} %   {part}", flush=True)


if __name__ == "__main__":
    main()
