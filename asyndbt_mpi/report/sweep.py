"""The page of a folder of runs: what differs between their settings, as means over seeds."""

import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asyndbt_mpi.analysis import files
from asyndbt_mpi.log.reader import Candidate, Log
from asyndbt_mpi.report import figures
from asyndbt_mpi.report.page import render
from asyndbt_mpi.report.run import configuration_file
from asyndbt_mpi.report.svg import Picture
from asyndbt_mpi.report.tables import PageTable
from asyndbt_mpi.view import intervals
from asyndbt_mpi.view.outcomes import compare, outcomes

FREE = {"run.seed", "run.name", "run.output"}
"""Keys in which runs of one setting differ."""
ACCURACY, LOSS, TRAINING = "test accuracy, %", "test loss", "last training loss"
GAIN = "gain over random demonstrations, points"
QUANTITIES = (
    ACCURACY,
    GAIN,
    LOSS,
    TRAINING,
    "iterations",
    "calls",
    "prompt tokens",
    "seconds",
    "virtual seconds",
)
FORMATS = {ACCURACY: ".1f", GAIN: "+.1f"} | dict.fromkeys(
    ("iterations", "calls", "prompt tokens"), ",.0f"
)
MOST_DRAWN = 40
"""Settings of which a figure can still be read."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the folder: its settings by key, and its quantities, those that it has."""

    name: str
    seed: int
    status: str
    settings: Mapping[str, object]
    values: Mapping[str, float]


class Group(NamedTuple):
    """Runs of one setting: the values of what varies, as text, and the runs."""

    setting: list[str]
    runs: list[Run]


def read(log: Log) -> Run:
    """What is compared of a log.

    Raises
    ------
    LogError
        It is damaged.
    """
    found, times = outcomes(log), log["iteration/time"]
    values = {
        "iterations": float(log.committed),
        "calls": float(log["event/llm_calls"].sum()),
    }
    if not log.config.llm.is_function:
        values["prompt tokens"] = float(log["event/prompt_tokens"].sum())
    if len(times) and times[-1]:
        clock = "virtual seconds" if log.transport == "virtual" else "seconds"
        values[clock] = float(times[-1])
    if log.committed:
        values[TRAINING] = float(log["iteration/objective"][-1])
    if tuned := found.get(Candidate.TUNED):
        values[LOSS] = tuned.mean_loss
        values[ACCURACY] = 100 * tuned.mean_accuracy
        random = found.get(Candidate.RANDOM)
        comparison = compare(tuned, random, shared=False) if random else None
        if comparison:
            values[GAIN] = 100 * comparison.accuracy.value
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    settings = {"workers": log.workers, **files.compared(log, FREE)}
    return Run(Path(log.path).name, log.seed, log.status, settings, finite)


def sweep_page(folder: Path) -> str:
    """The page of the logs in ``folder``.

    Raises
    ------
    LogError, ConfigurationError
        There are none, or one cannot be read.
    """
    runs, toml = [], ""
    for path in files.find([str(folder)]):
        with Log(path) as log:
            runs.append(read(log))
            toml = toml or configuration_file(log.config)
    varied = [key for key in runs[0].settings if len({repr(run.settings[key]) for run in runs}) > 1]
    alike: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: [_rank(run.settings[key]) for key in varied]):
        alike.setdefault(tuple(repr(run.settings[key]) for key in varied), []).append(run)
    groups = [
        Group([_text(mine[0].settings[key]) for key in varied], mine) for mine in alike.values()
    ]
    scaling = figures.scaling_figure(folder)
    return render(
        "sweep.html",
        title=folder.resolve().name,
        number=len(runs),
        unfinished=[run.name for run in runs if run.status != "finished"],
        repeated=_repeated(groups),
        varied={
            key: list(dict.fromkeys(setting[n] for setting, _ in groups))
            for n, key in enumerate(varied)
        },
        seeds=sorted({run.seed for run in runs}),
        means=_means(varied, groups),
        picture_of_settings=_picture(varied, groups),
        scaling=scaling if isinstance(scaling, Picture) else None,
        no_scaling=scaling if isinstance(scaling, str) else "",
        single=_single(varied, runs),
        first=runs[0].name,
        toml=toml,
        repeat=_repeat(runs, varied, groups),
    )


def _repeated(groups: Sequence[Group]) -> list[str]:
    """Runs that share setting and seed with one before: they are not independent of it."""
    return [
        run.name
        for _, runs in groups
        for number, run in enumerate(runs)
        if run.seed in [other.seed for other in runs[:number]]
    ]


def _rank(value: object) -> tuple[bool, float, str]:
    """Numbers by size, before all else by its text."""
    number = isinstance(value, int | float)
    return not number, float(value) if isinstance(value, int | float) else 0.0, str(value)


def _text(value: object) -> str:
    """A setting, shortened."""
    return files.label(str(value).lower() if isinstance(value, bool) else str(value))


def _known(runs: Sequence[Run]) -> list[str]:
    return [name for name in QUANTITIES if any(name in run.values for run in runs)]


def _number(name: str, value: float) -> str:
    return f"{value:{FORMATS.get(name, ',.4g')}}"


def _mean(runs: Sequence[Run], name: str) -> intervals.Interval | None:
    """Over the runs that have it."""
    values = [run.values[name] for run in runs if name in run.values]
    return intervals.mean(np.array(values)) if values else None


def _cell(runs: Sequence[Run], name: str) -> str:
    """Mean over seeds, and below it the interval, or how many runs have the number at all."""
    found, having = _mean(runs, name), sum(name in run.values for run in runs)
    if found is None:
        return "-"
    lines = [_number(name, found.value)]
    if found.low < found.high:
        lines.append(f"{_number(name, found.low)} to {_number(name, found.high)}")
    if having < len(runs):
        lines.append(f"({having} of {len(runs)} runs)")
    return "\n".join(lines)


def _means(varied: Sequence[str], groups: Sequence[Group]) -> PageTable:
    names = _known([run for group in groups for run in group.runs])
    heads = [(key.rpartition(".")[2], False) for key in varied] or [("setting", False)]
    heads += [("runs", True), *((name, True) for name in names)]
    rows = [
        [
            *(setting or ["the same for all"]),
            f"{len(runs)}",
            *(_cell(runs, name) for name in names),
        ]
        for setting, runs in groups
    ]
    note = "Below each mean its 95 % interval over seeds (Student), where there are several."
    return PageTable("Means over the runs of each setting", heads, [rows], note)


def _single(varied: Sequence[str], runs: Sequence[Run]) -> PageTable:
    names = _known(runs)
    heads = [("run", False), ("seed", True), ("status", False)]
    heads += [(key.rpartition(".")[2], False) for key in varied] + [(name, True) for name in names]
    rows = [
        [run.name, f"{run.seed}", run.status, *(_text(run.settings[key]) for key in varied),
         *(_number(n, run.values[n]) if n in run.values else "-" for n in names)]
        for run in runs
    ]  # fmt: skip
    return PageTable("Every run, with its numbers", heads, [rows])


def _picture(varied: Sequence[str], groups: Sequence[Group]) -> Picture | None:
    """The best of the quantities that every setting has."""
    choice = (ACCURACY, LOSS, TRAINING)
    what = next((n for n in choice if all(_mean(runs, n) for _, runs in groups)), None)
    if what is None or not 1 < len(groups) <= MOST_DRAWN:
        return None
    short = [key.rpartition(".")[2] for key in varied]
    names = [
        ", ".join(f"{key} = {value}" for key, value in zip(short, setting, strict=True))
        for setting, _ in groups
    ]
    means = [mean for _, runs in groups if (mean := _mean(runs, what))]
    single = [[run.values[what] for run in runs if what in run.values] for _, runs in groups]
    return figures.settings(names, means, single, what)


def _repeat(runs: Sequence[Run], varied: Sequence[str], groups: Sequence[Group]) -> str:
    """The command of a sweep, if the runs are all those of a grid."""
    values = [list(dict.fromkeys(setting[n] for setting, _ in groups)) for n in range(len(varied))]
    seeds = sorted({run.seed for run in runs})
    one_by_one = seeds == list(range(seeds[0], seeds[-1] + 1))
    whole = all(sorted(run.seed for run in mine) == seeds for _, mine in groups)
    grid = sorted(itertools.product(*values)) == sorted(tuple(setting) for setting, _ in groups)
    plain = all("," not in text and " " not in text for texts in values for text in texts)
    if not (one_by_one and whole and grid and plain):
        return ""
    words = ["asyndbt", "sweep", "run.toml", "--seeds", str(len(seeds)), "-o", "DIR"]
    words += ["--set", f"run.seed={seeds[0]}"]
    if "workers" not in varied:
        words += ["--workers", str(runs[0].settings["workers"])]
    for key, texts in zip(varied, values, strict=True):
        words += ["--vary", f"{key}={','.join(texts)}"]
    return shlex.join(words)
