"""How a run went: objective, validation and test of the prompts, and who worked when.

There is no band for random search at equal calls: only the first samples of a run are drawn at
random, and they are scored on a few training rows.
"""

from pathlib import Path
from typing import Any, NamedTuple

import click
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from asyndbt_mpi.analysis import files, style
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.options import LOG_FILE
from asyndbt_mpi.log.reader import Candidate, Log, Split
from asyndbt_mpi.view.outcomes import Outcome, outcomes

TRAINING, VALIDATION, BEST, TEST = "#1b6ca8", "#2f7d4f", "#b3541e", "#333333"

MOST_MEDIANS = 500
"""Places at which a running median is drawn: more would not be seen."""
MOST_NAMED = 16
"""Workers, up to which each has a tick."""
ROW = 36.0
"""Millimetres of a panel's height, with its labels."""
INTERVAL = 3.5
"""Points of an interval's thickness."""


class Validation(NamedTuple):
    """The most probable prompts on the validation rows.

    Of E iterations in ascending order, those after which some worker was evaluated: ``loss`` and
    ``accuracy`` (E, R) of each worker's newest prompt, and the same ``best`` of its prompt with
    the least loss so far; NaN before a worker's first evaluation.
    """

    iteration: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    best_loss: np.ndarray
    best_accuracy: np.ndarray


def validation(log: Log) -> Validation:
    """Every evaluation on validation rows, whenever it arrived, in the order of iterations."""
    names = ("iteration", "worker", "split", "candidate", "loss", "accuracy")
    iterations, workers, split, candidate, *columns = (log[f"evaluation/{n}"] for n in names)
    chosen = (split == Split.VALIDATION) & (candidate == Candidate.TUNED) & (workers > 0)
    moments, place = np.unique(iterations[chosen], return_inverse=True)
    own = workers[chosen] - 1
    losses, accuracies = (np.full((len(moments), log.workers), np.nan) for _ in columns)
    for values, column in zip((losses, accuracies), columns, strict=True):
        values[place, own] = column[chosen]
    best_losses, best_accuracies = losses.copy(), accuracies.copy()
    for row in range(1, len(moments)):
        missing = np.isnan(losses[row])
        for values in (losses, accuracies):
            values[row, missing] = values[row - 1, missing]
        kept = ~(losses[row] < best_losses[row - 1]) & ~np.isnan(best_losses[row - 1])
        for values in (best_losses, best_accuracies):
            values[row, kept] = values[row - 1, kept]
    return Validation(moments, losses, accuracies, best_losses, best_accuracies)


def window(length: int) -> int:
    """Over how many of ``length`` values a running median goes: an odd number, a tenth or 5."""
    return max(5, length // 10) | 1


def running_median(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in ``values`` (T,), and the median of the `window` around each, shorter at the ends.

    NaN counts as no value.
    """
    half = window(len(values)) // 2
    places = np.unique(np.linspace(0, len(values) - 1, MOST_MEDIANS).astype(int))
    medians = [np.nanmedian(values[max(0, at - half) : at + half + 1]) for at in places.tolist()]
    return places, np.array(medians)


def dotted(points: int) -> dict[str, Any]:
    """A marker where a line of so few ``points`` would not be seen."""
    return {"marker": "."} if points == 1 else {}


def draw_objective(axes: Axes, x: np.ndarray, objective: np.ndarray, label: str) -> None:
    """The objective (T,) along ``x``, whose name is ``label``, and its running median."""
    dots = dotted(len(x))
    axes.plot(x, objective, color=TRAINING, lw=0.5, alpha=0.5, label="every iteration", **dots)
    places, medians = running_median(objective)
    axes.plot(x[places], medians, color=TRAINING, lw=1.4, label="running median", **dots)
    axes.set(xlabel=label, ylabel="training loss")


def draw_validation(
    axes: Axes, iterations: np.ndarray, values: np.ndarray, best: np.ndarray
) -> None:
    """A thin line for each worker's newest ``values`` (E, R), a thick one for their mean.

    The means begin when every worker that ever was evaluated has been so once.
    """
    step: dict[str, Any] = {"drawstyle": "steps-post"}  # a value holds until the next evaluation
    axes.plot(iterations, values, color=VALIDATION, lw=0.5, alpha=0.4, **step)
    evaluated = ~np.isnan(values[-1])
    whole = ~np.isnan(values[:, evaluated]).any(axis=1)
    means, bests = (array[whole][:, evaluated].mean(axis=1) for array in (values, best))
    x = iterations[whole]
    step |= {"marker": ".", "ms": 4}
    axes.plot(x, means, color=VALIDATION, lw=1.4, label="newest prompts", **step)
    axes.plot(x, bests, color=BEST, lw=1.1, ls="--", label="best prompts so far", **step)
    axes.set_xlabel("iteration")


def draw_tests(axes: Axes, found: dict[Candidate, Outcome]) -> None:
    """For each kind of prompt the test accuracy, with its interval as a bar and workers as dots."""
    for row, outcome in enumerate(found.values()):
        single = 100 * np.array(list(outcome.accuracies.values()))
        if len(single) > 1:
            axes.plot(single, [row] * len(single), ".", color=TEST, alpha=0.35, ms=4)
        if outcome.accuracy:
            ends = [100 * outcome.accuracy.low, 100 * outcome.accuracy.high]
            axes.plot(ends, [row, row], color=TEST, lw=INTERVAL, alpha=0.25, solid_capstyle="butt")
        axes.plot(100 * outcome.mean_accuracy, row, "D", color=TEST, ms=4)
    axes.set_yticks(range(len(found)), [candidate.name.lower() for candidate in found])
    axes.set(ylim=(len(found) - 0.5, -0.5), xlabel="test accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    axes.grid(axis="x", alpha=0.3, lw=0.5)


def draw_activity(
    log: Log, figure: Figure, axes: Axes, colours: Colormap = matplotlib.colormaps["viridis_r"]
) -> None:
    """A bar for every report, as long as it was worked on, coloured by how late it was used."""
    sent, seconds = log["report/sent_time"], log["report/compute_seconds"]
    staleness = log["report/iteration"] - log["report/read_iteration"]
    shade = Normalize(0, max(1, int(staleness.max(initial=0))))
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
    if log.workers <= MOST_NAMED:
        axes.set_yticks(range(1, log.workers + 1))
    else:
        style.whole_numbers(axes.yaxis)
    bar = figure.colorbar(
        ScalarMappable(shade, colours), ax=axes, label="iterations late", pad=0.01, aspect=12
    )
    style.whole_numbers(bar.ax.yaxis)


def clock(log: Log) -> str:
    """Name of the time axis."""
    return "virtual seconds" if log.transport == "virtual" else "seconds"


def objective_in_words(log: Log) -> str:
    """How the objective comes of the workers' losses, by the run's defence."""
    rule = log.config.defence.mean_in_words(log.workers)
    return f"the {rule} of the newest losses of the workers that take part, each on its batch"


def caption(log: Log, checked: Validation, tested: dict[Candidate, Outcome]) -> str:
    """What the figure shows, in words."""
    said = (
        f"Training loss: the objective, which is {objective_in_words(log)}; and its running"
        f" median over {window(log.committed)} iterations."
    )
    if len(checked.iteration):
        said += (
            " Validation: the most probable prompt of each worker on its validation rows (thin);"
            " means over workers, each with its newest prompt, or with its prompt of the least"
            " validation loss so far (dashed)."
        )
    if tested:
        said += " Test: means over workers (diamonds) and single workers (dots)"
        rows = {outcome.right().shape[1] for outcome in tested.values() if outcome.answers}
        said += (
            f" on {rows.pop():,} rows; bars are 95\xa0% intervals over rows (Wilson)."
            if rows
            else "."
        )
    return said + " Bottom: a bar for every report, while its worker computed it."


def draw(log: Log, width: float = style.PAGE) -> Figure:
    """The whole figure, ``width`` millimetres wide."""
    with style.styled():
        return _draw(log, width)


def _draw(log: Log, width: float) -> Figure:
    checked, found = validation(log), outcomes(log)
    # A synthetic task classifies nothing.
    classified = bool(np.isfinite(checked.accuracy).any())
    tested = {c: o for c, o in found.items() if np.isfinite(list(o.accuracies.values())).all()}
    text = style.wrap(caption(log, checked, tested), width - 4)
    title = style.wrap(
        f"{files.label(log.config.run.name)}: {log.workers} workers, {log.active_workers} active,"
        f" at most {log.max_delay} iterations late",
        width - 4,
        style.TITLE,
    )
    rows = [("objective", "objective over time")]
    if len(checked.iteration):
        rows.append(("loss", "accuracy") if classified else ("loss", "loss"))
    if width < style.TWO_PANELS:
        rows = [(name, name) for row in rows for name in dict.fromkeys(row)]
    heights = [ROW] * len(rows)
    if tested:
        rows.append(("test", "test"))
        heights.append(10.0 + 5.0 * len(tested))
    rows.append(("activity", "activity"))
    heights.append(ROW if log.workers <= MOST_NAMED else 1.5 * ROW)
    around = style.height(title, style.TITLE) + style.height(text) + 4
    figure = style.new_figure(width, sum(heights) + around)
    axes = figure.subplot_mosaic(
        [list(row) for row in rows],
        height_ratios=heights,
    )
    objective = log["iteration/objective"]
    draw_objective(axes["objective"], np.arange(1, log.committed + 1), objective, "iteration")
    draw_objective(axes["objective over time"], log["iteration/time"], objective, clock(log))
    if "loss" in axes:
        draw_validation(axes["loss"], checked.iteration, checked.loss, checked.best_loss)
        axes["loss"].set_ylabel("validation loss")
    if "accuracy" in axes:
        accuracies = 100 * checked.accuracy, 100 * checked.best_accuracy
        draw_validation(axes["accuracy"], checked.iteration, *accuracies)
        axes["accuracy"].set_ylabel("validation\naccuracy, %")
    for name in axes.keys() & {"objective", "loss", "accuracy"}:
        style.whole_numbers(axes[name].xaxis)
    for name in axes.keys() & {"objective", "loss"}:
        axes[name].legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
    if tested:
        draw_tests(axes["test"], tested)
    draw_activity(log, figure, axes["activity"])
    figure.suptitle(title, parse_math=False)
    figure.supxlabel(text, fontsize=style.SMALL, x=0.01, ha="left")
    return figure


@click.command("convergence")
@LOG_FILE
@files.picture_options
def command(run: Path, output: str, width: float) -> None:
    """Draw how a run went.

    Training loss, validation loss and accuracy, test accuracy with intervals, and who worked when.
    Text in the figure says what its lines and bars are.

    \b
        asyndbt plot convergence runs/demo.h5 -o runs/demo.png
    """
    target = files.Output.of(output)
    with Log(run) as log:
        if not log.committed:
            raise ConfigurationError(f"{run}: no iteration is committed yet")
        figure = draw(log, width)
    target.save(figure, {})


if __name__ == "__main__":
    files.as_script("convergence")
