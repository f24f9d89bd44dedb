from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify

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
