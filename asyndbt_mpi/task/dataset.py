"""Data sets: labelled rows for training and development, read from JSON Lines."""

import json
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from asyndbt_mpi.config import ConfigurationError, TaskSection

TRAIN = "train.jsonl"
DEV = "dev.jsonl"


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
        if not folder.is_dir():
            raise ConfigurationError(
                f"task.path = {task.path!r}: no such folder; give one with {TRAIN} and {DEV}"
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
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"task.path: cannot read {file}: {error.strerror}; the folder needs {TRAIN} and {DEV}"
        ) from error
    # Not splitlines, which would also cut at separators that JSON allows inside a string.
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    name = str(file)
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(Row(*_row(line, classes, pairs), name, number))
        except ValueError as error:
            raise ConfigurationError(f"{name}, line {number}: {error}") from error
    return rows


def _row(line: bytes, classes: int, pairs: bool) -> tuple[str, str | None, int]:
    """One line's sentences and label; ValueError says what is wrong with it."""
    try:
        record = json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error}); every line must be one object") from error
    if not isinstance(record, dict):
        raise ValueError("must be an object with sentence1 and label")
    sentence1 = _sentence(record, "sentence1")
    sentence2 = _sentence(record, "sentence2") if pairs else None
    label = record.get("label")
    if type(label) is not int or not 0 <= label < classes:
        raise ValueError(
            f"label must be a whole number from 0 to {classes - 1}, one for each of task.labels, "
            f"not {json.dumps(label)}"
        )
    return sentence1, sentence2, label


def _sentence(record: dict[str, Any], key: str) -> str:
    if key not in record:
        raise ValueError(f"{key} is missing, and task.template shows it")
    sentence = record[key]
    if not isinstance(sentence, str) or not sentence.strip():
        raise ValueError(f"{key} must be a text that is not empty, not {json.dumps(sentence)}")
    sentence.encode()  # JSON can hold half of a surrogate pair, a tokenizer cannot.
    return sentence
