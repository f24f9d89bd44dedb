"""`asyndbt_mpi.run` with a black box of one's own: every rank runs the same lines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import asyndbt_mpi as adbt
from asyndbt_mpi.protocol.records import EventKind

RANK, WORKERS = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size() - 1
TABLE = np.random.default_rng(0).normal(size=(3, 4))
pytestmark = pytest.mark.mpi(min_size=3)


def loss(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
    assert worker == RANK, "a worker answers for itself alone"
    return TABLE[range(3), words].sum(axis=1) + demonstrations.mean(axis=1)


def box(called: Any = loss, pool: int = 2) -> adbt.LossFunction:
    return adbt.LossFunction(called, adbt.Shapes(3, 4, 2, pool), ["a", "b", "c", "d"], name="toy")


class LeaveOneOut(adbt.FromScores):
    def __init__(self, p_shape: tuple[int, ...], q_shape: tuple[int, ...]) -> None:
        super().__init__(adbt.leave_one_out)


def config(iterations: int, **settings: int) -> adbt.Config:
    return adbt.load(
        "synthetic",
        [
            f"run.iterations={iterations}", f"algorithm.active_workers={WORKERS - 1}",
            "algorithm.plane_period=5", *(f"algorithm.{key}={settings[key]}" for key in settings),
        ],
    )  # fmt: skip


def test_rank_0_has_the_result_of_a_run_that_is_a_full_citizen(shared_path: Path) -> None:
    path = shared_path / "run.h5"
    given: dict[str, Any] = {"black_box": box(), "estimator": LeaveOneOut}
    result = adbt.run(config(10), path, **given)
    assert (result is None) == (RANK > 0)
    resumed = adbt.run(config(25), path, resume=True, **given)
    finished = adbt.run(config(25), path, resume=True, **given)
    if RANK:
        assert resumed is None
        assert finished is None
        return
    assert (finished.iterations, finished.words) == (25, resumed.words)
    assert (resumed.iterations, resumed.status) == (25, "finished")
    assert resumed.demonstrations.shape == (WORKERS, 2)
    assert adbt.verify(path).violations == []

    def anywhere(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
        return TABLE[range(3), words].sum(axis=1) + demonstrations.mean(axis=1)

    comparison = adbt.replay(path, black_box=box(anywhere), estimator=LeaveOneOut)
    assert (comparison.iterations, comparison.difference) == (25, None)


def test_every_rank_hears_why_a_run_is_refused(shared_path: Path) -> None:
    path = shared_path / "run.h5"
    adbt.run(config(2), path, black_box=box())
    with pytest.raises(adbt.ConfigurationError, match=r"run\.h5 already exists"):
        adbt.run(config(2), path, black_box=box())
    with pytest.raises(adbt.ConfigurationError, match=r"made with prompt.pool = 2, not 3"):
        adbt.run(config(4), path, resume=True, black_box=box(pool=3))
    # One that has read something else than the others.
    with pytest.raises(adbt.ConfigurationError, match=r"rank 1 .* has read another"):
        adbt.run(config(4), path, overwrite=True, black_box=box(pool=3 if RANK == 1 else 2))


def test_every_rank_hears_of_a_function_that_returns_no_losses(shared_path: Path) -> None:
    def wrong(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
        return np.nan * words[:, 0] if worker == 2 else loss(worker, words, demonstrations)

    path = shared_path / "run.h5"
    # With all workers in every iteration none is over before worker 2 has answered.
    with pytest.raises(adbt.ConfigurationError, match="nan as the loss of prompt 0 for worker 2"):
        adbt.run(config(5, max_delay=0), path, black_box=box(wrong))
    if RANK == 0 and path.exists():  # with the answers of those who were faster
        with adbt.Log(path) as log:
            assert log.committed == 0
            assert 2 not in log["event/worker"][log["event/kind"] == EventKind.REPORT]


def test_every_rank_hears_of_a_run_that_cannot_go_on(shared_path: Path) -> None:
    asked = 0

    def dies(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
        nonlocal asked
        asked += 1
        if worker == 1 and asked > 5:
            raise OSError("the disk is full")
        return loss(worker, words, demonstrations)

    path = shared_path / "run.h5"
    settings = config(30, min_workers=WORKERS, max_delay=0)
    with pytest.raises(adbt.RunError, match=r"worker 1: OSError: the disk is full .* resume=True"):
        adbt.run(settings, path, black_box=box(dies))
    result = adbt.run(settings, path, resume=True, black_box=box())
    if RANK == 0:
        assert (result.iterations, result.status) == (30, "finished")
        assert adbt.verify(path).violations == []
