"""Budgets: hard, whatever the order of arrivals, and checked before anything is handed out."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.protocol.messages import (
    Assignment,
    CostBounds,
    Costs,
    EvaluationRequest,
    MalformedMessage,
    Split,
)
from asyndbt_mpi.protocol.race import most_calls
from asyndbt_mpi.protocol.records import Evaluation, Event, EventKind, Iteration
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.spending import Spending
from tests.protocol.hand import SHAPES, Hand, configuration

# By hand.py's configuration an assignment is 4 samples of 3 rows, and costs 12 calls.


def worked_off(config, workers: int, order: list[int]) -> Hand:
    hand = Hand(config, workers)
    hand.hello()
    for worker in order:
        if hand.inbox[worker]:
            hand.work(worker)
    while any(hand.inbox.values()):
        hand.work(*(v for v, inbox in hand.inbox.items() if inbox))
    return hand


@given(
    st.integers(0, 4000),
    st.lists(st.integers(1, 3), max_size=40),
    st.sampled_from(["all", "quorum"]),
    st.sampled_from([0, 2]),
    st.sampled_from([0, 2, 5]),
)
@settings(max_examples=80, deadline=None)
def test_no_more_is_called_than_the_budget_allows(calls, order, participation, every, race) -> None:
    config = configuration(
        run={"iterations": 12, "evaluate_every": every, "race": race},
        algorithm={"plane_period": 3, "lower_steps": 2, "lower_participation": participation},
        budget={"calls": calls},
    )
    hand = worked_off(config, 3, order)
    assert hand.server.finished
    spent = hand.server.spending.spent.calls
    assert spent <= calls or not calls
    if calls and hand.server.iteration < 12:
        assert hand.server.limit == f"budget.calls = {calls}"
    estimates = [i for i in hand.of_type(Iteration) if i.estimation]
    assert len(estimates) == hand.server.iteration // 3, "none was left out for want of budget"
    if every and hand.server.iteration:
        evaluations = hand.of_type(Evaluation)
        of_tests = [e for e in evaluations if e.split is Split.TEST and e.worker]
        assert len(of_tests) == 3 * 3 + 1, "the tests were reserved"
        assert all(race.next(0) is None for race in hand.server._races.values()), "so were races"


def test_the_end_is_said_in_the_log() -> None:
    hand = worked_off(configuration(budget={"calls": 60}), 2, [])
    (closing,) = [e for e in hand.of_type(Event) if e.kind is EventKind.CLOSING]
    assert (closing.worker, closing.text) == (0, "budget.calls = 60")
    assert hand.server.iteration == 2
    assert hand.server.spending.spent.calls == 48


def test_a_budget_below_one_iteration_ends_at_once() -> None:
    hand = worked_off(configuration(budget={"calls": 20}), 2, [])
    assert hand.server.finished
    assert hand.server.iteration == 0
    assert hand.server.spending.spent.calls <= 20


def test_what_a_lost_worker_was_at_counts_as_spent() -> None:
    spending = Spending(configuration(budget={"calls": 30}), 2)
    cost_bounds = CostBounds(assignment=10, validation=0, test=0)
    for worker in (1, 2):
        spending.join(worker, cost_bounds)
        spending.hand_out(worker, "assignment")
    assert spending.overdrawn(10, 0.0) is None
    assert spending.overdrawn(11, 0.0) == "budget.calls = 30"
    spending.lose(2)
    assert spending.overdrawn(11, 0.0) == "budget.calls = 30"
    spending.answered(1, Costs(calls=4))
    assert spending.overdrawn(16, 0.0) is None
    assert spending.overdrawn(17, 0.0) == "budget.calls = 30"


def test_a_race_sets_aside_what_its_rows_can_cost() -> None:
    """Of 100 rows and 3 more prompts, at 2 calls each: each row left out saves a call at least."""
    bounds = CostBounds(assignment=1, race=206, race_rows=100)
    spending = Spending(configuration(budget={"calls": 1000}), 1, {1: bounds})
    spending.join(1, bounds)
    for halvings, calls in ((0, 206), (1, 156), (2, 131), (3, 122), (9, 122)):
        assert most_calls(spending.cost_bounds(1), halvings) == calls
        spending.hand_out(1, "race", halvings)
        assert spending.reserved == calls
        with pytest.raises(MalformedMessage, match=f"cost {calls + 1} calls: {calls} at most"):
            spending.check(1, "race", Costs(calls=calls + 1))
        spending.check(1, "race", Costs(calls=calls))
        spending.answered(1, Costs())
        assert spending.reserved == 0


def test_what_is_owed_is_bounded_by_the_newest_hello() -> None:
    """A worker that comes back after a resumption may need other calls for what it was asked."""
    spending = Spending(configuration(budget={"calls": 1000}), 1)
    spending.join(1, CostBounds(race=100, race_rows=100))
    spending.hand_out(1, "race", 2)
    spending.join(1, CostBounds(race=208, race_rows=100))
    assert spending.reserved == 208 - 75
    spending.lose(1)
    assert spending.most_spent(0)["calls"] == 208 - 75


@pytest.mark.parametrize("expecting", [True, False])
def test_more_rows_than_calls_are_refused(expecting: bool) -> None:
    """Less than nothing would be set aside for a few of them."""
    hand = Hand(configuration(), 2, expecting=expecting)
    hello = hand.workers.hello(1, "")
    for race, rows in ((1, 2), (0, 1), (5, 40)):
        bounds = dataclasses.replace(hello.cost_bounds, race=race, race_rows=rows)
        with pytest.raises(MalformedMessage, match=r"race_rows: 1 at most|a call each at least"):
            hand.deliver(1, dataclasses.replace(hello, cost_bounds=bounds))


@pytest.mark.parametrize(
    ("budget", "llm", "fits", "limit"),
    [
        ({"tokens": 1000}, {}, 7, "budget.tokens = 1000"),
        ({"cost": 1.0}, {"input_price": 1000.0}, 8, "budget.cost = 1"),
        ({"cost": 1.0}, {"input_price": 1000.0, "output_price": 5000.0}, 5, "budget.cost = 1"),
    ],
)
def test_tokens_and_money_by_the_longest_prompt(budget, llm, fits, limit) -> None:
    """100 prompt and 20 completion tokens a call, 100 and 10 already spent."""
    spending = Spending(configuration(budget=budget, llm=llm), 1)
    spending.join(1, CostBounds(1, 1, 1, prompt_tokens=100, completion_tokens=20))
    spending.hand_out(1, "assignment")
    spending.answered(1, Costs(calls=1, prompt_tokens=100, completion_tokens=10))
    fits -= 1 if "output_price" in llm else 0
    assert spending.overdrawn(fits, 0.0) is None
    assert spending.overdrawn(fits + 2, 0.0) == limit


def test_seconds_end_a_run_that_nothing_comes_to() -> None:
    hand = Hand(configuration(budget={"seconds": 20.0}), 2)
    hand.hello()
    hand.take(hand.server.tick(19.0))
    assert not hand.server.finished
    hand.take(hand.server.tick(20.0))
    assert hand.server.finished
    assert hand.server.limit == "budget.seconds = 20"


def test_seconds_end_a_run_that_is_busy() -> None:
    hand = Hand(configuration(budget={"seconds": 20.0}, algorithm={"active_workers": 1}), 1)
    hand.hello()
    while hand.inbox[1]:
        hand.work(1)
    assert hand.server.finished
    assert hand.server.iteration == 19


def test_who_comes_too_early_for_the_budget_is_not_forgotten() -> None:
    """An estimate of phi was set aside, and cost nothing."""
    algorithm = {"max_delay": 2, "plane_period": 1, "plane_until": 1, "lower_steps": 2,
                 "tolerance": 0.0}  # fmt: skip
    hand = Hand(configuration(algorithm=algorithm, budget={"calls": 100}), 3)
    hand.hello(1, 2)
    hand.work(1, 2)
    hand.hello(3)
    assert not hand.inbox[3], "with it the estimate might not be covered any more"
    while hand.server.iteration == 0:
        for worker in (1, 2):
            reply = hand.reply(worker)
            hand.deliver(worker, dataclasses.replace(reply, costs=Costs()))
    assert isinstance(hand.inbox[3][0], Assignment)
    while any(hand.inbox.values()):
        hand.work(*(v for v, inbox in hand.inbox.items() if inbox))
    assert hand.server.finished
    assert hand.server.spending.spent.calls <= 100


def test_a_run_that_makes_all_its_iterations_was_not_ended_by_the_budget() -> None:
    hand = worked_off(configuration(run={"iterations": 2}, budget={"calls": 48}), 2, [])
    assert hand.server.iteration == 2
    assert hand.server.limit is None


def test_seconds_are_said_in_the_log_and_hold_again() -> None:
    config = configuration(budget={"seconds": 20.0})
    hand = Hand(config, 2)
    hand.hello()
    hand.take(hand.server.tick(20.0))
    (closing,) = [e for e in hand.of_type(Event) if e.kind is EventKind.CLOSING]
    assert closing.text == "budget.seconds = 20"
    again = Hand(config, 2)
    again.hello()
    again.take(again.server.judge(closing.time))
    assert again.server.finished


def test_more_needs_than_a_worker_can_have_are_refused() -> None:
    config = configuration(budget={"calls": 1000})
    hand = Hand(config, 2)
    hello = hand.workers.hello(1, "by hand")
    server = Server(config, SHAPES, 2, expected={1: hello})
    with pytest.raises(MalformedMessage, match="may need 1099511627776 calls for its assignment"):
        server.receive(1, dataclasses.replace(hello, cost_bounds=CostBounds(assignment=2**40)), 1.0)
    server.receive(1, hello, 1.0)
    assert not server.limit


def test_an_answer_that_costs_more_than_was_set_aside_is_refused() -> None:
    hand = hand_that_expects()
    hand.hello()
    report = hand.reply(1)
    with pytest.raises(MalformedMessage, match="cost 1099511627776 calls"):
        hand.deliver(1, dataclasses.replace(report, costs=Costs(calls=2**40, prompts=2**40)))
    assert hand.server.spending.spent.calls == 0


def hand_that_expects(**sections: dict[str, Any]) -> Hand:
    """The server knows what hellos the workers' data give."""
    return Hand(configuration(**sections), 2, expecting=True)


@pytest.mark.parametrize("name", ["calls", "prompts", "prompt_tokens", "completion_tokens"])
@pytest.mark.parametrize("sections", [{}, {"budget": {"calls": 10_000}}])
def test_who_claims_to_cost_nothing_has_nothing_to_spend(name: str, sections: Any) -> None:
    hand = hand_that_expects(**sections)
    hand.deliver(1, dataclasses.replace(hand.workers.hello(1, ""), cost_bounds=CostBounds()))
    report = hand.reply(1)
    with pytest.raises(MalformedMessage, match=f"cost 1 {name}: 0 at most"):
        hand.deliver(1, dataclasses.replace(report, costs=Costs(**{name: 1})))


def test_what_was_claimed_when_nobody_looked_is_cut_when_it_is_gone_through_again() -> None:
    hand = hand_that_expects(budget={"calls": 10_000})
    hello = hand.workers.hello(1, "")
    hand.server.replaying = hand.server.spending.replaying = True
    hand.deliver(1, dataclasses.replace(hello, cost_bounds=CostBounds(assignment=2**40)))
    assert hand.server.spending.cost_bounds(1).assignment == hello.cost_bounds.assignment


def test_a_hello_with_a_q_of_its_own_is_refused() -> None:
    hand = hand_that_expects()
    hello = hand.workers.hello(1, "")
    q = np.zeros_like(hello.q)
    q[:, 0] = 1.0
    with pytest.raises(MalformedMessage, match="another q than its data give"):
        hand.deliver(1, dataclasses.replace(hello, q=q))


def test_nobody_answers_before_what_was_asked_first() -> None:
    """One that never validates would stop early stopping, and be waited for by nobody."""
    hand = Hand(configuration(run={"evaluate_every": 1}, algorithm={"active_workers": 1}), 2)
    hand.hello()
    hand.work(1)
    assert [type(message) for message in hand.inbox[1]] == [EvaluationRequest, Assignment]
    hand.inbox[1].rotate(1)
    with pytest.raises(MalformedMessage, match="asked for its validation before the assignment"):
        hand.deliver(1, hand.reply(1))
