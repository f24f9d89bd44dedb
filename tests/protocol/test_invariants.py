"""The server's state is valid whatever happens; and what validates it sees what is not."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.protocol.membership import State
from asyndbt_mpi.protocol.messages import Assignment, CostBounds, Costs, Failure, Reset, Stop
from asyndbt_mpi.protocol.records import Output
from asyndbt_mpi.protocol.server import Server
from tests.protocol.hand import Hand, configuration
from tests.protocol.invariants import validate_state

ESTIMATING = {"plane_period": 2, "lower_steps": 2, "tolerance": 0.0}


def amid_an_estimate() -> Hand:
    """Workers 1 and 2 are at an estimate of phi, worker 3 has reported, and there is a plane."""
    hand = Hand(configuration(algorithm=ESTIMATING), 4)
    hand.hello()
    while hand.server.algorithm.polyhedron.created < 1:
        hand.work(1, 2, 3, 4)
    while hand.server.algorithm.estimation is None:
        hand.work(1, 2)
    return hand


def at_work() -> Hand:
    """Worker 3 has reported, the others are at work; 1 and 2 have a validation to do first."""
    hand = Hand(configuration(run={"evaluate_every": 1}, budget={"calls": 10_000}), 4)
    hand.hello()
    hand.work(1, 2, 3)
    return hand


def racing() -> Hand:
    """Worker 1 has scored two prompts of its race, and is at the third."""
    hand = Hand(configuration(run={"iterations": 1, "evaluate_every": 1, "race": 4}), 2)
    hand.hello()
    hand.work(1, 2, 1, 1)
    return hand


def set_item(array: np.ndarray, index: object, value: float) -> None:
    array[index] = value


AMID_AN_ESTIMATE: dict[str, Callable[[Server], object]] = {
    "p is off the simplex": lambda s: set_item(s.algorithm.p, (0, 0, 0), 0.9),
    "p is not finite": lambda s: set_item(s.algorithm.p, (0, 0, 0), np.nan),
    "z is off the simplex": lambda s: set_item(s.algorithm.z, (0, 0), -0.1),
    "q is off the simplex": lambda s: set_item(s.algorithm.q, (1, 0, 0), 2.0),
    "a loss is not finite": lambda s: set_item(s.algorithm.loss, 0, np.inf),
    "the objective is not finite": lambda s: set_item(s.algorithm.loss, slice(None), 1e308),
    "more than tau late": lambda s: (
        setattr(s.algorithm, "iteration", 9), set_item(s.algorithm.delay, 3, 4)
    ),
    "a delay is outside the run": lambda s: set_item(s.algorithm.delay, 3, 40),
    "t is outside the run": lambda s: setattr(s.algorithm, "iteration", 51),
    "a dual is outside": lambda s: set_item(s.algorithm.polyhedron.dual, (0, 0), -1e-3),
    "a dual is not finite": lambda s: set_item(s.algorithm.polyhedron.dual, (0, 0), np.nan),
    "a dual is that of no plane": lambda s: set_item(s.algorithm.polyhedron.dual, (5, 0), 0.1),
    "c is that of no plane": lambda s: set_item(s.algorithm.polyhedron.c, (5, 0), 0.1),
    "b is that of no plane": lambda s: set_item(s.algorithm.polyhedron.b, (0, 5, 0), 1),
    "a is that of no plane": lambda s: set_item(s.algorithm.polyhedron.a, (0, 0, 5, 0), 1),
    "a free slot has none": lambda s: set_item(s.algorithm.polyhedron.active, (5, 0), True),
    "slots are those": lambda s: set_item(s.algorithm.polyhedron.identifier, 5, 0),
    "a plane was never made": lambda s: set_item(s.algorithm.polyhedron.identifier, 0, 7),
    "is stale": lambda s: set_item(s.algorithm.polyhedron.a, (0, 0, 0, 0), 5),
    "an iteration is open for nothing": lambda s: setattr(s.algorithm, "estimation", None),
    "at the wrong time": lambda s: setattr(s.algorithm, "iteration", s.iteration + 1),
    "an estimate waits for nobody": lambda s: s.algorithm.estimation.awaited.clear(),
    "who takes no part": lambda s: s.algorithm.estimation.participants.clear(),
    "another number of rounds": lambda s: setattr(s.algorithm.estimation, "round", 2),
    "phi_z is off": lambda s: set_item(s.algorithm.estimation.lower.z, (0, 0), 2.0),
    "rho is not finite": lambda s: set_item(s.algorithm.estimation.lower.rho, (0, 0, 0), np.inf),
    "who has left counts in an estimate": lambda s: (
        s.exclude(4, "gone", 99.0), set_item(s.algorithm.estimation.lower.live, 3, True)
    ),
    "takes part in an estimate": lambda s: (
        s.exclude(4, "gone", 99.0), s.algorithm.estimation.participants.append(4)
    ),
}  # fmt: skip

AT_WORK: dict[str, Callable[[Server], object]] = {
    "in no state, or in two": lambda s: s.members._in[State.LOST].add(1),
    "worker 1 is not among": lambda s: s.members._state.__setitem__(1, State.LOST),
    "worker 1 is live or not": lambda s: set_item(s.members.live, 0, False),
    "the number of live": lambda s: setattr(s.members, "count", 3),
    "worker 2 is barred": lambda s: s.members.barred.add(2),
    "came back too often": lambda s: s.members.returns.update({1: 9}),
    "on the same": lambda s: s._outstanding.update({3: Assignment(1, 0, np.zeros((3, 4)))}),
    "who has work waits": lambda s: s._unassigned.add(1),
    "is at old work": lambda s: set_item(s._assignments, 0, 7),
    "were forgotten": lambda s: s.algorithm.reported.clear(),
    "who has left is used": lambda s: (
        s.algorithm.reported.update({4: s.algorithm.reported[3]}),
        s.lose(4, "gone", 99.0),
        s.algorithm.reported.update({4: s.algorithm.reported[3]}),
    ),
    "who has left is at work": lambda s: (
        before := dict(s._outstanding), s.lose(4, "gone", 99.0), s._outstanding.update(before)
    ),
    "owes what it was not asked": lambda s: s.spending.hand_out(2, "assignment"),
    "is waited for without reason": lambda s: s.members.asked(2, 99.0),
    "who can spend": lambda s: s.spending.lose(3),
    "spent is negative": lambda s: setattr(s.spending.spent, "calls", -1),
    "more may be spent": lambda s: setattr(s.spending.spent, "calls", 9_990),
    "goes on": lambda s: setattr(s, "failure", "broken"),
    "a race before": lambda s: s._races.update({1: None}),
    "were not told to stop": lambda s: setattr(s, "finished", True),
    "stopped too early": lambda s: (
        s._outstanding.pop(2), s.spending._by_worker[2].owed.clear(),
        s.evaluations.forget(2), s.members.become(2, State.STOPPED), s.members._owed.__setitem__(2, 0),
    ),
    "an iteration is due": lambda s: (
        s._outstanding.pop(4), s.algorithm.reported.update({4: s.algorithm.reported[3]}),
        s.spending.answered(4, Costs()), s.members.heard(4, 99.0),
    ),
}  # fmt: skip

RACING: dict[str, Callable[[Server], object]] = {
    "who has no race is tested": lambda s: s._final_tests._own.update({3: deque()}),
    "nobody is left in the race": lambda s: s._races[1].running.clear(),
    "a round is over and goes on": lambda s: s._races[1]._scored.extend(s._races[1].running),
    "though its winner is tested": lambda s: s._final_tests._own.update({1: deque()}),
    "is of no race": lambda s: setattr(s._races[1], "_over", True),
    "what is scored is not the next": lambda s: s._races[1].running.reverse(),
    "on different rows": lambda s: setattr(s._races[1]._scored[0], "losses", np.zeros(9)),
    "another bound": lambda s: setattr(s.spending._by_worker[1], "cost_bounds", CostBounds(race=-1)),
    "is to score two prompts": lambda s: (
        s.evaluations.ask(1, request := s._races[1].next(1)), s.members.asked(1, 99.0),
        s.spending.hand_out(1, "race", request.halvings),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("course", "broken", "found"),
    [(amid_an_estimate, broken, found) for found, broken in AMID_AN_ESTIMATE.items()]
    + [(at_work, broken, found) for found, broken in AT_WORK.items()]
    + [(racing, broken, found) for found, broken in RACING.items()],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_state_that_cannot_be_is_found(
    course: Callable[[], Hand], broken: Callable[[Server], object], found: str
) -> None:
    server = course().server
    validate_state(server)
    broken(server)
    with pytest.raises(AssertionError, match=found), np.errstate(over="ignore"):
        validate_state(server)


def answered(hand: Hand, *workers: int) -> Output:
    """What comes of the last answer, which the account does not hear of."""
    for worker in workers:
        reply = hand.reply(worker)
        assert reply is not None
        output = hand.server.receive(worker, reply, 99.0)
    return output


SAID: dict[str, Callable[[Hand], Output]] = {
    "an iteration is left out": lambda hand: answered(hand, 1, 1, 2, 2, 4),
    "t is the number": lambda hand: replace(answered(hand, 4), records=[]),
    "calls are those of the answers": lambda hand: replace(answered(hand, 1), records=[]),
    "owes what it was asked for": lambda hand: replace(answered(hand, 4), messages=[]),
    "sent something after its stop": lambda hand: replace(
        hand.server.exclude(1, "gone", 99.0), messages=[(1, Stop()), (1, Reset(np.eye(3, 4)))]
    ),
    "worker 2, JOINED, is stopped": lambda hand: Output(99.0, [(2, Stop())]),
    "worker 2, JOINED, is reset": lambda hand: Output(99.0, [(2, Reset(np.eye(3, 4)))]),
}


@pytest.mark.parametrize("found", SAID)
def test_what_is_said_and_what_is_the_case_are_compared(found: str) -> None:
    hand = at_work()
    with pytest.raises(AssertionError, match=found):
        hand.account.take(SAID[found](hand))


@given(
    st.lists(st.integers(1, 4), min_size=30, max_size=150),
    st.integers(0, 40),
    st.lists(
        st.tuples(
            st.integers(0, 120),
            st.integers(1, 4),
            st.sampled_from(["lose", "exclude", "fail", "tick", "hello", "hello", "hello"]),
        ),
        max_size=8,
    ),
    st.fixed_dictionaries(
        {
            "active_workers": st.integers(1, 4),
            "max_delay": st.integers(0, 4),
            "min_workers": st.integers(1, 3),
            "lower_participation": st.sampled_from(["all", "quorum"]),
        }
    ),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([0, 400, 1000]),
)
@settings(max_examples=40, deadline=None)
def test_the_state_is_valid_whatever_happens(order, late, mishaps, algorithm, every, calls) -> None:
    """`Hand` validates it after each of these."""
    patience = {"early_stopping_patience": 3} if every else {}
    if calls and every:
        calls += 13 * 200  # of these tests are set aside
    hand = Hand(
        configuration(
            run={"iterations": 9, "evaluate_every": every, "worker_timeout": 40.0, **patience},
            algorithm={"plane_period": 2, "lower_steps": 2, "tolerance": 0.0, **algorithm},
            budget={"calls": calls},
        ),
        4,
    )
    hand.hello(1, 2, 3)
    for number, worker in enumerate(order):
        happen(hand, worker, "work")
        for at, whom, event in [(late, 4, "hello"), *mishaps]:
            if at == number:
                happen(hand, whom, event)


def happen(hand: Hand, worker: int, event: str) -> None:
    server, state = hand.server, hand.server.members.state(worker)
    if server.finished:
        return
    match event:
        case "hello" if state in (State.EXPECTED, State.LOST, State.RESTARTING):
            hand.inbox[worker].clear()
            hand.hello(worker)
        case "work" if hand.inbox[worker] and state is State.JOINED:
            hand.work(worker)
        case "lose":
            hand.take(server.lose(worker, "silent", hand.time))
        case "exclude":
            hand.take(server.exclude(worker, "malformed", hand.time))
        case "fail":
            hand.deliver(worker, Failure("cannot go on"))
        case "tick":
            hand.time += 10.0
            hand.take(server.tick(hand.time))
