"""One line that tells how far something is: redrawn on a terminal, now and then anywhere else.

Under mpiexec a rank's output is a pipe, which the launcher passes on by whole lines. Whatever moved
the cursor there would end up in files, or erase what other ranks have printed since. So a line is
redrawn only if this process itself writes to a terminal.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from asyndbt_mpi.log.text import printable

REFRESHES_PER_SECOND = 4.0
SHORTEST, LONGEST = 5.0, 60.0
"""Seconds between two plain lines ..."""
SHARE = 1 / 4
"""... and how they grow: with the time that has passed, so that a long job's output stays short."""
FULL, EMPTY = "█", "░"
CELLS = 8
"""Of a bar within a line."""
WIDTH = 80
"""Columns where there is no window."""


class Bar:
    """The line that ``text`` gives for a number of columns, on standard error.

    On a terminal, what else this process prints goes above it. Elsewhere `tick` prints it again,
    at growing intervals.
    """

    def __init__(self, text: Callable[[int], str]) -> None:
        self.text = text
        self.stream = sys.stderr
        self._live: Live | None = None
        console = Console(file=self.stream, highlight=False)
        if self.stream.isatty() and not console.is_dumb_terminal:
            self._live = Live(
                self,
                console=console,
                refresh_per_second=REFRESHES_PER_SECOND,
                redirect_stdout=sys.stdout.isatty(),
            )
        self._started = self._printed = time.perf_counter()
        self._last = ""

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        else:
            self._print()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()  # leaves the line as it is now
        else:
            self._print()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.text(options.max_width), no_wrap=True, overflow="crop")

    def tick(self) -> None:
        """Without a terminal: print the line again if that is due."""
        if self._live:
            return
        now = time.perf_counter()
        pause = min(max(SHARE * (now - self._started), SHORTEST), LONGEST)
        if now - self._printed >= pause:
            self._print()

    def keep(self) -> None:
        """Print the line as it is now, to stay."""
        if self._live:
            self._live.console.print(self)
        else:
            self._print()

    def say(self, line: str) -> None:
        """Print a line that stays; others' control characters are made visible."""
        if self._live:
            self._live.console.print(Text(printable(line)), soft_wrap=True)
        else:
            self._write(printable(line))

    def _print(self) -> None:
        line = self.text(columns())
        if line != self._last:
            self._write(line)
            self._last = line
        self._printed = time.perf_counter()

    def _write(self, line: str) -> None:
        self.stream.write(f"{line}\n")
        self.stream.flush()


class Pace:
    """How long something has taken, and how long the rest will take at the pace since step one."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self._first: tuple[float, int] | None = None

    def step(self, done: int) -> None:
        """So many are ``done`` now. The first step tells no pace: it may include a compilation."""
        if self._first is None:
            self._first = time.perf_counter(), done

    @property
    def elapsed(self) -> float:
        """Seconds."""
        return time.perf_counter() - self.started

    def left(self, done: int, total: int) -> float | None:
        """Seconds until ``total`` are done; None if there is no telling."""
        if self._first is None or done <= self._first[1]:
            return None
        since, first = self._first
        return (time.perf_counter() - since) / (done - first) * (total - done)

    def text(self, done: int, total: int) -> str:
        """Both, for people."""
        left = self.left(done, total) if done < total else None
        return duration(self.elapsed) + ("" if left is None else f", {duration(left)} left")


class Count(Bar):
    """How many of ``total`` are done, in a ``unit``, and how long the rest will take."""

    def __init__(self, total: int, unit: str, done: int = 0) -> None:
        self.total, self.unit, self.done = total, unit, done
        self.pace = Pace()
        super().__init__(self._line)

    def add(self, number: int) -> None:
        """So many more are done."""
        self.done += number
        self.pace.step(self.done)
        self.tick()

    def _line(self, width: int) -> str:
        parts = [share_done(self.done, self.total, self.unit)]
        return fitted([*parts, self.pace.text(self.done, self.total)], width)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show ``what`` this process is busy with, and on a terminal for how long."""
    pace = Pace()
    terminal = sys.stderr.isatty()
    with Bar(lambda width: fitted([what, duration(pace.elapsed)][: 1 + terminal], width)):
        yield


def share_done(done: int, total: int, unit: str = "") -> str:
    """How many of ``total`` are done, with a picture of it."""
    numbers = f"{done:,}/{total:,} {unit}".rstrip()
    return f"{numbers} {drawn(done / max(total, 1), CELLS)}"


def drawn(share: float, cells: int) -> str:
    """A ``share`` from 0 to 1, as a bar of so many ``cells``."""
    full = int(min(max(share, 0.0), 1.0) * cells)
    return FULL * full + EMPTY * (cells - full)


def duration(seconds: float) -> str:
    """As m:ss, or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def fitted(parts: Sequence[str], width: int) -> str:
    """The first of the ``parts`` that fit into ``width`` columns, most important first."""
    line = parts[0][:width]
    for part in parts[1:]:
        if len(line) + 2 + len(part) > width:
            break
        line = f"{line}, {part}"
    return line


def columns() -> int:
    """Of the window that this process was started from, even if its output is a pipe."""
    found = 0
    with suppress(OSError):  # a batch job has no terminal
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        try:
            found = os.get_terminal_size(terminal).columns
        finally:
            os.close(terminal)
    return shutil.get_terminal_size((found or WIDTH, 0)).columns  # COLUMNS comes first
