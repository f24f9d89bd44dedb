"""Data sets: labelled rows for training and for judging."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import check_encodable, shown
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.task import labels
from asyndbt_mpi.task.sources import Tables, read_tables
from asyndbt_mpi.task.tables import Record, Table

EVERYBODY = 0
"""Worker number of the random streams from which shares are dealt; real workers start at 1."""

KINDS = {
    "dict": "an object",
    "list": "a list",
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "NoneType": "null",
}
"""JSON's names for Python's types."""

MOST_COLUMNS = 20
"""Names of columns that an error shows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled row: the texts of the columns that the template shows; ``label`` is 0..U-1.

    ``place``, the file and the line, is ignored in comparisons.
    """

    texts: Mapping[str, str]
    label: int
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows for training and demonstrations, and for judging.

    Attributes
    ----------
    train, dev : their rows
    labels : the texts of the labels (U,)
    names : of the two parts, for messages
    taken : the labels by value, if they were taken from the data
    notes : what was changed when they were read, in lines
    """

    train: list[Row]
    dev: list[Row]
    labels: list[str]
    names: tuple[str, str] = ("train", "dev")
    taken: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load(task: TaskSection, columns: Sequence[str], seed: int) -> Dataset:
    """The rows of a task with the texts of ``columns``; `build` has the errors.

    Raises
    ------
    ConfigurationError
        There are no such data, or something is wrong with them.
    """
    return build(read_tables(task, {*columns, task.label_column}), task, columns, seed)


def build(tables: Tables, task: TaskSection, columns: Sequence[str], seed: int) -> Dataset:
    """The rows of ``tables``; a single one is split by ``task.split``, deterministic in ``seed``.

    Raises
    ------
    ConfigurationError
        A column is missing, a text is none, or a label stands for no class; the message names the
        file and, where one row is wrong, the line.
    """
    parts = [tables.train] if tables.dev is None else [tables.train, tables.dev]
    for part in parts:
        _check_columns(part, task, columns)
    values = [[_value(part, record, task) for record in part.records] for part in parts]
    named = [_by_name(*each, task) for each in zip(parts, values, strict=True)]
    counts = Counter(value for own in named for value in own)
    classes = labels.classes_of(task, counts)
    for part, own in zip(parts, named, strict=True):
        _check_known(part, own, task, classes, counts)
    rows = [
        [
            Row(_texts(part, record, columns), classes.number_of[value], part.place(record))
            for record, value in zip(part.records, own, strict=True)
        ]
        for part, own in zip(parts, named, strict=True)
    ]
    if tables.dev is None:
        rows = list(divide(rows[0], task.split, seed))
        whole = tables.train.name
        names = f"{whole} ({1 - task.split:.0%} of it)", f"{whole} ({task.split:.0%} of it)"
    else:
        names = tables.train.name, tables.dev.name
    taken = {} if task.labels else labels.taken(task, counts)
    return Dataset(rows[0], rows[1], classes.labels, names, taken, tables.notes)


def rows_of_table(
    table: Table, task: TaskSection, columns: Sequence[str], has_labels: bool
) -> list[Row]:
    """All rows of one table; without labels they are all of class 0.

    Raises
    ------
    ConfigurationError
        As `build`.
    """
    if has_labels:
        return build(Tables(table, replace(table, records=[])), task, columns, 0).train
    _check_texts(table, columns)
    return [Row(_texts(table, record, columns), 0, table.place(record)) for record in table.records]


def divide(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """The ``rows`` in two parts, each in their order; the second has a ``share`` of each class.

    A class of n rows gives n times ``share``, rounded, deterministic in ``seed``.
    """
    chosen: set[int] = set()
    for cls in sorted({row.label for row in rows}):
        own = [place for place, row in enumerate(rows) if row.label == cls]
        order = stream(seed, EVERYBODY, cls, Purpose.FILE_SPLIT).permutation(len(own))
        chosen.update(own[each] for each in order[: round(share * len(own))])
    first = [row for place, row in enumerate(rows) if place not in chosen]
    return first, [row for place, row in enumerate(rows) if place in chosen]


def _check_columns(table: Table, task: TaskSection, columns: Sequence[str]) -> None:
    _check_texts(table, columns)
    if table.columns and task.label_column not in table.columns:
        raise ConfigurationError(
            f"task.label_column = {task.label_column!r} is no column of {table.name}"
            f"{_columns(table, task.label_column)}"
        )


def _check_texts(table: Table, columns: Sequence[str]) -> None:
    for column in columns:
        # Without rows there are no columns; whoever needs some says so.
        if table.columns and column not in table.columns:
            raise ConfigurationError(
                f"task.template: {{{shown(column)[1:-1]}}} is no column of {table.name}"
                f"{_columns(table, column)}"
            )


def _columns(table: Table, wanted: str) -> str:
    """The columns that there are, the nearest to ``wanted`` first."""
    names = list(table.columns)
    lower = {name.casefold(): name for name in names}
    nearest = [
        lower[each] for each in difflib.get_close_matches(wanted.casefold(), lower, n=len(lower))
    ]
    ordered = [*nearest, *(name for name in names if name not in nearest)]
    more = ", ..." if len(ordered) > MOST_COLUMNS else ""
    return f"; its columns are {', '.join(shown(name) for name in ordered[:MOST_COLUMNS])}{more}"


def _value(table: Table, record: Record, task: TaskSection) -> str:
    """The value in the label column."""
    if task.label_column not in record.cells:
        raise ConfigurationError(f"{table.place(record)}: {task.label_column} is missing")
    cell = record.cells[task.label_column]
    value = labels.value_of(cell)
    if value is None:
        kind = "empty" if isinstance(cell, str) else _kind(cell)
        raise ConfigurationError(
            f"{table.place(record)}: {task.label_column} must be a whole number or a text, not"
            f" {kind}"
        )
    return value


def _by_name(table: Table, values: list[str], task: TaskSection) -> list[str]:
    """The ``values`` by the names that the data have for them, unless labels are by number."""
    names = table.class_names.get(task.label_column)
    named = labels.by_name(Counter(values), names, task) if names else None
    return values if named is None else [named[value] for value in values]


def _check_known(
    table: Table,
    values: Sequence[str],
    task: TaskSection,
    classes: labels.Classes,
    counts: Mapping[str, int],
) -> None:
    for record, value in zip(table.records, values, strict=True):
        if value not in classes.number_of:
            raise ConfigurationError(
                f"{table.place(record)}: {labels.unknown(task, classes, counts)}"
            )


def _texts(table: Table, record: Record, columns: Iterable[str]) -> dict[str, str]:
    try:
        return {column: text_of(record.cells, column) for column in columns}
    except ValueError as error:
        raise ConfigurationError(f"{table.place(record)}: {error}") from error


def text_of(cells: Mapping[str, Any], column: str) -> str:
    """The text in a ``column``; ValueError says what is wrong with it."""
    if column not in cells:
        raise ValueError(f"{column} is missing, but task.template shows it")
    text = cells[column]
    # Not shown: texts are private.
    if not isinstance(text, str):
        raise ValueError(f"{column} must be a text, not {_kind(text)}")
    if not text.strip():
        raise ValueError(f"{column} must not be empty")
    try:
        check_encodable(text)  # JSON allows half of a surrogate pair, tokenizers do not
    except ValueError as error:
        raise ValueError(f"{column} {error}") from error
    return text


def _kind(value: object) -> str:
    name = type(value).__name__
    return KINDS.get(name, name)
