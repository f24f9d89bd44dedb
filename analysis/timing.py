"""Where a run's seconds went: for each worker computing, messages and waiting, and the server.

Nothing after the last committed iteration counts. What the log tells:

The server's clock says when a message arrived (/event/time) and when an iteration ended and its
workers were answered (/iteration/time; the first answer follows the worker's hello). So a worker's
time is cut into assignments, from an answer to the arrival of the report, and pauses, from then to
the next answer. Into both fall the seconds that it says it computed (/event/compute_seconds:
steps, rounds of the lower level, validations); it does one thing at a time, in the order asked.

  compute        these seconds
  communication  the rest of the assignments: both ways of the messages, until the worker noticed
                 and the server took them in, and what the worker does around its black box. Both
                 ends are read off the server's clock, so it does not matter how well the clocks
                 of the ranks agree. It is arrival - sent_time plus what passes between the answer
                 and the start of work.
  waiting        the rest of the pauses: the report was there, and was not used yet. During
                 estimates of phi this includes the messages of the rounds, whose times of sending
                 are not in the log.
  absent         before the worker's hello (it loads its model) and after it was excluded
  unreported     an assignment whose report is not in the log, as the run was cut short
  logging, rest  of the server, not under the virtual clock: writing the log, with what was written
                 after the last iteration; the rest is algorithm, messages and idling

Where a worker claims more seconds than have passed, the excess is in the column "excess" (the bar
is longer than 100 % by it), and a note says so.
"""

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import h5py
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from asyndbt_mpi.analysis import files, style
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import Log, printable

COMPONENTS = {
    "compute": ("#1b6ca8", ""),
    "communication": ("#e0a030", "/////"),
    "waiting": ("#d9d9d9", ""),
    "absent": ("#ffffff", "...."),
    "unreported": ("#9fc5e0", "xxxx"),
    "logging": ("#7a4a9c", "\\\\\\\\"),
    "rest": ("#f0ead6", ""),
}
"""Colour and hatching, in the order of the bars."""
EDGE = "#404040"
MOST_LOGS, MOST_WORKERS = 12, 40
PANEL, BAR, ENTRY = 80.0, 3.4, 27.0
"""Millimetres: a panel's least width, a bar's height with its gap, an entry of the legend."""
NOTEWORTHY, ROUNDING = 0.1, 1e-6
"""Per cent of the run from which on an excess is worth a note, and a component is there at all."""


@dataclass(frozen=True)
class Share:
    """Where the ``duration`` seconds of a worker went, or of the server (worker 0); seconds."""

    worker: int
    duration: float
    excess: float = 0.0
    compute: float = 0.0
    communication: float = 0.0
    waiting: float = 0.0
    absent: float = 0.0
    unreported: float = 0.0
    logging: float = 0.0
    rest: float = 0.0

    def of(self, component: str) -> float:
        """Per cent of the duration that ``component`` took."""
        return 100 * float(getattr(self, component)) / self.duration


@dataclass(frozen=True)
class Timing:
    """One log: the server's share, if it has one, then those of the workers 1..R."""

    file: str
    name: str
    unit: str
    shares: list[Share]


@dataclass(frozen=True)
class History:
    """What happened to a worker, by the server's clock; seconds.

    ``hello`` and ``excluded`` hold no moment or one, ``reports`` the arrivals of its reports,
    ``answers`` the ends of the iterations that used them; ``times`` and ``compute`` (X,) are of all
    its messages. All are ascending.
    """

    worker: int
    hello: np.ndarray
    excluded: np.ndarray
    reports: np.ndarray
    answers: np.ndarray
    times: np.ndarray
    compute: np.ndarray

    def busy(self, begin: float, stop: float) -> float:
        """Seconds that it computed for messages that arrived after ``begin``, up to ``stop``."""
        first, last = np.searchsorted(self.times, (begin, stop), side="right")
        return float(self.compute[first:last].sum())


def read(path: Path) -> Timing:
    """Divide the time of the run in the log at ``path``.

    Raises
    ------
    LogError
        The file is no log.
    ConfigurationError
        No time passes in it.
    """
    with Log(path) as log:
        return divide(log)


def divide(log: Log) -> Timing:
    """Divide the time of a run.

    Raises
    ------
    ConfigurationError
        No time passes in it.
    """
    ends = log["iteration/time"]
    if not ends.any():
        raise ConfigurationError(
            f"{log.path}: no time passes in its {len(ends)} committed iterations; give the log of"
            " a run under MPI, or with a delay.model"
        )
    duration = float(ends[-1])
    shares = [of_worker(history, duration) for history in histories(log)]
    virtual = log.transport == "virtual"
    if not virtual:
        shares.insert(0, of_server(log.logging_seconds, duration))
    clock = "virtual clock" if virtual else log.transport.upper()
    name = f"{Path(log.path).stem}: {log.workers} workers, {log.active_workers} active, {clock}"
    return Timing(log.path, name, "virtual seconds" if virtual else "seconds", shares)


def histories(log: Log) -> Iterator[History]:
    """One for each of the workers 1..R."""
    codes = h5py.check_enum_dtype(log.type_and_row("event/kind")[0])
    kinds, workers = log["event/kind"], log["event/worker"]
    times, compute = log["event/time"], log["event/compute_seconds"]
    used_by, used_in = log["report/worker"], log["report/iteration"]
    ends = log["iteration/time"]
    for worker in range(1, log.workers + 1):
        mine = workers == worker
        hello, excluded, reports = (
            times[mine & (kinds == codes[name])] for name in ("hello", "excluded", "report")
        )
        answers = ends[used_in[used_by == worker]]
        yield History(worker, hello, excluded, reports, answers, times[mine], compute[mine])


def of_server(logging_seconds: float, duration: float) -> Share:
    """The server's time; logging may have gone on after the last iteration."""
    return Share(
        0,
        duration,
        excess=max(0.0, logging_seconds - duration),
        logging=logging_seconds,
        rest=max(0.0, duration - logging_seconds),
    )


def of_worker(history: History, duration: float) -> Share:
    """One worker's time, assignment by assignment and pause by pause."""
    end = min([*history.excluded, duration])
    start = min([*history.hello, end])
    spent = dict.fromkeys(("compute", "communication", "waiting", "unreported", "excess"), 0.0)
    for component, begin, stop in intervals(history, start, end):
        busy = history.busy(begin, stop)
        if stop > end:  # it goes on after the end: its parts are cut alike
            busy, stop = busy * (end - begin) / (stop - begin), end
        left = stop - begin - busy
        spent["compute"] += busy
        spent[component] += max(0.0, left)
        spent["excess"] += max(0.0, -left)
    return Share(history.worker, duration, absent=start + duration - end, **spent)


def intervals(history: History, start: float, end: float) -> Iterator[tuple[str, float, float]]:
    """What a worker's time from ``start`` to ``end`` consists of, without gaps.

    Each with what it spends there besides computing, its beginning and its end, which for the
    assignment under way at the ``end`` lies beyond.
    """
    for answer, report, following in itertools.zip_longest(
        [start, *history.answers], history.reports, history.answers
    ):
        if answer is None or answer >= end:
            return
        if report is None:
            yield "unreported", answer, end
            return
        yield "communication", answer, report
        if report < end:
            yield "waiting", report, end if following is None else min(following, end)


def note(timing: Timing) -> str:
    """Whose seconds do not fit into the run; empty if all do."""
    worst = max(timing.shares, key=lambda share: share.excess)
    if worst.of("excess") <= NOTEWORTHY:
        return ""
    who = f"worker {worst.worker}" if worst.worker else "the server"
    return (
        f"{timing.file}: {who} claims {worst.excess:.3g} s more than the {worst.duration:.3g} s of"
        " the run have room for"
    )


def label(component: str) -> str:
    """Name of a component, with whose it is where it is not the workers'."""
    return f"server: {component}" if component in ("logging", "rest") else component


def table(timing: Timing) -> str:
    """Seconds and per cent of every component that there is, over the workers, as text."""
    lines = [timing.name, f"{'':>15} mean, s  mean, %  least, %  most, %"]
    for server in (False, True):
        shares = [share for share in timing.shares if (share.worker == 0) == server]
        for component in COMPONENTS:
            percents = [share.of(component) for share in shares]
            if any(percent > ROUNDING for percent in percents):
                mean = sum(percents) / len(percents)
                lines.append(
                    f"{label(component):>15} {mean / 100 * shares[0].duration:7.4g} {mean:8.1f}"
                    f" {min(percents):9.1f} {max(percents):8.1f}"
                )
    return "\n".join(lines)


# ---------------------------------------------------------------- the figure


def shown(shares: Sequence[Share]) -> list[Share]:
    """The server and, of more than 40 workers, the 20 that compute most and the 20 least."""
    workers = sorted(shares, key=lambda share: (share.worker > 0, -share.compute))
    server = len(shares) - sum(share.worker > 0 for share in shares)
    chosen = workers[: server + MOST_WORKERS // 2] + workers[-(MOST_WORKERS // 2) :]
    few = len(shares) - server <= MOST_WORKERS
    return sorted(shares if few else chosen, key=lambda share: share.worker)


def draw(timings: Sequence[Timing], width: float = style.PAGE) -> Figure:
    """One panel for each log; ``width`` millimetres."""
    with style.styled():
        return _draw(timings, width)


def _draw(timings: Sequence[Timing], width: float) -> Figure:
    columns = max(1, min(len(timings), int(width // PANEL)))
    bands = [timings[start : start + columns] for start in range(0, len(timings), columns)]
    bars = [max(len(shown(timing.shares)) for timing in band) for band in bands]
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=EDGE, lw=0.5, label=label(component))
        for component, (colour, hatch) in COMPONENTS.items()
        if any(share.of(component) > ROUNDING for timing in timings for share in timing.shares)
    ]
    beside = max(1, int(width // ENTRY))
    titles = [[title(timing, width / columns) for timing in band] for band in bands]
    heights = [
        22 + max(style.height(text, style.TEXT) for text in texts) + BAR * count
        for texts, count in zip(titles, bars, strict=True)
    ]
    legend = 4.0 * math.ceil(len(handles) / beside)
    figure = style.new_figure(width, sum(heights) + legend)
    grid = figure.subplots(len(bands), columns, height_ratios=heights, squeeze=False)
    for panels, band, texts, count in zip(grid, bands, titles, bars, strict=True):
        for axes, timing, text in zip(panels, band, texts, strict=False):
            draw_shares(axes, timing, count)
            axes.set_title(text, parse_math=False)
        for axes in panels[len(band) :]:
            axes.remove()
    figure.legend(handles=handles, loc="outside lower center", ncols=beside)
    return figure


def title(timing: Timing, width: float) -> str:
    """Of a panel of ``width`` millimetres: whose run it is, and which workers are shown."""
    said = files.label(timing.name)
    if len(shown(timing.shares)) < len(timing.shares):
        half = MOST_WORKERS // 2
        said += f"\n(the {half} that compute most and the {half} least)"
    return style.wrap(said, width - 12, style.TEXT)


def draw_shares(axes: Axes, timing: Timing, bars: int) -> None:
    """A bar for each worker, with room for ``bars``; in per cent below and in seconds above."""
    shares = shown(timing.shares)
    names = [f"{share.worker}" if share.worker else "server" for share in shares]
    left = np.zeros(len(shares))
    for component, (colour, hatch) in COMPONENTS.items():
        widths = np.array([share.of(component) for share in shares])
        axes.barh(
            names, widths, left=left, color=colour, hatch=hatch, edgecolor=EDGE, lw=0.5, height=0.8
        )
        left += widths
    axes.set(xlabel="% of the run", ylabel="worker", xlim=(0, max(100.0, left.max())))
    axes.set_ylim(bars - 0.4, -0.6)
    seconds = timing.shares[0].duration / 100
    to_seconds, to_percent = (partial(np.multiply, factor) for factor in (seconds, 1 / seconds))
    above = axes.secondary_xaxis("top", functions=(to_seconds, to_percent))
    above.set_xlabel(timing.unit)
    above.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))


@click.command("timing")
@files.LOGS
@files.picture_options
def command(logs: tuple[str, ...], output: str, width: float) -> None:
    """Draw where the seconds went.

    One panel for each log (at most 12); with more than 40 workers those that compute most and
    least. A bar for every worker:

    \b
        compute        the worker's black box
        communication  messages, both ways
        waiting        its report was there, and was not used yet
        absent         before it said hello, and after it was excluded
        unreported     work whose report is not in the log
        logging, rest  of the server, not under the virtual clock

    LOGS are logs, folders of logs, or globs in quotes. A CSV file beside the picture has a row in
    seconds for each log and worker, worker 0 being the server. The parts add up to the time of the
    last iteration.
    """
    target = files.Output.of(output)
    paths = files.find(logs)
    if len(paths) > MOST_LOGS:
        raise ConfigurationError(f"{len(paths)} logs are more than {MOST_LOGS} panels; give fewer")
    timings = [read(path) for path in paths]
    for timing in timings:
        print(printable(table(timing), lines=True), end="\n\n")
        if note(timing):
            print(printable(f"asyndbt: note: {note(timing)}"), file=sys.stderr)
    rows = [{"file": timing.file, **asdict(share)} for timing in timings for share in timing.shares]
    target.save(draw(timings, width), {"": rows})


if __name__ == "__main__":
    files.as_script("timing")
