"""The lower level asked of the workers' models, by hand and in whole runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from asyndbt_mpi.algorithm.pooling import Pool
from asyndbt_mpi.config import ConfigurationError, load, parse
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.messages import Assignment, LowerAssignment, Report
from asyndbt_mpi.protocol.records import Event, EventKind, Iteration
from tests.protocol.hand import Hand, configuration

POOLED = {"lower_gradient": "model", "plane_period": 2, "tolerance": 0.0}


def three(**algorithm: Any) -> Hand:
    hand = Hand(configuration(algorithm=POOLED | algorithm), workers=3)
    hand.hello()
    return hand


def pool_of(hand: Hand) -> Pool:
    pool = hand.server.algorithm.pool
    assert pool is not None
    return pool


def test_each_is_told_what_the_others_know() -> None:
    hand = three()
    hand.work(1, 2)  # S = 2: both get their next assignment, worker 3 is busy
    pool = pool_of(hand)
    assert pool.known.tolist() == [True, True, False]
    for worker, other in ((1, 1), (2, 0)):
        (message,) = hand.inbox[worker]
        assert isinstance(message, Assignment)
        np.testing.assert_allclose(message.precision, pool.precision[other], atol=1e-12)
        np.testing.assert_allclose(message.information, pool.information[other], atol=1e-12)
        assert message.precision.any()


def test_an_estimate_asks_nobody_and_costs_nothing() -> None:
    hand = three()
    for _ in range(4):
        hand.work(1, 2, 3)
    assert not any(
        isinstance(message, LowerAssignment) for box in hand.inbox.values() for message in box
    )
    iterations = [each for each in hand.records if isinstance(each, Iteration)]
    estimates = [each.estimation for each in iterations if each.estimation]
    assert len(estimates) == len(iterations) // 2 > 1
    for each in estimates:
        assert (each.calls, each.prompt_tokens) == (0, 0)
        assert (each.k == -1).all()
        assert (each.h > 0).all()
    kinds = {each.kind for each in hand.records if isinstance(each, Event)}
    assert EventKind.LOWER_REPORT not in kinds


def test_who_is_excluded_is_forgotten() -> None:
    hand = three()
    hand.work(1, 2)
    hand.take(hand.server.exclude(1, "by hand", hand.time + 1))
    pool = pool_of(hand)
    assert not pool.known[0]
    assert not pool.precision[0].any()
    np.testing.assert_allclose(pool.others(np.array([1]))[0], 0.0, atol=1e-12)


def test_a_worker_knows_no_more_than_its_samples_say() -> None:
    hand = three()
    reply = hand.reply(1)
    assert isinstance(reply, Report)
    reply.precision = np.full_like(reply.precision, 1e9)
    reply.information = np.full_like(reply.information, 1e12)
    hand.deliver(1, reply)
    hand.work(2)
    samples = hand.server.config.estimator.samples
    assert pool_of(hand).precision[0].max() <= samples


Run = Callable[..., Path]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "mirror"])
@pytest.mark.parametrize("active", [1, 2, 5])
def test_runs_are_whole(virtual_run: Run, optimizer: str, active: int) -> None:
    path = virtual_run(
        workers=5,
        run={"iterations": 40},
        steps={"optimizer": optimizer},
        algorithm={"active_workers": active, "max_delay": 8, "plane_period": 4, "tolerance": 0.01},
    )
    with Log(path) as log:
        assert log.config.algorithm.pools
        assert log["iteration/gradient"].any()
    assert verify(path).violations == []


def test_a_gradient_that_was_not_used_is_noticed(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 12})
    with h5py.File(path, "r+") as file:
        file["iteration/gradient"][5, 0, 0] += 0.5
    found = verify(path).violations
    assert any(line.startswith("iteration 5: z differs from (21)") for line in found)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (("estimator.name=loo", "algorithm.lower_gradient=model"), "needs estimator.name"),
        (("algorithm.penalty=0",), "needs a penalty greater than 0"),
        (("steps.lower_p=0.1",), "steps.lower_p is used only with .* 'black_box'"),
        (("algorithm.lower_participation=quorum",), "lower_participation is used only with"),
    ],
)
def test_settings_that_do_not_go_together(settings: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load("synthetic", settings)


def test_defaults_follow_the_size_of_losses_and_the_estimator() -> None:
    synthetic, demo = load("synthetic"), load("demo")
    assert synthetic.algorithm.pools
    assert demo.algorithm.pools
    assert demo.algorithm.dual_bound == pytest.approx(synthetic.algorithm.dual_bound / 20)
    assert load("synthetic", ["estimator.name=loo"]).algorithm.lower_gradient == "black_box"
    assert load("synthetic", ["estimator.name=loo"]).algorithm.dual_bound == 10.0
    again = parse(synthetic.model_dump(mode="json"), "again")
    assert again == synthetic
