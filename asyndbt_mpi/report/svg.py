"""Figures of matplotlib as parts of a page: they take its colours and fonts, and tell their values.

matplotlib names colours in full. Those of text and axes, and those of the package's own lines, are
replaced by variables of the page, which differ between light and dark.
"""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asyndbt_mpi.analysis import convergence, style, timing

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)
INK = "#000102"
"""Stands for the colour of the page's text; used for nothing else."""
COLOURS = {
    INK: "currentColor",
    convergence.TEST: "currentColor",
    timing.EDGE: "currentColor",
    convergence.TRAINING: "var(--blue)",
    convergence.VALIDATION: "var(--green)",
    convergence.BEST: "var(--orange)",
    timing.COMPONENTS["waiting"][0]: "var(--grey)",
    timing.COMPONENTS["absent"][0]: "var(--paper)",
    timing.COMPONENTS["unreported"][0]: "var(--pale)",
    timing.COMPONENTS["rest"][0]: "var(--sand)",
}
LOOK: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "hatch.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "figure.dpi": 72,
    "svg.fonttype": "none",
    "svg.image_inline": True,
}
"""Points are units of an SVG, so at 72 dpi its coordinates are those of matplotlib."""
MOST_POINTS = 300
"""Values of a line that a reader can step through."""
MOST_VECTORS = 3000
"""Points or bars beyond which a picture is smaller than their outlines."""
PICTURE_DPI = 200
LONG = re.compile(r"-?\d+\.\d{3,}")
"""Numbers of more digits than can be seen; hatches have thousands."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of a page: its name, its SVG, what it shows, and the values to point at, as JSON."""

    name: str
    svg: Markup
    caption: str
    values: str = ""


@contextmanager
def of_page() -> Iterator[None]:
    """The look of figures that are drawn, or made pictures of, within."""
    with style.styled(), matplotlib.rc_context(LOOK):
        yield


def picture(figure: Figure, name: str, caption: str, axes: Axes | None = None) -> Picture:
    """A ``figure`` for a page; to be called within `of_page`.

    ``name`` is for those who cannot see it; the labelled lines of ``axes`` tell their values.
    """
    for each in figure.axes:
        for line in each.lines:
            if len(np.asarray(line.get_xydata())) > MOST_VECTORS:
                line.set_rasterized(True)
        for collection in each.collections:
            if len(collection.get_paths()) > MOST_VECTORS:
                collection.set_rasterized(True)
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", dpi=PICTURE_DPI, metadata={"Date": None, "Creator": None})
    values = "" if axes is None else json.dumps(_values(figure, axes))
    return Picture(name, _inline(stream.getvalue(), name), caption, values)


def _inline(svg: bytes, name: str) -> Markup:
    """The element alone, without the names that only its tools need."""
    root = ElementTree.fromstring(svg)
    text = svg.decode()
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    for child in root.findall(f"{{{SVG}}}metadata"):
        root.remove(child)
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        if outline := element.get("d"):
            element.set("d", LONG.sub(lambda number: f"{float(number[0]):.2f}", outline))
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", name)
    written = ElementTree.tostring(root, encoding="unicode")
    for colour, variable in COLOURS.items():
        written = written.replace(colour, variable)
    return Markup(written)  # matplotlib has escaped what it wrote


def _values(figure: Figure, axes: Axes) -> dict[str, object]:
    """Where the values of labelled lines are in the SVG, and what they are, by place on x."""
    figure.draw_without_rendering()
    height = figure.bbox.height
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    data = [np.asarray(line.get_xydata(), dtype=float) for line in lines]
    data = [each[np.isfinite(each).all(axis=1)] for each in data]
    xs = min(data, key=len)[:, 0]
    xs = xs[np.unique(np.linspace(0, len(xs) - 1, MOST_POINTS).astype(int))] if len(xs) else xs
    places, heights, texts = [], [], []
    for x in xs.tolist():
        found = [(line, each[each[:, 0] == x]) for line, each in zip(lines, data, strict=True)]
        pairs = [(str(line.get_label()), rows[-1]) for line, rows in found if len(rows)]
        points = [axes.transData.transform(row) for _, row in pairs]
        places.append(round(float(points[0][0]), 1))
        heights.append([round(height - float(point[1]), 1) for point in points])
        said = ", ".join(f"{label} {row[1]:.4g}" for label, row in pairs)
        texts.append(f"{axes.get_xlabel()} {x:,.6g}: {said}")
    return {"x": places, "y": heights, "text": texts}
