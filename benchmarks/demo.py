"""The demo over several seeds: does tuning beat the untuned prompt, and how long does it take?

Example: python benchmarks/demo.py --seeds 3
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from machine import describe

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
            calls = sum(int(log[f"{g}/llm_calls"].sum()) for g in ("report", "lower", "evaluation"))
            found = outcomes(log)
    accuracies = {c: list(outcome.accuracies.values()) for c, outcome in found.items()}
    return accuracies, seconds, calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
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


if __name__ == "__main__":
    main()
