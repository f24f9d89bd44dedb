"""Kill writers of logs at random moments, and look at what they leave.

    python -m tests.log.crash --kills 200

A process writes a log as fast as it can, and is killed; most times the next one continues what it
left, in a new segment.
"""

import argparse
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from asyndbt_mpi.log import writer
from asyndbt_mpi.log.chain import remove_log, segment_path
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import Evaluation, Event, Iteration, Record
from tests.log.simulated_run import SHAPES, VOCABULARY, WORKERS, Absence, Run, configuration, not_in

MOST_FILES = 4
SHORT, LONG = 0.1, 0.5
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
    log = Log(path) if path.exists() else None
    z = stream.run.z0
    if log is not None and log.committed:
        z = stream.iterations(log.committed)[-1].z
    records = stream if log is None else not_in(log, stream)
    with Writer(path, CONFIG, SHAPES, WORKERS, VOCABULARY, "virtual", z, continues=log) as opened:
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
    before_a_segment: int = 0
    while_beginning: int = 0
    files: int = 0
    iterations: int = 0
    longest: int = 0
    started: float = field(default_factory=time.perf_counter)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills in {time.perf_counter() - self.started:.0f} s: every log is whole;"
            f" {self.before_a_log} before there was a log, {self.before_a_segment} before there was"
            f" a segment, {self.while_beginning} of these while the file was made; {self.files} files"
            f" (up to {self.longest} of a log), {self.iterations} iterations"
        )


def crash(folder: Path, kills: int, seed: int = 0) -> Counts:
    """Kill so many writers in ``folder``, and check what each one leaves."""
    generator, counts, stream = random.Random(seed), Counts(), Stream()
    path, committed, files = folder / "run.h5", 0, 0
    stream.iterations(500)  # so that writers need not wait for them
    fork = multiprocessing.get_context("fork")  # to start Python anew would take most of the time
    for counts.kills in range(1, kills + 1):
        process = fork.Process(target=write, args=(path, stream))
        process.start()
        if generator.random() < 0.5:
            time.sleep(generator.uniform(0, SHORT))
        else:
            _wait_for(segment_path(str(path), files), process)
            time.sleep(generator.uniform(0, LONG))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the writer failed by itself"
        begun = list(folder.glob(".*.new"))
        counts.while_beginning += len(begun)
        for left in begun:
            left.unlink()
        if not path.exists():
            assert not files
            counts.before_a_log += 1
            continue
        log = check(path, stream, committed)
        counts.before_a_segment += len(log.files) == files
        counts.files += len(log.files) - files
        counts.iterations += log.committed - committed
        committed, files = log.committed, len(log.files)
        counts.longest = max(counts.longest, files)
        if files == MOST_FILES:
            remove_log(path)
            committed = files = 0
    return counts


def _wait_for(path: str, process: BaseProcess) -> None:
    """Until ``process`` has begun its file at ``path``."""
    deadline = time.monotonic() + DEADLINE
    while process.is_alive() and not os.path.exists(path):
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.005)


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
