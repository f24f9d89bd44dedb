import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.llm.client import Filtered, Unusable
from asyndbt_mpi.llm.thinking import Thinks
from asyndbt_mpi.llm.written import OTHER_LABELS, label_of, of_answer, read_text

TABLE = Path(__file__).parents[2] / "docs" / "answers.md"


def answers() -> list[tuple[str, list[str], str | None]]:
    """The rows of the table in the docs: an answer, the labels, and the one that it names."""
    found = []
    for line in TABLE.read_text().splitlines():
        cells = [re.findall(r"`([^`]*)`", cell) for cell in line.strip("|").split(" | ")]
        if len(cells) == 3 and cells[0]:
            [text], labels, named = ([json.loads(each) for each in cell] for cell in cells)
            found.append((text, labels, named[0] if named else None))
    return found


def test_the_table_is_read() -> None:
    assert len(answers()) == len(re.findall(r"^\| `", TABLE.read_text(), re.MULTILINE)) >= 120


@pytest.mark.parametrize(("text", "labels", "named"), answers())
def test_an_answer_names_a_label_or_none(text: str, labels: list[str], named: str | None) -> None:
    found = label_of(text, labels)
    assert (None if found is None else labels[found]) == named
    # In whatever order they are given.
    back = label_of(text, labels[::-1])
    assert (None if back is None else labels[::-1][back]) == named


@pytest.mark.parametrize(("text", "labels", "named"), answers())
def test_the_space_before_a_label_does_not_matter(
    text: str, labels: list[str], named: str | None
) -> None:
    found = label_of(text, [f" {label.strip()}" for label in labels])
    assert (None if found is None else labels[found]) == named


def test_the_label_that_is_named_has_most_of_the_probability() -> None:
    row = of_answer("Positive.", [" negative", " positive", " mixed"])
    assert row is not None
    np.testing.assert_allclose(np.exp(row), [OTHER_LABELS / 2, 1 - OTHER_LABELS, OTHER_LABELS / 2])
    assert of_answer("Neither.", [" negative", " positive"]) is None


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("good", ["good", "good enough"]),
        ("It is good", ["good", "good enough"]),
        ("The answer is 1", ["1", "12"]),
        ("The answer is a", ["A", "B"]),
    ],
)
def test_an_answer_that_is_cut_off_may_be_the_beginning_of_another_label(
    text: str, labels: list[str]
) -> None:
    assert label_of(text, labels) == 0
    assert label_of(text, labels, cut=True) is None
    assert label_of(f"{text}.", labels, cut=True) == 0


WORDS = ["good", "bad", "not", "B", "A", "1", "12", "answer", "is", ":", ".", "?", "no", "it", "or"]


@given(
    st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map(" ".join)),
    st.lists(
        st.one_of(st.text(min_size=1), st.sampled_from(WORDS)).filter(str.strip),
        min_size=1, max_size=4, unique_by=lambda label: label.strip().casefold(),
    ),
    st.booleans(),
)  # fmt: skip
def test_any_answer_can_be_read(answer: str, labels: list[str], cut: bool) -> None:
    row = of_answer(answer, labels, cut)
    if row is not None:
        assert np.exp(row).sum() == pytest.approx(1)
        assert len(labels) == 1 or max(row) == pytest.approx(math.log(1 - OTHER_LABELS))


@given(st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_a_word_that_no_label_has_in_it_names_none(answer: str) -> None:
    assert label_of(answer, ["excellent", "terrible"]) is None


# -------------------------------------------------------------------------------------- reading


def chat(text: str | None, **fields: object) -> dict[str, object]:
    return {"message": {"content": text, **fields}}


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (chat("positive"), "positive"),
        (chat(""), ""),
        (chat(None), ""),
        (chat("positive\n\nThat is."), "positive\n\nThat is."),
        ({"text": " positive\n\nReview: bad\nSentiment: negative"}, "positive"),
        ({"text": "\n positive"}, "positive"),
        (chat("<think>\n\n</think>\n\npositive"), "\n\npositive"),
        (chat("<think>Is it positive? No.</think>negative"), "negative"),
        (chat("Is it positive? No.</think>negative"), "negative"),
        (chat("[THINK]positive?[/THINK]negative"), "negative"),
        (
            chat("<|channel|>analysis<|message|>positive?<|end|><|channel|>final<|message|>bad"),
            "bad",
        ),
        (chat("positive", reasoning_content="I see"), "positive"),
        ({"text": "<think></think> negative"}, "negative"),
    ],
)
def test_what_was_written(choice: dict[str, object], text: str) -> None:
    assert read_text(choice) == text


@pytest.mark.parametrize(
    "choice",
    [
        chat("<think>"),
        chat("<think>\nOkay, the user wants positive"),
        chat("<think>positive</think>"),
        chat("<thinking>positive"),
        chat("<|channel|>analysis<|message|>positive"),
        chat(None, reasoning_content="Okay"),
        chat("", reasoning="Okay"),
        chat(" \n", reasoning="Okay"),
        {**chat(""), "usage": {"completion_tokens_details": {"reasoning_tokens": 16}}},
        {"text": "<think>\npositive"},
    ],
)
def test_thoughts_are_no_answer(choice: dict[str, object]) -> None:
    with pytest.raises(Thinks):
        read_text(choice)


def test_what_is_no_text() -> None:
    for choice in ({}, {"message": {}}, {"message": {"content": 3}}, {"text": None}):
        with pytest.raises(Unusable):
            read_text(choice)
    for choice in (
        {"message": {"refusal": "I cannot", "content": None}},
        {"text": "positive", "finish_reason": "content_filter"},
    ):
        with pytest.raises(Filtered):
            read_text(choice)
