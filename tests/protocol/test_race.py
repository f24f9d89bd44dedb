"""A race by hand: who takes part, who goes on, who wins, and what it costs at most."""

import itertools
from collections import Counter
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.protocol.messages import (
    WITHOUT,
    Candidate,
    CostBounds,
    EvaluationRequest,
    MalformedMessage,
    Split,
)
from asyndbt_mpi.protocol.race import (
    CLEARLY,
    FEWEST,
    OF_MODEL,
    Entrant,
    Prompt,
    Race,
    entrants,
    first_rows,
    halvings,
    is_clear,
    most_calls,
    reserve,
    rounds,
    size,
)


def prompt(number: int) -> Prompt:
    """Prompts of different numbers differ."""
    return np.array([number, number]), np.array([number, 0, 1])


UNTUNED = np.full(2, WITHOUT), np.full(3, WITHOUT)


MANY = 10_000
"""Rows, of which each halving takes some."""


def racing(number: int, most: int = 0, rows: int = MANY) -> Race:
    """The prompts 0, 1, ..., so many."""
    each = [Entrant(Candidate.TUNED, prompt(index)) for index in range(number)]
    return Race(each, rounds(max(most, number), rows), rows)


def scored(race: Race, losses: object) -> EvaluationRequest:
    """What was asked for, once it is answered with ``losses``."""
    request = race.next(7)
    assert request is not None
    losses = np.array(losses, dtype=float)
    race.take((request.words, request.demonstrations), losses)
    return request


def same(one: Prompt, other: Prompt) -> bool:
    return all(map(np.array_equal, one, other))


# ---------------------------------------------------------------- who takes part


def taking_part(most: int, validated: list[int], newest: int, consensus: int, has_model: bool):
    """(kind, number of the prompt, or its rank) of each; -1 is untuned, 99 random."""
    random = UNTUNED[0], prompt(99)[1]
    of = [prompt(each) for each in validated]
    found = entrants(most, UNTUNED, random, prompt(newest), prompt(consensus), of, has_model)
    return [
        (each.candidate, each.rank if each.prompt is None else int(each.prompt[1][0]))
        for each in found
    ]


T, U, R, C, M = (
    Candidate.TUNED, Candidate.UNTUNED, Candidate.RANDOM, Candidate.CONSENSUS, Candidate.MODEL,
)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "due"),
    [
        ((9, [1, 2, 3], 4, 5, True),
         [(T, 1), (U, -1), (M, 0), (M, 1), (R, 99), (T, 4), (C, 5), (M, 2), (M, 3)]),
        ((10, [1, 2, 3], 4, 5, True),
         [(T, 1), (U, -1), (M, 0), (M, 1), (R, 99), (T, 4), (C, 5), (M, 2), (M, 3), (T, 2)]),
        ((99, [1, 2, 3], 4, 5, False),
         [(T, 1), (U, -1), (R, 99), (T, 4), (C, 5), (T, 2), (T, 3)]),
        # The newest is one that was validated, the consensus another, and nothing comes twice.
        ((99, [1, 2, 1], 1, 2, False), [(T, 1), (U, -1), (R, 99), (C, 2)]),
        ((99, [], 4, 4, True), [(T, 4), (U, -1), (M, 0), (M, 1), (R, 99), (M, 2), (M, 3)]),
        ((1, [1, 2], 4, 5, True), [(T, 1)]),
        ((1, [], 4, 5, True), [(T, 4)]),
        ((2, [1, 2], 4, 5, True), [(T, 1), (U, -1)]),
    ],
)  # fmt: skip
def test_different_prompts_in_the_order_of_their_chances(arguments, due) -> None:
    assert taking_part(*arguments) == due


@given(
    st.integers(2, 20),
    st.lists(st.integers(0, 5), max_size=9),
    st.integers(0, 5),
    st.integers(0, 5),
    st.booleans(),
)
def test_the_untuned_prompt_always_takes_part(most, validated, newest, consensus, model) -> None:
    found = taking_part(most, validated, newest, consensus, model)
    assert (Candidate.UNTUNED, -1) in found
    assert found[0] == (Candidate.TUNED, (validated or [newest])[0]), "what wins without a race"
    assert len(found) <= most
    numbers = [number for kind, number in found if kind is not M]
    assert len(numbers) == len(set(numbers)), "no prompt is there twice"
    ranks = [rank for kind, rank in found if kind is M]
    assert ranks == list(range(OF_MODEL))[: len(ranks)]
    assert model or not ranks


# ---------------------------------------------------------------- rounds and rows


def test_rounds_by_hand() -> None:
    assert rounds(2, MANY) == [(2, 0)]
    assert rounds(3, MANY) == [(3, 2), (2, 0)]
    assert rounds(8, MANY) == [(8, 3), (4, 2), (2, 0)]
    assert rounds(9, MANY) == [(9, 4), (5, 3), (3, 2), (2, 0)]
    assert rounds(9, MANY, halved=2) == [(9, 6), (5, 5), (3, 4), (2, 2)]


@pytest.mark.parametrize(
    ("rows", "due"),
    [
        (64, [(9, 2), (2, 0)]),  # 16, 16, 16 and 64
        (65, [(9, 3), (3, 2), (2, 0)]),  # 16, 16, 17 and 65
        (130, [(9, 4), (5, 3), (3, 2), (2, 0)]),  # 16, 17, 33 and 130
        (17, [(9, 2), (2, 0)]),
        (16, [(9, 0)]),
        (1, [(9, 0)]),
    ],
)
def test_no_round_repeats_the_one_before(rows: int, due: list[tuple[int, int]]) -> None:
    assert rounds(9, rows) == due


def test_those_that_a_dropped_round_would_have_left_go_on() -> None:
    """Of 8 on 16 of 64 rows four would be scored again; of 7 that are, two go on, not four."""
    race = racing(7, most=8, rows=64)
    for index in range(7):
        assert scored(race, 0.1 * index + np.array([-1.0, 1.0]) * (-1) ** index).halvings == 2
    assert [int(each.prompt[0][0]) for each in race.running if each.prompt] == [0, 1]
    assert scored(race, [0.5, 0.5]).halvings == 0


@pytest.mark.parametrize(
    ("rows", "halved", "left"),
    [(400, 0, 400), (400, 3, 50), (401, 3, 51), (40, 3, FEWEST), (9, 2, 9), (1, 9, 1)],
)
def test_rows_are_halved_and_rounded_up_but_not_to_too_few(
    rows: int, halved: int, left: int
) -> None:
    assert first_rows(rows, halved) == left


def test_what_a_race_costs_at_most_by_hand() -> None:
    """Four prompts on 16 of 64 rows and two on all; six calls come with any rows."""
    plan, bounds = rounds(4, 64), CostBounds(race=70, race_rows=64)
    assert plan == [(4, 2), (2, 0)]
    assert [most_calls(bounds, halved) for halved in (0, 1, 2, 3)] == [70, 38, 22, 22]
    assert size(plan, bounds, has_cache=False) == 4 * 22 + 2 * 70
    assert size(plan, bounds, has_cache=True) == 4 * 22 + 2 * (70 - 16)
    assert reserve(plan, bounds, has_cache=False) == 4 * 22 + 2 * 70
    assert reserve(plan, bounds, has_cache=True) == 4 * 22 + (70 - 16) + 70


def test_all_of_a_race_of_five() -> None:
    """Five on an eighth of the rows, three on a quarter, two on all; prompt 3 is best there."""
    race = racing(5)
    quality = [0.4, 0.3, 0.2, 0.1, 0.5]
    # So much from row to row that nobody is clearly worse.
    noise = np.array([[1, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, -1], [1, 0, -1, 0], [0, 0, 0, 0]])
    first = [scored(race, quality[i] + noise[i]) for i in range(5)]
    assert [int(each.words[0]) for each in first] == [0, 1, 2, 3, 4]
    assert {each.halvings for each in first} == {halvings(5)} == {3}
    second = [scored(race, quality[i] + noise[i]) for i in (3, 2, 1)]
    assert [int(each.words[0]) for each in second] == [3, 2, 1], "the best first"
    assert {each.halvings for each in second} == {2}
    third = [scored(race, [0.2, 0.4]), scored(race, [0.5, 0.0])]
    assert [int(each.words[0]) for each in third] == [3, 2]
    assert {(each.halvings, each.split, each.iteration) for each in third} == {(0, Split.RACE, 7)}
    assert race.next(7) is None
    assert same(race.winner, prompt(2)), "on all rows the other one is better"


def test_who_is_clearly_worse_is_out_and_who_is_left_is_scored_on_more() -> None:
    race = racing(8)
    for index in range(8):
        scored(race, [0.0, 0.1] if index in (3, 6) else [1.0, 1.1])
    assert [int(each.prompt[0][0]) for each in race.running] == [3, 6], "four could have gone on"
    assert scored(race, [0.0, 0.1]).halvings == 0
    assert scored(race, [0.1, 0.1]).halvings == 0
    assert race.next(0) is None


def test_one_that_is_clearly_best_has_won_at_once() -> None:
    race = racing(8)
    for index in range(8):
        scored(race, [0.0, 0.1] if index == 5 else [1.0, 1.1])
    assert race.next(0) is None
    assert same(race.winner, prompt(5))


def test_a_single_row_puts_nobody_out() -> None:
    race = racing(4)
    for index in range(4):
        scored(race, [float(index)])
    assert len(race.running) == 2


def test_of_equal_ones_the_first_wins() -> None:
    race = racing(3)
    for _ in range(3 + 2):
        scored(race, [0.3, 0.4, 0.5])
    assert race.next(0) is None
    assert same(race.winner, prompt(0))


def test_a_single_one_wins_without_a_race() -> None:
    race = racing(1, most=8)
    assert race.next(0) is None
    assert same(race.winner, prompt(0))


def test_a_function_is_asked_once_for_each_prompt() -> None:
    race = racing(5, rows=1)
    requests = [scored(race, [loss]) for loss in (3.0, -1.0, 2.0, -1.5, 0.0)]
    assert {each.halvings for each in requests} == {0}
    assert race.next(0) is None
    assert same(race.winner, prompt(3))


def test_a_prompt_of_a_model_that_turns_out_to_be_another_one_is_there_once() -> None:
    """It takes no place from another: of five that are four, three go on."""
    known = [Entrant(Candidate.TUNED, prompt(each)) for each in (0, 1, 2, 3)]
    race = Race([*known, Entrant(Candidate.MODEL, None, rank=0)], rounds(5, MANY), MANY)
    for losses in ([0.1, 0.3], [0.3, 0.2], [0.9, 0.0], [0.9, 0.1]):
        scored(race, losses)
    request = race.next(7)
    assert request is not None
    assert (request.candidate, request.rank) == (Candidate.MODEL, 0)
    assert (request.words == WITHOUT).all()
    assert (request.demonstrations == WITHOUT).all()
    assert (request.words.shape, request.demonstrations.shape) == ((2,), (3,))
    race.take(prompt(0), np.array([0.1, 0.3]))
    assert [int(each.prompt[0][0]) for each in race.running] == [0, 1, 2]


def test_a_prompt_of_a_model_can_win_and_is_then_known() -> None:
    both = [Entrant(Candidate.TUNED, prompt(0)), Entrant(Candidate.MODEL, None, rank=2)]
    race = Race(both, rounds(2, MANY), MANY)
    scored(race, [0.5, 0.5])
    race.take(prompt(8), np.array([0.4, 0.5]))
    assert race.next(0) is None
    assert same(race.winner, prompt(8))


def test_prompts_of_a_round_are_compared_on_its_rows() -> None:
    race = racing(4, rows=40)
    for due in [16] * 4 + [40] * 2:
        for rows in {15, 16, 17, 40} - {due}:
            with pytest.raises(MalformedMessage, match=f"on {rows} rows, its round is on {due}"):
                race.check(np.zeros(rows))
        race.check(np.zeros(due))
        scored(race, np.zeros(due))
    assert race.next(0) is None


# ---------------------------------------------------------------- cut short


def test_without_a_single_score_the_first_wins() -> None:
    assert same(racing(8).winner, prompt(0))


def test_cut_in_its_first_round_the_best_so_far_wins() -> None:
    race = racing(8)
    for loss in (0.5, 0.2, 0.3):
        scored(race, [loss, loss + 0.1])
    assert same(race.winner, prompt(1))


@pytest.mark.parametrize("further", [0, 1, 2])
def test_cut_in_a_later_round_it_is_one_of_that_round(further: int) -> None:
    race = racing(8)
    wide = np.array([-1.0, 1.0])
    for index in range(8):
        scored(race, 0.1 * index + wide * (-1) ** index)
    for loss in ([0.9, 0.9], [0.1, 0.1])[:further]:
        scored(race, loss)
    # The leader of the round before is the first to be scored; then there are two to choose from.
    assert same(race.winner, prompt(1 if further == 2 else 0))


# ---------------------------------------------------------------- what is more than chance


def test_the_standard_error_of_a_paired_difference_by_hand() -> None:
    """Of (1, 2, 3, x): mean (6 + x) / 4; at x = 0 the error is sqrt(5/3) / 2 = 0.6455."""
    assert is_clear(np.array([1.0, 2.0, 3.0, 0.0])), "1.5 > 1.291"
    assert not is_clear(np.array([1.0, 2.0, 3.0, -1.0])), "1.25 < 2 * 0.8539"
    assert not is_clear(-np.array([1.0, 2.0, 3.0, 0.0]))
    assert CLEARLY == 2.0


def test_at_the_bound_it_is_chance_and_beyond_it_is_not() -> None:
    """Of (m - 1, m + 1) the error is 1, so that the mean has to be above 2."""
    assert not is_clear(np.array([1.0, 3.0]))
    assert is_clear(np.array([1.0 + 1e-9, 3.0 + 1e-9]))


def test_no_difference_is_chance_and_a_constant_one_is_not() -> None:
    assert not is_clear(np.zeros(9))
    assert is_clear(np.full(9, 1e-6))
    assert is_clear(np.array([0.1]))
    assert not is_clear(np.array([0.0]))


# ---------------------------------------------------------------- properties


def tables(least: int = 1):
    """Losses (prompts, rows)."""
    return st.tuples(st.integers(least, 12), st.integers(1, 200), st.integers(0, 2**32 - 1)).map(
        lambda drawn: np.random.default_rng(drawn[2]).normal(size=drawn[:2])
    )


def run(race: Race, table: np.ndarray) -> list[EvaluationRequest]:
    """The whole course; prompt i has the losses ``table`` [i]."""
    asked = []
    while request := race.next(0):
        rows = first_rows(table.shape[1], request.halvings)
        index = request.rank if request.candidate is M else int(request.words[0])
        losses = table[index, :rows]
        race.check(losses)
        race.take(prompt(index), losses)
        asked.append(request)
    return asked


@given(
    st.permutations(range(12)),
    st.integers(1, 12),
    st.integers(1, 60),
    st.integers(0, 2**32 - 1),
)
def test_without_noise_the_best_wins(order, number, rows, seed) -> None:
    """Rows differ in difficulty, prompts in quality, and nothing else counts."""
    difficulty = np.random.default_rng(seed).exponential(size=rows)
    table = np.array(order[:number])[:, None] + difficulty
    race = racing(number, rows=rows)
    run(race, table)
    assert same(race.winner, prompt(int(np.argmin(order[:number]))))


@given(tables(2), st.integers(0, 9), st.integers(0, 3), st.integers(0, 9))
@settings(max_examples=300)
def test_no_race_costs_more_than_one_in_which_all_stay(table, absent, halved, further) -> None:
    """Whatever the losses, and if fewer take part than could have; in vain are no rows scored."""
    number, rows = table.shape
    plan = rounds(number + absent, rows, halved)
    each = [Entrant(Candidate.TUNED, prompt(index)) for index in range(number)]
    asked = run(Race(each, plan, rows), table)
    room = {halved: prompts for prompts, halved in plan}
    made = Counter(each.halvings for each in asked)
    assert all(prompts <= room[halved] for halved, prompts in made.items())
    assert [each.halvings for each in asked] == sorted(made.elements(), reverse=True)
    assert len({first_rows(rows, each) for each in made}) == len(made)
    bounds = CostBounds(race=rows + further, race_rows=rows)
    for has_cache in (False, True):
        paid, known = 0, dict.fromkeys(range(number), 0)
        for request in asked:
            scored_rows, index = first_rows(rows, request.halvings), int(request.words[0])
            left = reserve(plan, bounds, has_cache) - paid
            assert most_calls(bounds, request.halvings) <= left, "a planned race is not cut"
            paid += scored_rows + further - known[index]
            known[index] = scored_rows * has_cache
        assert paid <= size(plan, bounds, has_cache)


@given(tables(2))
@settings(max_examples=300)
def test_at_most_half_go_on_and_the_winner_leads_the_last_round(table) -> None:
    number, rows = table.shape
    race = racing(number, rows=rows)
    asked = run(race, table)
    groups = [
        [int(each.words[0]) for each in group]
        for _, group in itertools.groupby(asked, key=lambda each: each.halvings)
    ]
    for before, after in itertools.pairwise(groups):
        assert set(after) < set(before)
        assert len(after) <= ceil(len(before) / 2)
    scored_rows = first_rows(rows, asked[-1].halvings)
    means = table[groups[-1], :scored_rows].mean(axis=1)
    winner = int(race.winner[0][0])
    assert table[winner, :scored_rows].mean() == means.min()
    if asked[-1].halvings:  # it was over early: the others of its half are clearly worse
        better = sorted(groups[-1], key=lambda each: table[each, :scored_rows].mean())
        for each in better[1 : ceil(len(better) / 2)]:
            assert is_clear(table[each, :scored_rows] - table[winner, :scored_rows])


@given(tables(2), st.data())
@settings(max_examples=200)
def test_cut_anywhere_the_winner_is_one_of_those_scored(table, data) -> None:
    """Nobody that was put out comes back, and what won last is not worse than the first."""
    race = racing(len(table), rows=table.shape[1])
    for _ in range(data.draw(st.integers(1, 3 * len(table)))):
        request = race.next(0)
        if request is None:
            break
        losses = table[int(request.words[0]), : first_rows(table.shape[1], request.halvings)]
        race.take((request.words, request.demonstrations), losses)
    assert any(same(race.winner, each.prompt) for each in race.running if each.prompt)
