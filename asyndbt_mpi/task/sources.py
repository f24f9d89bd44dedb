"""The tables of a task: one that is to be split, or one for training and one for judging."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import shown
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.task import arrow
from asyndbt_mpi.task.tables import Table, is_table, of_columns, read_table

TRAIN = "train"
JUDGING = ("dev", "validation", "test")
"""Names of the part that prompts are judged by; the first that there is counts."""

NEEDED = "train.* and dev.*, validation.* or test.* (.jsonl, .csv, .tsv or .parquet)"


@dataclass(frozen=True, slots=True)
class Tables:
    """``dev`` is None if ``train`` is to be split; ``unused`` names further parts."""

    train: Table
    dev: Table | None = None
    unused: list[str] = field(default_factory=list)


def shipped() -> list[str]:
    """Names of the data sets that the package ships."""
    return sorted(folder.name for folder in _data().iterdir() if folder.is_dir())


def read_tables(task: TaskSection, wanted: Collection[str] | None = None) -> Tables:
    """The tables of ``task.path`` if given, else of the shipped ``task.name``.

    Only cells of the columns ``wanted`` are kept; None wants all.

    Raises
    ------
    ConfigurationError
        There are none, or they cannot be read.
    """
    if not task.path:
        if task.name not in shipped():
            raise ConfigurationError(
                f"task.path: preset data {task.name!r} is not shipped;"
                f" give a file, or a folder with {NEEDED}"
            )
        return _of_folder(_data() / task.name, wanted)
    if task.path.startswith(arrow.HUB):
        return _of_splits(task.path, arrow.from_hub(task.path, wanted))
    path = Path(task.path)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError:  # a folder above it may not be looked into
        is_folder = is_there = False
    if is_folder:
        if arrow.is_saved(path):
            return _of_splits(str(path), arrow.saved(path, wanted))
        return _of_folder(path, wanted)
    if not is_there:
        raise ConfigurationError(
            f"task.path = {shown(task.path)}: no such file or folder; a data set of the Hugging"
            f" Face hub is written {arrow.HUB}OWNER/NAME"
        )
    return Tables(read_table(path, wanted))


def _data() -> Traversable:
    return resources.files("asyndbt_mpi.task") / "data"


def _of_folder(folder: Traversable, wanted: Collection[str] | None) -> Tables:
    try:
        files = sorted(file.name for file in folder.iterdir() if is_table(file.name))
    except OSError as error:
        raise ConfigurationError(f"task.path: cannot read {folder}: {error.strerror}") from error
    parts = {
        part: [name for name in files if name.partition(".")[0] == part]
        for part in (TRAIN, *JUDGING)
    }
    for part, names in parts.items():
        if len(names) > 1:
            raise ConfigurationError(
                f"task.path: {folder} has {' and '.join(names)}; keep one file named {part}.*"
            )
    judging = [part for part in JUDGING if parts[part]]
    if not (parts[TRAIN] and judging):
        there = ", ".join(files[:10]) or "no table"
        raise ConfigurationError(
            f"task.path: {folder} needs {NEEDED}, but has {there}; a file that task.split divides"
            " is named itself"
        )
    (train,), (dev,) = parts[TRAIN], parts[judging[0]]
    unused = [parts[part][0] for part in judging[1:]]
    return Tables(read_table(folder / train, wanted), read_table(folder / dev, wanted), unused)


def _of_splits(path: str, splits: Mapping[str, arrow.Columns]) -> Tables:
    tables = {
        part: of_columns(f"{path}, {part}", "data set, split " + part, columns)
        for part, columns in splits.items()
    }
    if set(tables) == {TRAIN}:
        return Tables(tables[TRAIN])
    judging = [part for part in JUDGING if part in tables]
    if TRAIN not in tables or not judging:
        raise ConfigurationError(
            f"task.path = {path!r}: has the splits {', '.join(splits)}, but {TRAIN} and one of"
            f" {', '.join(JUDGING)} are needed"
        )
    unused = [part for part in tables if part not in (TRAIN, judging[0])]
    return Tables(tables[TRAIN], tables[judging[0]], unused)
