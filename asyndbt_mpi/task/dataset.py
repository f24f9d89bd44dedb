"""Data sets: labelled rows for training and development, read from JSON Lines."""

import io
import json
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import check_encodable, read_file, shown, size
from asyndbt_mpi.inputs.sections import TaskSection

TRAIN = "train.jsonl"
DEV = "dev.jsonl"

MOST_BYTES = 2**30
"""Bytes of a file: its rows take several times as much memory, on every rank."""

LONGEST_LINE = 2**24
"""Bytes of a line: more than any model reads."""

KINDS = {
    "dict": "an object",
    "list": "a list",
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
}
"""JSON's names for Python's types."""

LONGEST_SHOWN = 30
"""Characters shown of an invalid label."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text, or pair of texts; ``label`` is 0..U-1.

    ``file`` and ``line`` (from 1) say where it was read; they are ignored in comparisons.
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
    template shows ``pairs``, ``sentence2``. Other keys and empty lines are ignored.

    Raises
    ------
    ConfigurationError
        A file cannot be read, or a line is malformed; the message names the file and the line.
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
        # Shipped data may be in an archive.
        content = read_file(file, MOST_BYTES) if isinstance(file, Path) else file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"task.path: cannot read {name}: {error.strerror}; the folder needs {TRAIN} and {DEV}"
        ) from error
    rows = []
    # Not splitlines, which would also split at separators that JSON allows inside a string.
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
            f"not {_quoted(label)}"
        )
    return sentence1, sentence2, label


def _parsed(line: bytes) -> Any:
    """The JSON value in ``line``."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"is longer than {size(LONGEST_LINE)}")
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
    """Refuse duplicate keys, since JSON does not say which value counts."""
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise ValueError(f"the key {shown(key)} occurs twice")
        record[key] = value
    return record


def _no_number(name: str) -> Any:
    raise ValueError(f"not valid JSON ({name} is not a JSON number)")


def _whole_number(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:  # beyond what Python converts
        raise ValueError(
            f"has a whole number of {len(digits)} digits, which is too long"
        ) from error


def _quoted(value: Any) -> str:
    """A value as written, unless it is long: then it may be a private text."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    try:
        written = json.dumps(value)
    except ValueError:
        written = ""
    return written if 0 < len(written) <= LONGEST_SHOWN else "the value given"


def _sentence(record: dict[str, Any], key: str) -> str:
    if key not in record:
        raise ValueError(f"{key} is missing, but task.template shows it")
    sentence = record[key]
    # Not shown: texts are private.
    if not isinstance(sentence, str):
        kind = "null" if sentence is None else type(sentence).__name__
        raise ValueError(f"{key} must be a text, not {KINDS.get(kind, kind)}")
    if not sentence.strip():
        raise ValueError(f"{key} must not be empty")
    try:
        check_encodable(sentence)  # JSON allows half of a surrogate pair, tokenizers do not
    except ValueError as error:
        raise ValueError(f"{key} {error}") from error
    return sentence
