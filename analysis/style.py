"""Sizes, fonts and axes of all figures.

Sizes are millimetres: a figure is drawn at the size at which it is printed.
"""

import math
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

COLUMN, PAGE = 84.0, 174.0
"""Widths of one column and of two."""
LEAST_WIDTH, MOST_WIDTH = 80.0, 500.0
TWO_PANELS = 120.0
"""From which on two panels stand side by side."""

TITLE, TEXT, SMALL = 8.0, 7.0, 6.5
"""Points."""
STYLE: Any = {
    # Type 3, the default, is refused by many journals, and cannot be edited.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "figure.dpi": 300,
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "figure.titlesize": TITLE,
    "legend.fontsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "hatch.linewidth": 0.4,
    "figure.constrained_layout.wspace": 0.03,
    "figure.constrained_layout.hspace": 0.03,
}
STEPS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (4, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)),
    (10, (1, 2, 3, 5, 7)),
    (1000, (1, 2, 5)),
)
"""Ticks of a logarithmic axis that spans less than a ratio."""
MILLIMETRES_PER_INCH, POINTS_PER_INCH, SIXTEEN_BITS = 25.4, 72.0, 65536.0
MILLIMETRES_PER_POINT = MILLIMETRES_PER_INCH / POINTS_PER_INCH
NARROW = 0.4
"""Width of a letter in a line of narrow ones, in units of the font's size."""
HINTING = 1.03
"""Letters of a PNG are whole pixels wide, which makes lines a little longer."""


@contextmanager
def styled() -> Iterator[None]:
    """`STYLE` for what is drawn or saved within."""
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; millimetres. To be called, like all that draws, within `styled`."""
    inches = (width / MILLIMETRES_PER_INCH, height / MILLIMETRES_PER_INCH)
    return Figure(figsize=inches, layout="constrained")


def two_panels(width: float, panel: float, text: str) -> tuple[Figure, tuple[Axes, Axes]]:
    """Panels ``panel`` millimetres high over a caption; in a narrow figure one below the other."""
    wrapped = wrap(text, width - 4)
    rows = 1 if width >= TWO_PANELS else 2
    figure = new_figure(width, rows * panel + height(wrapped) + 4)
    first, second = figure.subplots(rows, 3 - rows)
    figure.supxlabel(wrapped, fontsize=SMALL, x=0.01, ha="left")
    return figure, (first, second)


def wrap(text: str, width: float, points: float = SMALL) -> str:
    """``text`` in lines that fit into ``width`` millimetres."""
    return "\n".join(_wrapped(line, width, points) for line in text.splitlines())


def _wrapped(line: str, width: float, points: float) -> str:
    ems = width / (points * MILLIMETRES_PER_POINT * HINTING)
    # `textwrap` counts letters: as many as fit, by their widths.
    for letters in range(int(ems / NARROW), 0, -1):
        lines = textwrap.wrap(line, letters, break_on_hyphens=False)
        if all(sum(map(_ems, each)) <= ems for each in lines):
            return "\n".join(lines)
    return line


@cache
def _ems(letter: str) -> float:
    """Width of a letter in the font of the figures, in units of its size."""
    font = get_font(findfont(FontProperties()))
    font.set_size(1.0, POINTS_PER_INCH)
    return font.load_char(ord(letter)).linearHoriAdvance / SIXTEEN_BITS


def height(text: str, points: float = SMALL) -> float:
    """Millimetres that the lines of ``text`` take."""
    return 1.25 * points * MILLIMETRES_PER_POINT * len(text.splitlines())


def whole_numbers(axis: Axis) -> None:
    """Ticks at integers only."""
    # With min_n_ticks = 2, the default, fractions would stand beside a single integer.
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10], nbins=8))


def number(value: float, _: object = None) -> str:
    """Text of a tick."""
    return f"{value / 1e6:,g}M" if value >= 1e6 else f"{value:,.6g}"


def ticks(axis: Axis, values: Iterable[float]) -> None:
    """Ticks at ``values`` and nowhere else."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_major_formatter(FuncFormatter(number))
    axis.set_minor_locator(NullLocator())


def logarithmic(axes: Axes, low: float, high: float, counts: bool = False) -> None:
    """A logarithmic y-axis from ``low`` to ``high``, with ticks at integers only for ``counts``."""
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    span = high / low
    steps = next((steps for most, steps in STEPS if span < most), (1,))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [float(f"{step}e{power}") for power in powers for step in steps]
    whole = [value for value in values if value.is_integer() or not counts]
    ticks(axes.yaxis, (value for value in whole if low <= value <= high))
