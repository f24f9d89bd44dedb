"""Steps that lead out of the finite numbers: told at the iteration, and never committed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyndbt_mpi.algorithm.optimizer import OPTIMIZERS
from asyndbt_mpi.jobs.opening import verdict
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.divergence import Diverged, Step
from asyndbt_mpi.protocol.records import Iteration
from tests.protocol.hand import Hand, configuration

Run = Callable[..., Path]

HUGE = 1.7e308
PLANES = {"plane_period": 2, "tolerance": 0.0}


def finite(log: Log) -> bool:
    names = ("iteration/z", "report/p", "report/q", "lower/phi_p", "lower/phi_z", "lower/h",
             "dual/value", "iteration/objective", "plane/b", "plane/c")  # fmt: skip
    return all(np.isfinite(log[name]).all() for name in names)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"steps": {"z": HUGE}}, "z would not be finite: lower steps.z"),
        ({"steps": {"p": HUGE}}, "p would not be finite after the step of iteration .*steps.p"),
        ({"steps": {"p": HUGE, "optimizer": "sgd"}}, "p would not be finite"),
        ({"steps": {"p": HUGE, "optimizer": "adam"}}, "p would not be finite"),
        ({"steps": {"q": HUGE, "optimizer": "adam"}}, "q would not be finite .*lower steps.q"),
        ({"steps": {"z": HUGE, "optimizer": "adam"}}, "z would not be finite"),
        ({"steps": {"rho": HUGE}}, "phi would not be finite: lower .*steps.rho"),
        ({"steps": {"lower_z": HUGE}}, "phi would not be finite: lower steps.lower_z"),
        ({"steps": {"lower_p": HUGE}}, "phi would not be finite after a step of .*steps.lower_p"),
        ({"algorithm": {"penalty": HUGE}}, "would not be finite: lower .*algorithm.penalty"),
        ({"algorithm": {"robust_weight": HUGE}}, "would not be finite: .*algorithm.robust_weight"),
    ],
)
def test_a_run_ends_with_its_last_good_state(
    virtual_run: Run, tmp_path: Path, sections: dict[str, Any], said: str
) -> None:
    """All the same where the log comes from: it is interrupted, whole, and holds numbers only."""
    sections = {"algorithm": {}, **sections}
    sections["algorithm"] = PLANES | sections["algorithm"]
    with pytest.raises(Diverged, match=said) as caught:
        virtual_run(run={"iterations": 200}, **sections)
    assert str(caught.value).isprintable()
    (path,) = tmp_path.rglob("*.h5")
    with Log(path) as log:
        assert log.status == "interrupted"
        assert log.committed < 200
        assert finite(log)
    assert verify(path).violations == []


def test_the_server_names_the_iteration_and_stops_everybody() -> None:
    hand = Hand(configuration(algorithm=PLANES, steps={"rho": HUGE}), workers=2)
    hand.hello()
    while not hand.server.finished:
        for worker in (1, 2):
            if hand.inbox[worker] and (reply := hand.reply(worker)):
                hand.deliver(worker, reply)
    assert hand.server.failure is not None
    assert hand.server.failure.startswith("iteration 1: phi would not be finite: lower ")
    iterations = [record for record in hand.records if isinstance(record, Iteration)]
    assert [record.number for record in iterations] == [0]
    assert verdict(hand.server) == (hand.server.failure, 1), "there are enough workers"


def test_duals_whose_sum_is_not_finite_are_told_before_they_are_sent() -> None:
    hand = Hand(configuration(), workers=2)
    hand.hello()
    polyhedron = hand.server.algorithm.polyhedron
    p, z = hand.server.algorithm.p, hand.server.algorithm.z
    polyhedron.add(p, z, np.eye(3, 4)[None].repeat(2, 0), z, np.ones(3), 0.0, 0)
    polyhedron.dual[polyhedron.slots] = np.inf
    for worker in (1, 2):
        reply = hand.reply(worker)
        assert reply is not None
        output = hand.server.receive(worker, reply, 9.0)
        assert not any(isinstance(record, Iteration) for record in output.records)
    assert hand.server.finished
    assert hand.server.failure is not None


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("slope", [np.nan, np.inf, -np.inf, 1e308])
def test_no_step_stands_still_without_a_word(name: str, slope: float) -> None:
    x = np.full((2, 4), 0.25)
    gradient = np.zeros((2, 4))
    gradient[1, 2] = slope
    with pytest.raises(FloatingPointError), np.errstate(all="ignore"):
        OPTIMIZERS[name](10.0, x.shape).step(x, gradient)


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), Step("p", "steps.p"):
        raise ZeroDivisionError
