"""Workers that die, fall silent and come back, message by message."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.protocol.membership import (
    BARRED,
    COUNTED,
    MOST_HELD_UP,
    MOST_NOISE,
    MOST_RETURNS,
    NEXT,
    Membership,
    State,
)
from asyndbt_mpi.protocol.messages import (
    Assignment,
    Candidate,
    CostBounds,
    EvaluationRequest,
    Failure,
    Hello,
    MalformedMessage,
    Report,
    Reset,
    Stop,
)
from asyndbt_mpi.protocol.records import Evaluation, Event, EventKind, Iteration
from tests.protocol.hand import Hand, configuration, until_finished, validated


def kinds(hand: Hand, worker: int) -> list[str]:
    return [e.kind.name for e in hand.of_type(Event) if e.worker == worker]


def three(**algorithm) -> Hand:
    hand = Hand(configuration(algorithm={"active_workers": 3, "max_delay": 2, **algorithm}), 3)
    hand.hello()
    return hand


def test_s_becomes_the_number_of_those_that_are_left() -> None:
    hand = three()
    hand.work(1, 2)
    assert hand.server.iteration == 0
    hand.take(hand.server.lose(3, "its process died", 9.0))
    assert hand.server.iteration == 1
    assert not hand.of_type(Iteration)[0].active[2]
    hand.inbox[3].clear()
    for _ in range(5):  # beyond max_delay: the dead are not waited for
        hand.work(1, 2)
    assert hand.server.iteration == 6
    assert hand.server.algorithm.delay[2] == 6


def test_a_report_that_was_not_used_goes_with_its_worker() -> None:
    hand = three()
    hand.work(1)
    hand.take(hand.server.lose(1, "its process died", 9.0))
    hand.work(2, 3)
    (iteration,) = hand.of_type(Iteration)
    assert iteration.active.tolist() == [False, True, True]


def test_who_comes_back_starts_afresh() -> None:
    hand = three(active_workers=2)
    hand.work(1, 2, 3, 1, 2)
    late = hand.reply(3)  # on its way when the server gives up
    hand.take(hand.server.lose(3, "silent", 9.0))
    hand.work(1, 2, 1, 2)
    went_on = hand.server.iteration
    hand.deliver(3, late)
    (reset,) = hand.inbox[3]
    assert isinstance(reset, Reset)
    np.testing.assert_array_equal(reset.p, hand.server.algorithm.z)
    assert hand.server.iteration == went_on, "its old report must not be used"
    assert hand.workers.p[2].std() != 0
    assert hand.reply(3) is None
    hand.hello(3)
    assert kinds(hand, 3)[-3:] == ["LOST", "RETURNED", "HELLO"]
    np.testing.assert_array_equal(hand.workers.p[2], reset.p)
    np.testing.assert_array_equal(hand.workers.q[2], np.full((2, 5), 0.2))
    assert not hand.workers.gradients.state or not hand.workers.gradients.estimator.steps[2].any()
    assert hand.server.algorithm.delay[2] == 0
    hand.work(3, 1, 2)
    assert hand.server.algorithm.p[2].std() > 0


def test_fresh_state_is_that_of_a_worker_that_never_did_anything() -> None:
    for optimizer in ("adam", "sgd", "mirror"):
        config = configuration(steps={"optimizer": optimizer, "p": 0.1, "q": 0.1})
        hand, other = Hand(config, 2), Hand(config, 2)
        hand.hello()
        hand.work(1, 2, 1, 2, 1, 2)
        hand.workers.receive([(1, Reset(other.server.algorithm.z))])
        np.testing.assert_array_equal(hand.workers.state(1), other.workers.state(1))
        assert not np.array_equal(hand.workers.state(2), other.workers.state(2))


def test_a_state_is_all_that_the_next_answers_depend_on() -> None:
    for name in ("additive", "loo", "bdpl"):
        for optimizer in ("adam", "sgd", "mirror"):
            config = configuration(
                steps={"optimizer": optimizer, "p": 0.1, "q": 0.1},
                estimator={"name": name},
                algorithm={"active_workers": 1, "plane_period": 2, "tolerance": 0.0},
            )
            hand, other = Hand(config, 1), Hand(config, 1)
            hand.hello()
            for _ in range(9):
                hand.work(1)
            other.workers.restore(1, hand.workers.state(1))
            message = hand.inbox[1][0]
            other.inbox[1].append(message)
            np.testing.assert_array_equal(hand.reply(1).p, other.reply(1).p)
            np.testing.assert_array_equal(hand.workers.state(1), other.workers.state(1))


def test_a_state_of_another_length_is_refused() -> None:
    hand = three()
    with pytest.raises(ValueError, match=r"a state of 3 numbers, \d+ are due"):
        hand.workers.restore(1, np.zeros(3))


def test_a_second_message_of_the_returning_changes_nothing() -> None:
    hand = three(active_workers=2)
    first, second = hand.reply(3), None
    hand.take(hand.server.lose(3, "silent", 9.0))
    hand.deliver(3, first)
    second = first
    hand.deliver(3, second)
    assert [type(m) for m in hand.inbox[3]] == [Reset], "it is told once"


def test_a_returning_worker_that_cannot_go_on_is_let_go() -> None:
    hand = three(active_workers=2)
    hand.inbox[3].clear()
    hand.take(hand.server.lose(3, "silent", 9.0))
    hand.deliver(3, Failure("OSError: gone"))
    assert [type(m) for m in hand.inbox[3]] == [Stop]


def test_an_estimate_of_phi_goes_on_without_the_lost() -> None:
    hand = three(plane_period=1, lower_steps=2, tolerance=0.0)
    hand.work(1, 2, 3)
    hand.work(1, 2)
    assert hand.server.iteration == 0
    hand.take(hand.server.lose(3, "its process died", 9.0))
    hand.work(1, 2)
    (iteration,) = hand.of_type(Iteration)
    assert iteration.estimation.k[2].tolist() == [-1, -1]


def test_the_untuned_prompt_is_scored_though_its_worker_dies() -> None:
    hand = Hand(configuration(run={"iterations": 1, "evaluate_every": 1}), 2)
    hand.hello()
    hand.work(1, 2)
    for _ in range(3):
        hand.work(1)
    assert hand.inbox[1][0].candidate is Candidate.UNTUNED
    hand.inbox[1].clear()
    hand.take(hand.server.lose(1, "its process died", 9.0))
    while hand.inbox[2]:
        hand.work(2)
    assert hand.server.finished
    candidates = [e.candidate for e in hand.of_type(Evaluation)]
    assert candidates.count(Candidate.UNTUNED) == 1


def test_the_last_to_be_tested_may_die() -> None:
    hand = Hand(configuration(run={"iterations": 1, "evaluate_every": 1}), 2)
    hand.hello()
    hand.work(1, 2)
    while hand.inbox[2]:
        hand.work(2)
    assert not hand.server.finished
    hand.take(hand.server.lose(1, "its process died", 9.0))
    assert hand.server.finished
    assert hand.server.failure is None


def test_who_has_stopped_may_go() -> None:
    hand = Hand(configuration(run={"iterations": 1}, algorithm={"min_workers": 2}), 2)
    hand.hello()
    hand.work(1, 2)
    assert hand.server.finished
    hand.take(hand.server.lose(1, "its process died", 9.0))
    assert "LOST" not in kinds(hand, 1)
    assert hand.server.failure is None


@pytest.mark.parametrize("strikes", [1, 3])
@pytest.mark.parametrize("last_words", ["a failure", "a report", "noise"])
def test_who_has_stopped_ends_nobodys_tests(last_words: str, strikes: int) -> None:
    """A liar that is told to stop can no longer make it look as if too few were left."""
    limits = {"run": {"iterations": 1, "evaluate_every": 1}, "algorithm": {"min_workers": 2}}
    hand = Hand(configuration(**limits, defence={"strikes": strikes}), 2)
    hand.hello()
    report = hand.reply(1)
    hand.deliver(1, report)
    hand.work(2)
    while hand.server.members.state(1) is not State.STOPPED:
        hand.work(1)
    assert hand.server.members.working == {2}
    for _ in range(strikes + 1):
        if last_words == "a failure":
            hand.deliver(1, Failure("broken"))
        elif last_words == "a report":
            hand.deliver(1, report)
        else:
            hand.take(hand.server.strike(1, "noise", hand.time))
    assert hand.server.failure is None
    until_finished(hand)
    assert hand.server.failure is None
    assert {e.candidate for e in hand.of_type(Evaluation) if e.worker == 2} >= {Candidate.TUNED}
    assert not {"LOST", "EXCLUDED", "DROPPED"} & {*kinds(hand, 1)}


def test_too_few_are_left() -> None:
    hand = three(min_workers=2)
    hand.take(hand.server.lose(3, "a", 1.0))
    hand.take(hand.server.lose(2, "its process died", 2.0))
    assert hand.server.failure == (
        "1 workers are left, algorithm.min_workers is 2;"
        " the last to go was worker 2: its process died"
    )
    assert hand.server.finished


def test_silence_is_counted_from_the_last_sign_of_life() -> None:
    hand = Hand(configuration(run={"worker_timeout": 10.0}), 2)
    hand.hello()  # at 1 and 2
    hand.take(hand.server.tick(10.5))
    assert kinds(hand, 1) == ["HELLO"]
    hand.time = 10.0
    hand.work(1)
    hand.take(hand.server.tick(12.5))
    assert kinds(hand, 2)[-1] == "LOST"
    (lost,) = [e for e in hand.of_type(Event) if e.kind is EventKind.LOST]
    assert lost.text == "silent for 10 seconds"
    hand.take(hand.server.tick(500.0))
    assert kinds(hand, 1)[-1] == "LOST", "the iteration that it waited for has been made"


def test_who_owes_nothing_may_be_silent() -> None:
    hand = Hand(configuration(run={"worker_timeout": 10.0}, algorithm={"active_workers": 2}), 2)
    hand.hello()
    hand.work(1)
    assert isinstance(hand.inbox[2][0], Assignment)
    hand.time = 11.0
    hand.take(hand.server.tick(11.5))
    assert kinds(hand, 1) == ["HELLO", "REPORT"], "it waits for worker 2"


def test_nobody_is_overdue_for_the_time_that_a_run_stood_still() -> None:
    members = Membership(2)
    members.account(100.0)
    assert [worker for worker, _ in members.overdue(100.0, 50.0)] == [1, 2]
    members.wait_from(90.0)
    members.account(100.0)
    assert members.overdue(100.0, 50.0) == []


def test_nobody_comes_back_once_the_run_closes() -> None:
    hand = Hand(configuration(run={"iterations": 1}, algorithm={"active_workers": 1}), 2)
    hand.hello()
    late = hand.reply(2)
    hand.take(hand.server.lose(2, "silent", 3.0))
    hand.work(1)
    hand.deliver(2, late)
    assert [type(m) for m in hand.inbox[2]] == [Stop]


def test_reports_are_numbered_on_after_a_return() -> None:
    hand = three(active_workers=2)
    late = hand.reply(3)
    hand.take(hand.server.lose(3, "silent", 9.0))
    hand.deliver(3, late)
    hand.reply(3)
    hand.hello(3)
    reply = hand.reply(3)
    assert isinstance(reply, Report)
    assert reply.number == 2, "the same numbers would be drawn again"


def test_a_hello_of_a_lost_worker_is_not_believed_before_it_was_told_to_start() -> None:
    hand = Hand(configuration(), 2)
    hand.take(hand.server.lose(2, "silent", 3.0))  # it never said hello
    hand.hello(2)
    assert [type(m) for m in hand.inbox[2]] == [Reset]
    hand.reply(2)
    hand.hello(2)
    assert isinstance(hand.inbox[2][0], Assignment)
    assert hand.server.members.count == 2
    assert not isinstance(hand.inbox[2][0], EvaluationRequest | Hello)


def test_a_replayed_run_waits_for_enough_workers_to_come_back() -> None:
    hand = three(active_workers=1, min_workers=2)
    hand.server.replaying = True
    for worker in (2, 3):
        hand.take(hand.server.lose(worker, "its process died", 2.0))
        hand.inbox[worker].clear()
    hand.server.replaying = False
    assert hand.server.failure is None
    hand.work(1)
    assert hand.server.iteration == 0, "one worker is less than the run may have"
    hand.hello(2)  # just started again
    assert isinstance(hand.inbox[2][0], Reset)
    hand.reply(2)
    hand.hello(2)
    assert hand.server.iteration == 1


def back_amid_an_estimate() -> Hand:
    """The iteration under way has used a report of worker 3, from before it was lost."""
    hand = three(plane_period=1, lower_steps=2, tolerance=0.0, max_delay=5)
    hand.work(1, 2, 3)
    hand.work(1, 2)
    late = hand.reply(3)
    hand.take(hand.server.lose(3, "silent", 9.0))
    hand.deliver(3, late)
    hand.reply(3)
    hand.hello(3)
    return hand


def test_who_returns_amid_an_estimate_is_not_assigned_twice() -> None:
    """The iteration that is under way has used a report of its, from before it was lost."""
    hand = back_amid_an_estimate()
    while hand.server.iteration == 0:
        hand.work(1, 2)
    assert [type(m).__name__ for m in hand.inbox[3]] == ["Assignment"]
    hand.work(3)
    assert "EXCLUDED" not in kinds(hand, 3)


def test_a_validation_round_is_that_of_the_living() -> None:
    validation = Hand(configuration(), 3).server.validation
    for worker in (1, 2, 3):
        validation.add(validated(worker, 5.0), 3)
    validation.add(validated(1, 6.0), 3)
    validation.add(validated(2, 1.0), 3)
    validation.forget(2)
    validation.add(validated(1, 6.0), 2)
    assert validation._heard == {1}, "worker 3 is still to come"
    validation.add(validated(3, 6.0), 2)
    assert validation._rounds_without_progress == 1, "the dead count no more"


def test_once_too_few_are_left_nobody_else_is_lost() -> None:
    hand = Hand(configuration(run={"worker_timeout": 10.0}, algorithm={"min_workers": 2}), 3)
    hand.hello()
    hand.take(hand.server.tick(500.0))
    assert [e.worker for e in hand.of_type(Event) if e.kind is EventKind.LOST] == [1, 2]


def test_who_returns_and_reports_amid_an_estimate_is_not_assigned_twice() -> None:
    hand = back_amid_an_estimate()
    hand.work(3)
    while hand.server.iteration == 0:
        hand.work(1, 2)
    assert not hand.inbox[3], "its report waits to be used"
    hand.work(1, 2)
    assert hand.server.iteration == 1, "the next estimate begins"
    assert [type(m).__name__ for m in hand.inbox[3]] == ["LowerAssignment"]


@pytest.mark.long
@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["work"] * 6 + ["lose"])), max_size=150),
    st.integers(1, 3),
    st.sampled_from(["all", "quorum"]),
)
@settings(max_examples=80, deadline=None)
def test_whoever_is_lost_and_returns_whenever_nobody_is_wronged(order, active, participation):
    """No honest message is refused, nobody has two assignments, and the run goes on."""
    algorithm = {"active_workers": active, "max_delay": 4, "plane_period": 2, "lower_steps": 2,
                 "lower_participation": participation, "tolerance": 0.0}  # fmt: skip
    hand = Hand(configuration(run={"evaluate_every": 3}, algorithm=algorithm), 3)
    hand.hello()
    for worker, action in order:
        lost = worker in hand.server.members.lost
        if action == "lose" and not lost and hand.server.members.count > 1:
            hand.take(hand.server.lose(worker, "silent", hand.time))
        elif hand.inbox[worker]:
            hand.work(worker)  # a reset gives no reply
            if worker in hand.server.members.restarting and not hand.inbox[worker]:
                hand.hello(worker)
        elif lost:  # it was waiting for an answer that will not come
            hand.deliver(worker, hand.workers.hello(worker, "again"))
        for inbox in hand.inbox.values():
            numbers = [message.number for message in inbox if isinstance(message, Assignment)]
            assert len(set(numbers)) == len(numbers)
        for v, inbox in hand.inbox.items():
            if v in hand.server.members.joined:
                assert sum(isinstance(message, Assignment) for message in inbox) <= 1
    assert hand.server.failure is None
    before = hand.server.iteration
    for _ in range(60):  # however it stood, the living go on
        for v in sorted(hand.server.members.joined):
            if hand.inbox[v]:
                hand.work(v)
    assert hand.server.iteration > before or hand.server.finished or not hand.server.members.joined


def lost(hand: Hand, worker: int) -> None:
    hand.take(hand.server.lose(worker, "fell silent", hand.time))


def test_who_is_lost_and_returns_time_and_again_is_excluded() -> None:
    hand = Hand(configuration(), 3)
    hand.hello()
    for _ in range(MOST_RETURNS):
        lost(hand, 3)
        hand.inbox[3].clear()
        hand.deliver(3, hand.workers.hello(3, "here again"))
        assert isinstance(hand.inbox[3].popleft(), Reset)
        hand.deliver(3, hand.workers.hello(3, "afresh"))
        assert hand.server.members.is_live(3)
    lost(hand, 3)
    hand.deliver(3, hand.workers.hello(3, "here again"))
    assert 3 in hand.server.members.barred
    assert hand.of_type(Event)[-1].kind is EventKind.EXCLUDED
    assert isinstance(hand.inbox[3].pop(), Stop)


def test_nothing_is_heard_of_who_could_not_go_on() -> None:
    hand = Hand(configuration(), 3)
    hand.hello()
    report = hand.reply(3)
    hand.deliver(3, Failure("broken"))
    hand.inbox[3].clear()
    for message in [report, Failure("broken"), hand.workers.hello(3, "again")] * 50:
        hand.deliver(3, message)
    assert not hand.inbox[3]
    assert [e.kind for e in hand.of_type(Event)].count(EventKind.LOST) == 1


def test_a_hello_that_is_refused_leaves_the_lost_where_they_are() -> None:
    hand = Hand(configuration(budget={"calls": 10_000}), 3, expecting=True)
    hand.hello()
    lost(hand, 3)
    hello = hand.workers.hello(3, "here again")
    hand.deliver(3, hello)  # it is told to start afresh
    before = hand.server.algorithm.delay.copy()
    with pytest.raises(MalformedMessage, match="may need"):
        hand.deliver(3, dataclasses.replace(hello, cost_bounds=CostBounds(assignment=2**40)))
    assert not hand.server.members.is_live(3)
    assert hand.server.members.count == 2
    assert hand.server.algorithm.delay.tolist() == before.tolist()


def test_words_of_the_lost_while_the_run_closes_are_heard_once() -> None:
    hand = Hand(configuration(run={"iterations": 1}, algorithm={"active_workers": 1}), 2)
    hand.hello()
    late = hand.reply(2)
    hand.take(hand.server.lose(2, "silent", 3.0))
    hand.work(1)
    for _ in range(5):
        hand.deliver(2, late)
    assert [type(m) for m in hand.inbox[2]] == [Stop]


def test_who_goes_on_sending_instead_of_starting_afresh_is_excluded() -> None:
    hand = Hand(configuration(), 3)
    hand.hello()
    report = hand.reply(3)
    lost(hand, 3)
    for _ in range(MOST_NOISE + 2):
        hand.deliver(3, report)
    assert 3 in hand.server.members.barred


def test_no_silence_is_counted_while_nobody_listens() -> None:
    hand = Hand(configuration(run={"worker_timeout": 10}), 3)
    hand.hello()
    hand.server.members.excuse(100.0)
    hand.take(hand.server.tick(hand.time + 105))
    assert hand.server.members.count == 3
    hand.take(hand.server.tick(hand.time + 115))
    assert hand.server.members.count == 0


def test_who_has_a_message_waiting_is_not_silent() -> None:
    hand = Hand(configuration(run={"worker_timeout": 10}), 3)
    hand.hello()
    hand.take(hand.server.tick(hand.time + 20, is_heard=lambda worker: worker != 2))
    assert [worker for worker in (1, 2, 3) if not hand.server.members.is_live(worker)] == [2]


def wait_for(hand: Hand, seconds: float) -> None:
    """Nothing is heard of anybody; the server looks every second."""
    until = hand.time + seconds
    while hand.time < until:
        hand.time += 1.0
        hand.take(hand.server.tick(hand.time))


def held_up_by_the_third(timeout: float = 200.0) -> Hand:
    """Four workers; three have worked for 4 seconds and wait for the third."""
    hand = Hand(configuration(run={"worker_timeout": timeout}, algorithm={"max_delay": 1}), 4)
    hand.hello()
    hand.take(hand.server.tick(hand.time))
    until_they_wait(hand, 1, 2, 4)
    return hand


def until_they_wait(hand: Hand, *workers: int) -> None:
    while busy := [worker for worker in workers if hand.inbox[worker]]:
        hand.work(*busy)


def test_a_single_long_step_is_no_harm() -> None:
    hand = held_up_by_the_third()
    wait_for(hand, 180.0)
    assert hand.server.members.count == 4


def test_who_holds_up_a_majority_again_and_again_is_lost() -> None:
    """A hundred times what the others worked, and the time-out, is all that it may take."""
    hand = held_up_by_the_third()
    waited = 0
    while hand.server.members.is_live(3):
        wait_for(hand, 150.0)  # always below the time-out
        waited += 150
        if hand.server.members.is_live(3):
            hand.work(3)
            until_they_wait(hand, 1, 2, 4)
    event = hand.of_type(Event)[-1]
    assert event.text == "the others waited for it for 601 seconds, in which they worked for 4"
    assert 601 > 200 + MOST_HELD_UP * 4 >= 600
    assert waited == 600
    assert hand.server.members.count == 3


def test_nobody_is_blamed_where_no_majority_waits() -> None:
    """Two of four are slow together, as where their server is; and of two nobody can tell."""
    for workers, slow in ((4, (3, 4)), (2, (2,))):
        limits = {"run": {"worker_timeout": 100.0, "iterations": 10_000}}
        hand = Hand(configuration(**limits, algorithm={"max_delay": 1}), workers)
        hand.hello()
        quick = [worker for worker in range(1, workers + 1) if worker not in slow]
        for _ in range(20):
            until_they_wait(hand, *quick)
            wait_for(hand, 80.0)
            hand.work(*(worker for worker in slow if hand.inbox[worker]))
        assert hand.server.members.count == workers


def test_to_load_a_model_once_more_holds_nobody_up() -> None:
    members = Membership(4)
    for worker in (1, 2, 3, 4):
        members.become(worker, State.JOINED)
        members.heard(worker, 0.0)
        members.asked(worker, 0.0)
    members.wait_from(1000.0)
    members.account(1100.0)
    assert members.overdue(1100.0, 200.0) == []
    for worker in (1, 2, 3):
        members.heard(worker, 1100.0)
    members.account(1199.0)
    assert members.overdue(1199.0, 200.0) == []


def test_a_worker_becomes_what_the_table_says_and_nothing_else() -> None:
    """Also the counts, which are kept along, are those of the states."""
    for before in State:
        for after in State:
            members = Membership(2)
            for step in PATHS[before]:
                members.become(1, step)
            if after in NEXT[before]:
                members.become(1, after)
                assert members.state(1) is after
                live = after in COUNTED
                assert (members.is_live(1), members.count) == (live, 1 + live)
                assert (1 in members.barred) is (after in BARRED)
            else:
                with pytest.raises(RuntimeError, match=f"{before.name} cannot become {after.name}"):
                    members.become(1, after)


PATHS: dict[State, list[State]] = {
    State.EXPECTED: [],
    State.JOINED: [State.JOINED],
    State.STOPPED: [State.JOINED, State.STOPPED],
    State.LOST: [State.LOST],
    State.RESTARTING: [State.LOST, State.RESTARTING],
    State.EXCLUDED: [State.EXCLUDED],
    State.DISMISSED: [State.DISMISSED],
}
