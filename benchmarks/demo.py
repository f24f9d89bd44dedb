"""The demo over several seeds: does tuning pay, and how long does it take?

Example: python benchmarks/demo.py --seeds 5

A seed deals the rows anew, so its test rows, demonstrations and untuned prompt's score are its own.
Intervals are those of other seeds: Student's t of the differences, paired by seed.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe
from scipy import stats

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.messages import Candidate
from asyndbt_mpi.view.outcomes import NAMES, outcomes


def run(seed: int, settings: list[str]) -> tuple[dict[Candidate, list[float]], float, int]:
    """Test accuracies by kind of prompt, wall seconds of the whole command, and calls."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.h5"
        command = ["mpiexec", "-n", "4", "asyndbt", "run", "demo", "--output", str(path)]
        for setting in [f"run.seed={seed}", *settings]:
            command += ["--set", setting]
        started = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.monotonic() - started
        with Log(path) as log:
            calls = int(log["event/llm_calls"].sum())
            found = outcomes(log)
    accuracies = {
        c: [accuracy for _, accuracy in sorted(outcome.accuracies.items())]
        for c, outcome in found.items()
    }
    return accuracies, seconds, calls


def difference(first: list[float], second: list[float]) -> str:
    """Mean of ``first`` less ``second``, by seed, with its 95 % interval."""
    by_seed = np.subtract(first, second)
    if len(by_seed) < 2:
        return f"{by_seed.mean():+.1f} points"
    low, high = stats.t.interval(0.95, len(by_seed) - 1, by_seed.mean(), stats.sem(by_seed))
    return f"{by_seed.mean():+.1f} points, 95 %: {low:.1f} to {high:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    print(describe())
    print("test accuracy in per cent; workers 1, 2, ... in brackets")
    print("seed  " + "  ".join(f"{c.name.lower():>26}" for c in NAMES) + "   seconds   calls")
    means: dict[Candidate, list[float]] = {c: [] for c in NAMES}
    for seed in range(arguments.seeds):
        accuracies, seconds, calls = run(seed, arguments.set)
        cells = []
        for candidate in NAMES:
            values = [100 * a for a in accuracies[candidate]]
            means[candidate].append(statistics.mean(values))
            each = f" ({' '.join(f'{v:.1f}' for v in values)})" if len(values) > 1 else ""
            cells.append(f"{means[candidate][-1]:.1f}{each}".rjust(26))
        print(f"{seed:4}  " + "  ".join(cells) + f"   {seconds:7.0f}   {calls:5}", flush=True)
    print("mean  " + "  ".join(f"{statistics.mean(means[c]):.1f}".rjust(26) for c in NAMES))
    for other in (Candidate.UNTUNED, Candidate.CALIBRATED, Candidate.RANDOM):
        print(f"tuned, against {NAMES[other]}: {difference(means[Candidate.TUNED], means[other])}")


if __name__ == "__main__":
    main()
