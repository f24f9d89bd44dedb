"""How a run converged: loss and accuracy over iterations and seconds, and who worked when.

Example: python analysis/convergence.py runs/demo.h5 -o runs/demo.png

Reads the log and nothing else. Lines are means over workers, bands run from the least to the
greatest worker. The training loss is that of few rows and therefore noisy: the bold line is its
moving average.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import files
import h5py
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log, printable

LOSS, ACCURACY, REFERENCE = "#1b6ca8", "#2f7d4f", "#8a8a8a"


def evaluations(log: Log, split: str, candidate: str) -> np.ndarray:
    """Which rows of /evaluation are of workers' ``candidate`` prompts on ``split``."""
    chosen: np.ndarray = log["evaluation/worker"] > 0
    for column, name in (("split", split), ("candidate", candidate)):
        codes = h5py.check_enum_dtype(log.type_and_row(f"evaluation/{column}")[0])
        chosen = chosen & (log[f"evaluation/{column}"] == codes[name])
    return chosen


def newest_losses(log: Log) -> np.ndarray:
    """Array (T, R): the newest reported loss of every worker after every iteration."""
    losses = np.full((log.committed, log.workers), np.nan)
    losses[log["report/iteration"], log["report/worker"] - 1] = log["report/loss"]
    for previous, current in itertools.pairwise(losses):
        np.copyto(current, previous, where=np.isnan(current))
    return losses


def validation(log: Log, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E moments, in iterations and in seconds, and every worker's newest ``column`` then, (E, R).

    ``column`` is the accuracy or loss of the most probable prompt on the validation rows.

    The moments begin when every worker that ever was evaluated has been so once.
    """
    chosen = evaluations(log, "validation", "tuned")
    workers = log["evaluation/worker"][chosen]
    newest = np.full((len(workers), log.workers), np.nan)
    for row, (worker, value) in enumerate(
        zip(workers, log[f"evaluation/{column}"][chosen], strict=True)
    ):
        newest[row] = newest[row - 1] if row else np.nan
        newest[row, worker - 1] = value
    known = (~np.isnan(newest)).sum(axis=1)
    whole = known == known.max(initial=0)
    iterations, times = (log[f"evaluation/{name}"][chosen][whole] for name in ("iteration", "time"))
    return iterations, times, newest[whole]


def moving_average(values: np.ndarray) -> np.ndarray:
    """Mean over the last tenth of the run, at least 5 values where there are so many."""
    window = max(5, len(values) // 10)
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    averages: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return averages


def draw_loss(axes: Axes, x: np.ndarray, losses: np.ndarray) -> None:
    """Training losses (T, R) along ``x``, and the moving average of their mean."""
    band(axes, x, losses, LOSS, "training, newest", lw=0.7, alpha=0.6)
    axes.plot(x, moving_average(np.nanmean(losses, axis=1)), color=LOSS, lw=2, label="average")


def band(
    axes: Axes, x: np.ndarray, values: np.ndarray, colour: str, label: str, **line: Any
) -> None:
    """Mean over workers of ``values`` (len(x), R), with a band from the least to the greatest."""
    known = ~np.isnan(values).all(axis=1)
    x, values = x[known], values[known]
    if not len(x):
        return
    axes.fill_between(
        x, np.nanmin(values, axis=1), np.nanmax(values, axis=1), color=colour, alpha=0.18, lw=0
    )
    axes.plot(x, np.nanmean(values, axis=1), color=colour, label=label, **line)


def test_accuracy(log: Log, candidate: str) -> float | None:
    """Mean test accuracy of a kind of prompt over workers, if the run measured it."""
    chosen = evaluations(log, "test", candidate)
    return float(log["evaluation/accuracy"][chosen].mean()) if chosen.any() else None


def draw_accuracy(log: Log, axes: Axes, x: np.ndarray, accuracies: np.ndarray) -> None:
    """Validation accuracy along ``x``, beside the test accuracies as levels."""
    band(axes, x, 100 * accuracies, ACCURACY, "tuned, validation")
    for candidate, name, colour, style in (
        ("tuned", "tuned, test", ACCURACY, "-."),
        ("random", "random demonstrations, test", REFERENCE, ":"),
        ("untuned", "untuned, test", REFERENCE, "--"),
    ):
        accuracy = test_accuracy(log, candidate)
        if accuracy is not None:
            axes.axhline(100 * accuracy, color=colour, ls=style, lw=1.2, label=name)
    axes.set_ylabel("accuracy, %")


def draw_activity(log: Log, figure: Figure, axes: Axes) -> None:
    """A bar for every report, as long as it was worked on, coloured by how late it was used."""
    sent, seconds = log["report/sent_time"], log["report/compute_seconds"]
    staleness = log["report/iteration"] - log["report/read_iteration"]
    shade = Normalize(0, max(1, int(staleness.max(initial=0))))
    colours = plt.get_cmap("viridis_r")
    for worker in range(1, log.workers + 1):
        mine = log["report/worker"] == worker
        bars = np.column_stack([sent - seconds, seconds])[mine]
        axes.broken_barh(
            [(start, length) for start, length in bars],
            (worker - 0.4, 0.8),
            facecolors=colours(shade(staleness[mine])),
            edgecolor="none",
            snap=False,  # else bars thinner than a pixel would vanish
        )
    axes.set(ylim=(log.workers + 0.6, 0.4), ylabel="worker", xlabel=clock(log))
    if log.workers <= 16:
        axes.set_yticks(range(1, log.workers + 1))
    figure.colorbar(
        ScalarMappable(shade, colours),
        ax=axes,
        label="iterations late",
        pad=0.01,
        aspect=12,
        ticks=MaxNLocator(integer=True),
    )


def clock(log: Log) -> str:
    """Name of the time axis."""
    return "virtual seconds" if log.transport == "virtual" else "seconds"


def draw(log: Log) -> Figure:
    """The whole figure."""
    iterations, times = np.arange(1, log.committed + 1), log["iteration/time"]
    losses = newest_losses(log)
    *moments, accuracies = validation(log, "accuracy")
    *loss_moments, validation_losses = validation(log, "loss")
    classified = bool(np.isfinite(accuracies).any())  # a synthetic task classifies nothing
    rows = 3 if classified else 2
    figure, grid = plt.subplots(
        rows,
        2,
        figsize=(10, 2.6 * rows + 0.4),
        layout="constrained",
        height_ratios=[1] * (rows - 1) + [0.8],
    )
    for column, (x, name) in enumerate(((iterations, "iteration"), (times, clock(log)))):
        draw_loss(grid[0, column], x, losses)
        grid[0, column].set(xlabel=name, ylabel="loss")
        if len(validation_losses):
            mean = validation_losses.mean(axis=1)
            grid[0, column].plot(
                loss_moments[column], mean, color=ACCURACY, marker=".", label="validation"
            )
        if classified:
            draw_accuracy(log, grid[1, column], moments[column], accuracies)
            grid[1, column].set_xlabel(name)
    for axes in grid[: rows - 1, 1]:
        axes.legend(frameon=False, fontsize=8)
    below = grid[-1, 0].get_gridspec()
    for axes in grid[-1]:
        axes.remove()
    draw_activity(log, figure, figure.add_subplot(below[-1, :]))
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{files.label(log.config.run.name)}: {log.workers} workers, {log.active_workers} active,"
        f" at most {log.max_delay} iterations late"
    )
    return figure


def main() -> None:
    """Draw the figure of one log."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN.h5", type=Path)
    parser.add_argument("-o", "--output", metavar="FILE.png", type=Path, required=True)
    arguments = parser.parse_args()
    output = arguments.output.with_suffix(arguments.output.suffix or ".png")
    try:
        with Log(arguments.run) as log:
            if not log.committed:
                files.fail("convergence", f"{arguments.run}: no iteration is committed yet")
            files.check_target(output)
            figure = draw(log)
            figure.savefig(output, dpi=150)
    except (LogError, OSError, ValueError) as error:  # ValueError: an unknown kind of picture
        files.fail("convergence", error)
    print(printable(output))


if __name__ == "__main__":
    main()
