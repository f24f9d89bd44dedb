"""Iterations per second of the loop over MPI, with a black box that costs next to nothing.

Example: python benchmarks/loop.py --repeats 3

Every run logs all its iterates. The time is that between the first and the last iteration, so
that starting up does not count.
"""

import argparse
import statistics
import subprocess
import tempfile
from pathlib import Path

from machine import describe

from asyndbt_mpi.log.reader import Log

RUNS = [  # R, S, M, N, iterations
    (4, 2, 22, 2, 2000),
    (4, 2, 75, 100, 1000),
    (4, 4, 75, 100, 500),
]


def rate(workers: int, active: int, positions: int, words: int, iterations: int) -> float:
    """Iterations per second of one run."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "loop.h5"
        vocabulary = [f"w{number}" for number in range(words)]
        settings = {
            "run.iterations": iterations,
            "algorithm.active_workers": active,
            "prompt.fragment_length": positions,
            "prompt.vocabulary": vocabulary,
            "prompt.vocabulary_size": words,
            "prompt.pool": 50,
            "estimator.samples": 8,
        }
        command = ["mpiexec", "-n", str(workers + 1), "asyndbt", "run", "synthetic"]
        command += ["--output", str(output)]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        with Log(output) as log:
            times = log["iteration/time"]
        return (len(times) - 1) / float(times[-1] - times[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(describe())
    print(f"{'R':>3} {'S':>3} {'M':>4} {'N':>4}   iterations/s: median (min - max)")
    for run in RUNS:
        rates = [rate(*run) for _ in range(arguments.repeats)]
        workers, active, positions, words, _ = run
        spread = f"{statistics.median(rates):8.0f}   ({min(rates):.0f} - {max(rates):.0f})"
        print(f"{workers:3} {active:3} {positions:4} {words:4} {spread}", flush=True)


if __name__ == "__main__":
    main()
