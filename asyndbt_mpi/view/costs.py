"""The table of a run's estimated costs."""

from collections.abc import Sequence
from typing import TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyndbt_mpi.log.text import printable

Row: TypeAlias = tuple[str, float, float, float | None, float | None]
"""Name of a part, its calls and their upper bound, tokens and cost; None if it has none."""


def print_costs(
    title: str, rows: Sequence[Row], remarks: Sequence[str], console: Console | None = None
) -> None:
    """Print the ``rows``, the last of which is the total, and the remarks."""
    console = console or Console()
    table = Table(title=Text(printable(title)), title_justify="left")
    table.add_column("what for")
    *_, (_, _, _, tokens, cost) = rows
    names = ["calls", "at most", *["tokens"] * (tokens is not None), *["cost"] * (cost is not None)]
    for name in names:
        table.add_column(name, justify="right")
    for number, (part, calls, most, of_part, price) in enumerate(rows, start=1):
        cells = [f"{value:,.0f}" for value in (calls, most, of_part) if value is not None]
        cells += [f"{price:,.2f}"] if price is not None else []
        if number == len(rows):
            table.add_section()
        table.add_row(part, *cells)
    console.print(table)
    for line in remarks:
        console.print(Text(printable(line)), soft_wrap=True)
