"""What slow workers cost: seconds per iteration against S, the number of reports it waits for.

Example: python analysis/stragglers.py 'runs/delay-*.h5' -o runs/stragglers

One column of panels for each delay model with its parameters and number of workers R. Above:
measured seconds per iteration, (last - first moment) / (T - 1), as median and 10-90 % range over
runs, beside what order statistics predict (see orderstatistics.py) and the naive S-th smallest of
R fresh draws. Below: what is saved, against the synchronous run with S = R, of the seconds per
report used, (seconds per iteration) / S. With constant delays that is nothing, or less.

The table and PREFIX.csv also say by how much iterations are shorter than those with S = R
("shorter"). That is no saving: such an iteration uses S reports, not R. What it takes to come to a
given epsilon is scaling.py's business. (The paper's Figure 1 shows nearly 40 % saved, though
against a centralised run.)

The runs may differ in seed, S, tau, number of workers and iterations, and in [delay] and [log].

The prediction takes each worker's seconds from the delay model where these are all the time there
is, under the virtual clock; in other runs, and for the models "none" and "trace", from the seconds
that the worker's own reports took. It knows of no barriers: runs with estimates of phi, with
validation or with excluded workers are shown without one. Nor does it know of max_delay.
Under heavy tails single runs lie far apart: give several seeds and many iterations.
"""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import files
import h5py
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from orderstatistics import Group, Law, lognormal, naive, pareto, predict

from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log, printable

MEASURED, PREDICTED, NAIVE = "#1b6ca8", "#b3541e", "#8a8a8a"
MOST_SETTINGS, MOST_COLUMNS, MOST_TICKS, LONGEST_TRACE = 12, 4, 10, 32
LOW, HIGH = 10, 90
"""Percentiles that ranges over runs go from and to."""
FREE = {
    *("run.seed", "run.name", "run.output", "run.iterations"),
    *("algorithm.active_workers", "algorithm.max_delay", "delay"),
}
"""Keys and tables in which the runs may differ, besides [log]."""
MAY_DIFFER = "seed, S, tau, iterations, [delay] and [log]"


@dataclass(frozen=True)
class Setting:
    """What runs in the same panel have in common; None for what the delay model does not use."""

    delay_model: str
    trace: str | None
    mean: float
    sigma: float | None
    slow_workers: int
    slow_factor: float | None
    workers: int
    transport: str
    uncovered: str
    """Why there is no prediction, and what would be right; empty if there is one."""


@dataclass(frozen=True)
class Run:
    """A log's part in the figure; times in seconds per iteration, nan where there is none."""

    file: str
    compared: dict[str, object]
    setting: Setting
    active_workers: int
    max_delay: int
    seed: int
    iterations: int
    seconds: float
    predicted: float
    naive: float
    delay_bound_reached: bool


LAWS: dict[str, Callable[[float, float | None], Law]] = {
    "constant": lambda mean, _: np.array([mean]),
    "lognormal": lambda mean, sigma: lognormal(mean, sigma or 0.0),
    "pareto": lambda mean, _: pareto(mean),
}


def read(path: Path) -> Run:
    """Measure one log and predict it.

    Raises
    ------
    LogError
        The file is no log.
    ValueError
        It holds no two iterations with time between them.
    """
    with Log(path) as log:
        times = log["iteration/time"]
        if len(times) < 2 or times[-1] == times[0]:
            raise ValueError(
                f"{path}: no time passes between the {len(times)} committed iterations; at least"
                " 2 are needed, and under the virtual clock a delay.model"
            )
        setting = setting_of(log)
        active = min(log.active_workers, log.workers)
        if setting.uncovered:
            predicted = bound = math.nan
        elif setting.transport == "virtual" and setting.delay_model in LAWS:
            predicted, bound = of_delay_model(setting, active, log.committed)
        else:
            predicted, bound = expected(measured_laws(log), active, log.committed)
        return Run(
            file=str(path),
            compared=files.compared(log, FREE),
            setting=setting,
            active_workers=active,
            max_delay=log.max_delay,
            seed=log.seed,
            iterations=log.committed,
            seconds=float(times[-1] - times[0]) / (log.committed - 1),
            predicted=predicted,
            naive=bound,
            delay_bound_reached=active < log.workers
            and bool(log["iteration/delay"].max() >= log.max_delay),
        )


def setting_of(log: Log) -> Setting:
    """The panel that a log belongs to."""
    delay = log.config.delay
    return Setting(
        delay_model=delay.model,
        trace=delay.trace or None,
        mean=delay.mean,
        sigma=delay.sigma if delay.model == "lognormal" else None,
        slow_workers=min(delay.slow_workers, log.workers),
        slow_factor=delay.slow_factor if delay.slow_workers else None,
        workers=log.workers,
        transport=log.transport,
        uncovered=uncovered(log),
    )


def uncovered(log: Log) -> str:
    """`Setting.uncovered` of a log."""
    kinds = h5py.check_enum_dtype(log.type_and_row("event/kind")[0])
    if len(log["lower/iteration"]):
        return "estimates of phi are barriers; algorithm.plane_until = 0 is needed"
    if log.config.run.evaluate_every:
        return "validation takes the workers' time; run.evaluate_every = 0 is needed"
    if (log["event/kind"] == kinds["excluded"]).any():
        return "workers were excluded; a run that keeps them all is needed"
    return ""


@cache
def of_delay_model(setting: Setting, active: int, iterations: int) -> tuple[float, float]:
    """`expected` where the delay model's law is all there is."""
    slow = setting.slow_workers
    pairs = ((1.0, setting.workers - slow), (setting.slow_factor or 1.0, slow))
    law = LAWS[setting.delay_model]
    groups = [
        Group(law(factor * setting.mean, setting.sigma), count) for factor, count in pairs if count
    ]
    return expected(groups, active, iterations)


def measured_laws(log: Log) -> list[Group]:
    """Each worker's seconds as its used reports tell; endless where there is none."""
    workers, seconds = log["report/worker"], log["report/compute_seconds"]
    samples = (seconds[workers == worker] for worker in range(1, log.workers + 1))
    return [Group(sample if len(sample) else np.array([np.inf]), 1) for sample in samples]


def expected(groups: Sequence[Group], active: int, iterations: int) -> tuple[float, float]:
    """Predicted seconds per iteration, and the naive ones."""
    return predict(groups, active, iterations), naive(groups, active)


# ---------------------------------------------------------------- tables


def saved(seconds: float, active: int, reference: float, workers: int) -> float:
    """Share of the seconds per report used that is saved against S = R = ``workers``.

    ``seconds`` per iteration with ``active`` reports, ``reference`` with all.
    """
    return 1 - (seconds / active) / (reference / workers)


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
        "saved": saved(run.seconds, run.active_workers, reference, setting.workers),
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
        "seconds per iteration; shorter: than with S = R; saved: seconds per report used",
        "    S  runs  measured, s  predicted, s  naive, s  deviation, %  shorter, %  saved, %",
    ]
    for active, runs in groups.items():
        lines.append(
            f"{active:5} {len(runs):5} {measured[active]:12.4g} {predicted[active]:13.4g}"
            f" {fresh[active]:9.4g}"
            f" {100 * (measured[active] / predicted[active] - 1):13.1f}"
            f" {100 * (1 - measured[active] / reference):11.1f}"
            f" {100 * saved(measured[active], active, reference, setting.workers):9.1f}"
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


def draw(settings: dict[Setting, dict[int, list[Run]]]) -> Figure:
    """Two panels, one above the other, for each setting."""
    bands = math.ceil(len(settings) / MOST_COLUMNS)
    columns = math.ceil(len(settings) / bands)
    figure, grid = plt.subplots(
        2 * bands,
        columns,
        figsize=(max(3.4 * columns, 5.0), 5.6 * bands + 0.4),
        layout="constrained",
        squeeze=False,
    )
    for axes in grid.ravel():
        axes.set_visible(False)
    for place, (setting, groups) in enumerate(settings.items()):
        band, column = divmod(place, columns)
        upper, lower = grid[2 * band : 2 * band + 2, column]
        draw_seconds(upper, groups)
        draw_saved(lower, groups, setting.workers)
        upper.set_title(files.label(title(setting)), fontsize=9)
        for axes in (upper, lower):
            axes.set(visible=True, xlabel="active workers S")
            prepare_active_workers(axes, list(groups), setting.workers)
            axes.spines[["top", "right"]].set_visible(False)
        if column == 0:
            upper.set_ylabel("seconds per iteration")
            lower.set_ylabel("seconds saved per report\nused, against S = R, %")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, 3), frameon=False)
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


def draw_seconds(axes: Axes, groups: dict[int, list[Run]]) -> None:
    """Measured, predicted and naive seconds per iteration, on a logarithmic axis."""
    draw_measured(axes, {active: [run.seconds for run in runs] for active, runs in groups.items()})
    for name, label, colour, style, width in (
        ("predicted", "predicted: S-th of the remaining times", PREDICTED, "-", 1.8),
        ("naive", "naive: S-th of R fresh draws", NAIVE, "--", 0.9),
    ):
        values = list(medians(groups, name).values())
        axes.plot(list(groups), values, color=colour, ls=style, lw=width, label=label)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.5, high * 1.5)  # room for two labels at the least
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def draw_saved(axes: Axes, groups: dict[int, list[Run]], workers: int) -> None:
    """Per cent of the synchronous run's seconds per report, measured and predicted."""
    if workers not in groups:
        words, place = "no run with S = R\nto compare with", (0.5, 0.5)
        axes.annotate(words, place, xycoords="axes fraction", ha="center")
        axes.set_yticks([])
        return
    reference = medians(groups, "seconds")[workers]
    shares = {
        active: [100 * saved(run.seconds, active, reference, workers) for run in runs]
        for active, runs in groups.items()
    }
    draw_measured(axes, shares)
    predicted = medians(groups, "predicted")
    line = [
        100 * saved(seconds, active, predicted[workers], workers)
        for active, seconds in predicted.items()
    ]
    axes.plot(list(predicted), line, color=PREDICTED, lw=1.8)
    axes.axhline(0, color=NAIVE, lw=0.6)


def draw_measured(axes: Axes, values: dict[int, list[float]]) -> None:
    """Medians over runs, with bars from the 10th to the 90th percentile."""
    low, middle, high = (
        np.array([np.percentile(seconds, level) for seconds in values.values()])
        for level in (LOW, 50, HIGH)
    )
    axes.errorbar(
        list(values),
        middle,
        yerr=[middle - low, high - middle],
        color=MEASURED,
        fmt="o",
        ms=5,
        capsize=4,
        label=f"measured, median and {LOW}-{HIGH} % of runs",
    )


def main() -> None:
    """Draw the figure of all logs."""
    arguments = files.parser(__doc__ or "").parse_args()
    try:
        files.prepare(arguments.output)
        runs = [read(path) for path in files.find(arguments.logs)]
        files.check_alike([(Path(run.file), run.compared) for run in runs], MAY_DIFFER)
        settings = by_active_workers(runs)
        if len(settings) > MOST_SETTINGS:
            raise ValueError(
                f"{len(settings)} delay models, parameters or numbers of workers are more than"
                f" {MOST_SETTINGS} panels; give fewer logs"
            )
        for setting, groups in settings.items():
            print(printable(table(setting, groups), lines=True), end="\n\n")
        for note in notes(runs):
            print(printable(f"stragglers: note: {note}"), file=sys.stderr)
        references = {
            setting: medians(groups, "seconds").get(setting.workers, math.nan)
            for setting, groups in settings.items()
        }
        rows = [row(run, references[run.setting]) for run in runs]
        files.save(draw(settings), rows, arguments.output)
    except (LogError, OSError, ValueError, ArithmeticError) as error:
        files.fail("stragglers", error)


if __name__ == "__main__":
    main()
