"""Intervals and tests of paired rows, against scipy and against many repetitions."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from asyndbt_mpi.view import intervals

OUTCOMES = arrays.arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 60)))


def right(workers: int, correct: int, rows: int) -> np.ndarray:
    """Workers that all answer the first ``correct`` of the rows right."""
    return np.tile(np.arange(rows) < correct, (workers, 1))


@settings(deadline=None)
@given(rows=st.integers(1, 2000), share=st.floats(0, 1))
def test_the_interval_of_one_worker_is_wilsons(rows: int, share: float) -> None:
    correct = round(share * rows)
    expected = stats.binomtest(correct, rows).proportion_ci(method="wilson")
    found = intervals.accuracy(right(1, correct, rows))
    assert found == pytest.approx((correct / rows, expected.low, expected.high), abs=1e-12)


@settings(deadline=None)
@given(rows=st.integers(1, 200), workers=st.integers(2, 6), share=st.floats(0, 1))
def test_workers_that_answer_alike_tell_no_more_than_one(
    rows: int, workers: int, share: float
) -> None:
    correct = round(share * rows)
    one, all_alike = (intervals.accuracy(right(n, correct, rows)) for n in (1, workers))
    assert all_alike == pytest.approx(one, abs=1e-12)


def test_workers_that_err_on_different_rows_tell_more() -> None:
    """As many independent answers as there are, and never more."""
    answers = np.random.default_rng(0).random((3, 4000)) < 0.8
    found = intervals.accuracy(answers)
    pooled = stats.binomtest(int(answers.sum()), answers.size).proportion_ci(method="wilson")
    assert found.high - found.low == pytest.approx(pooled.high - pooled.low, rel=0.05)
    halves = np.array([[True, False], [False, True]])  # each row is half right: no variance
    pooled = stats.binomtest(2, 4).proportion_ci(method="wilson")
    assert intervals.accuracy(halves) == pytest.approx((0.5, pooled.low, pooled.high))


@settings(deadline=None)
@given(OUTCOMES)
def test_an_accuracy_lies_in_its_interval(answers: np.ndarray) -> None:
    value, low, high = intervals.accuracy(answers)
    assert value == pytest.approx(answers.mean())
    assert 0 <= low <= value <= high <= 1
    assert low < high


@settings(deadline=None)
@given(OUTCOMES, st.integers(0, 100))
def test_a_difference_turns_round_with_its_prompts(first: np.ndarray, seed: int) -> None:
    second = np.random.default_rng(seed).random(first.shape) < 0.5
    there, back = intervals.difference(first, second), intervals.difference(second, first)
    assert there.value == pytest.approx(first.mean() - second.mean())
    assert there.value == pytest.approx(-back.value)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.02)
    assert intervals.sign_test(first, second) == pytest.approx(intervals.sign_test(second, first))
    assert there.low <= there.high
    assert intervals.difference(first, second) == there


@pytest.mark.parametrize("of_losses", [False, True])
def test_the_interval_of_a_difference_is_that_of_scipys_bootstrap(of_losses: bool) -> None:
    generator = np.random.default_rng(1)
    first, second = generator.gamma(2.0, size=(2, 3, 150))
    if not of_losses:
        first, second = first < 2, second < 1.5
    found = intervals.difference(first, second)
    of_rows = first.mean(axis=0) - second.mean(axis=0)
    expected = stats.bootstrap((of_rows,), np.mean, n_resamples=20_000, method="percentile")
    width = found.high - found.low
    interval = expected.confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(interval), abs=0.04 * width)


def test_many_rows_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.random.default_rng(2).random((2, 1, 300))
    whole = intervals.difference(first, second)
    monkeypatch.setattr(intervals, "BLOCK", 1000)
    assert intervals.difference(first, second) == pytest.approx(whole, abs=1e-12)


def share_of_hits(clustered: bool) -> float:
    """How often an interval of a difference has the truth, 0, if rows are hard for all workers."""
    generator, repetitions, hits = np.random.default_rng(3), 200, 0
    for _ in range(repetitions):
        first, second = np.repeat(generator.random((2, 1, 100)) < 0.7, 4, axis=1)
        if not clustered:
            first, second = first.reshape(1, -1), second.reshape(1, -1)
        interval = intervals.difference(first, second)
        hits += interval.low <= 0 <= interval.high
    return hits / repetitions


def test_an_interval_has_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rows of each worker as rows of their own it would not."""
    monkeypatch.setattr(intervals, "RESAMPLES", 500)
    assert 0.91 <= share_of_hits(clustered=True) <= 0.99
    assert share_of_hits(clustered=False) < 0.8


def test_the_sign_test_of_one_worker_is_mcnemars() -> None:
    """9 rows only the first has right, 2 only the second: 2 (1 + 11 + 55) / 2^11."""
    first = np.array([[True] * 9 + [False] * 2 + [True] * 20 + [False] * 5])
    second = np.array([[False] * 9 + [True] * 2 + [True] * 20 + [False] * 5])
    assert intervals.sign_test(first, second) == pytest.approx(2 * 67 / 2**11)


@settings(deadline=None)
@given(rows=st.integers(1, 300), seed=st.integers(0, 100), share=st.floats(0, 1))
def test_one_workers_sign_test_is_binomial(rows: int, seed: int, share: float) -> None:
    first, second = np.random.default_rng(seed).random((2, 1, rows)) < [[[share]], [[0.5]]]
    better, worse = int((first & ~second).sum()), int((second & ~first).sum())
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert intervals.sign_test(first, second) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(
    arrays.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 10))),
    st.booleans(),
    st.integers(0, 100),
)
def test_the_sign_test_counts_all_choices_of_signs(
    first: np.ndarray, shared: bool, seed: int
) -> None:
    workers, rows = first.shape
    second = np.random.default_rng(seed).random((1 if shared else workers, rows)) < 0.5
    differences = (first.astype(int) - second).sum(axis=0)
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=rows)]
    expected = np.mean(np.array(sums) >= abs(differences.sum()))
    assert intervals.sign_test(first, second) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 3), (1, 1)),
        ((1, 0), (1, 0)),
        ((3,), (3,)),
        ((0, 3), (1, 3)),
        ((2, 3), (3, 3)),
    ],
)
def test_what_cannot_be_paired_is_refused(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    for function in (intervals.difference, intervals.sign_test):
        with pytest.raises(ValueError, match=r"cannot be paired|would be right"):
            function(np.ones(first, dtype=bool), np.ones(second, dtype=bool))


@settings(deadline=None)
@given(arrays.arrays(float, st.integers(2, 20), elements=st.floats(-1e6, 1e6)))
def test_a_mean_over_seeds_has_students_interval(values: np.ndarray) -> None:
    found = intervals.mean(values)
    error = stats.sem(values)
    half = stats.t.ppf(0.975, len(values) - 1) * error
    assert found == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))


@pytest.mark.parametrize(
    ("workers", "rows", "disagreement"),
    [(3, 85, 0.2), (3, 125, 0.3), (3, 170, 0.4), (1, 170, 0.2), (1, 250, 0.3), (1, 340, 0.4)],
)
def test_so_many_rows_tell_ten_points_from_chance(
    workers: int, rows: int, disagreement: float
) -> None:
    """As docs/method.md says: four times out of five."""
    generator, found = np.random.default_rng(0), []
    shares = (disagreement - 0.1) / 2, 1 - disagreement, (disagreement + 0.1) / 2
    for _ in range(400):
        own = generator.choice([-1, 0, 1], p=shares, size=(workers, rows))
        common = generator.choice([-1, 0, 1], p=shares, size=rows)
        differences = np.where(generator.random((workers, rows)) < 0.5, common, own)
        found.append(intervals.sign_test(differences > 0, differences < 0) < 0.05)
    assert 0.74 < np.mean(found) < 0.86


def test_one_seed_has_no_interval() -> None:
    value, low, high = intervals.mean(np.array([3.0]))
    assert value == 3
    assert np.isnan([low, high]).all()
    with pytest.raises(ValueError, match="no values"):
        intervals.mean(np.array([]))
