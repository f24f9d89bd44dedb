"""Data sets: labelled rows for training and development, read from JSON Lines."""

import io
import json
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from asyndbt_mpi.config import ConfigurationError, TaskSection
from asyndbt_mpi.inputs.files import check_encodable, read_file, shown, size

TRAIN = "train.jsonl"
DEV = "dev.jsonl"

MOST_BYTES = 2**30
"""Of a file: its rows take some times as much memory, on every rank."""

LONGEST_LINE = 2**24
"""Bytes; more than any model reads."""

KINDS = {
    "dict": "an object",
    "list": "a list",
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
}
"""What JSON calls Python's types."""

LONGEST_SHOWN = 30
"""Characters of a wrong label."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text, or pair of texts; ``label`` is 0..U-1.

    ``file`` and ``line`` (from 1) say where it was read, which does not tell it from others.
    """

    sentence1: str
    sentence2: str | None
    label: int
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    @property
    def place(self) -> str:
        """The file and the line."""
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows of `TRAIN`, for training and demonstrations, and of `DEV`, for judging."""

    train: list[Row]
    dev: list[Row]


def shipped() -> list[str]:
    """Names of the data sets that the package ships."""
    return sorted(folder.name for folder in _data().iterdir() if folder.is_dir())


def locate(task: TaskSection) -> Traversable:
    """Folder of the task's data: ``task.path`` if given, else the shipped ``task.name``.

    Raises
    ------
    ConfigurationError
        There is no such folder.
    """
    if task.path:
        folder = Path(task.path)
        try:
            there = folder.is_dir()
        except OSError:  # a folder above it may not be looked into
            there = False
        if not there:
            raise ConfigurationError(
                f"task.path = {shown(task.path)}: no such folder; give one with {TRAIN} and {DEV}"
            )
        return folder
    if task.name not in shipped():
        raise ConfigurationError(
            f"task.path: preset data {task.name!r} is not shipped; "
            f"give the folder with {TRAIN} and {DEV}"
        )
    return _data() / task.name


def load(folder: Traversable, classes: int, pairs: bool) -> Dataset:
    """Read `TRAIN` and `DEV` from ``folder``.

    A line is a JSON object with ``sentence1``, ``label`` in 0..``classes``-1 and, where the
    template shows ``pairs``, ``sentence2``. Other keys and empty lines are passed over.

    Raises
    ------
    ConfigurationError
        A file cannot be read, or a line of it is malformed; names the file and the line.
    """
    return Dataset(
        train=_read(folder / TRAIN, classes, pairs),
        dev=_read(folder / DEV, classes, pairs),
    )


def _data() -> Traversable:
    return resources.files("asyndbt_mpi.task") / "data"


def _read(file: Traversable, classes: int, pairs: bool) -> list[Row]:
    name = str(file)
    try:
        # What comes with the package may be in an archive.
        content = read_file(file, MOST_BYTES) if isinstance(file, Path) else file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"task.path: cannot read {name}: {error.strerror}; the folder needs {TRAIN} and {DEV}"
        ) from error
    rows = []
    # Not splitlines, which would also cut at separators that JSON allows inside a string.
    for number, line in enumerate(io.BytesIO(content), start=1):
        if not line.strip():
            continue
        try:
            rows.append(Row(*_row(line, classes, pairs), name, number))
        except ValueError as error:
            raise ConfigurationError(f"{name}, line {number}: {error}") from error
    return rows


def _row(line: bytes, classes: int, pairs: bool) -> tuple[str, str | None, int]:
    """One line's sentences and label; ValueError says what is wrong with it."""
    record = _parsed(line)
    if not isinstance(record, dict):
        raise ValueError("must be an object with sentence1 and label")
    sentence1 = _sentence(record, "sentence1")
    sentence2 = _sentence(record, "sentence2") if pairs else None
    label = record.get("label")
    if type(label) is not int or not 0 <= label < classes:
        raise ValueError(
            f"label must be a whole number from 0 to {classes - 1}, one for each of task.labels, "
            f"not {_said(label)}"
        )
    return sentence1, sentence2, label


def _parsed(line: bytes) -> Any:
    """The value that is written in ``line``."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"has more than {size(LONGEST_LINE)}")
    try:
        return json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_number,
            parse_int=_whole_number,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error}); every line must be one object") from error
    except RecursionError as error:
        raise ValueError("not valid JSON (nested too deeply)") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON leaves open which of two values of one key counts."""
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise ValueError(f"the key {shown(key)} is there twice")
        record[key] = value
    return record


def _no_number(name: str) -> Any:
    raise ValueError(f"not valid JSON ({name} is no number in it)")


def _whole_number(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:  # beyond what Python converts
        raise ValueError(f"a whole number of {len(digits)} digits") from error


def _said(value: Any) -> str:
    """A value as it is written, but not a long one: it may be a text of somebody's."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    try:
        written = json.dumps(value)
    except ValueError:
        written = ""
    return written if 0 < len(written) <= LONGEST_SHOWN else "what is there"


def _sentence(record: dict[str, Any], key: str) -> str:
    if key not in record:
        raise ValueError(f"{key} is missing, and task.template shows it")
    sentence = record[key]
    # Not shown: texts are private.
    if not isinstance(sentence, str):
        kind = "null" if sentence is None else type(sentence).__name__
        raise ValueError(f"{key} must be a text, not {KINDS.get(kind, kind)}")
    if not sentence.strip():
        raise ValueError(f"{key} must be a text that is not empty")
    try:
        check_encodable(sentence)  # JSON can hold half of a surrogate pair, a tokenizer cannot
    except ValueError as error:
        raise ValueError(f"{key} {error}") from error
    return sentence
