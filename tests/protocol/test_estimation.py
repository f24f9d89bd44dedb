"""A whole plane refinement, message by message, for both participations."""

import dataclasses

import numpy as np
import pytest

from asyndbt_mpi.algorithm.simplex import project
from asyndbt_mpi.protocol.messages import (
    Assignment,
    LowerAssignment,
    LowerReport,
    MalformedMessage,
)
from asyndbt_mpi.protocol.records import Iteration
from tests.protocol.hand import Hand, configuration
from tests.protocol.invariants import snapshot

ROUNDS = 3


def hand(participation: str, distance: str = "l1") -> Hand:
    made = Hand(
        configuration(
            algorithm={
                "plane_period": 2,
                "lower_steps": ROUNDS,
                "tolerance": 0.01,
                "lower_participation": participation,
                "lower_distance": distance,
                "robust_weight": 0.2,
            }
        ),
        3,
    )
    made.hello()
    made.work(1, 2)  # iteration 0; the next one ends with an estimation
    return made


class ByHand:
    """Eqs. (8)-(10) written out for a few workers, the slow and obvious way."""

    def __init__(self, driven: Hand) -> None:
        server = driven.server
        self.p = server.algorithm.p.copy()
        self.z = server.algorithm.z.copy()
        self.rho = np.zeros_like(self.p)
        self.start = self.p.copy(), self.z.copy()

    def dual_gradient(self, v: int) -> np.ndarray:
        gap = self.p[v] - self.z
        return self.rho[v] + 1.0 * gap + 0.2 * np.sign(gap)

    def server_step(self) -> None:
        gradient = np.zeros_like(self.z)
        for p, rho in zip(self.p, self.rho, strict=True):
            gradient += -rho + 1.0 * (self.z - p) + 0.2 * np.sign(self.z - p)
        self.z = project(self.z - 0.05 * gradient)
        for v in range(len(self.p)):
            self.rho[v] = self.rho[v] + 0.05 * (self.p[v] - self.z)


def run_rounds(driven: Hand, workers: list[int], expected: ByHand) -> None:
    """All rounds; checks what the server asks against the equations by hand."""
    for _ in range(ROUNDS):
        replies = {}
        for v in workers:
            message = driven.inbox[v][0]
            assert isinstance(message, LowerAssignment)
            np.testing.assert_allclose(message.p, expected.p[v - 1], atol=1e-12)
            np.testing.assert_allclose(
                message.dual_gradient, expected.dual_gradient(v - 1), atol=1e-12
            )
            replies[v] = driven.reply(v)
        for v, reply in replies.items():
            expected.p[v - 1] = reply.p
            driven.deliver(v, reply)
        expected.server_step()


def check_estimation(driven: Hand, expected: ByHand, distance: str) -> Iteration:
    iteration = driven.of_type(Iteration)[-1]
    assert iteration.number == 1
    estimation = iteration.estimation
    np.testing.assert_allclose(estimation.phi_p, expected.p, atol=1e-12)
    np.testing.assert_allclose(estimation.phi_z, expected.z, atol=1e-12)
    p, z = expected.start
    gaps = np.concatenate([p, z[None]]) - np.concatenate([expected.p, expected.z[None]])
    measure = np.abs if distance == "l1" else np.square
    np.testing.assert_allclose(estimation.h, measure(gaps).sum(axis=(0, 2)), atol=1e-12)
    plane = estimation.plane
    assert plane.created == 1
    value = (plane.a * p).sum(axis=(0, 2)) + (plane.b * z).sum(axis=1) + plane.c
    np.testing.assert_allclose(
        value, np.where(plane.positions, estimation.h - 0.01, 0.0), atol=1e-12
    )
    assert plane.positions.any()
    return iteration


@pytest.mark.parametrize("distance", ["l1", "l2sq"])
def test_all_waits_for_the_straggler_and_uses_its_report_later(distance: str) -> None:
    driven = hand("all", distance)
    driven.work(2, 1)
    server = driven.server
    assert server.iteration == 1, "iteration 1 is under way, not committed"
    # Worker 3 still has its first assignment in front of it.
    assert [type(m) for m in driven.inbox[3]] == [Assignment, LowerAssignment]
    expected = ByHand(driven)
    driven.work(3)
    assert server.iteration == 1
    np.testing.assert_array_equal(server.algorithm.p[2], expected.p[2], "its report waits")
    run_rounds(driven, [1, 2, 3], expected)
    iteration = check_estimation(driven, expected, distance)
    assert iteration.active.tolist() == [True, True, False]
    assert (iteration.estimation.k >= 0).all()
    assert server.iteration == 2
    # 1 and 2 are answered; 3 is not, for its report has yet to be used: one more makes S = 2.
    assert [len(driven.inbox[v]) for v in (1, 2, 3)] == [1, 1, 0]
    driven.work(1)
    assert server.iteration == 3
    assert driven.of_type(Iteration)[-1].active.tolist() == [True, False, True]


@pytest.mark.parametrize("distance", ["l1", "l2sq"])
def test_quorum_goes_on_without_the_straggler_which_keeps_its_last_p(distance: str) -> None:
    driven = hand("quorum", distance)
    driven.work(2, 1)
    assert [type(m) for m in driven.inbox[3]] == [Assignment]
    expected = ByHand(driven)
    last_p = expected.p[2].copy()
    run_rounds(driven, [1, 2], expected)
    iteration = check_estimation(driven, expected, distance)
    np.testing.assert_array_equal(iteration.estimation.phi_p[2], last_p)
    assert iteration.estimation.k[2].tolist() == [-1, -1]
    assert not iteration.estimation.plane.a[2].any()
    assert driven.server.iteration == 2
    driven.work(3)
    driven.work(1)
    assert driven.of_type(Iteration)[-1].active.tolist() == [True, False, True]


def test_a_report_that_arrives_during_a_quorum_estimation_is_used_later() -> None:
    driven = hand("quorum")
    driven.work(2, 1)
    driven.work(3)  # in the middle of round 0
    expected = ByHand(driven)
    run_rounds(driven, [1, 2], expected)
    assert driven.server.iteration == 2
    driven.work(2)
    assert driven.of_type(Iteration)[-1].active.tolist() == [False, True, True]


def test_the_workers_own_p_is_left_alone() -> None:
    driven = hand("all")
    driven.work(2, 1, 3)
    before = driven.workers.p.copy()
    run_rounds(driven, [1, 2, 3], ByHand(driven))
    np.testing.assert_array_equal(driven.workers.p, before)


def test_no_estimation_from_t1_on() -> None:
    driven = Hand(configuration(algorithm={"plane_period": 2, "plane_until": 3}), 2)
    driven.hello()
    while driven.server.iteration < 10:
        driven.work(1, 2)
    with_estimation = [i.number for i in driven.of_type(Iteration) if i.estimation]
    assert with_estimation == [1]


@pytest.mark.parametrize("participation", ["all", "quorum"])
def test_a_participant_that_is_excluded_holds_nobody_up(participation: str) -> None:
    driven = hand(participation)
    driven.work(2, 1)
    if participation == "all":
        driven.work(3)
        driven.work(3)
    driven.work(1)
    driven.take(driven.server.exclude(2, "sent a NaN", driven.time))
    while driven.server.iteration == 1:
        driven.work(*(v for v in (1, 3) if isinstance(driven.inbox[v][0], LowerAssignment)))
    estimation = driven.of_type(Iteration)[-1].estimation
    assert estimation.plane is not None
    np.testing.assert_array_equal(estimation.phi_p[1], driven.server.algorithm.p[1])
    assert not estimation.plane.a[1].any(), "nobody can reduce the residual of one who is gone"
    assert driven.server.iteration == 2


def test_planes_stay_bounded() -> None:
    driven = Hand(
        configuration(
            run={"iterations": 400},
            algorithm={"plane_period": 1, "plane_until": 400, "max_planes": 4, "lower_steps": 1,
                       "tolerance": 0.0, "plane_threshold": 0.0},
        ),
        2,
    )  # fmt: skip
    driven.hello()
    while not driven.server.finished:
        driven.work(*(v for v, inbox in driven.inbox.items() if inbox))
    assert max(len(i.planes) for i in driven.of_type(Iteration)) == 4
    assert sum(len(i.estimation.drops) for i in driven.of_type(Iteration) if i.estimation) > 100


@pytest.mark.parametrize("changed", ["number", "estimation"])
def test_an_answer_to_another_question_is_refused_and_changes_nothing(changed: str) -> None:
    driven = hand("all")
    driven.work(1, 2)
    report = driven.reply(1)
    assert isinstance(report, LowerReport)
    before = snapshot(driven.server)
    other = dataclasses.replace(report, **{changed: getattr(report, changed) + 1})
    with pytest.raises(MalformedMessage, match="was not asked for"):
        driven.deliver(1, other)
    assert snapshot(driven.server) == before
    driven.deliver(1, report)
    assert snapshot(driven.server) != before
