from collections.abc import Sequence

import numpy as np
import pytest

from asyndbt_mpi.llm.base import ModelError, Prompt, Scores
from asyndbt_mpi.llm.cache import CachedModel

LABELS = [" no", " yes"]


class Counting:
    """Answers with the lengths of prompt and label, at 10 tokens a prompt."""

    description = "counting"
    at_once = None
    digest = "d1"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        texts = [prompt.context + prompt.query for prompt in prompts]
        self.asked.append(texts)
        answer = np.array([[-len(text) - len(label) for label in labels] for text in texts])
        return Scores(answer.astype(np.float64), calls=len(texts), prompt_tokens=10 * len(texts))

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        return prompts + len(labels)

    def longest(self, text: str) -> int:
        return 10 * len(text)


class Failing(Counting):
    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        raise ModelError("too long")


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt("", text) for text in texts]


def test_a_prompt_is_asked_once() -> None:
    model = Counting()
    cached = CachedModel(model, 10)
    first = cached.label_log_probabilities(prompts("a", "bb"), LABELS)
    assert (first.calls, first.prompt_tokens) == (2, 20)
    second = cached.label_log_probabilities(prompts("ccc", "bb", "a"), LABELS)
    assert model.asked == [["a", "bb"], ["ccc"]]
    assert (second.calls, second.prompt_tokens) == (1, 10)
    np.testing.assert_array_equal(second.log_probabilities, [[-6, -7], [-5, -6], [-4, -5]])
    third = cached.label_log_probabilities(prompts("a"), LABELS)
    assert (third.calls, third.prompt_tokens) == (0, 0)
    assert len(model.asked) == 2


class Undecided(Counting):
    """Names no label where the prompt says so."""

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        scores = super().label_log_probabilities(prompts, labels)
        for row, prompt in enumerate(prompts):
            if "?" in prompt.query:
                scores.log_probabilities[row] = -np.log(len(labels))
        return scores


def test_unrecognised_answers_are_counted_whoever_was_asked() -> None:
    cached = CachedModel(Undecided(), 10)
    assert cached.label_log_probabilities(prompts("a?", "b", "a?"), LABELS).unrecognised == 2
    assert cached.label_log_probabilities(prompts("c", "a?"), LABELS).unrecognised == 1
    assert cached.label_log_probabilities(prompts("c"), LABELS).unrecognised == 0
    assert cached.label_log_probabilities([], LABELS).unrecognised == 0


def test_the_model_behind_it_is_told() -> None:
    assert CachedModel(Counting(), 10).digest == "d1"


def test_equal_prompts_of_one_call_are_asked_once_however_they_are_cut() -> None:
    model = Counting()
    cached = CachedModel(model, 10)
    scores = cached.label_log_probabilities([Prompt("a", "b"), Prompt("", "ab")], LABELS)
    assert model.asked == [["ab"]]
    np.testing.assert_array_equal(scores.log_probabilities, [[-5, -6], [-5, -6]])
    assert scores.calls == 1


def test_other_labels_are_another_question() -> None:
    model = Counting()
    cached = CachedModel(model, 10)
    cached.label_log_probabilities(prompts("a"), LABELS)
    scores = cached.label_log_probabilities(prompts("a"), LABELS[::-1])
    assert len(model.asked) == 2
    np.testing.assert_array_equal(scores.log_probabilities, [[-5, -4]])


def test_the_prompt_used_longest_ago_goes_first() -> None:
    model = Counting()
    cached = CachedModel(model, 2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cached.label_log_probabilities(prompts(text), LABELS)
    # "c" drove out "b", for "a" had been used since.
    assert model.asked == [["a"], ["b"], ["c"], ["b"]]


def test_a_call_may_ask_for_more_than_fits() -> None:
    model = Counting()
    cached = CachedModel(model, 1)
    scores = cached.label_log_probabilities(prompts("a", "bb", "ccc"), LABELS)
    np.testing.assert_array_equal(scores.log_probabilities[:, 0], [-4, -5, -6])
    again = cached.label_log_probabilities(prompts("ccc", "a"), LABELS)
    assert model.asked[1:] == [["a"]]
    np.testing.assert_array_equal(again.log_probabilities[:, 0], [-6, -4])


def test_answers_are_the_callers_own() -> None:
    cached = CachedModel(Counting(), 2)
    for _ in range(2):
        scores = cached.label_log_probabilities(prompts("a"), LABELS)
        np.testing.assert_array_equal(scores.log_probabilities, [[-4, -5]])
        scores.log_probabilities[:] = 0


def test_an_error_of_the_model_comes_through_and_leaves_no_trace() -> None:
    cached = CachedModel(Failing(), 2)
    for _ in range(2):
        with pytest.raises(ModelError):
            cached.label_log_probabilities(prompts("a"), LABELS)


def test_bounds_are_the_models() -> None:
    cached = CachedModel(Counting(), 2)
    assert (cached.most_calls(3, LABELS), cached.longest("abc")) == (5, 30)


def test_no_prompts() -> None:
    model = Counting()
    scores = CachedModel(model, 2).label_log_probabilities([], LABELS)
    assert scores.log_probabilities.shape == (0, 2)
    assert model.asked == []


def test_description_is_the_models_and_a_cache_needs_room() -> None:
    cached = CachedModel(Counting(), 2)
    assert (cached.description, cached.digest) == ("counting", "d1")
    with pytest.raises(ValueError, match="at least one entry, not 0"):
        CachedModel(Counting(), 0)
