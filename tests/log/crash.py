"""Kill writers of logs at random moments, and look at what they leave.

    python -m tests.log.crash --kills 200

A process writes a log as fast as it can, and is killed; most times the next one continues what it
left.
"""

import argparse
import multiprocessing
import random
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from asyndbt_mpi.log import writer
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.file import remove_log
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import Evaluation, Event, Iteration, Record
from tests.log.simulated_run import SHAPES, VOCABULARY, WORKERS, Absence, Run, configuration, not_in

MOST_STARTS = 4
SHORT, LONG = 0.1, 0.25
"""Seconds until a kill: at most as long as it takes to begin a file, or to write for a while."""
DEADLINE = 60.0
CONFIG = configuration(algorithm={"plane_until": 10**6}, run={"iterations": 10**6, "seed": 7})
ABSENCES = (Absence(3, 50, 60), Absence(1, 200, 210, reported=True))


class Stream:
    """The records of an endless run, made once."""

    def __init__(self) -> None:
        self.run = Run(CONFIG, ABSENCES)
        self._made: list[Record] = []
        self._more = self.run.records()

    def __iter__(self) -> Iterator[Record]:
        row = 0
        while True:
            if row == len(self._made):
                self._made.append(next(self._more))
            yield self._made[row]
            row += 1

    def iterations(self, number: int) -> list[Iteration]:
        """The first so many."""
        found: list[Iteration] = []
        records = iter(self)
        while len(found) < number:
            record = next(records)
            if isinstance(record, Iteration):
                found.append(record)
        return found


def write(path: Path, stream: Stream) -> None:
    """Write, or continue, the log at ``path`` for ever."""
    writer.SECONDS_BETWEEN_BATCHES = 0.002  # batches and kills are to meet often
    records: Iterable[Record] = stream
    if path.exists():
        log = Log(path)
        records = not_in(log, stream)
        opened = Writer.resumed(log, CONFIG)
    else:
        z0 = stream.run.z0
        opened = Writer(path, CONFIG, SHAPES, WORKERS, VOCABULARY, "virtual", z0)
    with opened:
        for record in records:
            opened.write(record)


def check(path: Path, stream: Stream, committed: int) -> Log:
    """Raise an AssertionError unless the log is whole, and no iteration of it is gone."""
    with Log(path) as log:
        assert log.committed >= committed, (log.committed, committed)
        iterations = stream.iterations(log.committed)
        used = [each for iteration in iterations for each in iteration.reports]
        duals = [dual for iteration in iterations for dual in iteration.duals]
        expected = {
            "iteration/z": [stream.run.z0, *(each.z for each in iterations)],
            "iteration/delay": [each.delay for each in iterations],
            "report/p": [each.report.p for each in used],
            "report/loss": [each.report.loss for each in used],
            "dual/value": duals,
        }
        for name, values in expected.items():
            found = log[name]
            np.testing.assert_array_equal(found, np.reshape(values, found.shape), name)
        _check_events(log, stream)
        _check_planes(log, iterations)
    found = verify(path).violations
    assert not found, found
    return log


def _check_events(log: Log, stream: Stream) -> None:
    """Every event and evaluation that is there for certain is the run's."""
    for group, kind, name in (("event", Event, "time"), ("evaluation", Evaluation, "accuracy")):
        logged = log.rows(f"{group}/{name}")
        assert len(logged) == log.committed_rows[group]
        records = (each for each in stream if isinstance(each, kind))
        for value, record in zip(logged.tolist(), records, strict=False):
            assert value == getattr(record, name), group


def _check_planes(log: Log, iterations: list[Iteration]) -> None:
    estimations = [each.estimation for each in iterations if each.estimation]
    planes = [each.plane for each in estimations if each.plane]
    dropped = np.full((len(planes), SHAPES.positions), -1)
    for each in estimations:
        for drop in each.drops:
            dropped[drop.identifier, drop.position] = each.iteration
    np.testing.assert_array_equal(log["plane/dropped"], dropped)
    np.testing.assert_array_equal(log["plane/id"], [plane.identifier for plane in planes])


@dataclass
class Counts:
    """What the kills met."""

    kills: int = 0
    before_a_log: int = 0
    before_resuming: int = 0
    while_beginning: int = 0
    logs: int = 0
    resumed: int = 0
    iterations: int = 0
    started: float = field(default_factory=time.perf_counter)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills in {time.perf_counter() - self.started:.0f} s: every log is whole;"
            f" {self.before_a_log} before there was a log ({self.while_beginning} of these while it"
            f" was made), {self.before_resuming} before the run was resumed; {self.logs} logs,"
            f" resumed {self.resumed} times, {self.iterations} iterations"
        )


def crash(folder: Path, kills: int, seed: int = 0) -> Counts:
    """Kill so many writers in ``folder``, and check what each one leaves."""
    generator, counts, stream = random.Random(seed), Counts(), Stream()
    path, committed, starts = folder / "run.h5", 0, 0
    stream.iterations(500)  # so that writers need not wait for them
    fork = multiprocessing.get_context("fork")  # to start Python anew would take most of the time
    for counts.kills in range(1, kills + 1):
        process = fork.Process(target=write, args=(path, stream))
        process.start()
        if generator.random() < 0.5:
            time.sleep(generator.uniform(0, SHORT))
        else:
            _wait_for(path, starts, process)
            time.sleep(generator.uniform(0, LONG))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the writer failed by itself"
        begun = list(folder.glob(".*.new"))
        counts.while_beginning += len(begun)
        for left in begun:
            left.unlink()
        if not path.exists():
            assert not starts
            counts.before_a_log += 1
            continue
        log = check(path, stream, committed)
        counts.before_resuming += log.starts == starts
        counts.logs += not starts
        counts.resumed += log.starts - max(starts, 1)
        counts.iterations += log.committed - committed
        committed, starts = log.committed, log.starts
        if starts == MOST_STARTS:
            remove_log(path)
            committed = starts = 0
    return counts


def _wait_for(path: Path, starts: int, process: BaseProcess) -> None:
    """Until ``process`` has begun to write the log at ``path``."""
    deadline = time.monotonic() + DEADLINE
    while process.is_alive() and _starts(path) == starts:
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.005)


def _starts(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with Log(path) as log:
            return log.starts
    except LogError:  # it is written faster than it can be read: so it has begun
        return -1


def main() -> None:
    """Read the command line, kill and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(crash(Path(folder), arguments.kills, arguments.seed))


if __name__ == "__main__":
    main()
