"""A few rows of data, and a model that is told what to answer."""

from collections.abc import Sequence

import numpy as np

from asyndbt_mpi.llm.base import Prompt, Scores
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import WorkerData

DATA = WorkerData(
    train=[Row("t0", None, 0), Row("t1", None, 1)],
    pool=[[Row("a0", None, 0)], [Row("b0", None, 1), Row("b1", None, 1)]],
    validation=[Row("v0", None, 1)],
    test=[Row("s0", None, 0), Row("s1", None, 1), Row("s2", None, 0)],
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
