"""The tasks of the benchmark of quality, its settings, and black boxes with nothing paid for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from asyndbt_mpi.assemble import Place, language_model, prepare
from asyndbt_mpi.baselines.trial import Counted
from asyndbt_mpi.config import Config, parse
from asyndbt_mpi.jobs.answer_cache import Answers
from asyndbt_mpi.llm.cache import CachedModel

WORKERS = 3

Tables: TypeAlias = Mapping[str, Mapping[str, Any]]

SETTINGS: Tables = {
    "prompt": {
        "fragment_length": 2,
        "vocabulary": "instructions",
        "vocabulary_size": 8,
        "pool": 8,
    },
    "llm": {"model": "smollm2-135m-instruct", "precision": "bfloat16", "threads": 1},
}
"""The same for all tasks and methods."""


@dataclass(frozen=True, slots=True)
class Task:
    """``folder`` is below that of --data; "" for data that ship with the package."""

    folder: str
    template: str
    labels: list[str]

    @property
    def rows_per_class(self) -> int:
        """Training rows of a worker, and as many validation rows."""
        return 5 if len(self.labels) > 2 else 10


REQUEST = "[[Note: {fragment}\n]]Request: {sentence1}\nTopic:"

TASKS = {
    "snips": Task(
        "snips",
        REQUEST,
        [" playlist", " restaurant", " weather", " music", " rating", " title", " cinema"],
    ),
    "clinc": Task(
        "clinc",
        REQUEST,
        [
            *(" banking", " credit cards", " kitchen and dining", " home", " auto and commute"),
            *(" travel", " utility", " work", " small talk", " meta"),
        ],
    ),
    "sst2": Task(
        "glue/SST-2",
        "[[Note: {fragment}\n]]Review: {sentence1}\nSentiment:",
        [" negative", " positive"],
    ),
    "reviews": Task(
        "", "Review: {sentence1}\n[[{fragment} ]]sentiment:", [" negative", " positive"]
    ),
    "requests": Task(
        "",
        REQUEST,
        [" reminder", " music", " weather", " shopping", " travel", " cooking", " home"],
    ),
}


def merged(*each: Tables) -> dict[str, dict[str, Any]]:
    """Tables of tables; what comes later wins."""
    found: dict[str, dict[str, Any]] = {}
    for tables in each:
        for section, values in tables.items():
            found.setdefault(section, {}).update(values)
    return found


def settings(name: str, test: int) -> dict[str, dict[str, Any]]:
    """Those of a task, without the seed and the folder of its data."""
    task = TASKS[name]
    of_task: dict[str, Any] = {
        "name": name,
        "template": task.template,
        "labels": task.labels,
        "train_per_class": task.rows_per_class,
        "validation_per_class": task.rows_per_class,
        "test": test,
    }
    return merged(SETTINGS, {"task": of_task})


class Trial:
    """One task under one seed: every method gets the same rows, and a black box of its own.

    Parameters
    ----------
    data : of --data
    answers : folder in which the language model's answers are kept
    process : number of this process, whose file there it writes to
    """

    def __init__(
        self, name: str, seed: int, test: int, data: Path, answers: Path, process: int
    ) -> None:
        folder = TASKS[name].folder
        place: Tables = {
            "run": {"seed": seed},
            "task": {"path": str(data / folder) if folder else ""},
            "llm": {"cache_folder": str(answers)},
        }
        self.seed = seed
        self.tables = merged(settings(name, test), place)
        self.config = self.configured({})
        self.materials = prepare(self.config, WORKERS)
        kept = language_model(self.config, Place(0, 1), Answers(answers, process))
        assert kept is not None
        self._kept = kept

    def configured(self, tables: Tables) -> Config:
        """The settings with those of ``tables``."""
        return parse(merged(self.tables, tables), "the benchmark")

    def model(self) -> CachedModel:
        """The language model as if it had never been asked anything."""
        return CachedModel(Counted(self._kept), self.config.llm.cache)
