"""Where the demo's time goes: from `mpiexec` to the first iteration, and to the end.

Example: python benchmarks/startup.py

The first table is a worker's start in a process of its own, in processor seconds and in seconds on
the clock: what three workers and the server do side by side. The second is a run of the demo, by
the times in its log: what is listed begins where the line above it ends. "Busy" is the share of the
time that a worker spent on its answers, on average over workers.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machine import describe

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import EventKind

WORKERS = 3

OF_A_WORKER = """
import json, sys, time
parts = []

def done(part):
    parts.append((part, time.process_time(), time.perf_counter()))

begun = time.perf_counter() - time.process_time()  # the interpreter's own start is in it
import asyndbt_mpi.cli
from asyndbt_mpi.config import load
done("asyndbt and numpy, as for --help")
import asyndbt_mpi.commands.run
from asyndbt_mpi import assemble
done("MPI and the rest of asyndbt")
config = load("demo")
materials = assemble.prepare(config, 3)
done("data")
assemble.rows_fit(config, materials, [1])
done("torch, transformers, tokens of all rows")
from asyndbt_mpi.llm import transformers
own_load = transformers.load

def load_and_note(*given):
    loaded = own_load(*given)
    done("architecture and weights")
    return loaded

transformers.load = load_and_note
model = assemble.language_model(materials.configured(config), assemble.Place(0, 1), None)
done("digest, first scores")
assemble.workers_with_black_box(materials.configured(config), materials, [1], model)
done("the longest prompts, compared")
print(json.dumps([(part, processor, clock - begun) for part, processor, clock in parts]))
"""


def starts() -> list[tuple[str, float, float]]:
    """Parts of a worker's start, each with processor seconds and seconds until it was done."""
    done = subprocess.run(
        [sys.executable, "-c", OF_A_WORKER], check=True, capture_output=True, text=True
    )
    return [(str(part), float(cpu), float(clock)) for part, cpu, clock in json.loads(done.stdout)]


def run(path: Path, settings: list[str]) -> tuple[float, float, float]:
    """Seconds until the run's clock starts and until `mpiexec` ends, and processor seconds."""
    command = ["mpiexec", "-n", str(WORKERS + 1), "asyndbt", "run", "demo", "--output", str(path)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    opened = 0.0
    with subprocess.Popen(
        [*command, *(word for setting in settings for word in ("--set", setting))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if "the log is " in line:
                opened = time.monotonic() - started
    whole = time.monotonic() - started
    if process.returncode or not opened:
        raise SystemExit(f"{''.join(said)}startup.py: exit code {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return opened, whole, used


def parts(log: Log, opened: float, whole: float) -> Iterator[tuple[str, float, float]]:
    """What happened until when, and how busy the workers were since the part before it."""
    kind, worker, when, spent = (
        log[f"event/{name}"] for name in ("kind", "worker", "time", "compute_seconds")
    )
    iterations = log["iteration/time"]

    def of(*kinds: EventKind) -> np.ndarray:
        return np.isin(kind, kinds)

    ends = [
        ("until the log is open: imports, data, tokens", 0.0),
        ("until the first worker is ready", float(when[of(EventKind.HELLO)].min())),
        ("until all workers are ready", float(when[of(EventKind.HELLO)].max())),
        ("until the first report", float(when[of(EventKind.REPORT)].min())),
        ("until the first iteration", float(iterations[0])),
        (f"until iteration {len(iterations)}, the last", float(iterations[-1])),
        ("until the races are over", float(when[of(EventKind.RACE)].max(initial=iterations[-1]))),
        ("until the last test", float(when[of(EventKind.TEST)].max(initial=iterations[-1]))),
        ("until mpiexec has ended", whole - opened),
    ]
    last = -opened
    for name, end in sorted(ends, key=lambda each: each[1]):
        inside = np.minimum(when, end) - np.maximum(when - spent, last)
        busy = np.clip(inside, 0.0, None)[worker > 0].sum() / max(end - last, 1e-9) / log.workers
        yield name, opened + end, float(busy)
        last = end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    print(describe())
    starts()  # so that files are in memory, and kernels compiled
    print(f"a worker's start{'':37}processor s  on the clock")
    processor = clock = 0.0
    for part, used, end in starts():
        print(f"  {part:51}{used - processor:11.2f}{end - clock:14.2f}")
        processor, clock = used, end
    print(f"  {'together':51}{processor:11.2f}{clock:14.2f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.h5"
        opened, whole, used = run(path, arguments.set)
        print(f"mpiexec -n {WORKERS + 1} asyndbt run demo{'':24}s       at      busy")
        with Log(path) as log:
            last = 0.0
            for part, end, busy in parts(log, opened, whole):
                print(f"  {part:48}{end - last:9.1f}{end:9.1f}{busy:10.0%}")
                last = end
    print(f"{used:.0f} processor seconds, {used / whole:.2f} cores on average")


if __name__ == "__main__":
    main()
