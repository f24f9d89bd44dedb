"""Robust means where reports meet: by hand, and in whole runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.algorithm.aggregation import RULES, Aggregation
from asyndbt_mpi.algorithm.lower_level import LowerLevel, LowerSteps
from asyndbt_mpi.algorithm.simplex import project
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.asyndbt import AsynDBT
from asyndbt_mpi.protocol.messages import MalformedMessage, Report
from asyndbt_mpi.protocol.records import Event, EventKind, Iteration
from tests.protocol.hand import SHAPES, Hand, configuration

Run = Callable[..., Path]
MEDIAN = Aggregation("median", liars=1)


def test_z_follows_the_rule_and_not_the_sum() -> None:
    """Two at word 0, a liar at word 2 with all its weight: the median of pulls is the honest's."""
    p = np.array([[[1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]])
    z = np.full((1, 3), 1 / 3)
    steps = LowerSteps(z=0.1, rho=0.5, penalty=2.0, robust_weight=0.0)
    lower = LowerLevel.start(p, z, np.ones(3, dtype=bool), steps, MEDIAN)
    lower.server_step()
    np.testing.assert_allclose(lower.z, project(z - 0.1 * 3 * 2.0 * (z - p[0])))
    # The dual of each is still its own, (10).
    np.testing.assert_allclose(lower.rho, 0.5 * (p - lower.z))


def test_others_are_a_robust_mean_times_their_number() -> None:
    pooled = {"lower_gradient": "model", "plane_period": 2, "active_workers": 4}
    hand = Hand(configuration(algorithm=pooled, defence={"aggregator": "median"}), workers=4)
    hand.hello()
    replies = {worker: hand.reply(worker) for worker in range(1, 5)}
    liar = replies[4]
    assert isinstance(liar, Report)
    liar.information = np.full_like(liar.information, 1e6)
    for worker, reply in replies.items():
        assert reply is not None
        hand.deliver(worker, reply)
    pool = hand.server.algorithm.pool
    assert pool is not None
    precision, information = pool.others(np.arange(4))
    for worker in range(4):
        np.testing.assert_allclose(precision[worker], 3 * np.median(pool.precision, axis=0))
        np.testing.assert_allclose(information[worker], 3 * np.median(pool.information, axis=0))


def test_the_objective_is_not_a_liars() -> None:
    hand = Hand(
        configuration(algorithm={"active_workers": 4}, defence={"aggregator": "median"}), workers=4
    )
    hand.hello()
    for worker in (1, 2, 3, 4):
        reply = hand.reply(worker)
        assert isinstance(reply, Report)
        if worker == 4:
            reply.loss = 1e90
        hand.deliver(worker, reply)
    algorithm = hand.server.algorithm
    assert algorithm.objective == np.median(algorithm.loss) < 1e3


def lying(hand: Hand, liar: int, loss: float) -> None:
    """Everybody that has something to do reports, ``liar`` the ``loss``."""
    for worker in [v for v, inbox in hand.inbox.items() if inbox]:
        reply = hand.reply(worker)
        if isinstance(reply, Report) and worker == liar:
            reply.loss = loss
        if reply is not None:
            hand.deliver(worker, reply)


@pytest.mark.parametrize(("aggregator", "mean"), [("rsa", np.mean), ("median", np.median)])
def test_the_objective_is_of_those_who_have_not_left(
    aggregator: str, mean: Callable[[np.ndarray], float]
) -> None:
    """Lost, it counts no more until it is back and has reported; excluded, it never does."""
    config = configuration(
        algorithm={"active_workers": 4, "max_delay": 9},
        defence={"aggregator": aggregator, "strikes": 1},
    )
    hand = Hand(config, workers=4)
    hand.hello()
    loss = hand.server.algorithm.loss

    def shown(*counted: int) -> None:
        objective = hand.of_type(Iteration)[-1].objective
        assert objective == pytest.approx(mean(loss[[v - 1 for v in counted]]), abs=1e-12)

    lying(hand, 4, 1e6)
    shown(1, 2, 3, 4)
    hand.inbox[4].clear()
    hand.take(hand.server.lose(4, "fell silent", hand.time))
    lying(hand, 4, 1e6)
    shown(1, 2, 3)
    hand.take(hand.server.take_back(4, hand.time))
    hand.reply(4)
    lying(hand, 4, 1e6)
    shown(1, 2, 3)
    hand.hello(4)
    hand.work(1, 2, 3)
    assert len(hand.of_type(Iteration)) == 3  # it is waited for
    lying(hand, 4, 7.0)
    shown(1, 2, 3, 4)
    assert loss[3] == 7.0
    hand.take(hand.server.strike(4, "sent a NaN", hand.time))
    lying(hand, 4, 1e6)
    shown(1, 2, 3)


def test_the_objective_of_an_iteration_has_those_it_used() -> None:
    """Also if all of them are lost while phi is estimated."""
    hand = Hand(
        configuration(algorithm={"active_workers": 1, "plane_period": 1, "lower_steps": 1}), 2
    )
    hand.hello()
    hand.work(1)
    algorithm = hand.server.algorithm
    assert algorithm.is_open
    hand.take(hand.server.lose(1, "fell silent", hand.time))
    hand.work(2, 2, 2)
    first, second = (each.objective for each in hand.of_type(Iteration)[:2])
    assert first == algorithm.loss[0]
    assert second == algorithm.loss[1] != first


@pytest.mark.parametrize("name", ["rsa", *RULES])
@pytest.mark.parametrize("before", ["none", "nnm", "bucketing"])
@pytest.mark.parametrize("gradient", ["model", "black_box"])
def test_runs_are_whole(virtual_run: Run, name: str, before: str, gradient: str) -> None:
    path = virtual_run(
        workers=5,
        defence={"aggregator": name, "preaggregator": before},
        algorithm={"lower_gradient": gradient, "plane_period": 3, "active_workers": 2},
        run={"iterations": 20, "evaluate_every": 6},
    )
    with Log(path) as log:
        assert log.committed == 20
    assert verify(path).violations == []


def test_of_three_workers_the_default_tolerates_none_and_is_the_papers(virtual_run: Run) -> None:
    """Bit for bit; of four it tolerates one, and is not."""
    keys = {"plane_period": 3, "active_workers": 2, "max_delay": 5}
    for workers, are_equal in ((3, True), (4, False)):
        found = []
        for name, defence in (("default", {}), ("paper", {"aggregator": "rsa"})):
            run = {"iterations": 30}
            path = virtual_run(
                workers, f"{name}-{workers}", algorithm=keys, run=run, defence=defence
            )
            with Log(path) as log:
                found.append({key: log[key] for key in ("iteration/z", "report/p", "lower/phi_z")})
        equal = all(np.array_equal(found[0][key], found[1][key]) for key in found[0])
        assert equal == are_equal


def struck(strikes: int) -> Hand:
    hand = Hand(configuration(defence={"strikes": strikes}), workers=3)
    hand.hello()
    return hand


def test_a_worker_is_excluded_after_its_strikes() -> None:
    hand = struck(3)
    for _ in range(2):
        hand.take(hand.server.strike(3, "sent a NaN", hand.time))
        assert hand.server.members.is_live(3)
    hand.take(hand.server.strike(3, "sent a NaN", hand.time))
    assert not hand.server.members.is_live(3)
    kinds = [event.kind for event in hand.of_type(Event) if event.worker == 3]
    assert kinds[-3:] == [EventKind.DROPPED, EventKind.DROPPED, EventKind.EXCLUDED]


def test_what_is_dropped_changes_nothing_and_the_right_answer_still_counts() -> None:
    hand = struck(2)
    reply = hand.reply(3)
    assert isinstance(reply, Report)
    z, p = hand.server.algorithm.z.copy(), hand.server.algorithm.p.copy()
    reply.number += 7
    with pytest.raises(MalformedMessage):
        hand.deliver(3, reply)
    hand.take(hand.server.strike(3, "answers nothing", hand.time))
    np.testing.assert_array_equal(hand.server.algorithm.z, z)
    np.testing.assert_array_equal(hand.server.algorithm.p, p)
    reply.number -= 7
    hand.deliver(3, reply)
    assert 3 in hand.server.algorithm.reported


def test_a_worker_far_from_phi_is_held_by_no_plane() -> None:
    """Of four with p at (1, 0), three have phi near by; the fourth's is at the other end."""
    for aggregator, counts in (("median", False), ("rsa", True)):
        config = configuration(defence={"aggregator": aggregator})
        algorithm = AsynDBT(config, SHAPES, 4)
        phi = algorithm.p.copy()
        phi[:, :, 0] += 0.01
        phi[:, :, 1] -= 0.01
        phi[3] = np.eye(SHAPES.words)[[0] * SHAPES.positions]
        live = np.ones(4, dtype=bool)
        lower = LowerLevel.start(phi, algorithm.z, live, algorithm.lower_steps)
        plausible = algorithm._plausible(lower)
        np.testing.assert_array_equal(plausible[:3], phi[:3])
        np.testing.assert_array_equal(plausible[3], phi[3] if counts else algorithm.p[3])


def test_workers_that_keep_their_p_do_not_say_what_is_far() -> None:
    """With "quorum" most may take no part in an estimate; the others are held as ever."""
    config = configuration(defence={"aggregator": "median"})
    algorithm = AsynDBT(config, SHAPES, 7)
    phi = algorithm.p.copy()
    phi[:2, :, 0] += 0.01
    phi[:2, :, 1] -= 0.01
    live = np.ones(7, dtype=bool)
    lower = LowerLevel.start(phi, algorithm.z, live, algorithm.lower_steps)
    np.testing.assert_array_equal(algorithm._plausible(lower), phi)
