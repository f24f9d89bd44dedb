"""The picture of a run that `asyndbt watch` shows, as large as the window allows."""

from dataclasses import dataclass

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from asyndbt_mpi.log.text import printable
from asyndbt_mpi.view.bar import drawn, duration
from asyndbt_mpi.view.course import Course, Limit, WorkerState

LEVELS = "▁▂▃▄▅▆▇█"
LONGEST_LINE = 60
"""Cells of a sparkline."""
QUIET_SECONDS = 10.0
"""A silence that is worth a word."""
WIDE, MEDIUM = 100, 60
"""Columns from which the table has descriptions, and calls."""
NORMAL = "here", "back"
"""States of a worker that takes part."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A run's ``course``; its ``state`` in a word, and for how many seconds the log was ``silent``.

    ``whole`` shows every worker, whatever the height of the window.
    """

    course: Course
    state: str
    silent: float
    whole: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        above: list[Table | Text] = [*self._head(), self._limits(width), *self._closing(), Text()]
        below = Text(), self._lines(width)
        taken = sum(len(console.render_lines(part, options)) for part in (*above, *below))
        # The table's names, how many workers are left out, and the line of the cursor.
        room = None if self.whole else max(console.height - taken - 3, 1)
        yield from above
        yield from self._workers(width, room)
        yield from below

    def _head(self) -> list[Text]:
        course = self.course
        state = self.state
        if self._goes_on and self.silent >= QUIET_SECONDS:
            state += f", nothing written for {duration(self.silent)}"
        clock = "" if course.is_timed else " of the virtual clock"
        so_far = f"{duration(course.now + self._since)}{clock} so far"
        resumed = f", resumed {course.starts - 1}x" if course.starts > 1 else ""
        return [
            Text(printable(f"{course.config.run.name} ({course.path})")),
            Text(state, style="bold"),
            Text(f"{so_far}{resumed}"),
        ]

    @property
    def _goes_on(self) -> bool:
        return self.course.status == "running"

    @property
    def _since(self) -> float:
        """Seconds of the run's clock since the newest time in the log, as far as can be told."""
        return self.silent if self._goes_on and self.course.is_timed else 0.0

    def _limits(self, width: int) -> Table:
        limits = self.course.limits()
        amounts = [_amount(limit) for limit in limits]
        times = [
            "" if limit.left is None or not self._goes_on else f"{duration(limit.left)} left"
            for limit in limits
        ]
        texts = [limit.name for limit in limits], amounts, times
        taken = sum(max(map(len, column)) for column in texts)
        cells = max(4, min(24, width - taken - 8))
        grid = Table.grid(padding=(0, 2, 0, 0))
        for limit, amount, left in zip(limits, amounts, times, strict=True):
            row = limit.name, drawn(limit.done / limit.total, cells), amount, left
            grid.add_row(*(Text(text, no_wrap=True) for text in row))
        return grid

    def _closing(self) -> list[Text]:
        if not (self.course.closing and self.course.config.run.evaluate_every):
            return []
        raced, tested, most = self.course.closing_answers()
        return [Text(f"{raced} prompts raced, {tested} of {most} tests")]

    def _workers(self, width: int, room: int | None) -> list[Table | Text]:
        workers = list(enumerate(self.course.workers, start=1))
        if room is not None and len(workers) > room:
            # Those that are of interest: gone, or not heard of for longest.
            workers.sort(key=lambda each: (each[1].state in NORMAL, each[1].heard, each[0]))
            workers = sorted(workers[:room])
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("worker", justify="right", no_wrap=True)
        table.add_column("is", no_wrap=True)
        names = ["iteration", "late", *(["calls"] if width >= MEDIUM else []), "loss", "silent"]
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        if width >= WIDE:
            table.add_column("on", no_wrap=True, overflow="ellipsis")
        for number, worker in workers:
            cells = self._cells(worker)
            on = self.course.descriptions[number - 1] if width >= WIDE else ""
            style = "" if worker.state in NORMAL else "bold red"
            table.add_row(
                str(number), worker.state, *(cells[name] for name in names),
                *([Text(printable(on))] if width >= WIDE else []), style=style,
            )  # fmt: skip
        others = len(self.course.workers) - len(workers)
        return [table, *([Text(f"and {others} more")] if others else [])]

    def _cells(self, worker: WorkerState) -> dict[str, str]:
        ago = self.course.now + self._since - worker.heard
        return {
            "iteration": str(worker.iteration or ""),
            "late": str(worker.late),
            "calls": f"{worker.calls:,}",
            "loss": "" if np.isnan(worker.loss) else f"{worker.loss:.3f}",
            "silent": "" if np.isnan(ago) else duration(ago),
        }

    def _lines(self, width: int) -> Table:
        grid = Table.grid(padding=(0, 2))
        name, validated = self.course.validated()
        for title, values in (
            ("training loss", self.course.objective),
            (f"validation {name}", validated),
        ):
            known = values[np.isfinite(values)]
            if len(known):
                ends = f"{known[0]:.3f} to {known[-1]:.3f}"
                room = width - len("validation accuracy") - len(ends) - 4
                cells = max(4, min(LONGEST_LINE, room))
                grid.add_row(title, sparkline(known, cells), ends)
        return grid


def sparkline(values: np.ndarray, cells: int) -> str:
    """Finite ``values`` in order (T,), T > 0, as a line of at most so many ``cells``.

    Each cell is the mean of its share of the values, between the least and the greatest mean.
    """
    means = np.array([part.mean() for part in np.array_split(values, min(cells, len(values)))])
    least, range_ = means.min(), np.ptp(means)
    heights = (means - least) / range_ if range_ > 0 else np.zeros_like(means)
    return "".join(LEVELS[round(height * (len(LEVELS) - 1))] for height in heights.tolist())


def _amount(limit: Limit) -> str:
    if limit.name == "seconds":
        return f"{duration(limit.done)} of {duration(limit.total)}"
    decimals = 2 if limit.name == "cost" else 0
    return f"{limit.done:,.{decimals}f} of {limit.total:,.{decimals}f}"
