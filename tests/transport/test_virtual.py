from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.config import Delay
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.transport.delay import Delays

Run = Callable[..., Path]


@pytest.mark.parametrize("participation", ["all", "quorum"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "mirror"])
def test_a_run_keeps_every_invariant(virtual_run: Run, participation: str, optimizer: str) -> None:
    path = virtual_run(
        run={"iterations": 60, "evaluate_every": 10},
        algorithm={
            "active_workers": 2,
            "max_delay": 4,
            "plane_period": 5,
            "tolerance": 0.0,
            "max_planes": 4,
            "lower_participation": participation,
        },
        steps={"optimizer": optimizer},
    )
    assert verify(path).violations == []
    with Log(path) as log:
        assert log.committed == 60
        assert len(log["plane/id"]) == 12


def test_a_run_repeats_bit_by_bit(virtual_run: Run) -> None:
    with Log(virtual_run(name="one")) as one, Log(virtual_run(name="two")) as two:
        for name in ("iteration/z", "iteration/time", "report/p", "report/q", "dual/value"):
            np.testing.assert_array_equal(one[name], two[name])


def test_constant_delays_give_the_hand_worked_schedule(virtual_run: Run) -> None:
    """Worker 3 takes 2.5 where the others take 1: S = 2 goes on without it until tau."""
    path = virtual_run(
        run={"iterations": 5},
        algorithm={"active_workers": 2, "max_delay": 10},
        delay={"model": "constant", "mean": 1.0, "slow_workers": 1, "slow_factor": 2.5},
    )
    with Log(path) as log:
        # 1 and 2 report at 1, 2; worker 3 at 2.5 waits for worker 1 at 3; and so on.
        assert log["iteration/time"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
        active = log["iteration/active"]
        assert active[:2].tolist() == [[True, True, False]] * 2
        assert active[2].tolist() == [True, False, True]


def draws(model: str, worker: int, workers: int = 4, **settings: float) -> np.ndarray:
    delay = Delay(model=model, mean=2.0, **settings)
    model_of_worker = Delays(delay, 0, worker, workers)
    return np.array([model_of_worker.draw() for _ in range(4000)])


def test_delays_have_the_mean_that_was_asked_for() -> None:
    assert (draws("constant", 1) == 2.0).all()
    assert draws("lognormal", 1, sigma=0.5).mean() == pytest.approx(2.0, rel=0.05)
    assert draws("pareto", 1).mean() == pytest.approx(2.0, rel=0.15)
    assert (draws("none", 1) == 0.0).all()


def test_the_last_workers_are_the_slow_ones() -> None:
    means = [draws("lognormal", v, slow_workers=1, slow_factor=20).mean() for v in (1, 2, 3, 4)]
    assert max(means[:3]) < 2.5
    assert means[3] == pytest.approx(40.0, rel=0.1)


def test_workers_have_streams_of_their_own() -> None:
    assert abs(np.corrcoef(draws("lognormal", 1), draws("lognormal", 2))[0, 1]) < 0.05
