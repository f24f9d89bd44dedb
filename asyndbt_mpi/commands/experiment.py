"""`asyndbt experiment`: methods on tasks under several seeds, resumable to the single run."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from asyndbt_mpi import __version__
from asyndbt_mpi.baselines import encoder
from asyndbt_mpi.baselines.pmi import public_words
from asyndbt_mpi.baselines.result import Result, read
from asyndbt_mpi.commands.baseline import Asked, baseline, check, usual_calls
from asyndbt_mpi.commands.cores import on_all_cores
from asyndbt_mpi.config import ConfigurationError, load
from asyndbt_mpi.log.storage.lock import Locked, take

GLUE = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "qqp": "QQP", "qnli": "QNLI"}
"""Presets of which the data are not shipped, and the names of their folders."""

PAPER = "fiveg", "cola", "sst2", "mrpc", "qqp", "qnli"
"""The tasks of the paper's tables."""

METHODS_OF_ENCODER = {"roberta", "kate", "adaicl"}
METHODS_OF_TEXTS = {"bdpl", "fedone"}

ANSWERS = "answers"
"""Where a folder of results keeps what the language model has answered."""

DELAYS = "delay.model=lognormal", "delay.mean=1"
"""Seconds that an assignment takes, unless the command line says otherwise: without any, no worker
would ever be late."""


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
            A task's configuration is wrong, or its data are not given.
        """
        found = []
        for seed in range(self.seeds):
            for task in self.tasks:
                given = (*DELAYS, *self.assignments)
                settings = (*given, *self._of_task(task), f"run.seed={seed}")
                calls = self.calls or usual_calls(load(task, settings))
                for method in self.methods:
                    path = self.folder / Path(task).stem / f"{method}-{seed}.json"
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
        grid.folder.mkdir(parents=True, exist_ok=True)
        lock = take(grid.folder / ".lock")
    except Locked as error:
        raise ConfigurationError(f"another experiment is running in {grid.folder}") from error
    except OSError as error:
        raise ConfigurationError(f"{grid.folder}: {error.strerror or error}") from error
    try:
        missing = [cell for cell in cells if finished(cell) is None]
        for cell in {(each.source, each.assignments): each for each in missing}.values():
            check(cell)  # before anything is paid for
        _check_files(grid, {cell.method for cell in missing})
        return on_all_cores(missing, _make, lambda cell: str(cell.output), "results", len(cells))
    finally:
        if lock is not None:
            lock.release()


def _check_files(grid: Grid, methods: set[str]) -> None:
    """That there are the encoder and the texts, where a method needs them."""
    if methods & METHODS_OF_ENCODER:
        encoder.load(grid.encoder)
    if methods & METHODS_OF_TEXTS:
        public_words(grid.texts, 1)


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
    # Labels taken from the data are in the result, and not in the configuration.
    wanted = expected.to_toml() if expected.task.labels else found.config
    same = found.calls, found.workers, found.encoder, found.texts, found.config == wanted
    if same != (cell.calls, cell.workers, cell.encoder, cell.texts, True):
        raise ConfigurationError(
            f"{cell.output}: was made with other settings; remove it, or give another folder"
        )
    return found


def results(grid: Grid) -> list[tuple[Asked, Result]]:
    """Those that are there.

    Raises
    ------
    ConfigurationError
        As `finished`.
    """
    return [(cell, found) for cell in grid.cells() if (found := finished(cell))]


def write_manifest(grid: Grid) -> None:
    """Write manifest.json: what every result was made with, and the digests of its files."""
    entries = {}
    for cell, found in results(grid):
        files = [cell.output, cell.output.with_suffix(".h5")]
        there = [path for path in files if path.exists()]
        entries[str(cell.output.relative_to(grid.folder))] = {
            "method": found.method,
            "task": found.task,
            "seed": found.seed,
            "data": found.data_digest,
            "model": found.model,
            "model_digest": found.model_digest,
            "versions": found.versions,
            "sha256": {path.name: _digest(path) for path in there},
        }
    content = {"asyndbt_mpi": __version__, "results": entries}
    text = json.dumps(content, indent=1) + "\n"
    (grid.folder / "manifest.json").write_text(text, encoding="utf-8")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
