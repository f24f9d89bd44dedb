"""The figures of a run, panel by panel: a page puts them side by side, or below each other."""

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from asyndbt_mpi.analysis import convergence, files, scaling, style, timing
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import Candidate, Log
from asyndbt_mpi.report.svg import Picture, of_page, picture
from asyndbt_mpi.view.intervals import Interval
from asyndbt_mpi.view.outcomes import Outcome

WIDTH, HEIGHT = 95.0, 52.0
"""Millimetres of a panel, which fills half of a page, or a phone."""
BAR = 6.0
"""Millimetres of a line of a panel with names on its left."""
LATENESS = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0, 0.65, 256)))
"""Without the darkest colours, which a dark page would hide."""

Draw = Callable[[Figure, Axes], None]


def panel(
    name: str, caption: str, draw: Draw, height: float = HEIGHT, lines: bool = False
) -> Picture:
    """What ``draw`` draws; a reader can ask for the values of its ``lines``."""
    with of_page():
        figure = style.new_figure(WIDTH, height)
        axes = figure.subplots()
        draw(figure, axes)
        if lines:
            axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
        return picture(figure, name, caption, axes if lines else None)


def course(log: Log) -> Iterator[Picture]:
    """Losses and accuracies over the iterations."""
    objective, iterations = log["iteration/objective"], np.arange(1, log.committed + 1)
    shown = convergence.objective_in_words(log)

    def draw_objective(_: Figure, axes: Axes) -> None:
        convergence.draw_objective(axes, iterations, objective, "iteration")
        style.whole_numbers(axes.xaxis)

    yield panel(
        "Training loss",
        f"{shown[0].upper()}{shown[1:]}; and its running median over"
        f" {convergence.window(log.committed)} iterations.",
        draw_objective,
        lines=True,
    )
    checked = convergence.validation(log)
    if not len(checked.iteration):
        return

    def drawing(values: np.ndarray, best: np.ndarray, label: str) -> Draw:
        def draw(_: Figure, axes: Axes) -> None:
            convergence.draw_validation(axes, checked.iteration, values, best)
            axes.set_ylabel(label)
            style.whole_numbers(axes.xaxis)

        return draw

    what = (
        "The most probable prompt of each worker on its validation rows (thin), and means over"
        " workers: each with its newest prompt, or with its prompt of the least validation loss so"
        " far (dashed)."
    )
    losses = drawing(checked.loss, checked.best_loss, "validation loss")
    yield panel("Validation loss", what, losses, lines=True)
    if np.isfinite(checked.accuracy).any():
        accuracies = 100 * checked.accuracy, 100 * checked.best_accuracy
        shares = drawing(*accuracies, "validation accuracy, %")
        yield panel("Validation accuracy", what, shares, lines=True)


def tests(found: dict[Candidate, Outcome]) -> Picture | None:
    """Test accuracies; None if there are none."""
    known = {c: o for c, o in found.items() if np.isfinite(list(o.accuracies.values())).all()}
    if not known:
        return None
    return panel(
        "Test accuracy",
        "Means over workers (diamonds), single workers (dots), and 95 % intervals over rows"
        " (bars, where the log has the answers to single rows).",
        lambda _, axes: convergence.draw_tests(axes, known),
        height=14 + BAR * len(known),
    )


def activity(log: Log) -> Picture:
    """Who worked when."""
    few = log.workers <= convergence.MOST_NAMED
    return panel(
        "Who worked when",
        "A bar for every report, while its worker computed it; blue: used many iterations late.",
        lambda figure, axes: convergence.draw_activity(log, figure, axes, LATENESS),
        height=max(36.0, 14 + BAR * log.workers) if few else 1.5 * HEIGHT,
    )


def seconds(divided: timing.Timing) -> Picture:
    """Where the seconds went."""
    with of_page():
        figure = timing.draw([divided], WIDTH)
        return picture(
            figure,
            "Where the seconds went",
            "Of each worker, in per cent of the run and in seconds. Compute: its black box;"
            " communication: messages, both ways; waiting: its report was not used yet; absent:"
            " before it said hello, or after it was excluded.",
        )


def scaling_figure(folder: Path) -> Picture | str:
    """The figure of `asyndbt plot scaling`, or why there is none."""
    try:
        found = scaling.study(files.find([str(folder)]))
    except ConfigurationError as error:
        return str(error)
    with of_page():
        figure = scaling.draw(found.runs, found.lines, per_worker=False, width=2 * WIDTH)
        return picture(
            figure,
            "Cost to become stationary",
            "What it takes until the squared norm of the gradient is at most ε.",
        )


def settings(
    names: list[str], means: list[Interval], single: list[list[float]], what: str
) -> Picture:
    """Of each setting the mean over seeds, its interval, and the single runs."""

    def draw(_: Figure, axes: Axes) -> None:
        colour = convergence.TEST
        for row, (mean, values) in enumerate(zip(means, single, strict=True)):
            axes.plot(values, [row] * len(values), ".", color=colour, alpha=0.35, ms=4)
            axes.plot([mean.low, mean.high], [row, row], color=colour, alpha=0.25,
                      lw=convergence.INTERVAL, solid_capstyle="butt")  # fmt: skip
            axes.plot(mean.value, row, "D", color=colour, ms=4)
        labels = [files.label(name) for name in names]
        axes.set_yticks(range(len(names)), labels, parse_math=False)
        axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=what)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axes.grid(axis="x", alpha=0.3, lw=0.5)

    return panel(
        f"{what.partition(',')[0].capitalize()} by setting",
        "Means over seeds (diamonds), single runs (dots), and 95 % intervals over seeds (bars).",
        draw,
        height=14 + BAR * len(names),
    )
