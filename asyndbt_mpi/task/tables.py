"""Tables of records, as files hold them, and which reader reads which file."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import read_file
from asyndbt_mpi.task import arrow, delimited, jsonlines

MOST_BYTES = 2**30
"""Bytes of a file: its rows take several times as much memory, on every rank."""

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Record:
    """The cells of one row by column, and its line or row number, from 1."""

    number: int
    cells: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """What a file holds.

    Attributes
    ----------
    name : the file, or the data set and its split
    format : for people, such as "CSV, separated by commas, UTF-8"
    columns : all that there are, in their order; of JSON Lines those of any line
    records : only with the cells that were asked for
    unit : of a record's number, "line" or "row"
    class_names : by column, names of the whole numbers in it
    notes : what was changed when it was read, in lines
    """

    name: str
    format: str
    columns: Sequence[str]
    records: list[Record]
    unit: str = "line"
    class_names: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def place(self, record: Record) -> str:
        """Where a record stands."""
        return f"{self.name}, {self.unit} {record.number}"


def is_table(name: str) -> bool:
    """Whether a file of this name can be read."""
    return name.lower().endswith(SUFFIXES)


def read_table(file: Traversable, wanted: Collection[str] | None = None) -> Table:
    """Read a file by the format that its name tells; None wants all columns.

    Raises
    ------
    ConfigurationError
        It cannot be read, or is malformed; the message names the file and the line.
    """
    name = str(file)
    if not is_table(name):
        raise ConfigurationError(
            f"task.path: {name}: the format is told by the name, which must end in"
            f" {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        )
    content = content_of(file)
    if name.lower().endswith(".parquet"):
        return of_columns(name, "Parquet", arrow.parquet(content, name, wanted))
    if name.lower().endswith((".csv", ".tsv")):
        format, columns, rows = delimited.read(content, name)
        return _table(name, format, rows, wanted, columns)
    return _table(name, "JSON Lines, UTF-8", jsonlines.read(content, name), wanted)


def content_of(file: Traversable) -> bytes:
    """The bytes of a file of at most `MOST_BYTES`.

    Raises
    ------
    ConfigurationError
        It cannot be read.
    """
    try:
        # Shipped data may be in an archive.
        return read_file(file, MOST_BYTES) if isinstance(file, Path) else file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"task.path: cannot read {file}: {error.strerror}") from error


def of_columns(name: str, format: str, found: arrow.Columns) -> Table:
    """A table whose rows have numbers instead of lines."""
    records = [Record(number, cells) for number, cells in enumerate(found.rows, start=1)]
    return Table(name, format, found.names, records, "row", found.class_names)


def _table(
    name: str,
    format: str,
    rows: Iterator[tuple[int, dict[str, Any]]],
    wanted: Collection[str] | None,
    columns: Iterable[str] = (),
) -> Table:
    seen = dict.fromkeys(columns)
    records = []
    for number, cells in rows:
        seen.update(dict.fromkeys(cells))
        if wanted is not None:
            cells = {column: cells[column] for column in wanted if column in cells}
        records.append(Record(number, cells))
    return Table(name, format, list(seen), records)
