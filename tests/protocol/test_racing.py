"""Races at the end of a run, message by message: who is asked what, and what is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.protocol.evaluations import Evaluations
from asyndbt_mpi.protocol.messages import (
    WITHOUT,
    Candidate,
    CostBounds,
    Costs,
    EvaluationReport,
    EvaluationRequest,
    MalformedMessage,
    RowScores,
    Split,
    Stop,
)
from asyndbt_mpi.protocol.race import FEW, FEWEST, first_rows, is_clear, plan, reserve, rounds
from asyndbt_mpi.protocol.records import Evaluation, Event, EventKind
from asyndbt_mpi.protocol.spending import Spending
from tests.protocol.hand import SHAPES, Hand, configuration, until_finished, validated

ITERATIONS = 6


def run_to_its_end(workers: int = 2, **sections) -> Hand:
    """Its iterations are over; who has reported on its last assignment is in its race."""
    run = {"iterations": ITERATIONS, "evaluate_every": 2, "race": 6, **sections.pop("run", {})}
    hand = Hand(configuration(run=run, **sections), workers)
    hand.hello()
    while hand.server.running:
        hand.work(*(worker for worker, inbox in hand.inbox.items() if inbox))
    return hand


def asked(hand: Hand, worker: int) -> EvaluationRequest:
    request = hand.inbox[worker][0]
    assert isinstance(request, EvaluationRequest)
    return request


def evaluations(hand: Hand, split: Split, worker: int = 0) -> list[Evaluation]:
    return [
        each for each in hand.of_type(Evaluation)
        if each.split is split and (each.worker == worker or not worker)
    ]  # fmt: skip


def same(one: Evaluation, other: Evaluation) -> bool:
    return np.array_equal(one.words, other.words) and np.array_equal(
        one.demonstrations, other.demonstrations
    )


# ---------------------------------------------------------------- the course


def test_what_wins_is_tested() -> None:
    hand = run_to_its_end()
    until_finished(hand)
    for worker in (1, 2):
        raced = evaluations(hand, Split.RACE, worker)
        kinds = [each.candidate for each in raced]
        assert kinds[:3] == [Candidate.TUNED, Candidate.UNTUNED, Candidate.MODEL]
        assert 4 <= len(raced) <= 6
        best = min(raced, key=lambda each: each.loss)
        (tuned,) = (
            each for each in evaluations(hand, Split.TEST, worker)
            if each.candidate is Candidate.TUNED
        )  # fmt: skip
        assert same(tuned, best)
    events = [e.kind for e in hand.of_type(Event)]
    assert events.count(EventKind.RACE) == len(evaluations(hand, Split.RACE))


def test_the_first_that_races_is_the_best_that_was_validated() -> None:
    hand = run_to_its_end()
    for worker in (1, 2):
        best = min(evaluations(hand, Split.VALIDATION, worker), key=lambda each: each.loss)
        np.testing.assert_array_equal(asked(hand, worker).words, best.words)
        np.testing.assert_array_equal(asked(hand, worker).demonstrations, best.demonstrations)


@pytest.mark.parametrize("race", [0, 2, 3])
def test_no_more_race_than_may(race: int) -> None:
    hand = run_to_its_end(run={"race": race})
    until_finished(hand)
    for worker in (1, 2):
        raced = evaluations(hand, Split.RACE, worker)
        assert len(raced) == race
        assert (Candidate.UNTUNED in [each.candidate for each in raced]) == bool(race)


@pytest.mark.parametrize("estimator", ["loo", "bdpl", "additive"])
def test_only_an_additive_model_names_prompts(estimator: str) -> None:
    hand = run_to_its_end(run={"race": 9}, estimator={"name": estimator})
    until_finished(hand)
    kinds = {each.candidate for each in evaluations(hand, Split.RACE)}
    assert (Candidate.MODEL in kinds) == (estimator == "additive")


def test_exact_gradients_name_none() -> None:
    hand = run_to_its_end(run={"race": 9}, estimator={"name": "exact"})
    until_finished(hand)
    assert Candidate.MODEL not in {each.candidate for each in evaluations(hand, Split.RACE)}


def test_a_models_prompt_is_the_best_by_its_model() -> None:
    hand = run_to_its_end(1, algorithm={"active_workers": 1})
    model = hand.workers.gradients
    while asked(hand, 1).candidate is not Candidate.MODEL:
        hand.work(1)
    assert (asked(hand, 1).words == WITHOUT).all()
    reply = hand.reply(1)
    words, shown = model.best(0, 0)
    np.testing.assert_array_equal(reply.words, words)
    np.testing.assert_array_equal(reply.demonstrations, shown)


def test_without_test_rows_there_is_a_race_and_no_test() -> None:
    hand = run_to_its_end(task={"test": 0})
    until_finished(hand)
    assert evaluations(hand, Split.RACE)
    assert not evaluations(hand, Split.TEST)


def test_without_evaluation_there_is_no_race() -> None:
    hand = run_to_its_end(run={"evaluate_every": 0})
    until_finished(hand)
    assert not hand.of_type(Evaluation)


def test_who_reports_late_races_later() -> None:
    hand = Hand(configuration(run={"iterations": 2, "evaluate_every": 1, "race": 4}), 3)
    hand.hello()
    hand.work(1, 2)
    while hand.server.running:
        hand.work(1, 2)
    while len(evaluations(hand, Split.RACE, 1)) < 2:
        hand.work(1)
    assert not evaluations(hand, Split.RACE, 3)
    hand.work(3)
    assert asked(hand, 3).split is Split.RACE, "its report was too late to be used"
    until_finished(hand)
    assert len(evaluations(hand, Split.RACE, 3)) >= 3


# ---------------------------------------------------------------- who is lost


@pytest.mark.parametrize("after", range(8))
@pytest.mark.parametrize("leave", ["lose", "exclude"])
def test_who_is_lost_in_its_race_hinders_nobody(after: int, leave: str) -> None:
    hand = run_to_its_end(3)
    for _ in range(after):
        if isinstance(hand.inbox[3][0], Stop):
            break
        hand.work(3)
    hand.take(getattr(hand.server, leave)(3, "gone", hand.time))
    hand.inbox[3].clear()
    until_finished(hand)
    for worker in (1, 2):
        tested = [each.candidate for each in evaluations(hand, Split.TEST, worker)]
        assert tested[:3] == [Candidate.TUNED, Candidate.RANDOM, Candidate.CONSENSUS]
    untuned = [e for e in evaluations(hand, Split.TEST) if e.candidate is Candidate.UNTUNED]
    assert len(untuned) == 1


def test_an_untuned_prompt_of_a_race_is_no_test_that_another_could_take() -> None:
    hand = run_to_its_end(3)
    while asked(hand, 3).candidate is not Candidate.UNTUNED:
        hand.work(3)
    assert asked(hand, 3).split is Split.RACE
    tests = hand.server._final_tests
    assert tests is not None
    hand.take(hand.server.lose(3, "gone", hand.time))
    hand.inbox[3].clear()
    assert tests._left == 1  # nobody had taken it


def test_an_untuned_test_that_is_lost_is_another_workers() -> None:
    hand = run_to_its_end(2)
    while asked(hand, 1).candidate is not Candidate.UNTUNED or asked(hand, 1).split is Split.RACE:
        hand.work(1)
    hand.take(hand.server.lose(1, "gone", hand.time))
    hand.inbox[1].clear()
    until_finished(hand)
    (untuned,) = (e for e in evaluations(hand, Split.TEST) if e.candidate is Candidate.UNTUNED)
    assert untuned.worker == 2


# ---------------------------------------------------------------- what is refused


def at_a_models_prompt() -> tuple[Hand, EvaluationReport]:
    hand = run_to_its_end()
    while asked(hand, 1).candidate is not Candidate.MODEL:
        hand.work(1)
    reply = hand.reply(1)
    assert isinstance(reply, EvaluationReport)
    return hand, reply


@pytest.mark.parametrize(
    ("part", "entry"),
    [("words", WITHOUT), ("demonstrations", WITHOUT)],
)
def test_a_model_has_to_say_which_prompt_it_means(part: str, entry: int) -> None:
    hand, reply = at_a_models_prompt()
    without = np.full_like(getattr(reply, part), entry)
    with pytest.raises(MalformedMessage, match="scored another prompt"):
        hand.deliver(1, dataclasses.replace(reply, **{part: without}))
    hand.deliver(1, reply)


def test_a_model_has_no_demonstrations_but_its_workers() -> None:
    hand, reply = at_a_models_prompt()
    hand.server._initial_q[0, :, 3:] = 0.0  # it holds three of each class
    shown = np.array([0, 4])
    with pytest.raises(MalformedMessage, match=r"shows demonstrations \[0, 4\], which it does not"):
        hand.deliver(1, dataclasses.replace(reply, demonstrations=shown))


def test_a_models_prompt_is_the_same_in_every_round() -> None:
    """Once it is known it is asked for by its words, and no other one is taken."""
    known = EvaluationRequest(
        6, Split.RACE, Candidate.MODEL, np.array([1, 2, 0]), np.array([3, 1]), rank=1, halvings=1
    )
    evaluations = Evaluations()
    evaluations.ask(1, known)
    [query] = Hand(configuration(), 1).workers.receive([(1, known)])
    np.testing.assert_array_equal(query.words, known.words[None])
    np.testing.assert_array_equal(query.demonstrations, known.demonstrations[None])
    report = EvaluationReport(
        6, Split.RACE, Candidate.MODEL, 0.5, 0.5, Costs(), np.zeros(2), np.array([1, 2, 1]),
        known.demonstrations,
    )  # fmt: skip
    with pytest.raises(MalformedMessage, match="scored another prompt"):
        evaluations.accept(1, report, 1.0)
    evaluations.accept(1, dataclasses.replace(report, words=known.words), 1.0)


@pytest.mark.parametrize("part", ["words", "demonstrations"])
@pytest.mark.parametrize("split", [Split.VALIDATION, Split.RACE, Split.TEST])
def test_another_prompt_than_was_asked_for_is_refused(split: Split, part: str) -> None:
    hand = Hand(configuration(run={"iterations": 4, "evaluate_every": 1, "race": 3}), 2)
    hand.hello()
    hand.work(1, 2)
    while not (isinstance(hand.inbox[1][0], EvaluationRequest) and asked(hand, 1).split is split):
        hand.work(*(worker for worker, inbox in hand.inbox.items() if inbox))
    reply = hand.reply(1)
    other = (getattr(reply, part) + 1) % 4
    with pytest.raises(MalformedMessage, match="worker 1 scored another prompt"):
        hand.deliver(1, dataclasses.replace(reply, **{part: other}))
    hand.deliver(1, reply)


@pytest.mark.parametrize("split", [Split.RACE, Split.TEST, Split.TRAIN])
def test_a_race_that_nobody_is_in_is_refused(split: Split) -> None:
    hand = Hand(configuration(run={"iterations": 4, "evaluate_every": 1}), 2)
    hand.hello()
    hand.work(1, 2)
    reply = hand.reply(1)
    with pytest.raises(MalformedMessage, match=r"before the|TRAIN rows"):
        hand.deliver(1, dataclasses.replace(reply, split=split))


def test_a_prompt_that_is_scored_on_other_rows_is_refused() -> None:
    hand = run_to_its_end()
    hand.work(1)
    reply = hand.reply(1)
    scores = RowScores(np.zeros(2, int), np.log(np.full((2, 2), 0.5)))
    with pytest.raises(MalformedMessage, match="scored on 2 rows, its round is on 1"):
        hand.deliver(1, dataclasses.replace(reply, rows=scores, loss=np.log(2)))
    hand.deliver(1, reply)


# ---------------------------------------------------------------- the budget


def test_a_race_that_the_budget_cut_short_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was set aside for a test and then not needed must not start it again."""
    hand = run_to_its_end(1, algorithm={"active_workers": 1}, budget={"calls": 100_000})
    hand.work(1)
    spending = hand.server.spending
    with monkeypatch.context() as short:
        short.setattr(
            Spending,
            "overdrawn",
            lambda self, calls, time, stage: "calls" if stage == "race" else None,
        )
        hand.work(1)
    assert asked(hand, 1).split is Split.TEST
    assert spending.overdrawn(spending.cost_bounds(1).race, hand.time, "race") is None
    until_finished(hand)
    raced = evaluations(hand, Split.RACE)
    assert len(raced) == 2
    assert same(evaluations(hand, Split.TEST)[0], min(raced, key=lambda each: each.loss))


def test_a_race_is_set_aside_and_paid_prompt_by_prompt() -> None:
    """A quarter of the budget at most; at the end as much as is left, here for 5 prompts of 8."""
    tests = 4 * 200
    hand = Hand(
        configuration(
            run={"iterations": 1, "evaluate_every": 1, "race": 8},
            algorithm={"active_workers": 1},
            budget={"calls": 12 + tests + 5 * 40 + 39},
        ),
        1,
    )
    hand.hello()
    spending = hand.server.spending
    assert spending.most_spent(0)["calls"] == 12 + tests
    assert spending._by_worker[1].race == 0  # a quarter of 251 is no race
    hand.work(1)
    raced = 0
    while asked(hand, 1).split is Split.RACE:
        assert spending.reserved == 40
        hand.work(1)
        raced += 1
    assert raced == 5
    assert spending.most_spent(0, "race")["calls"] == 12 + 5 * 40 + tests
    until_finished(hand)
    assert spending.reserved == 0
    assert len(evaluations(hand, Split.TEST)) == 4 + 1  # and the mean of the consensus


@given(
    most=st.integers(2, 40), rows=st.integers(1, 500), further=st.integers(0, 600),
    has_cache=st.booleans(), share=st.floats(0, 20_000),
)  # fmt: skip
def test_a_race_is_planned_within_its_share(
    most: int, rows: int, further: int, has_cache: bool, share: float
) -> None:
    """As many prompts as there is room for; on fewer rows only rather than fewer than four."""
    bounds = CostBounds(race=rows + further, race_rows=rows)
    found = plan(most, bounds, has_cache, share)
    if not found:
        assert share < 2 * (min(rows, FEWEST) + further)
        return
    racing, halved = found[0][0], found[-1][1]
    assert racing <= most
    assert reserve(found, bounds, has_cache) <= share
    assert plan(most, bounds, has_cache, reserve(found, bounds, has_cache)) == found, "no call more"
    if racing == most:
        return
    for halvings in range(halved, halved + 1 if racing >= FEW else 10):
        larger = rounds(racing + 1, rows, halvings)
        assert reserve(larger, bounds, has_cache) > share
    if first_rows(rows, halved) < rows:
        fewer_halvings = rounds(min(FEW, most), rows, halved - 1)
        assert reserve(fewer_halvings, bounds, has_cache) > share


def test_no_prompts_no_rounds() -> None:
    assert plan(0, CostBounds(race=9, race_rows=9), has_cache=True) == []


# ---------------------------------------------------------------- early stopping


def of_rows(worker: int, losses: list[float]) -> Evaluation:
    array = np.array(losses)
    rows = RowScores(np.zeros(len(array), int), np.stack([-array, -array], axis=1))
    return dataclasses.replace(validated(worker, float(array.mean())), rows=rows)


def stopping(patience: int = 2, workers: int = 1):
    run = {"evaluate_every": 1, "early_stopping_patience": patience}
    return Hand(configuration(run=run), workers).server.validation


def test_progress_is_a_difference_that_is_more_than_chance() -> None:
    """To (4, 4, 4, 4): (3, 2, 1, 4) differs by (1, 2, 3, 0), 1.5 at an error of 0.65."""
    validation = stopping()
    validation.add(of_rows(1, [4, 4, 4, 4]), 1)
    for losses in ([3, 2, 1, 5], [4, 4, 4, 4]):  # 1.25 at an error of 0.85 is chance
        validation.add(of_rows(1, losses), 1)
    assert validation.exhausted
    validation = stopping()
    for losses in ([4, 4, 4, 4], [4, 4, 4, 4], [3, 2, 1, 4], [4, 4, 4, 4]):
        validation.add(of_rows(1, losses), 1)
        assert not validation.exhausted


def test_small_steps_add_up_to_progress() -> None:
    """Each is compared with the last that was clearly better, not with the one before."""
    validation = stopping(patience=3)
    start, noise = np.full(4, 4.0), np.array([1.0, -1.0, 1.0, -1.0])
    validation.add(of_rows(1, start.tolist()), 1)
    for step in range(1, 40):
        losses = start - 0.6 * step + noise * (step % 2)
        validation.add(of_rows(1, losses.tolist()), 1)
        assert not validation.exhausted
    assert not is_clear(0.6 + noise), "one step alone is chance"


def test_other_rows_begin_again() -> None:
    validation = stopping(patience=1)
    validation.add(of_rows(1, [1.0, 1.0]), 1)
    validation.add(of_rows(1, [9.0, 9.0, 9.0]), 1)
    assert not validation.exhausted
    validation.add(of_rows(1, [9.0, 9.0, 9.0]), 1)
    assert validation.exhausted


@pytest.mark.parametrize(("better", "goes_on"), [(0, False), (1, False), (2, True), (4, True)])
def test_half_of_the_workers_make_a_round_of_progress(better: int, goes_on: bool) -> None:
    validation = stopping(patience=1, workers=4)
    for worker in range(1, 5):
        validation.add(of_rows(worker, [2.0, 2.0]), 4)
    for worker in range(1, 5):
        validation.add(of_rows(worker, [1.0, 1.0] if worker <= better else [3.0, 3.0]), 4)
    assert validation.exhausted != goes_on


def test_the_best_different_prompts_are_kept() -> None:
    validation = Hand(configuration(run={"race": 2, "evaluate_every": 1}), 1).server.validation
    assert validation.prompts(1) == []
    for number, loss in enumerate([3.0, 1.0, 2.0, 1.0]):
        prompt = np.full(SHAPES.positions, number % 3), np.zeros(SHAPES.classes, int)
        words, shown = prompt
        each = dataclasses.replace(validated(1, loss), words=words, demonstrations=shown)
        validation.add(each, 1)
    assert [int(words[0]) for words, _ in validation.prompts(1)] == [1, 0]
