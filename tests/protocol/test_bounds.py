"""What one bad worker can touch, at most: the bounds of docs/threats.md that no other test has."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from asyndbt_mpi.algorithm.aggregation import Aggregation
from asyndbt_mpi.algorithm.lower_level import LowerLevel, LowerSteps
from asyndbt_mpi.algorithm.simplex import onto_simplex
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.messages import (
    Assignment,
    Candidate,
    Costs,
    EvaluationReport,
    LowerReport,
    MalformedMessage,
    Report,
    Split,
    ToServer,
)
from asyndbt_mpi.protocol.records import Evaluation
from tests.protocol.hand import SHAPES, Hand, configuration, until_finished

LIAR = 3
NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)


@given(
    honest=arrays.arrays(float, (7, 4), elements=NUMBERS),
    lies=arrays.arrays(float, (3, 4), elements=st.floats(-1e100, 1e100)),
)
def test_by_default_three_of_ten_move_a_mean_no_further_than_the_honest_differ(
    honest: np.ndarray, lies: np.ndarray
) -> None:
    """Each honest report is mixed with what is no further from it than the honest are."""
    defence = Config().defence
    rule = Aggregation(defence.aggregator, defence.preaggregator, defence.tolerated(10))
    y = rule.mean(np.concatenate([honest, lies]))
    diameter = max(np.linalg.norm(one - other) for one in honest for other in honest)
    room = diameter * (1 + 1e-9) + 1e-9
    assert (honest.min(axis=0) - room <= y).all()
    assert (y <= honest.max(axis=0) + room).all()


@given(
    p=arrays.arrays(float, (4, 2, 3), elements=NUMBERS),
    lie=arrays.arrays(float, (2, 3), elements=NUMBERS),
    rho=arrays.arrays(float, (5, 2, 3), elements=NUMBERS),
)
def test_added_up_one_worker_moves_z_by_its_weight_at_most(
    p: np.ndarray, lie: np.ndarray, rho: np.ndarray
) -> None:
    """By eta_z (mu ||p - p'|| + ||rho - rho'|| + 2 psi sqrt(N)) in a row, whatever it says."""
    steps = LowerSteps(z=0.1, rho=0.5, penalty=2.0, robust_weight=0.3)
    found = []
    for reported, its_rho in ((p[3], rho[3]), (lie, rho[4])):
        of_all = onto_simplex(np.concatenate([p[:3], reported[None]]))
        lower = LowerLevel.start(
            of_all, np.full((2, 3), 1 / 3), np.ones(4, dtype=bool), steps, Aggregation()
        )
        lower.rho[:3], lower.rho[3] = rho[:3], its_rho  # as after rounds before
        lower.server_step()
        found.append((lower.z, of_all[3], its_rho))
    (z, before, rho_before), (moved, after, rho_after) = found
    apart = 2.0 * np.linalg.norm(before - after, axis=1)
    apart += np.linalg.norm(rho_before - rho_after, axis=1)
    most = 0.1 * (apart + 2 * 0.3 * np.sqrt(3))
    assert (np.linalg.norm(moved - z, axis=1) <= most + 1e-12).all()


def lying(hand: Hand, seed: int) -> None:
    """All work to the end; the liar is at a random vertex of the simplex, whatever it is asked."""
    generator = np.random.default_rng(seed)
    while not hand.server.finished:
        for worker in [worker for worker, inbox in hand.inbox.items() if inbox]:
            reply = hand.reply(worker)
            if worker == LIAR and isinstance(reply, Report | LowerReport):
                words = generator.integers(SHAPES.words, size=SHAPES.positions)
                reply.p = np.eye(SHAPES.words)[words]
            if reply is not None:
                hand.deliver(worker, reply)


@pytest.mark.parametrize(("distance", "coefficient"), [("l1", 1.0), ("l2sq", 2.0)])
@pytest.mark.parametrize("aggregator", ["rsa", "trimmed_mean"])
def test_the_force_on_others_is_bounded(
    monkeypatch: pytest.MonkeyPatch, aggregator: str, distance: str, coefficient: float
) -> None:
    """By max_planes x dual_bound x the largest coefficient, even where planes stay violated."""
    keys = {"plane_period": 1, "plane_until": 60, "max_planes": 4, "dual_bound": 0.5}
    keys |= {"tolerance": 0.0, "lower_distance": distance, "active_workers": 4}
    hand = Hand(
        configuration(
            run={"iterations": 60}, algorithm=keys, steps={"lam": 10.0},
            defence={"aggregator": aggregator},
        ),
        4,
    )  # fmt: skip
    forces: list[float] = []
    take = Hand.take

    def looking(self: Hand, output) -> None:
        for worker, message in output.messages:
            if worker != LIAR and isinstance(message, Assignment):
                forces.append(float(np.abs(message.dual_gradient).max()))
        take(self, output)

    monkeypatch.setattr(Hand, "take", looking)
    hand.hello()
    lying(hand, seed=1)
    assert max(forces) <= 4 * 0.5 * coefficient
    assert max(forces) > 0.1, "else there is nothing to bound"


def test_a_liars_scores_choose_its_own_prompt_alone() -> None:
    """With validation, a race and tests; nobody else ends with other words."""
    tuned = []
    for lies in (False, True):
        hand = Hand(configuration(run={"iterations": 6, "evaluate_every": 2, "race": 6}), 3)
        hand.hello()
        deliver = hand.deliver

        def twisted(worker: int, message: ToServer, deliver=deliver, lies=lies) -> None:
            if lies and worker == LIAR and isinstance(message, EvaluationReport):
                message = dataclasses.replace(message, loss=-message.loss)
            deliver(worker, message)

        hand.deliver = twisted  # type: ignore[method-assign]
        until_finished(hand)
        tuned.append({
            each.worker: (each.words.tolist(), each.demonstrations.tolist())
            for each in hand.of_type(Evaluation)
            if (each.split, each.candidate) == (Split.TEST, Candidate.TUNED)
        })  # fmt: skip
    honest, lied = tuned
    assert honest.keys() == lied.keys() == {1, 2, 3}
    assert honest[LIAR] != lied[LIAR], "else its lies are none"
    assert {worker: honest[worker] for worker in (1, 2)} == {w: lied[w] for w in (1, 2)}


def test_a_report_may_cost_twice_the_tokens_and_no_more() -> None:
    hand = Hand(configuration(), 2, expecting=True)
    hand.hello()
    bounds = hand.server.spending.cost_bounds(1)
    most = 2 * bounds.assignment * bounds.prompt_tokens
    report = hand.reply(1)
    assert isinstance(report, Report)
    for tokens, fits in ((most + 1, False), (most, True)):
        costs = Costs(calls=bounds.assignment, prompt_tokens=tokens, prompts=bounds.assignment)
        costly = dataclasses.replace(report, costs=costs)
        if fits:
            hand.deliver(1, costly)
        else:
            with pytest.raises(MalformedMessage, match="prompt_tokens"):
                hand.deliver(1, costly)
    assert hand.server.spending.spent.prompt_tokens == most
