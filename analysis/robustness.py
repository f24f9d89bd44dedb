"""What the honest workers keep against the share of malicious ones, for each defence.

It reads what benchmarks/robustness.py writes, a line for each run.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asyndbt_mpi.analysis import files, style
from asyndbt_mpi.config import ConfigurationError

NOBODY = "none"
"""The attack of runs in which nobody attacks."""
KEPT = {
    "loss_kept": "own prompts",
    "consensus_kept": "words of the consensus",
}
"""Columns in per cent, and what they are of."""
SETTING = "variant", "workers", "active", "heterogeneity"
COLUMNS = *SETTING, "attack", "defence", "malicious", "seed", *KEPT
COLOURS = "#666666", "#1b6ca8", "#b3541e", "#d9a441", "#3a7d44", "#7b4b94", "#c2477f", "#2a9d8f"
HEIGHT = 46.0
"""Millimetres of a panel, with its labels."""
LEAST = -20.0
"""Per cent: whoever keeps less is drawn below the edge."""


@dataclass(frozen=True, slots=True)
class Run:
    """A line of the table; ``setting`` are its values of `SETTING`, ``kept`` those of `KEPT`."""

    setting: tuple[str, ...]
    attack: str
    defence: str
    malicious: int
    seed: int
    kept: tuple[float, ...]

    @property
    def share(self) -> float:
        """Of malicious workers, in per cent."""
        return 100 * self.malicious / int(self.setting[SETTING.index("workers")])


@dataclass(frozen=True, slots=True)
class Point:
    """Where a defence keeps least of a quantity of `KEPT`, at a share of malicious workers.

    ``attack`` is the one with the least mean over seeds; ``low`` and ``high`` are of its seeds.
    """

    setting: tuple[str, ...]
    defence: str
    quantity: str
    share: float
    attack: str
    seeds: int
    mean: float
    low: float
    high: float


def read(paths: Sequence[Path]) -> list[Run]:
    """The runs of all tables, each once.

    Raises
    ------
    ConfigurationError
        A file is none of benchmarks/robustness.py.
    """
    found: dict[tuple[object, ...], Run] = {}
    for path in paths:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    run = _run(line)
                    key = run.setting, run.attack, run.defence, run.malicious, run.seed
                    found[key] = run
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror or error}") from error
        except (KeyError, TypeError, ValueError, ZeroDivisionError, csv.Error) as error:
            raise ConfigurationError(
                f"{path}: is no table of benchmarks/robustness.py, which has the columns"
                f" {', '.join(COLUMNS)}"
            ) from error
    if not found:
        raise ConfigurationError(f"{paths[0]}: no run in it")
    return list(found.values())


def _run(line: dict[str, str]) -> Run:
    setting = tuple(line[name] for name in SETTING)
    kept = tuple(float(line[name]) for name in KEPT)
    run = Run(
        setting, line["attack"], line["defence"], int(line["malicious"]), int(line["seed"]), kept
    )
    if not (np.isfinite(kept).all() and 0 <= run.share < 100):
        raise ValueError("not numbers")
    return run


def worst(runs: Sequence[Run]) -> list[Point]:
    """For each setting, defence and quantity the points by share, that without an attack at 0."""
    points: list[Point] = []
    for setting in dict.fromkeys(run.setting for run in runs):
        of_setting = [run for run in runs if run.setting == setting]
        for defence in dict.fromkeys(run.defence for run in of_setting):
            of_defence = [run for run in of_setting if run.defence == defence]
            for number, quantity in enumerate(KEPT):
                points += _of_shares(of_defence, number, quantity)
    return points


def _of_shares(runs: Sequence[Run], number: int, quantity: str) -> Iterator[Point]:
    quiet = [run for run in runs if run.attack == NOBODY]
    least = min((run.malicious for run in quiet), default=0)
    # Such a run stands beside every share, each time with the means of who is honest there.
    shares = {0.0: [run for run in quiet if run.malicious == least]}
    for run in sorted(runs, key=lambda run: run.share):
        if run.attack != NOBODY:
            shares.setdefault(run.share, []).append(run)
    for share, there in shares.items():
        if there:
            by_attack: dict[str, list[float]] = {}
            for run in there:
                by_attack.setdefault(run.attack, []).append(run.kept[number])
            attack = min(by_attack, key=lambda each: float(np.mean(by_attack[each])))
            values = by_attack[attack]
            ends = float(np.mean(values)), min(values), max(values)
            which = there[0].setting, there[0].defence, quantity
            yield Point(*which, share, attack, len(values), *ends)


def rows(points: Sequence[Point]) -> Iterator[dict[str, object]]:
    """A line of the table for each point."""
    for each in points:
        yield dict(zip(SETTING, each.setting, strict=True)) | {
            "defence": each.defence,
            "quantity": each.quantity,
            "malicious_percent": f"{each.share:g}",
            "worst_attack": each.attack,
            "seeds": each.seeds,
            "mean": f"{each.mean:.1f}",
            "least": f"{each.low:.1f}",
            "most": f"{each.high:.1f}",
        }


def draw(points: Sequence[Point], width: float = style.PAGE) -> Figure:
    """A row of panels for each setting, one panel for each of `KEPT`, a line for each defence."""
    settings = list(dict.fromkeys(each.setting for each in points))
    defences = list(dict.fromkeys(each.defence for each in points))
    seeds = sorted({each.seeds for each in points})
    with style.styled():
        text = style.wrap(
            "Of the honest workers: per cent of the way from the start to where the same workers"
            " get when nobody attacks, under the attack that is worst for the defence. Lines:"
            f" means over {' or '.join(map(str, seeds))} seeds, bands: all of them.",
            width - 4,
        )
        columns = len(KEPT) if width >= style.TWO_PANELS else 1
        lines = len(settings) * len(KEPT) // columns
        legend = -(-len(defences) // (2 * columns)) * 4 + 2
        figure = style.new_figure(width, lines * HEIGHT + style.height(text) + legend + 4)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        places = [(setting, quantity) for setting in settings for quantity in KEPT]
        for axes, (setting, quantity) in zip(panels, places, strict=True):
            there = [
                each for each in points if (each.setting, each.quantity) == (setting, quantity)
            ]
            _lines(axes, there, defences)
            variant, workers, active, spread = setting
            title = f"{KEPT[quantity]} ({variant}, R = {workers}, S = {active}, h = {spread})"
            axes.set_title(files.label(title), parse_math=False)
        lines_of: dict[str, Artist] = {}
        for axes in panels:
            handles, labels = axes.get_legend_handles_labels()
            lines_of |= zip(labels, handles, strict=True)
        shown = figure.legend(
            handles=list(lines_of.values()), loc="outside upper left", ncols=2 * columns
        )
        for entry in shown.get_texts():
            entry.set_parse_math(False)
        figure.supxlabel(text, fontsize=style.SMALL, x=0.01, ha="left")
    return figure


def _lines(axes: Axes, points: Sequence[Point], defences: Sequence[str]) -> None:
    for number, defence in enumerate(defences):
        there = [each for each in points if each.defence == defence]
        if not there:
            continue
        colour = COLOURS[number % len(COLOURS)]
        x = [each.share for each in there]
        low, high = [each.low for each in there], [each.high for each in there]
        means = [each.mean for each in there]
        line = "-" if number < len(COLOURS) else "--"
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(
            x, means, line, color=colour, lw=1.3, marker="o", ms=2.5, label=files.label(defence)
        )
    lowest = min((each.low for each in points), default=0.0)
    highest = max((each.high for each in points), default=100.0)
    axes.set_ylim(max(LEAST, lowest - 3), highest + 3)
    axes.set(xlabel="malicious workers, %", ylabel="kept, %")
    axes.axhline(100, color="#999999", lw=0.5, zorder=0)


@click.command("robustness")
@click.argument(
    "tables", metavar="CSV...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@files.picture_options
def command(tables: tuple[Path, ...], output: str, width: float) -> None:
    """Draw what malicious workers do to others.

    How much honest workers keep against the share of malicious ones, by defence.

    Each CSV is the robustness.csv of benchmarks/robustness.py:

    \b
        asyndbt plot robustness runs/robustness/robustness.csv -o robustness.pdf
    """
    target = files.Output.of(output)
    points = worst(read(tables))
    target.save(draw(points, width), {"-worst": list(rows(points))})


if __name__ == "__main__":
    files.as_script("robustness")
