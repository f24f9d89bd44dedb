"""Validation loss and accuracy over iterations, AsynDBT beside cenDBT.

The paper's figures 2 to 7, one for each task.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asyndbt_mpi.analysis import files, style
from asyndbt_mpi.analysis.convergence import Validation, validation
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import Log

METHODS = {"asyndbt": ("AsynDBT", "#b3541e"), "cendbt": ("cenDBT", "#1b6ca8")}
"""By the beginning of the log's name: what it is called, and its colour."""

HEIGHT = 48.0
"""Millimetres of a panel, with its labels."""


@dataclass(frozen=True, slots=True)
class Courses:
    """The newest prompts of n runs after the same K ``iterations``, means over workers: (n, K)."""

    iterations: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray


def evaluations(log: Log, path: Path) -> Validation:
    """Those of a finished run on validation rows.

    Raises
    ------
    ConfigurationError
        It is not finished, or has none.
    """
    files.check_finished(log, path)
    checked = validation(log)
    if not len(checked.iteration):
        raise ConfigurationError(f"{path}: no prompt was evaluated on validation rows")
    return checked


def newest_at(iterations: np.ndarray, checked: Validation) -> np.ndarray:
    """Row in ``checked`` of the newest evaluation after each of ``iterations``; -1 before any."""
    newest: np.ndarray = np.searchsorted(checked.iteration, iterations, side="right") - 1
    return newest


def first_of_all(checked: Validation) -> int:
    """The first iteration after which every worker has been evaluated that ever is."""
    evaluated = ~np.isnan(checked.loss[-1])
    whole = ~np.isnan(checked.loss[:, evaluated]).any(axis=1)
    return int(checked.iteration[whole.argmax()])


def courses(paths: Sequence[Path]) -> Courses:
    """Those of the logs of one method, up to where the shortest ends.

    Raises
    ------
    ConfigurationError
        As `evaluations`; or a log has other settings than the first.
    """
    read, settings, ends = [], [], []
    for path in paths:
        with Log(path) as log:
            read.append(evaluations(log, path))
            settings.append((path, files.compared(log, {"run.seed", "llm.cache_folder"})))
            ends.append(log.committed)
    files.check_alike(settings, "run.seed")
    iterations = np.arange(max(map(first_of_all, read)), min(ends) + 1)
    losses, accuracies = [], []
    for each in read:
        newest = newest_at(iterations, each)
        evaluated = ~np.isnan(each.loss[-1])
        losses.append(each.loss[newest][:, evaluated].mean(axis=1))
        accuracies.append(each.accuracy[newest][:, evaluated].mean(axis=1))
    return Courses(iterations, np.array(losses), np.array(accuracies))


def logs_of(
    folder: Path, methods: Iterable[str], seeds: Container[int] | None = None
) -> dict[str, list[Path]]:
    """By method its logs METHOD-SEED.h5 in ``folder``, in order of seeds; only those there are.

    Those of ``seeds``, or all.
    """
    found: dict[str, list[Path]] = {}
    for method in methods:
        there = folder.glob(f"{method}-*.h5")
        logs = {seed_of(path): path for path in there if path.stem == f"{method}-{seed_of(path)}"}
        chosen = sorted(seed for seed in logs if seeds is None or seed in seeds)
        if chosen:
            found[method] = [logs[seed] for seed in chosen]
    return found


def seed_of(path: Path) -> int:
    """That in a log's name, METHOD-SEED.h5; -1 if there is none."""
    seed = path.stem.rpartition("-")[2]
    return int(seed) if seed.isdecimal() else -1


def draw(found: Mapping[str, Courses], task: str, width: float = style.PAGE) -> Figure:
    """Mean and standard deviation over seeds of each method, ``width`` millimetres wide."""
    with style.styled():
        runs = sorted({len(each.loss) for each in found.values()})
        text = "The most probable prompt of each worker on its validation rows, mean over workers."
        if runs == [1]:
            text += " A single run of each method."
        else:
            text += (
                f" Lines: mean of {' and '.join(map(str, runs))} runs under different seeds; bands:"
                " one standard deviation on either side."
            )
        figure, (loss, accuracy) = style.two_panels(width, HEIGHT, text)
        for method, each in found.items():
            name, colour = METHODS[method]
            _band(loss, each.iterations, each.loss, name, colour)
            _band(accuracy, each.iterations, 100 * each.accuracy, name, colour)
        loss.set_ylabel("validation loss")
        accuracy.set_ylabel("validation accuracy, %")
        loss.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
        accuracy.set_title(files.label(task), loc="right", parse_math=False)
        return figure


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, name: str, colour: str) -> None:
    mean = values.mean(axis=0)
    axes.plot(x, mean, color=colour, lw=1.4, label=name, drawstyle="steps-post")
    if len(values) > 1:
        deviation = values.std(axis=0, ddof=1)
        ends = mean - deviation, mean + deviation
        axes.fill_between(x, *ends, color=colour, alpha=0.18, lw=0, step="post")
    axes.set_xlabel("iteration")
    style.whole_numbers(axes.xaxis)


@click.command("curves")
@click.argument("folder", metavar="DIR/TASK", type=click.Path(path_type=Path))
@files.picture_options
def command(folder: Path, output: str, width: float) -> None:
    """Draw AsynDBT's course beside cenDBT's.

    Loss and accuracy on validation rows, over iterations.

    DIR/TASK has the logs asyndbt-SEED.h5 and cendbt-SEED.h5 of asyndbt experiment:

    \b
        asyndbt plot curves runs/results/sst2 -o sst2.pdf
    """
    target = files.Output.of(output)
    found = logs_of(folder, METHODS)
    if not found:
        raise ConfigurationError(f"{folder}: has no log asyndbt-SEED.h5 or cendbt-SEED.h5")
    target.save(draw({m: courses(paths) for m, paths in found.items()}, folder.name, width), {})


if __name__ == "__main__":
    files.as_script("curves")
