"""What it takes to become stationary: iterations, queries, tokens and seconds over S, R or tau."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from asyndbt_mpi.analysis import files, style
from asyndbt_mpi.analysis.arrivals import (
    COLUMNS,
    MAY_DIFFER,
    QUANTITIES,
    Arrival,
    Run,
    arrive,
    check_different,
    read,
)
from asyndbt_mpi.analysis.fits import LEAST_SEEDS, Law, Line, Point, choose_epsilons, print_table

AXIS = {"S": "active workers S", "R": "workers R", "tau": "largest delay τ", "epsilon": "ε"}
SYMBOL = {"S": "S", "R": "R", "tau": "τ", "epsilon": "ε"}

MARKERS, DASHES = "osD^vPX*", ("-", "--", "-.", ":")
AROUND: dict[str, Any] = {"ms": 7.5, "mfc": "none", "mew": 0.8, "ls": ""}
ALONE: dict[str, Any] = AROUND | {"marker": "o", "color": "#b03030"}
SYNCHRONOUS: dict[str, Any] = AROUND | {"marker": "s", "color": "#555555"}
LINE: dict[str, Any] = {"mfc": "white", "ms": 4, "lw": 1.1, "mew": 0.9}
BAND, MARK = "#bbbbbb", "#555555"

PANEL_WIDTH, PANEL_HEIGHT = 40.0, 42.0
"""Millimetres: the least width of a panel, and its height with its labels."""
TWO_ENTRIES = 150.0
"""Millimetres from which on two entries of the legend stand side by side."""


def choose_x(runs: Sequence[Run]) -> str:
    """The one of S, R and tau that takes the most values; epsilon if all are constant."""
    counts = {name: len({run.setting[name] for run in runs}) for name in COLUMNS}
    most = max(counts, key=lambda name: counts[name])
    return most if counts[most] > 1 else "epsilon"


def sets_apart(name: str, arrivals: Sequence[Arrival], x: str) -> bool:
    """Whether arrivals with different values of ``name`` belong on lines of their own.

    Not if x determines it, as where always S = R / 2; but delay models, being no matter of
    degree, always do.
    """
    if name == "delay":
        return len({a.value(name) for a in arrivals}) > 1
    values = {a.value(x) for a in arrivals}
    return name != x and len({(a.value(x), a.value(name)) for a in arrivals}) > len(values)


def split(arrivals: Sequence[Arrival], x: str) -> list[Line]:
    """A line for every epsilon and combination of what else varies."""
    others = [name for name in (*COLUMNS, "delay") if sets_apart(name, arrivals, x)]
    members: dict[tuple[Any, ...], list[Arrival]] = {}
    for arrival in arrivals:
        combination = tuple((name, arrival.value(name)) for name in others)
        epsilon = None if x == "epsilon" else arrival.epsilon
        members.setdefault((combination, epsilon), []).append(arrival)
    lines = [
        Line(
            x,
            combination,
            epsilon,
            values=np.array([a.value(x) for a in mine]),
            seeds=np.array([a.run.seed for a in mine]),
            synchronous=np.array([a.value("S") == a.value("R") for a in mine]),
            costs={name: np.array([a.costs[name] for a in mine]) for name in QUANTITIES},
        )
        for (combination, epsilon), mine in members.items()
    ]
    return sorted(lines, key=lambda line: (line.combination, -(line.epsilon or 0)))


def label(line: Line) -> str:
    """Of ``line`` in the legend: what it is, how many runs arrived, the exponent of iterations."""
    parts = [f"ε = {line.epsilon:g}"] if line.epsilon is not None else []
    parts += [line.name.replace("tau", "τ")] if line.name else []
    short = [p for p in line.points("iterations") if p.reached < p.runs]
    if short:
        where = ", ".join(f"{p.value:g} by {p.reached}/{p.runs}" for p in short)
        parts.append(f"reached at {SYMBOL[line.x]} = {where} runs")
    found = line.fit("iterations", "power") if line.enough_seeds else None
    # "\xa0" is a space at which no line breaks.
    law = f"iterations\xa0∝\xa0${SYMBOL[line.x]}^{{{found.slope:.2f}}}$" if found else ""
    if found and not math.isnan(found.low):
        law += f" ({found.low:.2f}\xa0to\xa0{found.high:.2f})".replace("-", "−")
    if found and found.missing:
        law += f" (without {line.short(found.missing)})"
    several = any(point.runs > 1 for point in line.points("iterations"))
    unnamed = "median" if several else "one run"
    return ": ".join(part for part in (", ".join(parts), law) if part) or unnamed


def styles(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Colour, marker and dashes of every line.

    Where both vary, colours tell epsilons apart, markers and dashes the combinations.
    """
    epsilons = sorted({line.epsilon or 0 for line in lines}, reverse=True)
    combinations = sorted({line.combination for line in lines})
    number = len(epsilons) if len(epsilons) > 1 else len(combinations)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.75, number))
    made = []
    for line in lines:
        colour, shape = epsilons.index(line.epsilon or 0), combinations.index(line.combination)
        if len(epsilons) == 1 or len(combinations) == 1:
            colour = shape = colour + shape  # one of them is 0 throughout
        marker, dashes = MARKERS[shape % len(MARKERS)], DASHES[shape % len(DASHES)]
        made.append({"color": colours[colour], "marker": marker, "ls": dashes})
    return made


def prepare(axes: Axes, values: np.ndarray, costs: np.ndarray, counts: bool) -> None:
    """Logarithmic axes that hold ``values`` of x and ``costs``, which may be ``counts``."""
    # Room for one tick at least.
    style.logarithmic(axes, costs.min() / 1.6, costs.max() * 1.6, counts)
    if values[0] > 0:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=1)  # tau may be 0
    axes.margins(x=0.08)
    longest = max(len(style.number(value)) for value in values)
    room = (values[-1] / (values[0] or 1)) ** (0.05 + 0.04 * longest)
    ticks = [values[-1]]
    for value in values[-2::-1]:
        if value * room < ticks[-1]:
            ticks.append(value)
    style.ticks(axes.xaxis, ticks[::-1])


def reached(line: Line) -> bool:
    """Whether half of the runs at some x reach epsilon, so that there is a median to draw."""
    return any(math.isfinite(point.median) for point in line.points("iterations"))


def draw_line(axes: Axes, line: Line, points: Sequence[Point], look: dict[str, Any]) -> None:
    """Medians with their band; the cheapest is filled. Infinite medians are left out."""
    values, median, low, high = np.array([point[:4] for point in points]).T
    beyond = 10 * axes.get_ylim()[1]
    bounds = (np.minimum(edge, beyond) for edge in (low, high))
    axes.fill_between(values, *bounds, color=look["color"], alpha=0.13, lw=0)
    finite = np.where(np.isfinite(median), median, np.nan)
    axes.plot(values, finite, **LINE | look)
    if has_best(line):
        best = np.nanargmin(finite)
        axes.plot(values[best], finite[best], **look | {"ls": ""}, ms=4.5, zorder=3)
    if line.x == "S":
        synchronous = np.isin(values, line.values[line.synchronous])
        axes.plot(values[values == 1], finite[values == 1], **ALONE)
        axes.plot(values[synchronous], finite[synchronous], **SYNCHRONOUS)


def has_best(line: Line) -> bool:
    """Whether one of several points is the cheapest; the least epsilon always is the dearest."""
    return line.x != "epsilon" and len(np.unique(line.values)) > 1


def draw_panel(axes: Axes, lines: Sequence[Line], quantity: str) -> None:
    """One quantity over x; each of the ``lines`` has a median."""
    every = [line.points(quantity) for line in lines]
    values, *costs = np.array([point[:4] for points in every for point in points]).T
    known = np.concatenate(costs)
    known = known[(known > 0) & np.isfinite(known)]
    axes.set_xlabel(AXIS[lines[0].x])
    if not len(known):
        axes.text(0.5, 0.5, "0 throughout", transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])
        return
    prepare(axes, np.unique(values), known, quantity != "seconds")
    for line, points, look in zip(lines, every, styles(lines), strict=True):
        draw_line(axes, line, points, look)


def legend_entries(lines: Sequence[Line], width: float) -> list[Line2D | Patch]:
    """What is drawn: lines, band and marks, explained in lines of ``width`` millimetres."""
    handles: list[Line2D | Patch] = [
        Line2D([], [], **LINE | look, label=style.wrap(label(line), width))
        for line, look in zip(lines, styles(lines), strict=True)
    ]

    def finite(chosen: np.ndarray, line: Line) -> bool:
        return any(
            math.isfinite(point.median)
            for point in line.points("iterations")
            if point.value in line.values[chosen]
        )

    marks: list[tuple[bool, str, dict[str, Any]]] = [
        (
            any(has_best(line) for line in lines),
            "filled: cheapest",
            {"marker": "o", "color": MARK, "ls": "", "ms": 4.5},
        ),
        (
            any(line.x == "S" and finite(line.values == 1, line) for line in lines),
            "S = 1: fewest queries according to FedOne (arXiv:2506.14929)",
            ALONE,
        ),
        (
            any(line.x == "S" and finite(line.synchronous, line) for line in lines),
            "S = R: synchronous",
            SYNCHRONOUS,
        ),
    ]
    handles += [
        Line2D([], [], **look, label=style.wrap(text, width))
        for drawn, text, look in marks
        if drawn
    ]
    seeds = {point.runs for line in lines for point in line.points("iterations")}
    if max(seeds) > 1:
        number = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else f"{max(seeds)}"
        text = f"band: 10th to 90th percentile of {number} runs, one per seed"
        handles.append(Patch(color=BAND, label=style.wrap(text, width)))
    return handles


def title(runs: Sequence[Run], lines: Sequence[Line], per_worker: bool) -> str:
    """What is counted, and what is the same in all runs."""
    parts = []
    for name in COLUMNS:
        values = sorted({run.setting[name] for run in runs})
        if name != lines[0].x and name not in dict(lines[0].combination):
            parts.append(f"{name.replace('tau', 'τ')} = {', '.join(map(str, values))}")
    models = {run.setting["delay"] for run in runs}
    parts += [f"delays: {models.pop()}"] if len(models) == 1 else []
    same = runs[0].compared
    slow = same["delay.slow_workers"]
    parts += [counted(slow, "slow worker")] if slow else []
    planes = f"planes by {same['algorithm.lower_participation']!r}"
    parts.append(planes if same["algorithm.plane_until"] else "no planes")
    parts.append(f"{same['estimator.name']!r} gradients")
    seeds = len({run.seed for run in runs})
    parts.append(f"{counted(len(runs), 'run')}, {counted(seeds, 'seed')}")
    condition = f"‖∇Gᵗ‖²{'/R' if per_worker else ''} ≤ ε"
    several = any(point.runs > 1 for line in lines for point in line.points("iterations"))
    said = f"{'Medians until' if several else 'Until'} {condition} ({runs[0].kind}); "
    # No line breaks around signs of equality.
    return "\n".join([f"{said}{'; '.join(parts)}.", *remarks(lines)]).replace(" = ", "\xa0=\xa0")


def counted(number: object, what: str) -> str:
    """Such as "2 runs"."""
    return f"{number}\xa0{what}{'' if number == 1 else 's'}"


def remarks(lines: Sequence[Line]) -> list[str]:
    """What a reader of the figure has to know: what is not drawn, and what exponents are."""
    notes = []
    missing = ", ".join(
        " and ".join(filter(None, (line.name.replace("tau", "τ"), f"ε = {line.epsilon:g}")))
        if line.epsilon is not None
        else line.name
        for line in lines
        if not reached(line)
    )
    if missing:
        notes.append(f"Not drawn, as fewer than half of the runs reach it: {missing}.")
    fits = [
        (line, found)
        for line in lines
        if reached(line) and (found := line.fit("iterations", "power"))
    ]
    if any(line.enough_seeds and not math.isnan(found.low) for line, found in fits):
        notes.append("In brackets: 95\xa0% intervals over seeds (jackknife).")
    if any(not line.enough_seeds for line, _ in fits):
        notes.append(f"No exponents: from fewer than {LEAST_SEEDS} seeds they mean nothing.")
    return notes


def legend_height(handles: Sequence[Line2D | Patch], columns: int) -> float:
    """Millimetres that the entries take in so many columns."""
    lines = [str(handle.get_label()).count("\n") + 1 for handle in handles]
    half = math.ceil(len(lines) / columns)
    highest = max(sum(lines[:half]), sum(lines[half:]))
    return 1.2 * half + style.height("\n" * highest)


def draw(
    runs: Sequence[Run], lines: Sequence[Line], per_worker: bool, width: float = style.PAGE
) -> Figure:
    """The whole figure, ``width`` millimetres wide."""
    with style.styled():
        return _draw(runs, lines, per_worker, width)


def _draw(runs: Sequence[Run], lines: Sequence[Line], per_worker: bool, width: float) -> Figure:
    columns = 4 if width >= 4 * PANEL_WIDTH else 2 if width >= 2 * PANEL_WIDTH else 1
    bands = len(QUANTITIES) // columns
    beside = 2 if width >= TWO_ENTRIES else 1
    drawn = [line for line in lines if reached(line)]
    handles = legend_entries(drawn, width / beside - 14) if drawn else []
    above = style.wrap(title(runs, lines, per_worker), width - 4, style.TEXT)
    figure = style.new_figure(
        width,
        bands * PANEL_HEIGHT + legend_height(handles, beside) + style.height(above, style.TEXT),
    )
    grid = figure.subplots(bands, columns, squeeze=False)
    for axes, (quantity, name) in zip(grid.ravel(), QUANTITIES.items(), strict=True):
        axes.set_ylabel(runs[0].clock if quantity == "seconds" else name)
        if drawn:
            draw_panel(axes, drawn, quantity)
        else:
            words, place = "fewer than half\nof the runs reach ε", (0.5, 0.5)
            axes.annotate(words, place, xycoords="axes fraction", ha="center")
            axes.set(xticks=[], yticks=[], xlabel=AXIS[lines[0].x])
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=beside)
    figure.suptitle(above, fontsize=style.TEXT)
    return figure


def epsilons(context: click.Context, parameter: click.Parameter, text: str | None) -> list[float]:
    """Those of the command line, the largest first; a usage error if one is not above 0."""
    found = set()
    for word in text.split(",") if text else []:
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise click.BadParameter(f"{word!r} is not a number above 0", context, parameter)
        found.add(number)
    return sorted(found, reverse=True)


class Study(NamedTuple):
    """Runs, when they arrived where, and the lines that these make."""

    runs: list[Run]
    arrivals: list[Arrival]
    lines: list[Line]


def study(
    paths: Sequence[Path],
    x: str | None = None,
    epsilon: Sequence[float] = (),
    per_worker: bool = False,
) -> Study:
    """What the figure shows of the logs at ``paths``.

    Raises
    ------
    LogError, ConfigurationError
        A log cannot be read, has no stationarity, or differs in what must be the same.
    """
    runs = [read(path, per_worker) for path in paths]
    files.check_alike([(run.path, run.compared) for run in runs], MAY_DIFFER)
    check_different(runs)
    x = x or choose_x(runs)
    norms = [run.squared_norm for run in runs]
    wanted = epsilon or choose_epsilons(norms, 9 if x == "epsilon" else 3)
    arrivals = [arrive(run, each) for run in runs for each in sorted({*wanted})[::-1]]
    return Study(runs, arrivals, split(arrivals, x))


@click.command("scaling")
@files.LOGS
@files.picture_options
@click.option("--x", type=click.Choice(list(AXIS)), help="Default: what varies most.")
@click.option(
    "--epsilon",
    callback=epsilons,
    metavar="NUMBER,...",
    help="Default: three that 90 % of the runs reach, nine over epsilon.",
)
@click.option(
    "--per-worker", is_flag=True,
    help="Let epsilon be for ||grad G||^2 / R, which does not grow with R by itself.",
)  # fmt: skip
def command(
    logs: tuple[str, ...],
    output: str,
    width: float,
    x: str | None,
    epsilon: list[float],
    per_worker: bool,
) -> None:
    """Draw what it takes to be stationary.

    Iterations, queries, tokens and seconds until ||grad G||^2 <= epsilon, over S (active workers),
    R (workers), tau (largest delay) or epsilon.

    \b
        asyndbt plot scaling runs/sweep -o scaling.pdf --epsilon 1,0.5,0.2

    LOGS are logs, folders of logs, or globs in quotes; of runs that differ in S, R, tau, the seed
    and perhaps delay.model, and in nothing else. Each needs its stationarity, which
    `asyndbt stationarity LOG` adds.

    Writes, besides the picture FILE.png:

    \b
        FILE.csv          a row for every run and epsilon; nan: not reached
        FILE-medians.csv  the points of the figure; inf: too few runs reached epsilon
        FILE-fits.csv     the table that is printed

    A run that never reaches epsilon counts as infinitely expensive. The table has exponents b of
    quantity ~ x^b, with 95 % intervals over seeds, beside Theorem 2's, which is about iterations
    and asymptotic. Where some runs did not reach epsilon, the others alone are fitted: b is biased
    then, and has no interval. Over R it also has exp(b R), with its AIC less that of R^b. From
    fewer than 5 seeds a fit means nothing: the figure leaves it out.
    """
    target = files.Output.of(output)
    runs, arrivals, lines = study(files.find(logs), x, epsilon, per_worker)
    x = lines[0].x
    laws: list[Law] = ["power", "exponential"] if x == "R" else ["power"]
    fitted = [line.fit_row(name, law) for line in lines for name in QUANTITIES for law in laws]
    points = [row for line in lines for name in QUANTITIES for row in line.point_rows(name)]
    print_table(fitted)
    target.save(
        draw(runs, lines, per_worker, width),
        {"": [arrival.row() for arrival in arrivals], "-medians": points, "-fits": fitted},
    )


if __name__ == "__main__":
    files.as_script("scaling")
