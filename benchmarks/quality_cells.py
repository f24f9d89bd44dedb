"""Finished cells of the benchmark of quality, one file each: (task, method, seed) at some calls."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from quality_methods import METHODS, Found, made_with
from quality_tasks import WORKERS, Trial

from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import Split
from asyndbt_mpi.view.outcomes import score

DIGITS = 6
"""Of a loss; bfloat16 has fewer."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a cell is of; ``calls`` is the budget."""

    calls: int
    seed: int
    task: str
    method: str

    def path(self, folder: Path) -> Path:
        """Its file."""
        return folder / f"{self.calls}-calls" / f"{self.task}-{self.seed}-{self.method}.json"


@dataclass(frozen=True, slots=True)
class Cell:
    """A finished cell.

    ``accuracy`` and ``loss`` are by kind of prompt, on average over workers and test rows;
    ``spent`` is calls, ``digest`` that of the rows.
    """

    key: Key
    accuracy: dict[str, float]
    loss: dict[str, float]
    spent: int
    digest: str


class Mismatch(Exception):
    """A finished cell was made otherwise than it would be now."""


def make(trial: Trial, key: Key, test: int, folder: Path) -> float:
    """Run a method, test what it found, and write its cell; the seconds that it took.

    Raises
    ------
    RuntimeError
        The method spent more calls than it was given.
    """
    started = time.monotonic()
    found = METHODS[key.method](trial, key.calls)
    if found.calls > key.calls:
        raise RuntimeError(f"{key.method} spent {found.calls} calls of {key.calls}")
    tests = {kind: _tests(found, kind) for kind in found.prompts}
    seconds = time.monotonic() - started
    content = {
        "settings": made_with(key.task, key.method, key.calls, test),
        "digest": trial.materials.data_digest,
        "calls": found.calls,
        "seconds": round(seconds, 1),
        **found.details,
        "tests": tests,
    }
    path = key.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(content) + "\n")
    unfinished.replace(path)
    return seconds


def _tests(found: Found, kind: str) -> list[dict[str, Any]]:
    """By worker: its prompt, which test rows it got right, and its loss on each."""
    written = []
    for worker, (words, demonstrations) in sorted(found.prompts[kind].items()):
        rows = np.arange(found.box.data_sizes[worker].rows[Split.TEST])
        prompt = words[None], demonstrations[None]
        query = Query(worker, Split.TEST, rows, *prompt, calibration=found.calibration)
        (answer,) = found.box.answer([query])
        assert answer.log_probabilities is not None
        assert answer.labels is not None
        answers = score(answer.labels, answer.log_probabilities[0])
        written.append({
            "worker": worker,
            "words": words.tolist(),
            "demonstrations": demonstrations.tolist(),
            "right": answers.right.astype(int).tolist(),
            "losses": [round(loss, DIGITS) for loss in answers.losses.tolist()],
        })  # fmt: skip
    return written


def read(key: Key, test: int, folder: Path) -> Cell | None:
    """The cell, if it is finished.

    Raises
    ------
    Mismatch
        It was made with other settings, or is no cell.
    """
    path = key.path(folder)
    try:
        content = json.loads(path.read_text())
        used, tests = content["settings"], content["tests"]
        shapes = {kind: {len(each["right"]) for each in tests[kind]} for kind in tests}
        if not all(len(tests[kind]) == WORKERS and len(shapes[kind]) == 1 for kind in tests):
            raise ValueError("does not have the tests of all workers")
        accuracy, loss = (
            {kind: float(np.mean([each[what] for each in tests[kind]])) for kind in tests}
            for what in ("right", "losses")
        )
        cell = Cell(key, accuracy, loss, content["calls"], content["digest"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Mismatch(f"{path}: is no cell of this benchmark ({error}); remove it") from error
    if used != made_with(key.task, key.method, key.calls, test):
        raise Mismatch(f"{path}: was made with other settings; remove it, or give another --output")
    return cell


def finished(keys: Iterator[Key] | list[Key], test: int, folder: Path) -> list[Cell]:
    """Those of ``keys`` that are there.

    Raises
    ------
    Mismatch
        As `read`; or two cells of one task and seed are of different rows.
    """
    cells = [cell for key in keys if (cell := read(key, test, folder))]
    digests: dict[tuple[str, int], str] = {}
    for cell in cells:
        expected = digests.setdefault((cell.key.task, cell.key.seed), cell.digest)
        if cell.digest != expected:
            raise Mismatch(
                f"{cell.key.path(folder)}: is of other rows than the other methods' cells of"
                f" {cell.key.task}, seed {cell.key.seed}; remove it, or give another --output"
            )
    return cells
