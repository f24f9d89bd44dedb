import math

import numpy as np
import pytest

from asyndbt_mpi.analysis.methods import Cell
from asyndbt_mpi.baselines.result import Costs, Result

RESULT = Result(
    method="local", calls=99, encoder="none", texts="", config="", workers=2, seed=4,
    task="reviews", data_digest="", model="none", model_digest="", versions={},
    tuning=Costs(calls=30, prompt_tokens=500, completion_tokens=7, seconds=1.0),
    tests=Costs(calls=8, prompt_tokens=90, completion_tokens=2, seconds=1.0),
    labels=[0, 1, 1, 0],
    log_probabilities={
        "1": np.log([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.3, 0.7]]).tolist(),
        "2": np.log([[0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0.2, 0.8]]).tolist(),
    },
    details={},
)  # fmt: skip
"""Three rows of four are right by worker 1, one by worker 2."""


def test_accuracy_and_loss_are_means_over_workers() -> None:
    cell = Cell.of(RESULT, "task")
    assert cell.accuracy == pytest.approx(50.0)
    of_labels = (0.8, 0.6, 0.9, 0.3), (0.4, 0.8, 0.3, 0.2)
    assert cell.loss == pytest.approx(-sum(math.log(p) for own in of_labels for p in own) / 8)


def test_costs_are_those_of_tuning() -> None:
    cell = Cell.of(RESULT, "task")
    assert (cell.calls, cell.tokens) == (30, 507)


def test_a_cell_is_told_by_method_task_and_seed() -> None:
    cell = Cell.of(RESULT, "task")
    assert (cell.method, cell.task, cell.seed) == ("local", "task", 4)
