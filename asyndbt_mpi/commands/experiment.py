"""`asyndbt experiment`: methods on tasks under several seeds, resumable to the single run."""

import hashlib
import json
import os
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asyndbt_mpi import __version__
from asyndbt_mpi.baselines import encoder
from asyndbt_mpi.baselines.pmi import digest_of_texts, public_words
from asyndbt_mpi.baselines.result import Result, read
from asyndbt_mpi.commands.baseline import Asked, baseline, check, check_calls, usual_calls
from asyndbt_mpi.commands.cores import on_all_cores
from asyndbt_mpi.config import ConfigurationError, load
from asyndbt_mpi.log.storage.lock import Locked, take

GLUE = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "qqp": "QQP", "qnli": "QNLI"}
"""Presets of which the data are not shipped, and the names of their folders."""

PAPER = "fiveg", "cola", "sst2", "mrpc", "qqp", "qnli"
"""The tasks of the paper's tables."""

OF_ENCODER = {"roberta", "kate", "adaicl"}
OF_TEXTS = {"bdpl", "fedone"}

ANSWERS = "answers"
"""Where a folder of results keeps what the language model has answered."""

DEFAULTS = (
    *("delay.model=lognormal", "delay.mean=1"),
    *("task.calibration=none", "defence.aggregator=rsa"),
)
"""What the command line may change: an assignment takes seconds, for else no worker would ever be
late; scores are as they are and reports are added up, as in the paper."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What the command line asked for; ``tasks`` are presets or files, ``data`` has GLUE's."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: int
    workers: int
    calls: int | None
    assignments: tuple[str, ...]
    data: Path | None
    encoder: str
    texts: str
    folder: Path

    def cells(self) -> list[Asked]:
        """One for each method, task and seed; seeds take turns, so that all are alike in number.

        Raises
        ------
        ConfigurationError
            A task's configuration is wrong, its data are not given, or something is named twice.
        """
        for option, names in ("--tasks", map(stem, self.tasks)), ("--methods", self.methods):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise ConfigurationError(f"{option}: {twice[0]} is there twice")
        found = []
        for seed in range(self.seeds):
            for task in self.tasks:
                given = (*DEFAULTS, *self.assignments)
                settings = (*given, *self._of_task(task), f"run.seed={seed}")
                calls = self.calls or usual_calls(load(task, settings))
                for method in self.methods:
                    path = self.folder / stem(task) / f"{method}-{seed}.json"
                    asked = method, task, settings, self.workers, calls
                    found.append(Asked(*asked, self.encoder, self.texts, path))
        return found

    def _of_task(self, task: str) -> tuple[str, ...]:
        answers = f"llm.cache_folder={self.folder / ANSWERS}"
        if task not in GLUE or any(each.startswith("task.path=") for each in self.assignments):
            return (answers,)
        if self.data is None:
            raise ConfigurationError(
                f"{task}: its data do not come with the package; give --data FOLDER, which has the"
                f" folder {GLUE[task]}"
            )
        return answers, f"task.path={self.data / GLUE[task]}"


def stem(task: str) -> str:
    """The name of a task: that of its preset, or of its file."""
    return Path(task).stem


def experiment(grid: Grid) -> list[str]:
    """Make every cell that does not exist yet; returns the failures, one line each.

    Raises
    ------
    ConfigurationError
        A setting is wrong, another experiment is running in the folder, or a result in it was made
        with other settings. Nothing has been started then.
    """
    cells = grid.cells()
    try:
        for task in grid.tasks:
            (grid.folder / stem(task)).mkdir(parents=True, exist_ok=True)
        lock = take(grid.folder / ".lock")
    except Locked as error:
        raise ConfigurationError(f"another experiment is running in {grid.folder}") from error
    except OSError as error:
        raise ConfigurationError(f"{grid.folder}: {error.strerror or error}") from error
    try:
        missing = [cell for cell in cells if finished(cell) is None]
        _check(missing)
        _check_files(grid, missing)
        return on_all_cores(missing, _make, lambda cell: str(cell.output), "results", len(cells))
    finally:
        if lock is not None:
            lock.release()


def _check(missing: Sequence[Asked]) -> None:
    """The settings, rows and calls of all, before anything is paid for."""
    by_rows: dict[tuple[str, tuple[str, ...]], list[Asked]] = {}
    for cell in missing:
        by_rows.setdefault((cell.source, cell.assignments), []).append(cell)
    for cells in by_rows.values():
        config, materials = check(cells[0])
        for cell in cells:
            check_calls(cell, config, materials)


def _check_files(grid: Grid, missing: Sequence[Asked]) -> None:
    """That there are the encoder and the texts, where a method needs them."""
    if any(cell.method in OF_ENCODER for cell in missing):
        encoder.load(grid.encoder)
    for source, assignments in {
        (cell.source, cell.assignments) for cell in missing if cell.method in OF_TEXTS
    }:
        public_words(grid.texts, load(source, assignments).prompt.vocabulary_size)


def _make(cell: Asked, cores: int) -> None:
    baseline(cell, cores, os.getpid())


def finished(cell: Asked) -> Result | None:
    """The result of ``cell``, if it is there.

    Raises
    ------
    ConfigurationError
        It was made with other settings.
    """
    if not cell.output.exists():
        return None
    found = read(cell.output)
    expected = load(cell.source, cell.assignments)
    settings = [tomllib.loads(text) for text in (expected.to_toml(), found.config)]
    for tables in settings:
        tables["llm"].pop("cache_folder", None)  # no result depends on it
        if not expected.task.labels:
            tables["task"].pop("labels", None)  # of the data, and in the result alone
        if expected.llm.precision == "auto":
            tables["llm"].pop("precision", None)  # as decided, in the result alone
    same = (
        found.method == cell.method
        and (found.calls, found.workers) == (cell.calls, cell.workers)
        and (cell.method not in OF_ENCODER or found.encoder == cell.encoder)
        and (cell.method not in OF_TEXTS or found.texts == digest_of_texts(cell.texts))
        and settings[0] == settings[1]
    )
    if not same:
        raise ConfigurationError(
            f"{cell.output}: was made with other settings; remove it, or give another folder"
        )
    return found


def results(grid: Grid) -> list[tuple[Asked, Result]]:
    """Those that are there.

    Raises
    ------
    ConfigurationError
        As `finished`; or two results of a task and seed are of different rows or models.
    """
    there = [(cell, found) for cell in grid.cells() if (found := finished(cell))]
    first: dict[tuple[str, int], tuple[Asked, Result]] = {}
    for cell, found in there:
        other, expected = first.setdefault((cell.source, found.seed), (cell, found))
        for what, ours, theirs in (
            ("rows", found.data_digest, expected.data_digest),
            ("a model", found.model_digest, expected.model_digest),
        ):
            if ours != theirs:
                raise ConfigurationError(
                    f"{cell.output}: is of {what} that differ from those of {other.output}: they"
                    " have changed in between; give another folder"
                )
    return there


def write_manifest(folder: Path) -> None:
    """Write manifest.json: what every result was made with, and the digests of its files."""
    entries = {}
    for path in sorted(folder.glob("*/*-*.json")):
        found = read(path)
        there = [each for each in (path, path.with_suffix(".h5")) if each.exists()]
        entries[path.relative_to(folder).as_posix()] = {
            "method": found.method,
            "task": found.task,
            "seed": found.seed,
            "data": found.data_digest,
            "model": found.model,
            "model_digest": found.model_digest,
            "versions": found.versions,
            "sha256": {each.name: _digest(each) for each in there},
        }
    content = {"asyndbt_mpi": __version__, "results": entries}
    text = json.dumps(content, indent=1) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
