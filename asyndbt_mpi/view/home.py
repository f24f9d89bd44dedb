"""What a worker kept at home with `log.private`, as tables."""

from collections.abc import Sized

import numpy as np
from rich.console import Console
from rich.table import Table

from asyndbt_mpi.log.home import KeptAtHome
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.protocol.messages import WITHOUT
from asyndbt_mpi.protocol.private import Kept

MOST_ROWS = 20


def print_home(found: KeptAtHome, console: Console) -> None:
    """Print the choices of demonstrations, the newest steps, and what was scored."""
    console.print(printable(f"worker {found.worker} of {found.run}: {len(found.kept)} answers"))
    steps = [each for each in found.kept if each.q is not None]
    scored = [each for each in found.kept if each.accuracy is not None]
    console.print(_choices(found.kept))
    if steps:
        console.print(_steps(steps))
    if scored:
        console.print(_scored(scored))


def _choices(kept: list[Kept]) -> Table:
    """The demonstrations behind the numbers in the log."""
    shown = {each.choice: each.demonstrations for each in kept if each.choice != WITHOUT}
    table = _table("Choices of demonstrations", shown, "choice", "demonstrations")
    for choice, demonstrations in sorted(shown.items())[-MOST_ROWS:]:
        table.add_row(str(choice), ", ".join(map(str, demonstrations)))
    return table


def _steps(steps: list[Kept]) -> Table:
    columns = "report", "least loss", "mean", "most", "choice", "its q"
    table = _table("Steps: losses of the samples, and the newest q", steps, *columns)
    for each in steps[-MOST_ROWS:]:
        assert each.q is not None
        most = ", ".join(f"{value:.2f}" for value in each.q.max(axis=1))
        losses = (f"{value:.4f}" for value in (each.losses.min(), each.loss, each.losses.max()))
        table.add_row(str(each.number), *losses, str(each.choice), most)
    return table


def _scored(scored: list[Kept]) -> Table:
    columns = "what", "iteration", "choice", "rows", "loss", "accuracy"
    table = _table("Prompts scored", scored, *columns)
    for each in scored[-MOST_ROWS:]:
        choice = "none" if each.choice == WITHOUT else str(each.choice)
        accuracy = "" if np.isnan(each.accuracy or 0.0) else f"{each.accuracy:.1%}"
        rows = str(len(each.losses))
        table.add_row(each.kind, str(each.iteration), choice, rows, f"{each.loss:.4f}", accuracy)
    return table


def _table(title: str, rows: Sized, *columns: str) -> Table:
    count = len(rows)
    more = f"the last {MOST_ROWS} of {count}" if count > MOST_ROWS else None
    table = Table(title=title, caption=more, title_justify="left", caption_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name in ("what", "demonstrations") else "right")
    return table
