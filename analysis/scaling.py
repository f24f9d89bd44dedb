"""What it takes to become stationary: iterations, queries, tokens and seconds over S, R or tau.

Example: python analysis/scaling.py runs/sweep -o figures/active-workers --epsilon 1 0.5 0.2

Reads the logs of runs that differ in S (active workers), R (workers), tau (largest delay), the
seed and perhaps delay.model, and in nothing else. Each needs its stationarity, which
`asyndbt stationarity LOG` adds. A run reaches epsilon in the first iteration t after which
||grad G^t||^2 <= epsilon; what it took is counted up to and including t. Answers that are on their
way by then, at most R - S, do not count: this favours small S by that many queries.

Writes
  PREFIX.png, .pdf    medians and 10-90 % bands over seeds; a run that never reaches epsilon
                      counts as infinitely expensive
  PREFIX.csv          a row for every run and epsilon; nan: not reached
  PREFIX-medians.csv  the points of the figure; inf: too few runs reached epsilon
  PREFIX-fits.csv     the table that is printed: exponents b of quantity ~ x^b, with 95 % intervals
                      over seeds, beside Theorem 2's, which is about iterations and asymptotic.
                      Where some runs did not reach epsilon, the others alone are fitted: b is
                      biased then, and has no interval. Over R also exp(b R), with its AIC less
                      that of R^b
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import files
import numpy as np
from fits import Law, Line, Point, choose_epsilons, extent, print_table
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from asyndbt_mpi.log.reader import Log

QUANTITIES = {
    "iterations": "iterations",
    "llm_calls": "LLM queries",
    "prompt_tokens": "prompt tokens",
    "seconds": "seconds",
}
COLUMNS = {"S": "active_workers", "R": "workers", "tau": "max_delay"}
AXIS = {"S": "active workers S", "R": "workers R", "tau": "largest delay τ", "epsilon": "ε"}
SYMBOL = {"S": "S", "R": "R", "tau": "τ", "epsilon": "ε"}

FREE = {
    *("run.seed", "run.name", "run.output"),
    *("algorithm.active_workers", "algorithm.max_delay", "delay.model"),
}
"""Keys in which runs that are compared may differ, besides those of [log]."""
MAY_DIFFER = "S, R, tau, the seed and delay.model"

MARKERS, DASHES = "osD^vPX*", ("-", "--", "-.", ":")
ALONE: dict[str, Any] = {"marker": "o", "ms": 11, "mfc": "none", "color": "#b03030", "ls": ""}
SYNCHRONOUS: dict[str, Any] = {"marker": "s", "ms": 11, "mfc": "none", "color": "#555555", "ls": ""}


@dataclass(frozen=True, slots=True)
class Run:
    """What scaling needs of a log that knows its stationarity after Q of its iterations.

    Attributes
    ----------
    setting : values of S, R, tau and delay (the delay model)
    compared : by name, everything that must be the same in all runs
    squared_norm : array (Q,), ||grad G^t||^2
    costs : by quantity, array (Q,): what it took to get so far
    """

    path: Path
    seed: int
    kind: str
    clock: str
    setting: dict[str, Any]
    compared: dict[str, object]
    squared_norm: np.ndarray
    costs: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Arrival:
    """When ``run`` reached ``epsilon``: its costs by then, NaN if it never did."""

    run: Run
    epsilon: float
    costs: dict[str, float]

    def value(self, variable: str) -> Any:
        """Of S, R, tau, epsilon or delay."""
        return self.epsilon if variable == "epsilon" else self.run.setting[variable]

    def row(self) -> dict[str, object]:
        """Row of PREFIX.csv."""
        return {
            "path": self.run.path.name,
            **{column: self.run.setting[name] for name, column in COLUMNS.items()},
            "seed": self.run.seed,
            "delay_model": self.run.setting["delay"],
            "epsilon": self.epsilon,
            **self.costs,
            "kind": self.run.kind,
        }


def read(path: Path, per_worker: bool) -> Run:
    """The columns of a log that matter here; the squared norm divided by R if ``per_worker``.

    Raises
    ------
    ValueError
        It has no stationarity, or one that is not a number.
    """
    with Log(path) as log:
        found = log.stationarity
        if found is None:
            raise ValueError(
                f"{path}: has no stationarity; add it with: asyndbt stationarity {path}"
            )
        unknown = found.iteration[np.isnan(found.squared_norm)]
        if len(unknown):
            raise ValueError(
                f"{path}: ||grad G||^2 is not a number after iteration {unknown[0]}; work it out"
                f" anew: asyndbt stationarity {path}"
            )
        setting = {name: getattr(log, column) for name, column in COLUMNS.items()}
        clock = "virtual seconds" if log.transport == "virtual" else "seconds"
        costs = {
            "iterations": found.iteration + 1,
            "llm_calls": cumulative(log, "llm_calls", found.iteration),
            "prompt_tokens": cumulative(log, "prompt_tokens", found.iteration),
            "seconds": log["iteration/time"][found.iteration],
        }
        return Run(
            path,
            log.seed,
            found.kind,
            clock,
            setting | {"delay": log.config.delay.model},
            files.compared(log, FREE)
            | {
                "clock": clock,
                "kind of stationarity": found.kind,
                "iterations with stationarity": extent(found.iteration),
            },
            found.squared_norm / (log.workers if per_worker else 1),
            costs,
        )


def cumulative(log: Log, column: str, iterations: np.ndarray) -> np.ndarray:
    """Sums of a column of /report and /lower up to and including each of ``iterations`` (Q,)."""
    total = np.zeros(len(iterations), int)
    for group in ("report", "lower"):
        sums = np.cumsum(np.insert(log[f"{group}/{column}"], 0, 0))
        total += sums[np.searchsorted(log[f"{group}/iteration"], iterations, side="right")]
    return total


def check_different(runs: Sequence[Run]) -> None:
    """Raise a ValueError if two runs have the same setting and seed: one of them would do."""
    seen: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        other = seen.setdefault((run.seed, *run.setting.values()), run)
        if other is not run:
            what = ", ".join(f"{name} = {value}" for name, value in run.setting.items())
            raise ValueError(
                f"{other.path} and {run.path}: both have seed {run.seed} and {what}; give one"
            )


def arrive(run: Run, epsilon: float) -> Arrival:
    """When ``run`` is first at ``epsilon``; costs never fall, so the first are the least."""
    there = run.squared_norm <= epsilon
    costs = {
        quantity: cost[there].min().item() if there.any() else math.nan
        for quantity, cost in run.costs.items()
    }
    return Arrival(run, epsilon, costs)


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
    found = line.fit("iterations", "power")
    law = f"iterations $\\propto {SYMBOL[line.x]}^{{{found.slope:.2f}}}$" if found else ""
    if found and not math.isnan(found.low):
        law += f" ({found.low:.2f} to {found.high:.2f})"
    if found and found.missing:
        law += f" (without {line.short(found.missing)})"
    return ": ".join(part for part in (", ".join(parts), law) if part)


def styles(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Colour, marker and dashes of every line.

    Where both vary, colours tell epsilons apart, markers and dashes the combinations.
    """
    epsilons = sorted({line.epsilon or 0 for line in lines}, reverse=True)
    combinations = sorted({line.combination for line in lines})
    number = len(epsilons) if len(epsilons) > 1 else len(combinations)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.75, number))
    made = []
    for line in lines:
        colour, shape = epsilons.index(line.epsilon or 0), combinations.index(line.combination)
        if len(epsilons) == 1 or len(combinations) == 1:
            colour = shape = colour + shape  # one of them is 0 throughout
        marker, dashes = MARKERS[shape % len(MARKERS)], DASHES[shape % len(DASHES)]
        made.append({"color": colours[colour], "marker": marker, "ls": dashes})
    return made


def tick(value: float, _: object) -> str:
    """Text of a tick."""
    return f"{value / 1e6:,g}M" if value >= 1e6 else f"{value:,.6g}"


def prepare(axes: Axes, values: np.ndarray, costs: np.ndarray) -> None:
    """Logarithmic axes that hold ``values`` of x and ``costs``."""
    low, high = costs.min() / 1.6, costs.max() * 1.6  # room for one tick at least
    steps = (1, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 1000 * low else (1,)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.yaxis.set_minor_locator(NullLocator())
    if values[0] > 0:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=1)  # tau may be 0
    ticks = [values[-1]]
    for value in values[-2::-1]:
        if value * (values[-1] / (values[0] or 1)) ** 0.13 < ticks[-1]:
            ticks.append(value)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    axes.xaxis.set_minor_locator(NullLocator())


def draw_line(axes: Axes, line: Line, points: Sequence[Point], style: dict[str, Any]) -> None:
    """Medians with their band; the cheapest is filled. Infinite medians are left out."""
    values, median, low, high = np.array([point[:4] for point in points]).T
    beyond = 10 * axes.get_ylim()[1]
    bounds = (np.minimum(edge, beyond) for edge in (low, high))
    axes.fill_between(values, *bounds, color=style["color"], alpha=0.13, lw=0)
    finite = np.where(np.isfinite(median), median, np.nan)
    axes.plot(values, finite, mfc="white", ms=6, lw=1.4, **style)
    if line.x != "epsilon" and len(points) > 1 and np.isfinite(median).any():
        best = np.nanargmin(finite)
        axes.plot(values[best], finite[best], **style | {"ls": ""}, ms=7, zorder=3)
    if line.x == "S":
        synchronous = np.isin(values, line.values[line.synchronous])
        axes.plot(values[values == 1], finite[values == 1], **ALONE)
        axes.plot(values[synchronous], finite[synchronous], **SYNCHRONOUS)


def draw_panel(axes: Axes, lines: Sequence[Line], quantity: str) -> None:
    """One quantity over x."""
    every = [line.points(quantity) for line in lines]
    values, *costs = np.array([point[:4] for points in every for point in points]).T
    known = np.concatenate(costs)
    known = known[(known > 0) & np.isfinite(known)]
    axes.set_xlabel(AXIS[lines[0].x])
    axes.spines[["top", "right"]].set_visible(False)
    if not len(known):
        nothing = "0 throughout" if 0 in costs[0] else "no run reached ε"
        axes.text(0.5, 0.5, nothing, transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])
        return
    prepare(axes, np.unique(values), known)
    for line, points, style in zip(lines, every, styles(lines), strict=True):
        draw_line(axes, line, points, style)


def draw_legend(figure: Figure, lines: Sequence[Line]) -> None:
    """What lines, band and marks mean, below the panels."""
    handles: list[Line2D | Patch] = [
        Line2D([], [], mfc="white", label=label(line), **style)
        for line, style in zip(lines, styles(lines), strict=True)
    ]
    handles.append(Patch(color="#bbbbbb", label="10-90 % over seeds; (low to high): 95 % interval"))
    x = lines[0].x
    filled = Line2D([], [], marker="o", color="#555555", ls="", label="filled: least median")
    handles += [filled] if x != "epsilon" else []
    if x == "S" and any(1 in line.values for line in lines):
        text = "S = 1: fewest queries according to FedOne (arXiv:2506.14929)"
        handles.append(Line2D([], [], **ALONE, label=text))
    if x == "S" and any(line.synchronous.any() for line in lines):
        handles.append(Line2D([], [], **SYNCHRONOUS, label="S = R: synchronous"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)


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
    parts += [f"{slow} slow worker{'s' if slow != 1 else ''}"] if slow else []
    planes = f"planes by {same['algorithm.lower_participation']!r}"
    parts.append(planes if same["algorithm.plane_until"] else "no planes")
    parts.append(f"{same['estimator.name']!r} gradients")
    seeds = len({run.seed for run in runs})
    parts.append(f"{len(runs)} runs, {seeds} seed{'s' if seeds > 1 else ''}")
    norm = r"\|\nabla G^t\|^2" + ("/R" if per_worker else "")
    condition = rf"${norm} \leq \epsilon$"
    return f"Until {condition} ({runs[0].kind}); medians; {'; '.join(parts)}"


def draw(runs: Sequence[Run], lines: Sequence[Line], per_worker: bool) -> Figure:
    """The whole figure."""
    size, layout = (14, 4 + 0.1 * len(lines)), ConstrainedLayoutEngine(wspace=0.04)
    figure, grid = plt.subplots(1, len(QUANTITIES), figsize=size, layout=layout)
    for axes, (quantity, name) in zip(grid, QUANTITIES.items(), strict=True):
        draw_panel(axes, lines, quantity)
        axes.set_ylabel(runs[0].clock if quantity == "seconds" else name)
    draw_legend(figure, lines)
    figure.suptitle(title(runs, lines, per_worker), fontsize=11)
    return figure


def positive(text: str) -> float:
    """An epsilon of the command line."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def main() -> None:
    """Read, fit, draw and write."""
    parser = files.parser(__doc__)
    parser.add_argument("--x", choices=list(AXIS), help="default: that which varies most")
    help_text = "default: three that 90 %% of the runs reach, nine over epsilon"
    parser.add_argument("--epsilon", nargs="+", type=positive, help=help_text)
    help_text = "epsilon is for ||grad G||^2 / R, which does not grow with R by itself"
    parser.add_argument("--per-worker", action="store_true", help=help_text)
    arguments = parser.parse_args()
    try:
        files.prepare(arguments.output)
        per_worker: bool = arguments.per_worker
        runs = [read(path, per_worker) for path in files.find(arguments.logs)]
        files.check_alike([(run.path, run.compared) for run in runs], MAY_DIFFER)
        check_different(runs)
        x = arguments.x or choose_x(runs)
        norms = [run.squared_norm for run in runs]
        epsilons = arguments.epsilon or choose_epsilons(norms, 9 if x == "epsilon" else 3)
        arrivals = [arrive(run, epsilon) for run in runs for epsilon in sorted({*epsilons})[::-1]]
        lines = split(arrivals, x)
        laws: list[Law] = ["power", "exponential"] if x == "R" else ["power"]
        fitted = [line.fit_row(name, law) for line in lines for name in QUANTITIES for law in laws]
        points = [row for line in lines for name in QUANTITIES for row in line.point_rows(name)]
        print_table(fitted)
        files.save(
            draw(runs, lines, per_worker), [arrival.row() for arrival in arrivals], arguments.output
        )
        files.write_table(points, f"{arguments.output}-medians.csv")
        files.write_table(fitted, f"{arguments.output}-fits.csv")
    except (OSError, ValueError) as error:
        files.fail("scaling", error)


if __name__ == "__main__":
    main()
