"""`asyndbt watch`: follows a run by its log, from another terminal or another machine."""

import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.jobs.codes import DONE, FAILED
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.view.bar import duration
from asyndbt_mpi.view.course import ABSENT, KILLED, Course, identity, missing_writer
from asyndbt_mpi.view.watching import Picture

SECONDS = 1.0
"""Between two looks at the log."""
QUIET_SECONDS = 5.0
"""For which it must be unchanged before its lock is tried: a run that starts needs the lock."""
MOST_FAILURES = 5
"""Looks that may fail in a row, as while a resumed run cuts off what counts no more."""


class Follower:
    """Looks at the log at ``path`` again and again.

    Attributes
    ----------
    course : None as long as there is no log
    state : in a word
    silent : seconds since the log was changed
    ended : the run is over, or nothing more is to be expected
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.course: Course | None = None
        self.state = "not started yet"
        self.silent = 0.0
        self.ended = False
        self._file: tuple[int, int] | None = None
        self._failures = 0

    def look(self) -> None:
        """Read what is new.

        Raises
        ------
        LogError
            It is not a log, or was unreadable for several looks.
        """
        try:
            self._look()
            self._failures = 0
        except LogError:
            self._failures += 1
            if self.course is None or self._failures == MOST_FAILURES:
                raise

    def _look(self) -> None:
        try:
            self.silent = max(0.0, time.time() - self.path.stat().st_mtime)
            file = identity(self.path)
        except FileNotFoundError:
            if self.course is not None:
                self.state, self.ended = "removed", True
            return
        missing = missing_writer(self.path) if self.silent >= QUIET_SECONDS else ""
        with Log(self.path) as log:
            course = self.course
            if course is None or (file, log.starts) != (self._file, course.starts):
                course = Course.of(log)
            else:
                course.read(log)
        self.course, self._file = course, file
        if file != identity(self.path):
            self.course = None  # replaced meanwhile: some of it may be of another run
            return
        self._judge(course, missing)

    def _judge(self, course: Course, missing: str) -> None:
        if course.status != "running":
            self.state, self.ended = course.status, True
            return
        # Longer silences are impossible: a worker would have been lost, and that is written.
        hopeless = self.silent > 2 * course.config.run.worker_timeout
        self.ended = missing == KILLED or bool(missing and hopeless)
        self.state = missing or _phase(course)

    @property
    def picture(self) -> Picture | Text:
        """What to show."""
        if self.course is None:
            return Text(printable(f"{self.path}: {self.state}"))
        return Picture(self.course, self.state, self.silent, whole=self.ended)

    @property
    def verdict(self) -> str:
        """How the run ended, and what to do now; one line."""
        course = self.course
        assert course is not None
        limit = f", at {course.limit}" if course.limit else ""
        ended = f"{self.path}: {self.state} after {course.committed:,} iterations{limit}"
        if self.state == "finished":
            return f"{ended}; asyndbt show tells what was learnt"
        if self.state == "removed":
            return f"{self.path}: was removed; a run that ends before anything is paid for does so"
        silence = f" (nothing written for {duration(self.silent)})" if self.state != KILLED else ""
        silence = "" if course.status != "running" else silence
        resuming = (
            "" if course.config.log.private else "; to resume it, repeat its command with --resume"
        )
        return f"{ended}{silence}{resuming}"


def _phase(course: Course) -> str:
    if course.closing:
        return "race and tests" if course.config.run.evaluate_every else "ending"
    here = sum(worker.state != ABSENT for worker in course.workers)
    if not course.committed and here < len(course.workers):
        return f"{here}/{len(course.workers)} workers ready"
    return "running"


def watch_once(path: Path) -> int:
    """Print one picture of the log at ``path``; 1 if there is none."""
    follower = Follower(path)
    follower.look()
    picture = follower.picture
    if isinstance(picture, Picture):
        picture = Picture(picture.course, picture.state, picture.silent, whole=True)
    Console().print(picture)
    return FAILED if follower.course is None else DONE


def watch(path: Path) -> int:
    """Show the log at ``path`` until its run has ended, or Ctrl-C is pressed; 0 if it finished.

    Raises
    ------
    LogError
        It is not a log, or became unreadable.
    ConfigurationError
        Standard output is not a terminal.
    """
    console = Console()
    if not console.is_terminal:
        raise ConfigurationError("watch needs a terminal; --once prints a single picture anywhere")
    follower = Follower(path)
    with suppress(KeyboardInterrupt):
        # On a screen of its own, so that nothing is left behind when the window changes its size.
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                follower.look()
                if follower.ended:
                    break
                live.update(follower.picture, refresh=True)
                time.sleep(SECONDS)
        console.print(follower.picture)
        console.print(Text(printable(follower.verdict)))
        return DONE if follower.state == "finished" else FAILED
    return DONE
