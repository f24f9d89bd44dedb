"""What the columns of an unknown table may be: one of labels, and texts."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from asyndbt_mpi.task import labels
from asyndbt_mpi.task.tables import Table
from asyndbt_mpi.task.template import PLACEHOLDER

USUAL_NAMES = (
    "label",
    "labels",
    "class",
    "class index",
    "category",
    "target",
    "sentiment",
    "topic",
)
"""Of a label column, in any case; the first that there is counts."""

TEXT = 15
"""Mean characters from which a column of texts is one to be shown."""


def label_column(table: Table) -> str | None:
    """A column with a usual name, else the one with fewest values; None if none looks like it."""
    counted = {}
    for column in table.columns:
        found = [labels.value_of(record.cells.get(column)) for record in table.records]
        values = Counter(value for value in found if value is not None)
        if len(values) >= 2 and not labels.too_many(values) and None not in found:
            counted[column] = len(values)
    lower = {column.casefold(): column for column in reversed(counted)}
    named = [lower[name] for name in USUAL_NAMES if name in lower]
    return named[0] if named else min(counted, key=lambda each: counted[each], default=None)


def text_columns(table: Table, label: str) -> list[str]:
    """The columns of texts that a template can show: long ones or, without any, the longest."""
    lengths = {}
    for column in table.columns:
        cells = [record.cells.get(column) for record in table.records]
        if column != label and cells and is_shown(column) and _are_texts(cells):
            lengths[column] = fmean(len(str(cell)) for cell in cells)
    long = [column for column, length in lengths.items() if length >= TEXT]
    return long or sorted(lengths, key=lambda each: -lengths[each])[:1]


def is_shown(column: str) -> bool:
    """Whether a template can show a column of this name."""
    return PLACEHOLDER.fullmatch(f"{{{column}}}") is not None and column != "fragment"


def template(columns: Sequence[str]) -> str:
    """A template that shows the ``columns``."""
    lines = [f"{column[0].upper()}{column[1:]}: {{{column}}}\n" for column in columns]
    return "[[{fragment}\n]]" + "".join(lines) + "Label:"


def _are_texts(cells: Sequence[object]) -> bool:
    return all(isinstance(cell, str) and cell.strip() for cell in cells)
