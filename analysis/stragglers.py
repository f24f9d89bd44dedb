"""What slow workers cost: seconds per iteration against S, the number of reports it waits for.

(See orderstatistics.py for the prediction. The paper's Figure 1 shows nearly 40 % saved, though
against a centralised run.)
"""

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asyndbt_mpi.analysis import files, style
from asyndbt_mpi.analysis.iteration_times import MAY_DIFFER, Run, Setting, read
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import printable

MEASURED, PREDICTED, NAIVE = "#1b6ca8", "#b3541e", "#8a8a8a"
PREDICTED_LABEL = "predicted: S-th of the remaining times"
NAIVE_LABEL = "naive: S-th of R fresh draws"
MOST_SETTINGS, MOST_COLUMNS, MOST_TICKS, LONGEST_TRACE = 12, 4, 10, 32
PANEL_WIDTH, PANEL_HEIGHT = 40.0, 36.0
"""Millimetres: the least width of a panel, and its height with its labels."""
LEGEND_WIDTH = 70.0
"""Millimetres of an entry of the legend."""
EQUAL = 0.0005
"""Times that differ by a smaller share are the same."""
LOW, HIGH = 10, 90
"""Percentiles that ranges over runs go from and to."""


# ---------------------------------------------------------------- tables


def per_report(seconds: float, active: int, reference: float, workers: int) -> float:
    """Seconds per report used, as a multiple of those with S = R = ``workers``.

    ``seconds`` per iteration with ``active`` reports, ``reference`` with all.
    """
    return (seconds / active) / (reference / workers)


def multiple(ratio: float) -> str:
    """A time as a multiple of another one, in words."""
    if math.isnan(ratio):
        return "-"
    if abs(ratio - 1) < EQUAL:
        return "the same"
    return f"{100 * (1 - ratio):.1f} % less" if ratio < 1 else f"{ratio:.2f} times as long"


def by_active_workers(runs: Iterable[Run]) -> dict[Setting, dict[int, list[Run]]]:
    """The runs of every setting by S, both in order."""
    found: dict[Setting, dict[int, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: (title(run.setting), run.active_workers)):
        found.setdefault(run.setting, {}).setdefault(run.active_workers, []).append(run)
    return found


def medians(groups: dict[int, list[Run]], name: str) -> dict[int, float]:
    """Median of an attribute of the runs of each S."""
    return {
        active: float(np.median([getattr(run, name) for run in runs]))
        for active, runs in groups.items()
    }


def row(run: Run, reference: float) -> dict[str, object]:
    """A run's row of the CSV; ``reference`` is the synchronous run's seconds per iteration."""
    setting = run.setting
    return {
        "file": run.file,
        "delay_model": setting.delay_model,
        "trace": setting.trace,
        "mean": setting.mean,
        "sigma": setting.sigma,
        "slow_workers": setting.slow_workers,
        "slow_factor": setting.slow_factor,
        "workers": setting.workers,
        "active_workers": run.active_workers,
        "max_delay": run.max_delay,
        "seed": run.seed,
        "transport": setting.transport,
        "iterations": run.iterations,
        "seconds_per_iteration": run.seconds,
        "predicted": run.predicted,
        "naive": run.naive,
        "deviation": run.seconds / run.predicted - 1,
        "shorter": 1 - run.seconds / reference,
        "saved": 1 - per_report(run.seconds, run.active_workers, reference, setting.workers),
        "delay_bound_reached": run.delay_bound_reached,
    }


def table(setting: Setting, groups: dict[int, list[Run]]) -> str:
    """Medians over the runs of each S, as text."""
    measured, predicted, fresh = (
        medians(groups, name) for name in ("seconds", "predicted", "naive")
    )
    reference = measured.get(setting.workers, math.nan)
    lines = [
        title(setting).replace("\n", "; "),
        "seconds per iteration, and against S = R: per iteration, per report used",
        "    S  runs  measured, s  predicted, s  naive, s  deviation, %"
        "        iteration           report",
    ]
    for active, runs in groups.items():
        seconds = measured[active]
        lines.append(
            f"{active:5} {len(runs):5} {seconds:12.4g} {predicted[active]:13.4g}"
            f" {fresh[active]:9.4g} {100 * (seconds / predicted[active] - 1):13.1f}"
            f" {multiple(seconds / reference):>16}"
            f" {multiple(per_report(seconds, active, reference, setting.workers)):>16}"
        )
    return "\n".join(lines)


def notes(runs: Sequence[Run]) -> list[str]:
    """What a reader of the prediction has to know about some of the runs."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if run.setting.uncovered:
            found.setdefault(f"no prediction: {run.setting.uncovered}", []).append(run.file)
        elif run.delay_bound_reached:
            found.setdefault(
                "a worker's delay reached algorithm.max_delay; iterations may have waited for it,"
                " which the prediction leaves out",
                [],
            ).append(run.file)
    return [
        f"{concerned[0]}{f' and {len(concerned) - 1} more' if concerned[1:] else ''}: {note}"
        for note, concerned in found.items()
    ]


# ---------------------------------------------------------------- the figure


def title(setting: Setting) -> str:
    """What sets a panel apart, in up to three lines."""
    law = setting.delay_model if setting.delay_model != "none" else "no artificial delay"
    if setting.trace:
        trace = printable(setting.trace)
        law += f" {'…' * (len(trace) > LONGEST_TRACE)}{trace[-LONGEST_TRACE:]}"
    elif setting.delay_model != "none":
        law += f", mean {setting.mean:g} s"
    if setting.sigma is not None:
        law += f", sigma {setting.sigma:g}"
    workers = f"{setting.workers} workers"
    if setting.slow_workers:
        workers += f", {setting.slow_workers} of them {setting.slow_factor:g} times slower"
    clock = {"virtual": "virtual clock", "mpi": "MPI"}.get(setting.transport, setting.transport)
    if setting.uncovered:
        clock += f", {setting.uncovered.partition(';')[0]}"
    return f"{law}\n{workers}\n{clock}"


def draw(settings: dict[Setting, dict[int, list[Run]]], width: float = style.PAGE) -> Figure:
    """Two panels, one above the other, for each setting; ``width`` millimetres."""
    with style.styled():
        return _draw(settings, width)


def _draw(settings: dict[Setting, dict[int, list[Run]]], width: float) -> Figure:
    most = max(1, min(MOST_COLUMNS, int(width // PANEL_WIDTH)))
    bands = math.ceil(len(settings) / most)
    columns = math.ceil(len(settings) / bands)
    titles = {}
    for setting in settings:
        text = files.label(title(setting)).replace("sigma ", "sigma\xa0")
        titles[setting] = style.wrap(text, width / columns - 9, style.TEXT)
    heading = max(style.height(text, style.TEXT) for text in titles.values())
    beside = max(1, min(3, int(width // LEGEND_WIDTH)))
    height = bands * (2 * PANEL_HEIGHT + heading) + 4.0 * math.ceil(3 / beside)
    figure = style.new_figure(width, height)
    grid = figure.subplots(2 * bands, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_visible(False)
    measured = style.wrap(measured_label(settings), width / beside - 12)
    entries: dict[str, Any] = {}
    for place, (setting, groups) in enumerate(settings.items()):
        band, column = divmod(place, columns)
        upper, lower = grid[2 * band : 2 * band + 2, column]
        draw_seconds(upper, groups, measured)
        draw_per_report(lower, groups, setting.workers, measured)
        upper.set_title(titles[setting], parse_math=False)
        for axes in (upper, lower):
            axes.set(visible=True, xlabel="active workers S")
            prepare_active_workers(axes, list(groups), setting.workers)
            handles, labels = axes.get_legend_handles_labels()
            entries |= dict(zip(labels, handles, strict=True))
        if column == 0:
            upper.set_ylabel("seconds\nper iteration")
            lower.set_ylabel("seconds per report\nused, S = R is 1")
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=beside)
    return figure


def prepare_active_workers(axes: Axes, values: list[int], workers: int) -> None:
    """The axis of S: every value where they have room, else powers of 2 at equal distances."""
    if workers <= MOST_TICKS:
        axes.set_xticks(values)
        axes.set_xlim(0.5, workers + 0.5)
    else:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(0.8, 1.25 * workers)


def draw_seconds(axes: Axes, groups: dict[int, list[Run]], label: str) -> None:
    """Measured, predicted and naive seconds per iteration, on a logarithmic axis."""
    seconds = {active: [run.seconds for run in runs] for active, runs in groups.items()}
    draw_measured(axes, seconds, label)
    draw_line(axes, medians(groups, "predicted"), color=PREDICTED, label=PREDICTED_LABEL)
    draw_line(axes, medians(groups, "naive"), color=NAIVE, label=NAIVE_LABEL, ls="--", lw=0.8)
    logarithmic(axes)


def draw_per_report(axes: Axes, groups: dict[int, list[Run]], workers: int, label: str) -> None:
    """Seconds per report as a multiple of the synchronous run's, measured and predicted."""
    if workers not in groups:
        words, place = "no run with S = R\nto compare with", (0.5, 0.5)
        axes.annotate(words, place, xycoords="axes fraction", ha="center")
        axes.set_yticks([])
        return
    reference = medians(groups, "seconds")[workers]
    measured = {
        active: [per_report(run.seconds, active, reference, workers) for run in runs]
        for active, runs in groups.items()
    }
    draw_measured(axes, measured, label)
    predicted = medians(groups, "predicted")
    multiples = {
        active: per_report(seconds, active, predicted[workers], workers)
        for active, seconds in predicted.items()
    }
    draw_line(axes, multiples, color=PREDICTED, label=PREDICTED_LABEL)
    axes.axhline(1, color=NAIVE, lw=0.6)
    logarithmic(axes)


def draw_line(axes: Axes, values: dict[int, float], **look: Any) -> None:
    """``values`` over S; nothing, and no entry of the legend, if none is known."""
    known = {active: value for active, value in values.items() if math.isfinite(value)}
    if known:
        look = {"lw": 1.3, "marker": "_" if len(known) == 1 else ""} | look
        axes.plot(list(known), list(known.values()), **look)


def logarithmic(axes: Axes) -> None:
    """Room for two ticks at least."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    style.logarithmic(axes, low / 1.4, high * 1.4)


def draw_measured(axes: Axes, values: dict[int, list[float]], label: str) -> None:
    """Medians over runs, with bars from the 10th to the 90th percentile; see `measured_label`."""
    low, middle, high = (
        np.array([np.percentile(seconds, level) for seconds in values.values()])
        for level in (LOW, 50, HIGH)
    )
    several = any(len(seconds) > 1 for seconds in values.values())
    axes.errorbar(
        list(values),
        middle,
        yerr=[middle - low, high - middle] if several else None,
        color=MEASURED,
        fmt="o",
        ms=3.5,
        lw=1,
        capsize=2.5,
        label=label,
    )


def measured_label(settings: dict[Setting, dict[int, list[Run]]]) -> str:
    """What dots and bars are."""
    numbers = {len(runs) for groups in settings.values() for runs in groups.values()}
    if max(numbers) == 1:
        return "measured, one run each"
    number = f"{min(numbers)} to {max(numbers)}" if len(numbers) > 1 else f"{max(numbers)}"
    return f"measured: median and {LOW}th to {HIGH}th percentile of {number} runs"


@click.command("stragglers")
@files.LOGS
@files.picture_options
def command(logs: tuple[str, ...], output: str, width: float) -> None:
    """Draw what slow workers cost.

    One column of panels for each delay model with its parameters and number of workers R. Above:
    measured seconds per iteration, (last - first moment) / (T - 1), beside what order statistics
    predict and the naive S-th smallest of R fresh draws. Below: seconds per report used, (seconds
    per iteration) / S, as a multiple of those of the synchronous run with S = R. With constant
    delays none are saved.

    \b
        asyndbt plot stragglers 'runs/delay-*.h5' -o stragglers.pdf

    LOGS are logs, folders of logs, or globs in quotes. The runs may differ in seed, S, tau, number
    of workers and iterations, and in [delay] and [log]. Under heavy tails single runs lie far
    apart: give several seeds and many iterations.

    The table that is printed, and FILE.csv, also compare iterations with those with S = R. A
    shorter one is no saving: it uses S reports, not R. What it takes to come to a given epsilon is
    drawn by `asyndbt plot scaling`.

    The prediction takes each worker's seconds from the delay model where these are all the time
    there is, under the virtual clock; in other runs, and for the models "none" and "trace", from
    the seconds that the worker's own reports took. It knows of no barriers: runs with estimates of
    phi, with validation or with excluded workers are shown without one. Nor does it know of
    max_delay.
    """
    target = files.Output.of(output)
    try:
        runs = [read(path) for path in files.find(logs)]
    except ArithmeticError as error:
        raise ConfigurationError(str(error)) from error
    files.check_alike([(Path(run.file), run.compared) for run in runs], MAY_DIFFER)
    settings = by_active_workers(runs)
    if len(settings) > MOST_SETTINGS:
        raise ConfigurationError(
            f"{len(settings)} delay models, parameters or numbers of workers are more than"
            f" {MOST_SETTINGS} panels; give fewer logs"
        )
    for setting, groups in settings.items():
        print(printable(table(setting, groups), lines=True), end="\n\n")
    for note in notes(runs):
        print(printable(f"asyndbt: note: {note}"), file=sys.stderr)
    references = {
        setting: medians(groups, "seconds").get(setting.workers, math.nan)
        for setting, groups in settings.items()
    }
    rows = [row(run, references[run.setting]) for run in runs]
    target.save(draw(settings, width), {"": rows})


if __name__ == "__main__":
    files.as_script("stragglers")
