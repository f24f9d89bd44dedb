"""The tables of the terminal as tables of a page, so that both say the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class PageTable:
    """A caption, heads with whether their column is of numbers, and sections of rows of cells.

    In a section whose rows have no first cell but in the first row, that cell is of all of them.
    With ``heat``, cells of numbers are shaded by their share of the row.
    """

    title: str
    heads: list[tuple[str, bool]]
    sections: list[list[list[str]]]
    note: str = ""
    heat: bool = False

    @property
    def sortable(self) -> bool:
        """Whether its rows may stand in any order."""
        return len(self.sections) == 1 and len(self.sections[0]) > 2

    @staticmethod
    def is_group(section: Sequence[Sequence[str]]) -> bool:
        """Whether the first cell of the ``section`` is of all of its rows."""
        return len(section) > 1 and not any(row[0] for row in section[1:])

    @staticmethod
    def share(row: Sequence[str], cell: str) -> float:
        """Of the counts in a ``row`` behind its first cell, the share that ``cell`` has."""
        total = sum(int(each) for each in row[1:] if each.isdecimal())
        return int(cell) / total if cell.isdecimal() and total else 0.0


def page_table(table: Table, heat: bool = False) -> PageTable:
    """A table of the terminal for a page."""
    cells = [[_plain(cell) for cell in column.cells] for column in table.columns]
    heads = [(_plain(column.header), column.justify == "right") for column in table.columns]
    sections: list[list[list[str]]] = [[]]
    for row, texts in zip(table.rows, zip(*cells, strict=True), strict=True):
        sections[-1].append(list(texts))
        if row.end_section:
            sections.append([])
    filled = [section for section in sections if section]
    return PageTable(_plain(table.title), heads, filled, _plain(table.caption), heat)


def _plain(cell: object) -> str:
    """A cell's text: a str has markup, a `Text` has none."""
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell or "")).plain
