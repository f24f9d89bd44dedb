from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.assemble import delays_of_workers, prepare, workers_with_black_box
from asyndbt_mpi.config import load
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.records import Iteration, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.transport.virtual import VirtualCluster

Run = Callable[..., Path]


def test_records_do_not_change_after_they_were_made() -> None:
    """The log keeps their arrays as they are until it writes them."""
    settings = ["run.iterations=40", "algorithm.plane_period=5", "algorithm.tolerance=0.0"]
    config = load("synthetic", [*settings, "algorithm.max_planes=3"])
    materials = prepare(config, 3)
    everyone = list(range(1, 4))
    workers, box = workers_with_black_box(config, materials, everyone, None)
    server = Server(config, materials.shapes, 3)
    kept: list[Record] = []
    copied: list[Record] = []

    def write(records: list[Record]) -> None:
        kept.extend(records)
        copied.extend(deepcopy(records))

    VirtualCluster(server, workers, box, delays_of_workers(config, 3)).run(write)
    assert sum(isinstance(record, Iteration) for record in kept) == 40
    for one, other in zip(kept, copied, strict=True):
        np.testing.assert_equal(asdict(one), asdict(other))


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


def test_an_iteration_that_validates_may_be_followed_at_once_by_the_last(virtual_run) -> None:
    """Both happen in one step where workers have waited for an estimate of phi."""
    algorithm = {"active_workers": 2, "max_delay": 9, "plane_period": 5, "tolerance": 0.0}
    for iterations in range(10, 13):
        path = virtual_run(
            4,
            name=f"run{iterations}",
            run={"iterations": iterations, "evaluate_every": 10},
            algorithm=algorithm,
        )
        with Log(path) as log:
            assert log.committed == iterations
