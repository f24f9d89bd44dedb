"""The tables of a task: one that is to be split, or one for training and one for judging."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import shown
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.task import arrow, glue
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

    @property
    def notes(self) -> list[str]:
        """What was changed when they were read, in lines."""
        both = [*self.train.notes, *(self.dev.notes if self.dev else [])]
        return list(dict.fromkeys(both))


def shipped() -> list[str]:
    """Names of the data sets that the package ships."""
    return sorted(folder.name for folder in _data().iterdir() if folder.is_dir())


def shipped_texts() -> list[str]:
    """The different texts of the training rows of all these data sets."""
    tables = (read_table(_data() / name / f"{TRAIN}.jsonl") for name in shipped())
    cells = (record.cells.values() for table in tables for record in table.records)
    texts = (cell for of_record in cells for cell in of_record if isinstance(cell, str))
    return list(dict.fromkeys(texts))


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
        return _of_folder(_data() / task.name, task, wanted)
    if task.path.startswith(arrow.HUB):
        splits = arrow.from_hub(task.path, glue.also_wanted(wanted, task))
        return _of_splits(task.path, splits, task)
    path = Path(task.path)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError:  # a folder above it may not be looked into
        is_folder = is_there = False
    if is_folder:
        if arrow.is_saved(path):
            return _of_splits(str(path), arrow.saved(path, glue.also_wanted(wanted, task)), task)
        return _of_folder(path, task, wanted)
    if not is_there:
        raise ConfigurationError(
            f"task.path = {shown(task.path)}: no such file or folder; a data set of the Hugging"
            f" Face hub is written {arrow.HUB}OWNER/NAME"
        )
    return Tables(_read(path, task, wanted))


def _data() -> Traversable:
    return resources.files("asyndbt_mpi.task") / "data"


def _read(file: Traversable, task: TaskSection, wanted: Collection[str] | None) -> Table:
    found = glue.read_tsv(file, task) or read_table(file, glue.also_wanted(wanted, task))
    return glue.adapted(found, task)


def _of_folder(folder: Traversable, task: TaskSection, wanted: Collection[str] | None) -> Tables:
    try:
        names = sorted(file.name for file in folder.iterdir())
    except OSError as error:
        raise ConfigurationError(f"task.path: cannot read {folder}: {error.strerror}") from error
    files = [name for name in names if is_table(name)]
    parts = {
        part: [name for name in files if name.partition(".")[0] == part]
        for part in (TRAIN, *JUDGING)
    }
    if not parts[TRAIN] and glue.shown(task):
        for name in glue.MRPC_FILES.keys() & {*names}:
            parts[glue.MRPC_FILES[name]], files = [name], [*files, name]
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
    first, second = (_read(folder / name, task, wanted) for name in (train, dev))
    return Tables(first, second, unused)


def _of_splits(path: str, splits: Mapping[str, arrow.Columns], task: TaskSection) -> Tables:
    tables = {
        part: of_columns(f"{path}, {part}", "data set, split " + part, columns)
        for part, columns in splits.items()
    }
    if set(tables) == {TRAIN}:
        return Tables(glue.adapted(tables[TRAIN], task))
    judging = [part for part in JUDGING if part in tables]
    if TRAIN not in tables or not judging:
        raise ConfigurationError(
            f"task.path = {path!r}: has the splits {', '.join(splits)}, but {TRAIN} and one of"
            f" {', '.join(JUDGING)} are needed"
        )
    unused = [part for part in tables if part not in (TRAIN, judging[0])]
    first, second = (glue.adapted(tables[part], task) for part in (TRAIN, judging[0]))
    return Tables(first, second, unused)
