"""`asyndbt simulate` and `asyndbt replay`, in one process."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from asyndbt_mpi.job import Job, Request
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.replay import replay
from asyndbt_mpi.simulate import simulate
from tests.cli.test_commands import ENVIRONMENT, MPIEXEC, needs_mpiexec

SETTINGS = (
    "run.iterations=60",
    "run.evaluate_every=10",
    "delay.model=lognormal",
    "delay.mean=1",
    "algorithm.tolerance=0",
    "algorithm.plane_period=5",
)


def simulated(folder: Path, *settings: str, workers: int = 4) -> Path:
    path = folder / "run.h5"
    request = Request("synthetic", (*SETTINGS, *settings), str(path), True, False)
    simulate(Job.of(request, workers))
    return path


@pytest.mark.parametrize("participation", ["all", "quorum"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "mirror"])
def test_a_simulated_run_replays_bit_by_bit(
    tmp_path: Path, participation: str, optimizer: str
) -> None:
    path = simulated(
        tmp_path,
        f"algorithm.lower_participation={participation}",
        f"steps.optimizer={optimizer}",
    )
    assert verify(path).violations == []
    comparison = replay(path)
    assert (comparison.iterations, comparison.difference) == (60, None)
    with Log(path) as log:
        assert log.transport == "virtual"
        assert len(log["plane/id"]) > 5


@pytest.mark.parametrize("estimator", ["loo", "bdpl", "exact"])
@pytest.mark.parametrize("workers", [1, 7, 33])
def test_workers_that_compute_together_compute_the_same_alone(
    tmp_path: Path, estimator: str, workers: int
) -> None:
    """A simulation moves many workers at once, a replay one after the other."""
    path = simulated(
        tmp_path,
        f"estimator.name={estimator}",
        f"algorithm.active_workers={1 + workers // 4}",
        "run.iterations=20",
        "prompt.fragment_length=5",
        "prompt.vocabulary_size=31",
        "prompt.pool=9",
        workers=workers,
    )
    assert replay(path).difference is None


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    path = simulated(tmp_path)
    with h5py.File(path, "r+") as file:
        file["iteration/z"][31, 2, 3] = np.nextafter(file["iteration/z"][31, 2, 3], 1.0)
    comparison = replay(path)
    assert comparison.iterations == 30
    assert "iteration 30: iteration/z differs by up to" in comparison.difference


def test_another_order_of_arrivals_is_noticed(tmp_path: Path) -> None:
    path = simulated(tmp_path)
    with h5py.File(path, "r+") as file:
        file["event/worker"][20:40] = file["event/worker"][20:40][::-1]
    assert replay(path).difference is not None


def test_an_interrupted_log_replays_as_far_as_it_goes(tmp_path: Path) -> None:
    path = simulated(tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["committed"] = 40
    assert replay(path).iterations == 40


def test_left_out_iterates_are_not_compared(tmp_path: Path) -> None:
    path = simulated(tmp_path, "log.iterates=7")
    assert replay(path).difference is None


@needs_mpiexec
@pytest.mark.parametrize("participation", ["all", "quorum"])
def test_an_mpi_run_replays_bit_by_bit(tmp_path: Path, participation: str) -> None:
    assert MPIEXEC is not None
    path = tmp_path / "mpi.h5"
    settings = [
        "run.iterations=500",
        "run.evaluate_every=50",
        "algorithm.tolerance=0",
        f"algorithm.lower_participation={participation}",
    ]
    command = [MPIEXEC, "-n", "4", sys.executable, "-m", "asyndbt_mpi", "run", "synthetic"]
    command += ["--output", str(path)]
    for setting in settings:
        command += ["--set", setting]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=ENVIRONMENT)
    comparison = replay(path)
    assert (comparison.iterations, comparison.difference) == (500, None)
    with Log(path) as log:
        assert log.transport == "mpi"
        assert len(log["plane/id"]) > 10
