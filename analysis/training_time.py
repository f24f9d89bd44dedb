"""Seconds of training: AsynDBT, the same waiting for all workers, and cenDBT.

The paper's figure 1, which compares them after as many iterations; here also at equal loss.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asyndbt_mpi.analysis import files, style
from asyndbt_mpi.analysis.curves import evaluations, first_of_all, logs_of, newest_at, seed_of
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.view import intervals

OTHERS = {"cendbt": ("cenDBT", "#1b6ca8"), "synchronous": ("the synchronous run", "#b3541e")}
"""What AsynDBT is compared with, by the beginning of the log's name: how it is called, colour."""
METHODS = "asyndbt", "synchronous", "cendbt"
MAY_DIFFER = {
    *("run.seed", "run.iterations", "algorithm", "budget", "prompt.pool", "delay.slow_workers"),
    *("llm.cache_folder", "steps.z", "steps.lam"),  # cenDBT has no z and no duals
}
"""Keys and tables that are not the same for all methods and seeds."""
AT = {"iterations": "as many iterations", "loss": "the same validation loss"}
HEIGHT = 52.0
"""Millimetres of a panel, with its labels."""


@dataclass(frozen=True, slots=True)
class Training:
    """One run of K iterations: their ``times`` (K,), and the ``best`` loss so far after each (K,).

    The loss is the mean over workers of each one's least validation loss; infinite before the
    first evaluation of all.
    """

    times: np.ndarray
    best: np.ndarray


@dataclass(frozen=True, slots=True)
class Compared:
    """Seconds by method (n,) of the seeds that all methods have; ``at`` is a key of `AT`."""

    task: str
    at: str
    seconds: dict[str, np.ndarray]

    def ratios(self, other: str) -> np.ndarray:
        """AsynDBT's time over that of the ``other`` method, of every seed (n,)."""
        ratios: np.ndarray = self.seconds["asyndbt"] / self.seconds[other]
        return ratios

    def ratio(self, other: str) -> intervals.Interval:
        """The geometric mean of `ratios`, with Student's interval of their logarithms."""
        found = intervals.mean(np.log(self.ratios(other)))
        return intervals.Interval(*map(float, np.exp(found)))


def training(log: Log, path: Path) -> Training:
    """That of a log.

    Raises
    ------
    ConfigurationError
        As `evaluations`.
    """
    checked, times = evaluations(log, path), log["iteration/time"]
    iterations = np.arange(1, len(times) + 1)
    best = np.nanmean(checked.best_loss, axis=1)[newest_at(iterations, checked)]
    best[iterations < first_of_all(checked)] = np.inf
    return Training(times, best)


def compared(task: str, runs: Mapping[str, Mapping[int, Training]]) -> list[Compared]:
    """``runs`` by method and seed, at equal iterations and at equal loss.

    Under each seed, iterations are as many as the shortest run has, and the loss is the largest
    of those that the methods end with: the last one to come there decides.

    Raises
    ------
    ConfigurationError
        No seed has been run by all methods.
    """
    seeds = sorted(set.intersection(*(set(of_seeds) for of_seeds in runs.values())))
    if not seeds:
        raise ConfigurationError(f"{task}: no seed has logs of {', '.join(runs)}")
    found: dict[str, dict[str, list[float]]] = {at: {m: [] for m in runs} for at in AT}
    for seed in seeds:
        of_seed = {method: of_seeds[seed] for method, of_seeds in runs.items()}
        shortest = min(len(each.times) for each in of_seed.values())
        loss = max(float(each.best[-1]) for each in of_seed.values())
        for method, each in of_seed.items():
            found["iterations"][method].append(float(each.times[shortest - 1]))
            found["loss"][method].append(float(each.times[(each.best <= loss).argmax()]))
    return [
        Compared(task, at, {method: np.array(values) for method, values in of_methods.items()})
        for at, of_methods in found.items()
    ]


def read(folder: Path, seeds: Container[int] | None = None) -> list[Compared]:
    """The logs of ``seeds``, or all, in ``folder``, which is a task's.

    Raises
    ------
    ConfigurationError
        Logs of a method are missing, or cannot be compared.
    """
    logs = logs_of(folder, METHODS, seeds)
    missing = [method for method in METHODS if method not in logs]
    if missing:
        raise ConfigurationError(f"{folder}: has no log {missing[0]}-SEED.h5")
    settings = []
    runs: dict[str, dict[int, Training]] = {method: {} for method in logs}
    for method, paths in logs.items():
        for path in paths:
            with Log(path) as log:
                runs[method][seed_of(path)] = training(log, path)
                settings.append((path, files.compared(log, MAY_DIFFER)))
    files.check_alike(settings, ", ".join(sorted(MAY_DIFFER)))
    return compared(folder.name, runs)


def delays(folder: Path) -> str:
    """The delays of the first log, in words."""
    with Log(logs_of(folder, METHODS)["asyndbt"][0]) as log:
        delay, active, workers = log.config.delay, log.active_workers, log.workers
    if delay.model == "none":
        return "No delays: all assignments take no time."
    drawn = f", sigma {delay.sigma:g}" if delay.model == "lognormal" else ""
    slow = (
        f", {delay.slow_factor:g} times as long with {delay.slow_workers} slow ones"
        if delay.slow_workers
        else ""
    )
    return (
        f"{workers} workers, of which {active} suffice for an iteration of AsynDBT. An assignment"
        f" takes {delay.mean:g} s on average ({delay.model}{drawn}){slow}; that of cenDBT as long"
        " as that of a worker that is not slow."
    )


def rows(found: Sequence[Compared]) -> Iterator[dict[str, object]]:
    """A line of the table for each comparison."""
    for each in found:
        seconds = {
            f"{method}_seconds": f"{values.mean():.2f}" for method, values in each.seconds.items()
        }
        ratios: dict[str, object] = {}
        for other in OTHERS:
            names = (f"asyndbt_over_{other}{end}" for end in ("", "_low", "_high"))
            ratios |= {
                name: f"{end:.3f}" for name, end in zip(names, each.ratio(other), strict=True)
            }
        seeds = len(each.seconds["asyndbt"])
        yield {"task": each.task, "at_equal": each.at, "seeds": seeds, **seconds, **ratios}


def said(found: Sequence[Compared]) -> Iterator[str]:
    """How long AsynDBT takes in comparison, a line for each task and ending."""
    for each in found:
        parts = []
        for other in OTHERS:
            ratio = each.ratio(other)
            ends = "" if np.isnan(ratio.low) else f" (95 %: {ratio.low:.2f} to {ratio.high:.2f})"
            parts.append(f"{ratio.value:.2f} times{ends} as long as {OTHERS[other][0]}")
        yield f"{each.task}, to {AT[each.at]}: AsynDBT takes {' and '.join(parts)}"


def draw(found: Sequence[Compared], model: str, width: float = style.PAGE) -> Figure:
    """Ratios of seconds by task; ``model`` says where the times come from."""
    with style.styled():
        text = (
            f"{model} Faint: one seed; full: geometric means over seeds, with 95\xa0% intervals."
            " First: until the run with the fewest iterations ends; second: until the loss that"
            " all methods reach."
        )
        figure, panels = style.two_panels(width, HEIGHT, text)
        for axes, at in zip(panels, AT, strict=True):
            _ratios(axes, [each for each in found if each.at == at])
            axes.set(title=f"to {AT[at]}")
        panels[0].set_ylabel("AsynDBT's time / the other's")
        panels[0].legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1.1), borderpad=0)
        return figure


def _ratios(axes: Axes, found: Sequence[Compared]) -> None:
    axes.axhline(1, color="0.6", lw=0.6)
    drawn = [1.0]
    for offset, (other, (name, colour)) in zip((-0.15, 0.15), OTHERS.items(), strict=True):
        for place, each in enumerate(found):
            ratios, mean = each.ratios(other), each.ratio(other)
            at = place + offset
            axes.plot(np.full(len(ratios), at), ratios, ".", color=colour, alpha=0.4, ms=4)
            axes.vlines(at, mean.low, mean.high, color=colour, lw=1)
            axes.plot(at, mean.value, "o", color=colour, ms=4, label="" if place else f"of {name}")
            drawn += [*ratios, *mean]
    style.logarithmic(axes, 0.8 * np.nanmin(drawn), 1.25 * np.nanmax(drawn))
    names = [files.label(each.task) for each in found]
    axes.set_xticks(range(len(found)), names, parse_math=False)
    axes.set_xlim(-0.5, len(found) - 0.5)


def folders(directory: Path) -> list[Path]:
    """The tasks in ``directory`` that have logs of all methods."""
    found = [path for path in sorted(directory.iterdir()) if path.is_dir()]
    return [path for path in found if set(logs_of(path, METHODS)) == set(METHODS)]


@click.command("training_time")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@files.picture_options
def command(directory: Path, output: str, width: float) -> None:
    """Draw the time that AsynDBT saves.

    Against cenDBT, and against waiting for all workers.

    DIR/TASK has the logs asyndbt-SEED.h5, synchronous-SEED.h5 and cendbt-SEED.h5 of
    asyndbt experiment:

    \b
        asyndbt plot training_time runs/results -o figure1.pdf
    """
    target = files.Output.of(output)
    tasks = folders(directory) if directory.is_dir() else []
    if not tasks:
        raise ConfigurationError(f"{directory}: no folder in it has logs of {', '.join(METHODS)}")
    found = [each for task in tasks for each in read(task)]
    target.save(draw(found, delays(tasks[0]), width), {"": list(rows(found))})


if __name__ == "__main__":
    files.as_script("training_time")
