"""Runs on reviews of one or a few workers, whose model takes several calls for a prompt."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asyndbt_mpi.assemble import prepare, workers_with_black_box
from asyndbt_mpi.config import load
from asyndbt_mpi.llm.base import Prompt, Scores
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.final_tests import number_of_tests
from asyndbt_mpi.protocol.messages import EvaluationRequest
from asyndbt_mpi.protocol.records import EventKind
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.virtual import VirtualCluster
from tests.commands.partial import Partial

SETTINGS = (
    "run.iterations=60", "run.evaluate_every=5", "task.test=10", "task.train_per_class=20",
    "task.validation_per_class=20", "estimator.batch=10", "estimator.samples=4",
    "algorithm.active_workers=1", "algorithm.plane_until=0",
)  # fmt: skip
"""Races are on 80 rows: eight prompts on 16, four on 20, two on all."""

SPARE = 5


class Dear(Partial):
    """Each prompt takes several calls, and each question may take some more."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        scores = super().label_log_probabilities(prompts, labels)
        return replace(scores, calls=self.calls * scores.calls)

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        return self.calls * prompts + SPARE


class Course:
    """A run of a model that forgets what it was asked or does not, and its log at ``path``."""

    def __init__(self, path: Path, calls: int, remembers: bool, *changes: str, workers: int = 1):
        self.config = load("reviews", [*SETTINGS, *changes])
        self.materials, everyone = prepare(self.config, workers), range(1, workers + 1)
        model: Any = CachedModel(Dear(calls), 10_000) if remembers else Dear(calls)
        made = workers_with_black_box(self.config, self.materials, everyone, model)
        self.server = server = Server(self.config, self.materials.shapes, workers)
        delays = {v: Delays(self.config.delay, self.config.run.seed, v, workers) for v in everyone}
        shapes, words = self.materials.shapes, self.materials.vocabulary
        path.unlink(missing_ok=True)
        with Writer(
            path, self.config, shapes, workers, words, "virtual", server.algorithm.z
        ) as log:
            VirtualCluster(server, *made, delays).run(log.write_all)

    def cut(self) -> dict[int, EvaluationRequest]:
        """By worker whose race is not over, what would have been next."""
        following = {v: race.next(0) for v, race in self.server._races.items()}
        return {v: request for v, request in following.items() if request}

    def left(self, path: Path) -> int:
        """Calls that the races left of the budget, less those set aside for the tests."""
        (held,) = self.server.spending._by_worker.values()
        with Log(path) as log:
            of_tests = log["event/llm_calls"][log["event/kind"] == EventKind.TEST].sum()
        tests = number_of_tests(self.config, 1) * held.cost_bounds.test
        return self.config.budget.calls - (self.server.spending.spent.calls - of_tests) - tests


MEMORIES = {"none": (False, "llm.cache=0"), "whole": (True,), "lost": (False,)}
"""Whether the model remembers, and whether the configuration says so."""
