"""A few rows of data, and a model that is told what to answer."""

from collections.abc import Sequence

import numpy as np

from asyndbt_mpi.llm.base import Prompt, Scores
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import WorkerData

DATA = WorkerData(
    train=[Row({"sentence1": "t0"}, 0), Row({"sentence1": "t1"}, 1)],
    pool=[
        [Row({"sentence1": "a0"}, 0)],
        [Row({"sentence1": "b0"}, 1), Row({"sentence1": "b1"}, 1)],
    ],
    validation=[Row({"sentence1": "v0"}, 1)],
    test=[Row({"sentence1": "s0"}, 0), Row({"sentence1": "s1"}, 1), Row({"sentence1": "s2"}, 0)],
    class_counts=[5, 2],
)


class Fake:
    """Gives the probabilities it is made with, prompt by prompt, and keeps what it was asked."""

    description = "fake"
    digest = "0f"
    at_once = None

    def __init__(self, probabilities: list[list[float]]) -> None:
        self.probabilities = probabilities
        self.asked: list[list[Prompt]] = []

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        assert list(labels) == [" no", " yes"]
        self.asked.append(list(prompts))
        with np.errstate(divide="ignore"):
            return Scores(np.log(self.probabilities), len(prompts), 70, 7, unrecognised=2)

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        return prompts

    def longest(self, text: str) -> int:
        return 70
