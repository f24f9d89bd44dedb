"""The course of a run so far, from its log; read again and again while it grows."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asyndbt_mpi.config import Config
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.storage.lock import is_being_written, was_killed
from asyndbt_mpi.protocol.final_tests import number_of_tests
from asyndbt_mpi.protocol.messages import Candidate, Split
from asyndbt_mpi.protocol.records import EventKind
from asyndbt_mpi.protocol.spending import price

KILLED = "killed"
UNSEEN = "killed, or running on a machine whose lock is not visible here"
ABSENT = "absent"
"""What a worker is until it is first heard from."""
LATEST = 200
"""Iterations from which the pace is taken."""

MEMBERSHIP = {
    EventKind.HELLO: "here",
    EventKind.EXCLUDED: "excluded",
    EventKind.LOST: "lost",
    EventKind.RETURNED: "back",
}
"""What a worker is after such an event."""
COLUMNS = {
    "event": ("kind", "worker", "time", "llm_calls", "prompt_tokens", "completion_tokens", "text"),
    "report": ("worker", "iteration", "loss"),
    "iteration": ("time", "objective"),
    "evaluation": ("iteration", "worker", "split", "candidate", "accuracy", "loss"),
}
"""What is read, by group."""


def missing_writer(path: Path) -> str:
    """How it seems that the log at ``path`` has no writer; "" if it has one.

    To be asked before the log is opened: if that then says "running", its run has not ended well.
    """
    if not path.is_file() or is_being_written(path):
        return ""
    return KILLED if was_killed(path) else UNSEEN


@dataclass(slots=True)
class WorkerState:
    """The newest of a worker: ``iteration`` (from 1) and ``loss`` are of its last used report.

    ``heard`` is on the run's clock, like all times.
    """

    state: str = ABSENT
    iteration: int = 0
    loss: float = float("nan")
    calls: int = 0
    heard: float = float("nan")
    late: int = 0


@dataclass(frozen=True, slots=True)
class Limit:
    """What may end the run: so much is ``done`` of ``total``; at this pace for ``left`` seconds."""

    name: str
    done: float
    total: float
    left: float | None


@dataclass(slots=True)
class Course:
    """What a log tells; `read` takes in what is new in it.

    Attributes
    ----------
    columns : by path, the rows so far
    workers : their states, in the order of their numbers
    descriptions : what the workers say of themselves
    """

    config: Config
    path: str
    starts: int
    workers: list[WorkerState]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    descriptions: list[str] = field(default_factory=list)
    status: str = "running"
    committed: int = 0
    transport: str = "mpi"
    limit: str = ""
    closing: bool = False

    @classmethod
    def of(cls, log: Log) -> "Course":
        """Of all that is in ``log``."""
        course = cls(log.config, log.path, log.starts, [WorkerState() for _ in range(log.workers)])
        course.transport = log.transport
        course.read(log)
        return course

    def read(self, log: Log) -> None:
        """Take in the new rows of ``log``, which is the same run's and was not resumed since.

        Raises
        ------
        LogError
            It cannot be read; nothing has changed here.
        """
        paths = [f"{group}/{name}" for group, names in COLUMNS.items() for name in names]
        new = {path: log.rows(path, len(self.columns.get(path, ()))) for path in paths}
        late = log.rows("iteration/delay", max(log.committed - 1, 0))
        descriptions = log.descriptions
        # Everything has been read.
        for path, rows in new.items():
            before = self.columns.get(path)
            self.columns[path] = rows if before is None else np.concatenate([before, rows])
        self.status, self.committed, self.descriptions = log.status, log.committed, descriptions
        self._note_events(new)
        self._note_reports(new)
        for iterations in late.tolist():
            for worker, number in zip(self.workers, iterations, strict=True):
                worker.late = number

    def _note_events(self, new: dict[str, np.ndarray]) -> None:
        names = "kind", "worker", "time", "llm_calls", "text"
        columns = (new[f"event/{name}"].tolist() for name in names)
        for kind, sender, time, calls, text in zip(*columns, strict=True):
            if kind == EventKind.CLOSING:
                self.closing, self.limit = True, text
            if not sender:
                continue
            worker = self.workers[sender - 1]
            worker.state = MEMBERSHIP.get(kind, worker.state)
            worker.calls += calls
            if kind not in (EventKind.LOST, EventKind.EXCLUDED):
                worker.heard = time

    def _note_reports(self, new: dict[str, np.ndarray]) -> None:
        columns = (new[f"report/{name}"].tolist() for name in COLUMNS["report"])
        for number, iteration, loss in zip(*columns, strict=True):
            worker = self.workers[number - 1]
            worker.iteration, worker.loss = iteration + 1, loss

    # ------------------------------------------------------------ what it amounts to

    @property
    def now(self) -> float:
        """The newest time on the run's clock."""
        times = self.columns["event/time"], self.columns["iteration/time"]
        return max((float(column.max()) for column in times if len(column)), default=0.0)

    def limits(self) -> list[Limit]:
        """Iterations first, then what [budget] limits."""
        budget, total = self.config.budget, self.config.run.iterations
        spent = self._spent()
        found = [Limit("iterations", self.committed, total, self._left_of_iterations())]
        for name, done in spent.items():
            most = getattr(budget, name)
            if most:
                # The whole run's pace: a part of it may have come from a cache.
                left = (most - done) / done * self.now if done and self.is_timed else None
                found.append(Limit(name, done, most, left))
        return found

    def _spent(self) -> dict[str, float]:
        calls, prompt, completion = (
            float(self.columns[f"event/{name}"].sum())
            for name in ("llm_calls", "prompt_tokens", "completion_tokens")
        )
        cost = price(self.config.llm, prompt, completion)
        return {"calls": calls, "tokens": prompt + completion, "cost": cost, "seconds": self.now}

    @property
    def is_timed(self) -> bool:
        """The run's clock is a real one."""
        return self.transport == "mpi"

    def _left_of_iterations(self) -> float | None:
        times = self.columns["iteration/time"][-LATEST:]
        if len(times) < 2 or not self.is_timed:
            return None
        pace = float(times[-1] - times[0]) / (len(times) - 1)
        return pace * (self.config.run.iterations - self.committed)

    @property
    def objective(self) -> np.ndarray:
        """The objective of each iteration; (T,)."""
        return self.columns["iteration/objective"]

    def validated(self) -> tuple[str, np.ndarray]:
        """What is validated, and the workers' mean of it for each validated iteration."""
        name = "loss" if self.config.llm.is_function else "accuracy"
        of = {each: self.columns[f"evaluation/{each}"] for each in COLUMNS["evaluation"]}
        rows = (of["split"] == Split.VALIDATION) & (of["candidate"] == Candidate.TUNED)
        rows &= of["iteration"] <= self.committed
        _, groups = np.unique(of["iteration"][rows], return_inverse=True)
        counts = np.bincount(groups)
        return name, np.bincount(groups, weights=of[name][rows]) / counts

    def closing_answers(self) -> tuple[int, int, int]:
        """After the iterations: prompts raced, prompts tested, and of how many at most."""
        kinds = self.columns["event/kind"]
        (ends,) = np.nonzero(kinds == EventKind.CLOSING)
        since = kinds[ends[-1] :] if len(ends) else kinds[:0]
        raced, tested = (int((since == kind).sum()) for kind in (EventKind.RACE, EventKind.TEST))
        return raced, tested, number_of_tests(self.config, len(self.workers))


def identity(path: Path) -> tuple[int, int]:
    """Of the file at ``path``, which another log may replace."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
