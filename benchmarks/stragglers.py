"""Seconds for 300 iterations over MPI with workers that sleep: against S = R, and the prediction.

Example: python benchmarks/stragglers.py --repeats 3

Nine ranks: R = 8 workers and the server, under two laws of delay. Their means are long enough for
the loop's own time, 1 to 4 ms an iteration up to S = 4, not to hide the delays, and short enough
for 4 minutes.

- Lognormal, sigma = 1, mean 100 ms.
- One worker ten times slower than the others, whose mean is 60 ms; lognormal with sigma = 0.5. With
  constant delays the others would run in lock step, most iterations of a small S would take no
  time at all, and the loop itself would be measured. With sigma = 1 the few longest of the slow
  worker's delays would be a good part of the synchronous run.

What order statistics predict and what is saved is the business of `asyndbt plot stragglers`,
which is run on the logs: the prediction is for the seconds that the workers of the run itself
report. It knows of no barriers and not of max_delay, so there are no estimates of phi (plane_until
= 0), not even by quorum, for their rounds take time of idle workers; no validation; and max_delay
is the number of iterations, which no delay reaches. With two samples for a gradient (the default is
eight) next to nothing is computed.

Seconds are those from the first iteration to the last. "Shorter" is what is saved of the
synchronous run's seconds; "saved" what is saved of its seconds per report used, which is always
less. The goal is therefore judged by the latter. With several repeats, each with a seed of its
own, all are medians.

At small S and sigma = 1 the prediction comes out low on any machine: reports that are on their way
at the end are not among the workers' seconds, and they are the long ones. Of 300 iterations in the
simulator, where the loop takes no time, it was 2 to 8 % at S = 1 (8 seeds), 1 to 2 % at S = 2, and
at most 1 % in the other law. A machine that stands still for a moment makes all workers late at
once, which the prediction takes for chance: a synchronous run is then quicker than predicted.

The longest run by far, the synchronous one with the slow worker, goes on beside all the others: of
its 600 ms an iteration the ranks sleep nearly all.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from machine import describe

WORKERS, GOAL_ACTIVE, DEFAULT_ACTIVE = 8, 4, [1, 2, 4, 8]
LEAST_SAVED, MOST_DEVIATION = 0.4, 0.1
START_SECONDS, ITERATION_SECONDS = 120.0, 1.2
"""A run that takes longer is stopped; twice the slow worker's mean is twice what any needs."""
LAST_CHARACTERS = 3000
LOGNORMAL = "lognormal, mean 100 ms, sigma 1"
SLOW = "lognormal, mean 60 ms, sigma 0.5, one worker ten times slower"
LAWS: dict[str, dict[str, object]] = {
    LOGNORMAL: {"delay.mean": 0.1, "delay.sigma": 1.0},
    SLOW: {
        "delay.mean": 0.06,
        "delay.sigma": 0.5,
        "delay.slow_workers": 1,
        "delay.slow_factor": 10.0,
    },
}
COLUMNS = ("seconds_per_iteration", "predicted", "deviation", "shorter", "saved")


@dataclass(frozen=True)
class Run:
    """One run, and the log that it writes."""

    law: str
    active: int
    seed: int
    iterations: int
    output: Path

    @property
    def command(self) -> list[str]:
        """What starts it."""
        settings = {
            "run.seed": self.seed,
            "run.iterations": self.iterations,
            "algorithm.active_workers": self.active,
            "algorithm.max_delay": self.iterations,
            "algorithm.plane_until": 0,
            "defence.aggregator": "rsa",
            "estimator.samples": 2,
            "delay.model": "lognormal",
        }
        command = ["mpiexec", "-n", str(WORKERS + 1), "asyndbt", "run", "synthetic"]
        command += ["--output", str(self.output)]
        for key, value in (settings | LAWS[self.law]).items():
            command += ["--set", f"{key}={value}"]
        return command


@contextmanager
def running(run: Run) -> Iterator[None]:
    """Start a run, and at the end wait until it has finished.

    Raises
    ------
    SystemExit
        It failed, or took too long.
    """
    limit = START_SECONDS + run.iterations * ITERATION_SECONDS
    # A file, for a pipe that nobody reads would stop a long run once it is full.
    errors, late = run.output.with_suffix(".err"), ""
    with (
        errors.open("w") as stderr,
        subprocess.Popen(run.command, stdout=subprocess.DEVNULL, stderr=stderr) as process,
    ):
        try:
            yield
            process.wait(limit)
        except subprocess.TimeoutExpired:
            late = f", stopped after {limit:.0f} s"
        finally:
            process.terminate()
    if process.returncode:
        print(errors.read_text()[-LAST_CHARACTERS:], file=sys.stderr)
        raise SystemExit(f"{' '.join(run.command)}: exit code {process.returncode}{late}")


def execute(runs: Sequence[Run]) -> None:
    """One after the other, but for the longest, which goes on beside the others."""
    longest = next(run for run in runs if run.law == SLOW and run.active == WORKERS)
    with running(longest):
        for run in runs:
            if run is not longest:
                with running(run):
                    pass


def analyse(folder: Path) -> dict[Path, dict[str, float]]:
    """The `COLUMNS` of `asyndbt plot stragglers` for every log in ``folder``."""
    prefix = folder / "stragglers"
    command = ["asyndbt", "plot", "stragglers", str(folder), "-o", str(prefix)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS)
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}")
    with prefix.with_suffix(".csv").open(newline="") as file:
        return {
            Path(row["file"]): {name: float(row[name]) for name in COLUMNS}
            for row in csv.DictReader(file)
        }


def report(law: str, runs: Sequence[Run], found: dict[Path, dict[str, float]]) -> None:
    """Print a law's table, and whether the goals hold."""
    intervals = runs[0].iterations - 1
    print(f"\n{law}; {runs[0].iterations} iterations, R = {WORKERS}")
    print("  S   measured, s   predicted, s   deviation, %   shorter, %   saved, %")
    deviations, share = {}, 0.0
    for active in sorted({run.active for run in runs}):
        chosen = [found[run.output] for run in runs if run.active == active]
        seconds, predicted, deviation, shorter, saved = (
            statistics.median(row[name] for row in chosen) for name in COLUMNS
        )
        print(
            f"{active:3} {intervals * seconds:13.2f} {intervals * predicted:14.2f}"
            f" {100 * deviation:14.1f} {100 * shorter:12.1f} {100 * saved:10.1f}"
        )
        deviations[active] = abs(deviation)
        if active == GOAL_ACTIVE:
            share = saved
    worst = max(deviations, key=lambda active: deviations[active])
    print(
        f"at least {100 * LEAST_SAVED:.0f} % saved at S = {GOAL_ACTIVE}:"
        f" {holds(share >= LEAST_SAVED)} ({100 * share:.1f} %)\n"
        f"every S within {100 * MOST_DEVIATION:.0f} % of the prediction:"
        f" {holds(deviations[worst] <= MOST_DEVIATION)}"
        f" (at most {100 * deviations[worst]:.1f} %, at S = {worst})"
    )


def holds(whether: bool) -> str:
    return "holds" if whether else "does NOT hold"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--active",
        type=int,
        nargs="+",
        choices=range(1, WORKERS + 1),
        default=DEFAULT_ACTIVE,
        metavar="S",
        help=f"{GOAL_ACTIVE} and {WORKERS} are always among them",
    )
    arguments = parser.parse_args()
    print(describe(), flush=True)
    actives = sorted({*arguments.active, GOAL_ACTIVE, WORKERS})
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for seed in range(arguments.repeats):
            of_seed = [
                Run(
                    law, active, seed, arguments.iterations, Path(folder, f"{n}-{active}-{seed}.h5")
                )
                for n, law in enumerate(LAWS)
                for active in actives
            ]
            execute(of_seed)
            runs += of_seed
        found = analyse(Path(folder))
        for law in LAWS:
            report(law, [run for run in runs if run.law == law], found)


if __name__ == "__main__":
    main()
