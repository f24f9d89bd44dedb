from collections.abc import Iterator
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_search import Judge, random_prompts

from asyndbt_mpi.assemble import prepare
from asyndbt_mpi.baselines.search import best_of as search
from asyndbt_mpi.baselines.search import cost, halving, most_prompts, rounds
from asyndbt_mpi.baselines.trial import Chosen as Prompt
from asyndbt_mpi.config import load
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import Shapes, Split
from asyndbt_mpi.task.prompts import PromptBlackBox
from tests.conftest import Opinionated

SHAPES = Shapes(positions=2, words=5, classes=3, pool=4)


def numbered() -> Iterator[Prompt]:
    """Prompts that are told apart by their only word."""
    return ((np.array([n]), np.array([0])) for n in count())


class Losses:
    """Losses of numbered prompts, and on how many rows each was scored."""

    def __init__(self, losses: list[float], noise: float = 0.0) -> None:
        self.losses = losses
        self.noise = noise
        self.rows: dict[int, int] = {}

    def __call__(self, prompt: Prompt, rows: int) -> float:
        number = int(prompt[0][0])
        assert rows >= self.rows.get(number, 0)
        self.rows[number] = rows
        return self.losses[number % len(self.losses)] + self.noise / rows**0.5

    @property
    def calls(self) -> int:
        return sum(self.rows.values())


losses = st.lists(st.floats(0, 9), min_size=1, max_size=60, unique=True)


@given(losses, st.integers(1, 60), st.integers(0, 900))
def test_search_finds_the_best_of_as_many_prompts_as_the_calls_allow(
    values: list[float], rows: int, calls: int
) -> None:
    loss = Losses(values)
    if calls < rows:
        with pytest.raises(ValueError, match=f"{calls} calls are too few"):
            search(loss, numbered(), rows, calls)
        return
    words, _ = search(loss, numbered(), rows, calls)
    assert calls - rows < loss.calls <= calls
    tried = [values[number % len(values)] for number in loss.rows]
    assert values[int(words[0]) % len(values)] == min(tried)


@given(losses, st.integers(1, 60), st.integers(0, 900))
def test_halving_finds_the_best_where_rows_agree_and_stays_within_the_calls(
    values: list[float], rows: int, calls: int
) -> None:
    loss = Losses(values)
    if calls < cost(1, rows):
        with pytest.raises(ValueError, match="too few"):
            halving(loss, numbered(), rows, calls)
        return
    words, _ = halving(loss, numbered(), rows, calls)
    begun = most_prompts(rows, calls)
    assert len(loss.rows) == begun
    assert loss.calls == cost(begun, rows) <= calls < cost(begun + 1, rows)
    assert values[int(words[0]) % len(values)] == min(values[n % len(values)] for n in loss.rows)
    assert loss.rows[int(words[0])] == rows  # the winner was scored on all


@given(st.integers(1, 200))
def test_rows_of_the_rounds_grow_to_all(rows: int) -> None:
    seen = rounds(rows)
    assert seen[-1] == rows
    assert all(before < after <= 2 * before for before, after in pairwise(seen))


def test_the_cost_of_halving_by_hand() -> None:
    # 8 prompts on 5 rows, 4 on 5 more, 2 on 10 more, 1 on 20 more.
    assert rounds(40) == [5, 10, 20, 40]
    assert cost(8, 40) == 8 * 5 + 4 * 5 + 2 * 10 + 1 * 20


def test_random_prompts_are_the_same_again_and_differ_between_workers_and_seeds() -> None:
    def some(seed: int, worker: int) -> list[tuple[list[int], list[int]]]:
        prompts = random_prompts(SHAPES, seed, worker)
        return [(words.tolist(), shown.tolist()) for words, shown in (next(prompts), next(prompts))]

    assert some(0, 1) == some(0, 1)
    assert some(0, 1) != some(0, 2) != some(1, 1)


def test_random_prompts_use_all_words_and_demonstrations() -> None:
    prompts = random_prompts(SHAPES, 0, 1)
    words, shown = zip(*(next(prompts) for _ in range(200)), strict=True)
    assert {*np.ravel(words)} == set(range(SHAPES.words))
    assert {*np.ravel(shown)} == set(range(SHAPES.pool))
    assert np.shape(words) == (200, SHAPES.positions)
    assert np.shape(shown) == (200, SHAPES.classes)


@pytest.fixture
def box() -> PromptBlackBox:
    config = load("reviews", ["task.train_per_class=3", "task.validation_per_class=2"])
    held = prepare(config, 3)
    assert held.data is not None
    assert held.template is not None
    model = CachedModel(Opinionated(), 10_000)
    return PromptBlackBox(held.data, held.template, held.vocabulary, 2, model)


PROMPT = np.array([1, 4]), np.array([0, 3])


def direct(box: PromptBlackBox) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of the validation rows and the training rows, and the right labels."""
    words, shown = (each[None] for each in PROMPT)
    answers = [
        box.answer([Query(1, split, np.arange(rows), words, shown)])[0]
        for split, rows in ((Split.VALIDATION, 4), (Split.TRAIN, 6))
    ]
    found = [answer.log_probabilities[0] for answer in answers]  # type: ignore[index]
    return np.concatenate(found), np.concatenate([answer.labels for answer in answers])  # type: ignore[misc]


def test_a_judge_scores_all_training_and_validation_rows(box: PromptBlackBox) -> None:
    log_probabilities, labels = direct(box)
    expected = -log_probabilities[np.arange(10), labels].mean()
    judge = Judge(box, 1, "none")
    assert judge.rows == 10
    assert judge.loss(PROMPT, 10) == pytest.approx(expected, rel=1e-12)


def test_a_judge_calibrates_by_the_rows_it_has_scored(box: PromptBlackBox) -> None:
    log_probabilities, labels = direct(box)
    probabilities = np.exp(log_probabilities)
    odds = probabilities / probabilities.mean(axis=0)  # the classes are equally frequent
    expected = -np.log((odds / odds.sum(axis=1, keepdims=True))[np.arange(10), labels]).mean()
    judge = Judge(box, 1, "batch")
    assert judge.loss(PROMPT, 10) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("calibration", ["none", "batch"])
def test_a_judge_pays_for_each_row_of_a_prompt_once(box: PromptBlackBox, calibration: Any) -> None:
    judge, other = Judge(box, 1, calibration), (np.array([2, 4]), np.array([0, 3]))
    paid = []
    for prompt, rows in ((PROMPT, 4), (PROMPT, 4), (PROMPT, 7), (other, 3), (PROMPT, 10)):
        judge.loss(prompt, rows)
        paid.append(judge.calls)
    assert paid == [4, 4, 7, 10, 13]
