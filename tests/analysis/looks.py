"""What every figure has to be, whatever it shows."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from asyndbt_mpi.analysis import style

LEAST_POINTS = 6.0


def check_looks(figure: Figure, width: float) -> None:
    """It is as wide as asked, nothing is cut off or too small, and axes can be read."""
    with style.styled():
        figure.draw_without_rendering()
    inches, _ = figure.get_size_inches()
    assert abs(inches * 25.4 - width) < 0.01
    drawn, whole = figure.get_tightbbox(), figure.bbox_inches
    assert drawn.x0 >= -0.01
    assert drawn.y0 >= -0.01
    assert drawn.x1 <= whole.x1 + 0.01
    assert drawn.y1 <= whole.y1 + 0.01
    for text in figure.findobj(Text):
        assert text.get_fontsize() >= LEAST_POINTS, text
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            check_monotone(axis)


def check_monotone(axis: Axis) -> None:
    """Ticks ascend, and no two have the same text."""
    ticks, labels = shown_ticks(axis)
    assert (np.diff(ticks) > 0).all(), labels
    assert len(set(labels)) == len(labels), labels


def shown_ticks(axis: Axis) -> tuple[np.ndarray, list[str]]:
    """Ticks within the view, and their texts."""
    low, high = sorted(axis.get_view_interval())
    ticks = np.array(axis.get_ticklocs(), dtype=float)
    inside = (ticks >= low) & (ticks <= high)
    labels = [label.get_text() for label in axis.get_ticklabels()]
    return ticks[inside], [labels[n] for n in np.flatnonzero(inside)]


def check_whole(axis: Axis) -> None:
    """At least one tick, and none but integers."""
    ticks, labels = shown_ticks(axis)
    assert len(ticks)
    assert all(tick == round(tick) for tick in ticks), labels


def entries(figure: Figure) -> list[str]:
    """What the legends say, in one line each."""
    return [
        " ".join(text.get_text().split())
        for legend in [*figure.legends, *filter(None, (a.get_legend() for a in figure.axes))]
        for text in legend.get_texts()
    ]


def seen_lines(axes: Axes) -> Iterator[object]:
    """Lines with at least one point that can be seen."""
    for line in axes.lines:
        points = np.isfinite(np.asarray(line.get_xydata(), dtype=float)).all(axis=1).sum()
        marked = line.get_marker() not in ("", "None", None)
        if points > 1 or (points == 1 and marked):
            yield line
