"""Runs under mpiexec that are hurt on purpose, and what is checked afterwards."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asyndbt_mpi.commands.replay import replay
from asyndbt_mpi.inputs import sections
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.transport.replay import ANSWERS
from tests.helpers import ROOT, mpiexec, sets

SECONDS = 120.0
"""After which a run that does not do what is waited for counts as hung."""

SETTINGS = {
    "run.iterations": "120",
    "run.evaluate_every": "20",
    "algorithm.active_workers": "2",
    "algorithm.plane_period": "7",
    "algorithm.tolerance": "0",
    "delay.model": "lognormal",
    "delay.mean": "0.02",
}


MOST_TESTS = 4
MOST_RACED = sections.Run().race
"""A function is asked about each prompt once."""


class NotSurvived(AssertionError):
    """A fault did what it must not."""


def check(holds: object, what: str) -> None:
    """Raise `NotSurvived` unless ``what`` holds."""
    if not holds:
        raise NotSurvived(what)


def alive_in_session(leader: int) -> list[int]:
    """Processes that the session's leader has started, and itself."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # Behind the name, which may contain anything: state, parent, group, session.
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                found.append(int(entry.name))
    return found


@dataclass
class Run:
    """A run of the synthetic task in ``folder``, started as often as need be.

    Attributes
    ----------
    lost : committed iterations that a restart found gone or changed
    repeated : questions asked again although their answers were in the log
    """

    folder: Path
    workers: int = 3
    settings: dict[str, str] = field(default_factory=dict)
    source: str = "synthetic"
    environment: dict[str, str] = field(default_factory=dict)
    lost: int = 0
    repeated: int = 0
    process: subprocess.Popen[str] | None = None
    _before: np.ndarray | None = None
    _answered: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.settings = SETTINGS | self.settings
        # An mpiexec that was killed leaves a folder in the way of the next with its process number.
        self.environment = {"PRTE_MCA_prte_local_tmpdir_base": str(self.folder)} | self.environment

    @property
    def log(self) -> Path:
        """Where the run writes."""
        return self.folder / "run.h5"

    def start(self, *options: str, ulfm: bool = False) -> None:
        """Start it, or go on with it if its log is there."""
        for file in [*self.folder.glob("pid.*"), *self.folder.glob("ledger.*")]:
            file.unlink()
        self._answered = self.answered()
        command = [
            sys.executable, "-m", "tests.faults.rank", str(self.folder), "run", self.source,
            *sets(*(f"{key}={value}" for key, value in self.settings.items())),
            "--output", str(self.log), "--resume", *options,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            mpiexec(self.workers + 1, command, *(("--with-ft", "ulfm") if ulfm else ())),
            cwd=ROOT, env=os.environ | self.environment, text=True, start_new_session=True,
            stdout=(self.folder / "out").open("w"), stderr=(self.folder / "err").open("w"),
        )  # fmt: skip

    def until(self, condition: Callable[[Log], object]) -> None:
        """Wait until the log says so."""
        assert self.process is not None
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise NotSurvived(f"ended early, {self.process.returncode}: {self.said()}")
            try:
                with Log(self.log) as log:
                    if condition(log):
                        return
            except LogError:
                pass  # in the making
            time.sleep(0.1)
        raise NotSurvived("hung")

    def until_committed(self, iterations: int) -> None:
        """Wait for so many committed iterations."""
        self.until(lambda log: log.committed >= iterations)

    def send(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to a rank."""
        os.kill(int((self.folder / f"pid.{rank}").read_text()), number)

    def end(self, seconds: float = SECONDS) -> int:
        """Wait for mpiexec's exit code."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise NotSurvived(f"does not end: {self.said()}") from error

    def kill(self) -> None:
        """Kill mpiexec and every rank at once, as a node's death would."""
        assert self.process is not None
        self.process.kill()
        # Also ranks that have not come to note their numbers: they would go on, and hold the log.
        end = time.monotonic() + SECONDS
        while left := alive_in_session(self.process.pid):
            check(time.monotonic() < end, f"{left} cannot be killed")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self.process.wait()

    def said(self) -> str:
        """The program's own lines."""
        text = (self.folder / "err").read_text(errors="replace").replace("\r", "\n")
        return " | ".join(line for line in text.splitlines() if line.startswith("asyndbt:"))

    # ------------------------------------------------------------ what was lost, what was repeated

    def answered(self) -> Counter[str]:
        """Answers that the log holds, by the ledger's keys."""
        if not self.log.exists():
            return Counter()
        with Log(self.log) as log:
            return Counter(
                f"{event.kind.name} {event.worker} {event.number}"
                for event in events(log)
                if event.kind in ANSWERS
            )

    def account(self) -> None:
        """Hold this life of the run against the one before: to be called when it is over."""
        asked = Counter(
            line for file in self.folder.glob("ledger.*") for line in file.read_text().splitlines()
        )
        for line in asked.keys() & self._answered.keys():
            # The tests of a worker share a key: its own three prompts, and perhaps the untuned.
            # So do the prompts of its race.
            once = {"TEST": MOST_TESTS, "RACE": MOST_RACED}.get(line.partition(" ")[0], 1)
            self.repeated += max(0, asked[line] + self._answered[line] - once)
        if not self.log.exists():
            return
        with Log(self.log) as log:
            now = log["iteration/z"]
        if self._before is not None:
            before = self._before
            same = min(len(before), len(now))
            changed = (before[:same] != now[:same]).any(axis=(1, 2)).sum()
            self.lost += len(before) - same + int(changed)
        self._before = now

    def whole(self, status: str = "finished") -> None:
        """The log is whole, keeps every invariant, and replays bit by bit."""
        result = verify(self.log)
        check(not result.violations, f"verify: {result.violations[:3]}")
        with Log(self.log) as log:
            check(log.status == status, f"status is {log.status}")
        difference = replay(self.log).difference
        check(difference is None, f"replay: {difference}")

    def happened(self, kind: str, worker: int) -> bool:
        """Whether the log has such an event."""
        with Log(self.log) as log:
            return any(e.kind.name == kind and e.worker == worker for e in events(log))


def finish(run: Run, *options: str) -> None:
    """Go on to the end without any more trouble, and account for it."""
    run.start(*options)
    code = run.end()
    check(code == 0, f"exit code {code} after the restart: {run.said()}")
    run.account()
    run.whole()
