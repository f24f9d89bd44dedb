"""How good predictions are, for people: accuracy, classes, and what was taken for what."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.view import intervals

MOST_CONFUSED = 20
"""Classes of which a table of confusions can still be read."""


def print_tables(
    labels: Sequence[str],
    right: IntArray,
    log_probabilities: FloatArray,
    console: Console | None = None,
) -> None:
    """For the ``right`` labels (B,) and ``log_probabilities`` (B, U)."""
    console = console or Console()
    predicted = log_probabilities.argmax(axis=1)
    correct = predicted == right
    overall = intervals.accuracy(correct[None])
    loss = -log_probabilities[np.arange(len(right)), right].mean()
    most = int(np.bincount(right).argmax())
    console.print(
        f"accuracy {_points(overall)} on {len(right):,} rows, loss {loss:.3f};"
        f" always {_name(labels[most])}: {100 * (right == most).mean():.1f}",
        soft_wrap=True,
    )
    names = [_name(label) for label in labels]
    console.print(_classes(names, right, correct))
    if len(labels) <= MOST_CONFUSED:
        console.print(confusion_table(names, right, predicted))


def _classes(names: Sequence[str], right: IntArray, correct: np.ndarray) -> Table:
    table = Table(title="By right label: accuracy in per cent, 95 % interval", title_justify="left")
    table.add_column("label")
    for name in ("rows", "accuracy", "95 %"):
        table.add_column(name, justify="right")
    for label in np.unique(right).tolist():
        of_class = correct[right == label]
        share = intervals.accuracy(of_class[None])
        ends = f"{100 * share.low:.1f} to {100 * share.high:.1f}"
        table.add_row(Text(names[label]), f"{len(of_class):,}", f"{100 * share.value:.1f}", ends)
    return table


def confusion_table(names: Sequence[str], right: IntArray, predicted: IntArray) -> Table:
    """Rows: the ``right`` label (B,); columns: the ``predicted`` one (B,)."""
    table = Table(title="Rows by right label (down) and predicted label", title_justify="left")
    table.add_column("right label")
    for name in names:
        table.add_column(Text(name), justify="right")
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (right, predicted), 1)
    for name, row in zip(names, counts.tolist(), strict=True):
        table.add_row(Text(name), *(str(count) if count else "." for count in row))
    return table


def _name(label: str) -> str:
    return printable(label.strip())


def _points(share: intervals.Interval) -> str:
    ends = f"{100 * share.low:.1f} to {100 * share.high:.1f}"
    return f"{100 * share.value:.1f} per cent (95 %: {ends})"
