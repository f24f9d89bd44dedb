"""Cut the power of a run's log at every moment, and look at what the disk would have kept.

    python -m tests.log.power

A run is written, closed, resumed with fewer rows than it had, killed and resumed again, and every
write, truncation and fsync is recorded. Then the file is made again as it may be found:

(a) after a kill: all that was done up to any moment, also within a write, is there;
(b) after a power cut: what came before the last fsync is there, and any of what came since. All
    subsets are tried where they are few, else some at random; kept writes land in any order.
"""

import argparse
import contextlib
import hashlib
import itertools
import os
import random
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from asyndbt_mpi.config import Config
from asyndbt_mpi.log import datasets, writer
from asyndbt_mpi.log import file as log_file
from asyndbt_mpi.log.integrity import damage
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.storage import journal, lock
from asyndbt_mpi.log.storage.blocks import PAGE, SECTOR
from asyndbt_mpi.log.storage.journal import JournaledFile
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import Event, EventKind, Iteration, Record
from tests.log.simulated_run import SHAPES, VOCABULARY, WORKERS, Run, configuration

FEW = 8
"""Writes since an fsync, of which all subsets are tried."""


class Step(NamedTuple):
    """What was done to the file: ``content`` at ``offset``, or a size if there is none.

    ``committed`` counts the commits that were whole before it.
    """

    offset: int
    content: bytes | None
    committed: int


@dataclass
class Recording:
    """A run's file: ``steps`` in order, and its states.

    ``synchronised``: of every fsync, how many steps and states there were before it.

    ``states``: by number of commits, what a reader sees then.
    """

    begin: bytes = b""
    steps: list[Step] = field(default_factory=list)
    synchronised: list[tuple[int, int]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)


def state(log: Log) -> str:
    """A digest of everything that counts."""
    found = [f"{log.committed} {log.status} {log.starts} {sorted(log.committed_rows.items())}"]
    for column in itertools.chain(*log.groups.values()):
        found.append(repr(log[column.path].tolist()))
    found += [
        repr(each) for each in (log.vocabulary, log.descriptions, log.cost_bounds, log.models)
    ]
    return str(hash("\n".join(found)))


@contextmanager
def recorded(recording: Recording) -> Iterator[None]:
    """Record what `JournaledFile` does to its file, and the state after every commit."""
    pwrite, ftruncate, commit = os.pwrite, os.ftruncate, journal.JournaledFile.commit

    def write(handle: int, content: bytes, offset: int) -> int:
        recording.steps.append(Step(offset, bytes(content), len(recording.states)))
        return pwrite(handle, content, offset)

    def truncate(handle: int, size: int) -> None:
        recording.steps.append(Step(size, None, len(recording.states)))
        ftruncate(handle, size)

    def synchronise(handle: int) -> None:
        recording.synchronised.append((len(recording.steps), len(recording.states)))

    def commit_and_read(self: journal.JournaledFile, *arguments: int, **named: int) -> None:
        commit(self, *arguments, **named)
        with Log(f"/proc/self/fd/{self._handle}") as log:
            recording.states.append(state(log))

    with (
        mock.patch.object(os, "pwrite", write),
        mock.patch.object(os, "ftruncate", truncate),
        mock.patch.object(os, "fsync", synchronise),
        mock.patch.object(journal.JournaledFile, "commit", commit_and_read),
        mock.patch.object(journal, "reserve", return_value=False),  # it truncates then
        mock.patch.object(lock.FileLock, "sign"),  # which writes to another file
        mock.patch.object(writer, "SECONDS_BETWEEN_BATCHES", 1e9),
        mock.patch.object(datasets, "LONGEST_CHUNK", 4),  # indices of chunks are split
    ):
        yield


class Clock:
    """Shows what it is set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def flush(opened: Writer, clock: Clock, records: Iterable[Record]) -> None:
    """Commit some records; a second later."""
    clock.now += 1.0
    opened.write_all(records)
    opened.flush()


def take(records: Iterator[Record], iterations: int) -> list[Record]:
    """So many iterations, with what came before them."""
    found: list[Record] = []
    while iterations:
        found.append(next(records))
        iterations -= isinstance(found[-1], Iteration)
    return found


def record(path: Path, sync_every: float, commits: int = 4) -> Recording:
    """Write a log at ``path``, resume it twice, and record that from when it has its name."""
    config = configuration(
        algorithm={"plane_until": 100}, run={"iterations": 400},
        log={"compression": "gzip", "sync_every": sync_every},
    )  # fmt: skip
    run, clock, recording = Run(config), Clock(), Recording()
    records = run.records()
    with recorded(recording):
        opened = Writer(path, config, SHAPES, WORKERS, VOCABULARY, "virtual", run.z0, clock)
        recording.begin = path.read_bytes()
        recording.steps.clear()
        recording.synchronised.clear()
        recording.states = recording.states[-1:]
        for _ in range(commits):
            flush(opened, clock, take(records, 9))
        opened.close("finished")
        for ends in (False, True):
            opened = resume(path, config, clock)
            for _ in range(commits):
                flush(opened, clock, take(records, 9))
            if ends:
                opened.close("interrupted")
            else:  # killed
                opened.file.close()
                opened._disk.close()
                opened._lock.release()
    return recording


def resume(path: Path, config: Config, clock: Callable[[], float]) -> Writer:
    """A writer that finds some rows which count no more."""
    with Log(path) as log:
        counted = {group: rows - 3 for group, rows in log.committed_rows.items()}
        cut = {group: counted[group] for group in ("event", "evaluation")}
        return Writer.resumed(log, config, cut, clock=clock)


# ---------------------------------------------------------------- what may be found


def apply(content: bytes, steps: Iterable[Step]) -> bytearray:
    """The file after ``steps``."""
    found = bytearray(content)
    for offset, data, _ in steps:
        if data is None:
            found.extend(bytes(max(0, offset - len(found))))
            del found[offset:]
        else:
            found.extend(bytes(max(0, offset + len(data) - len(found))))
            found[offset : offset + len(data)] = data
    return found


def torn(step: Step) -> Iterator[Step]:
    """What a kill within the write may leave: cut where a page, a sector or a byte ends."""
    content = step.content or b""
    first = PAGE - step.offset % PAGE
    for cut in sorted(
        {1, SECTOR - step.offset % SECTOR, first, len(content) // 2, len(content) - 1}
    ):
        if 0 < cut < len(content):
            yield step._replace(content=content[:cut])


@dataclass
class Counts:
    """What was found: by what it means, how often."""

    cases: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.perf_counter)

    def line(self, name: str) -> str:
        """A row of the table."""
        found = ", ".join(f"{number:,} {what}" for what, number in sorted(self.cases.items()))
        seconds = time.perf_counter() - self.started
        return f"{name}: {sum(self.cases.values()):,} cases in {seconds:.0f} s: {found}"


def seen_by_hdf5(path: Path) -> bytes:
    """A digest of what HDF5 is given to read: most files differ only in the rest."""
    with contextlib.closing(JournaledFile(path)) as source:
        (end,) = struct.unpack("<Q", source.read(48)[40:])
        source.seek(0)
        return hashlib.sha256(source.read(end)).digest() + struct.pack(
            "<Q", source.seek(0, 2) < end
        )


class Checker:
    """Reads files as they may be found, at ``path``, and resumes some of them."""

    def __init__(self, path: Path, recording: Recording, resumes_every: int) -> None:
        self.path, self.recording = path, recording
        self.resumes_every = resumes_every
        self.number = 0
        self._known: dict[bytes, str] = {}

    def check(self, content: bytes, least: int, most: int) -> str:
        """What is found; raise an AssertionError unless it is a state from ``least`` to ``most``."""
        self.path.write_bytes(content)
        states = self.recording.states[: most + 1]
        self.number += 1
        seen = seen_by_hdf5(self.path)
        if seen not in self._known:
            self._known[seen] = self._read()
        if self._known[seen] not in states[least:]:
            raise AssertionError(f"neither of commits {least} to {most}: {self._known[seen]}")
        if self.number % self.resumes_every == 0:
            self._resume()
        return "as committed last" if self._known[seen] == states[-1] else "an earlier commit"

    def _read(self) -> str:
        with mock.patch.object(log_file, "ATTEMPTS", 1), Log(self.path) as log:
            wrong = list(damage(log))
            return state(log) if not wrong else f"damaged: {wrong}"

    def _resume(self) -> None:
        with Log(self.path) as log:
            rows, config = log.committed_rows, log.config
            opened = Writer.resumed(log, config)
        opened.write(Event(EventKind.RESUMED, 0, 0, log.committed, 1e6))
        opened.close("interrupted")
        with Log(self.path) as log:
            assert log.committed_rows == rows | {"event": rows["event"] + 1}
            assert log["event/time"][-1] == 1e6
            assert not list(damage(log))


def kills(recording: Recording, checker: Checker, every: int) -> Counts:
    """(a): at every moment, and within every write; only every so-manieth of them."""
    counts, content = Counts(), bytearray(recording.begin)
    for number, step in enumerate(recording.steps):
        if number % every == 0:
            last = step.committed - 1
            for each in torn(step):
                found = checker.check(bytes(apply(content, [each])), last, last + 1)
                counts.cases[found] += 1
        content = apply(content, [step])
        if number % every == 0:
            after = (
                recording.steps[number + 1].committed if number + 1 < len(recording.steps) else 0
            )
            last = max(step.committed, after) - 1
            counts.cases[
                checker.check(bytes(content), last, last + (not after > step.committed))
            ] += 1
    return counts


def power_cuts(recording: Recording, checker: Checker, most: int, seed: int = 0) -> Counts:
    """(b): after every fsync, up to every later moment before the next, lose any of the writes."""
    counts, generator = Counts(), random.Random(seed)
    content, begin, sure = bytearray(recording.begin), 0, 0
    end_of_all = len(recording.steps), len(recording.states)
    for end, states in [*recording.synchronised, end_of_all]:
        steps = recording.steps[begin:end]
        for kept in subsets(steps, most, generator) if steps else ():
            found = checker.check(bytes(apply(content, kept)), sure, states)
            counts.cases[found] += 1
        content = apply(content, steps)
        begin, sure = end, states - 1
    return counts


def subsets(steps: Sequence[Step], most: int, generator: random.Random) -> Iterator[list[Step]]:
    """Which of the ``steps`` are kept: all subsets of few steps, else ``most`` at random."""
    if 2 ** len(steps) <= most or (len(steps) <= FEW and most >= 2**FEW):
        for kept in itertools.product([False, True], repeat=len(steps)):
            yield list(itertools.compress(steps, kept))
        return
    for _ in range(most):
        share = generator.choice([0.1, 0.5, 0.9])
        kept_steps = [step for step in steps if generator.random() < share]
        if generator.random() < 0.5:
            kept_steps = kept_steps[: generator.randrange(len(kept_steps) + 1)]
        yield kept_steps


def main() -> None:
    """Everything, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subsets", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for sync_every in (0.0, 1.0, 3.0):
            recording = record(Path(folder) / f"{sync_every}.h5", sync_every)
            checker = Checker(Path(folder) / "found.h5", recording, resumes_every=5)
            name = f"sync_every = {sync_every:g}"
            print(kills(recording, checker, 1).line(f"{name}, (a) kill"), flush=True)
            if sync_every:
                cuts = power_cuts(recording, checker, arguments.subsets)
                print(cuts.line(f"{name}, (b) power cut"), flush=True)


if __name__ == "__main__":
    main()
