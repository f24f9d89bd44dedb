"""The server driven by hand: quorum, delay bound, updates, closing, and what it refuses."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.algorithm.simplex import distance_to_simplex, project
from asyndbt_mpi.protocol.messages import (
    Assignment,
    Candidate,
    EvaluationReport,
    EvaluationRequest,
    Failure,
    MalformedMessage,
    Report,
    Split,
    Stop,
)
from asyndbt_mpi.protocol.records import Evaluation, Event, EventKind, Iteration
from tests.protocol.hand import SHAPES, Hand, configuration, until_finished, validated


def test_everybody_gets_a_first_assignment_on_hello() -> None:
    hand = Hand(configuration(), 3)
    hand.hello(2)
    assert {v for v, inbox in hand.inbox.items() if inbox} == {2}
    first = hand.inbox[2][0]
    assert isinstance(first, Assignment)
    assert (first.number, first.iteration) == (1, 0)
    assert not first.dual_gradient.any()


def test_an_iteration_is_committed_by_s_reports_and_answers_only_them() -> None:
    hand = Hand(configuration(), 3)
    hand.hello()
    hand.work(3)
    assert hand.server.iteration == 0
    hand.work(1)
    assert hand.server.iteration == 1
    (iteration,) = hand.of_type(Iteration)
    assert iteration.active.tolist() == [True, False, True]
    assert iteration.delay.tolist() == [0, 1, 0]
    assert [used.worker for used in iteration.reports] == [1, 3]
    assert [len(hand.inbox[v]) for v in (1, 2, 3)] == [1, 1, 1]
    assert hand.inbox[1][0].iteration == 1  # reads the new state
    assert hand.inbox[2][0].iteration == 0  # still busy with the old one


def test_no_worker_is_ever_more_than_tau_late() -> None:
    hand = Hand(configuration(), 3)
    hand.hello()
    for _ in range(3):
        hand.work(1, 2)
    assert hand.server.algorithm.delay.tolist() == [0, 0, 3]
    hand.work(1, 2)
    assert hand.server.iteration == 3, "a fourth iteration without worker 3 would break tau = 3"
    hand.work(3)
    assert hand.server.iteration == 4
    assert hand.of_type(Iteration)[-1].active.all()
    assert hand.of_type(Iteration)[-1].reports[2].report.iteration == 0


@given(st.lists(st.integers(1, 4), max_size=120), st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_s_and_tau_hold_whatever_the_order_of_arrivals(order, active_workers, max_delay) -> None:
    hand = Hand(
        configuration(
            algorithm={
                "active_workers": active_workers,
                "max_delay": max_delay,
                "plane_period": 3,
                "lower_steps": 2,
                "lower_participation": "quorum" if active_workers % 2 else "all",
                "tolerance": 0.0,
            }
        ),
        4,
    )
    hand.hello()
    for worker in order:
        if hand.inbox[worker]:
            hand.work(worker)
    used = dict.fromkeys(range(1, 5), 0)
    for number, iteration in enumerate(hand.of_type(Iteration)):
        assert iteration.number == number
        assert iteration.active.sum() >= active_workers
        assert iteration.delay.max() <= max_delay
        for report in iteration.reports:
            # Used in the order in which they were made, none left out.
            assert report.report.number == used[report.worker] + 1
            used[report.worker] += 1


def test_all_workers_active_is_the_synchronous_algorithm() -> None:
    hand = Hand(configuration(algorithm={"active_workers": 3}), 3)
    hand.hello()
    for _ in range(4):
        hand.work(2, 3, 1)
    iterations = hand.of_type(Iteration)
    assert len(iterations) == 4
    assert all(iteration.active.all() for iteration in iterations)
    assert not hand.server.algorithm.delay.any()


def test_one_worker_is_the_centralised_algorithm() -> None:
    hand = Hand(configuration(algorithm={"active_workers": 1}), 1)
    hand.hello()
    for _ in range(5):
        hand.work(1)
    assert hand.server.iteration == 5
    np.testing.assert_array_equal(hand.server.algorithm.p[0], hand.workers.p[0])


def with_planes(participation: str = "all", **algorithm) -> Hand:
    return Hand(
        configuration(
            algorithm={
                "plane_period": 2,
                "lower_steps": 2,
                "tolerance": 0.0,
                "plane_threshold": 0.0,
                "lower_participation": participation,
                **algorithm,
            }
        ),
        2,
    )


def test_z_and_duals_move_by_21_and_22() -> None:
    """Recomputed here from the records alone, in the plainest way."""
    hand = with_planes(max_planes=3)
    hand.hello()
    while hand.server.iteration < 12:
        hand.work(1, 2)
    z = np.full((3, 4), 0.25)
    p = np.repeat(z[None], 2, axis=0)
    planes, duals = {}, {}
    steps, settings_ = hand.server.config.steps, hand.server.config.algorithm
    for iteration in hand.of_type(Iteration):
        for used in iteration.reports:
            p[used.worker - 1] = used.report.p
        gradient = sum((duals[i][:, None] * plane.b for i, plane in planes.items()), np.zeros(1))
        if planes:
            z = project(z - steps.z * gradient)
        np.testing.assert_allclose(iteration.z, z, atol=1e-12)
        assert iteration.planes.tolist() == sorted(planes)
        for i, plane in planes.items():
            value = (plane.a * p).sum(axis=(0, 2)) + (plane.b * z).sum(axis=1) + plane.c
            ascent = value - settings_.dual_regularisation_floor * duals[i]
            moved = np.clip(duals[i] + steps.lam * ascent, 0, settings_.dual_bound)
            duals[i] = np.where(plane.positions, moved, 0.0)
            row = iteration.planes.tolist().index(i)
            np.testing.assert_allclose(iteration.duals[row], duals[i], atol=1e-12)
        if iteration.estimation:
            for drop in iteration.estimation.drops:
                planes.pop(drop.identifier, None)
                duals.pop(drop.identifier, None)
            if plane := iteration.estimation.plane:
                planes[plane.identifier], duals[plane.identifier] = plane, np.zeros(3)
    assert len(planes) == 3
    assert np.abs(z - 0.25).max() > 1e-4, "z has to have moved for this test to say anything"


def test_workers_are_sent_the_sum_over_planes_of_dual_times_a() -> None:
    hand = with_planes()
    hand.hello()
    while hand.server.iteration < 7:
        hand.work(1, 2)
    iterations = hand.of_type(Iteration)
    planes = {
        record.estimation.plane.identifier: record.estimation.plane
        for record in iterations
        if record.estimation and record.estimation.plane
    }
    last = iterations[-1]
    for v in (1, 2):
        expected = sum(
            dual[:, None] * planes[i].a[v - 1]
            for i, dual in zip(last.planes.tolist(), last.duals, strict=True)
        )
        np.testing.assert_allclose(hand.inbox[v][0].dual_gradient, expected, atol=1e-12)
        assert hand.inbox[v][0].dual_gradient.any()


def test_the_same_arrivals_give_the_same_bits() -> None:
    runs = []
    for _ in range(2):
        hand = with_planes("quorum")
        hand.hello(2, 1)
        for worker in [2, 1, 1, 2, 2, 2, 1, 1, 2, 1, 2, 1, 2, 2, 1] * 3:
            if hand.inbox[worker]:
                hand.work(worker)
        runs.append([iteration.z for iteration in hand.of_type(Iteration)])
    assert len(runs[0]) > 5
    np.testing.assert_array_equal(runs[0], runs[1])


# ---------------------------------------------------------------- what is refused


def next_report(hand: Hand, worker: int) -> Report:
    report = hand.reply(worker)
    assert isinstance(report, Report)
    return report


def test_a_report_off_the_simplex_is_projected_before_use() -> None:
    hand = Hand(configuration(algorithm={"active_workers": 1}), 2)
    hand.hello()
    wild = np.random.default_rng(0).normal(scale=100, size=(3, 4))
    report = dataclasses.replace(next_report(hand, 1), p=wild)
    hand.deliver(1, report)
    np.testing.assert_array_equal(hand.server.algorithm.p[0], project(wild))
    (iteration,) = hand.of_type(Iteration)
    assert distance_to_simplex(iteration.reports[0].report.p) < 1e-12


def test_a_replayed_report_is_refused_and_changes_nothing() -> None:
    hand = Hand(configuration(algorithm={"active_workers": 1}), 2)
    hand.hello()
    report = next_report(hand, 1)
    hand.deliver(1, report)
    before = hand.server.algorithm.p.copy(), hand.server.iteration
    with pytest.raises(MalformedMessage, match="answers no outstanding assignment"):
        hand.deliver(1, report)
    np.testing.assert_array_equal(hand.server.algorithm.p, before[0])
    assert hand.server.iteration == before[1]


def test_a_lower_report_nobody_asked_for_is_refused() -> None:
    from asyndbt_mpi.protocol.messages import Costs, LowerReport

    hand = Hand(configuration(), 2)
    hand.hello()
    with pytest.raises(MalformedMessage, match="was not asked for"):
        hand.deliver(
            1, LowerReport(0, 0, 0.0, Costs(), np.zeros((3, 4)), np.zeros(2, int), np.zeros(4))
        )


def test_hello_twice_is_refused() -> None:
    hand = Hand(configuration(), 2)
    hand.hello(1)
    with pytest.raises(MalformedMessage, match="hello twice"):
        hand.hello(1)


def test_a_worker_that_cannot_go_on_is_lost_and_told_to_stop() -> None:
    hand = Hand(configuration(), 2)
    hand.deliver(1, Failure("OSError: no memory (on a)\nTraceback ... private text"))
    (event,) = [e for e in hand.of_type(Event) if e.kind is EventKind.LOST]
    assert (event.worker, event.text) == (1, "OSError: no memory (on a)"), "no traceback in a log"
    assert isinstance(hand.inbox[1][-1], Stop)
    assert hand.server.failure is None


def test_goes_on_without_an_excluded_worker() -> None:
    hand = Hand(configuration(algorithm={"active_workers": 3, "max_delay": 0}), 3)
    hand.hello()
    hand.work(1, 2)
    assert hand.server.iteration == 0
    hand.take(hand.server.exclude(3, "sent a NaN", 9.0))
    assert hand.server.iteration == 1, "the two that are left are the quorum now"
    assert isinstance(hand.inbox[3][-1], Stop)
    assert [e.worker for e in hand.of_type(Event) if e.kind is EventKind.EXCLUDED] == [3]
    last_words = hand.reply(3)
    hand.deliver(3, last_words)
    hand.work(1, 2)
    assert hand.server.iteration == 2
    np.testing.assert_array_equal(hand.server.algorithm.p[2], np.full((3, 4), 0.25))


def test_too_few_workers_end_the_run() -> None:
    hand = Hand(configuration(algorithm={"min_workers": 2}), 3)
    hand.hello()
    hand.take(hand.server.exclude(3, "a", 1.0))
    assert hand.server.failure is None
    hand.take(hand.server.exclude(2, "b", 2.0))
    assert hand.server.failure == (
        "1 workers are left, algorithm.min_workers is 2; the last to go was worker 2: b"
    )
    assert hand.server.finished
    assert all(isinstance(inbox[-1], Stop) for inbox in hand.inbox.values())
    assert [e.worker for e in hand.of_type(Event) if e.kind is EventKind.EXCLUDED] == [3, 2]


# ---------------------------------------------------------------- evaluation and the end


def test_without_evaluation_everybody_stops_after_the_last_iteration() -> None:
    hand = Hand(configuration(run={"iterations": 2}), 3)
    hand.hello()
    hand.work(1, 2, 1, 2)
    assert hand.server.iteration == 2
    assert [type(hand.inbox[v][0]) for v in (1, 2)] == [Stop, Stop]
    assert not hand.server.finished, "worker 3 is still busy"
    hand.work(3)
    assert hand.server.finished
    assert isinstance(hand.inbox[3][0], Stop)
    assert hand.server.iteration == 2, "its report came too late to be used"


def test_a_worker_that_joins_after_the_end_is_stopped() -> None:
    hand = Hand(configuration(run={"iterations": 1, "evaluate_every": 1}), 3)
    hand.hello(1, 2)
    hand.work(1, 2)
    hand.hello(3)
    assert isinstance(hand.inbox[3][0], Stop)


def test_closing_scores_every_kind_of_prompt_on_the_test_split() -> None:
    hand = Hand(configuration(run={"iterations": 6, "evaluate_every": 2}), 3)
    hand.hello()
    until_finished(hand)
    evaluations = [e for e in hand.of_type(Evaluation) if e.split is Split.TEST]
    kinds = sorted((e.candidate, e.worker) for e in evaluations)
    (consensus,) = (e for e in evaluations if e.worker == 0)
    of_workers = [e for e in evaluations if e.candidate is Candidate.CONSENSUS and e.worker]
    assert consensus.loss == pytest.approx(np.mean([e.loss for e in of_workers]))
    kinds.remove((Candidate.CONSENSUS, 0))
    own = [
        (c, v) for c in (Candidate.TUNED, Candidate.RANDOM, Candidate.CONSENSUS) for v in (1, 2, 3)
    ]
    assert [k for k in kinds if k[0] is not Candidate.UNTUNED] == sorted(own)
    assert [k[0] for k in kinds].count(Candidate.UNTUNED) == 1
    for e in evaluations:
        if e.candidate in (Candidate.UNTUNED, Candidate.RANDOM):
            assert (e.words == -1).all()
        if e.candidate is Candidate.UNTUNED:
            assert (e.demonstrations == -1).all()
        elif e.worker:
            assert (e.demonstrations >= 0).all()
        if e.candidate is Candidate.CONSENSUS:
            np.testing.assert_array_equal(e.words, hand.server.algorithm.z.argmax(axis=1))
    for worker, inbox in hand.inbox.items():
        while inbox:
            assert isinstance(inbox[0], Stop)
            hand.reply(worker)
    assert hand.workers.stopped


def test_without_test_rows_everybody_stops_after_the_last_iteration() -> None:
    hand = Hand(configuration(run={"iterations": 6, "evaluate_every": 2}, task={"test": 0}), 2)
    hand.hello()
    until_finished(hand)
    splits = {e.split for e in hand.of_type(Evaluation)}
    assert splits == {Split.VALIDATION}


def test_a_huge_report_is_tamed(recwarn: pytest.WarningsRecorder) -> None:
    hand = Hand(configuration(algorithm={"active_workers": 1}), 2)
    hand.hello()
    p = np.zeros((3, 4))
    p[:, 0], p[:, 1] = 1e3, -1e3  # as far off as `MASS` allows
    hand.deliver(1, dataclasses.replace(next_report(hand, 1), p=p))
    np.testing.assert_array_equal(hand.server.algorithm.p[0], np.eye(4)[[0, 0, 0]])
    assert not recwarn.list


def test_the_tuned_prompt_is_the_one_with_the_lowest_validation_loss() -> None:
    hand = Hand(configuration(run={"iterations": 9, "evaluate_every": 2}), 2)
    hand.hello()
    until_finished(hand)
    for v in (1, 2):
        mine = [e for e in hand.of_type(Evaluation) if e.worker == v]
        validations = [e for e in mine if e.split is Split.VALIDATION]
        assert [e.iteration for e in validations] == [2, 4, 6, 8]
        best = min(validations, key=lambda e: e.loss)
        (tuned,) = (e for e in mine if e.candidate is Candidate.TUNED and e.split is Split.TEST)
        np.testing.assert_array_equal(tuned.words, best.words)
        np.testing.assert_array_equal(tuned.demonstrations, best.demonstrations)


def test_early_stopping_after_rounds_without_improvement() -> None:
    hand = Hand(
        configuration(
            run={"iterations": 50, "evaluate_every": 1, "early_stopping_patience": 2},
            # So small a step that nothing changes, ever.
            steps={"p": 1e-30, "q": 1e-30},
        ),
        2,
    )
    hand.hello()
    until_finished(hand)
    assert hand.server.iteration < 8


def test_one_worker_cannot_stop_the_run_by_its_validation_losses() -> None:
    hand = Hand(configuration(run={"evaluate_every": 1, "early_stopping_patience": 2}), 3)
    validation = hand.server.validation
    for number in range(10):
        validation.add(validated(3, -1e300 if number == 0 else 1e300), 3)
        for worker in (1, 2):
            validation.add(validated(worker, 5.0 - 0.1 * number), 3)
        assert not validation.exhausted


def test_an_evaluation_that_was_not_asked_for_is_refused() -> None:
    hand = Hand(configuration(run={"iterations": 4, "evaluate_every": 1}), 2)
    hand.hello()
    hand.work(1, 2)
    assert isinstance(hand.inbox[1][0], EvaluationRequest)
    reply = hand.reply(1)
    with pytest.raises(MalformedMessage, match="was not asked for"):
        hand.deliver(1, dataclasses.replace(reply, candidate=Candidate.RANDOM))
    with pytest.raises(MalformedMessage, match="was not asked for"):
        hand.deliver(2, dataclasses.replace(reply, iteration=77))


def test_scores_that_are_calibrated_where_they_should_not_be_are_refused() -> None:
    hand = Hand(configuration(run={"iterations": 4, "evaluate_every": 1}), 2)
    hand.hello()
    hand.work(1, 2)
    reply = hand.reply(1)
    assert isinstance(reply, EvaluationReport)
    with pytest.raises(MalformedMessage, match=r"TUNED prompt, whose calibration is .none"):
        hand.deliver(1, dataclasses.replace(reply, bias=np.log([0.2, 0.8])))
    hand.deliver(1, reply)


def test_costs_of_all_kinds_are_counted() -> None:
    hand = Hand(configuration(run={"iterations": 4, "evaluate_every": 2}), 2)
    hand.hello()
    until_finished(hand)
    calls = sum(u.report.costs.calls for i in hand.of_type(Iteration) for u in i.reports)
    calls += sum(e.calls for e in hand.of_type(Evaluation))
    assert calls == hand.server.spending.spent.calls > 0


def test_shapes_of_the_harness() -> None:
    assert Hand(configuration(), 2).server.algorithm.p.shape == (2, SHAPES.positions, SHAPES.words)
