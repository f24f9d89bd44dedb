import json
import math
import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.llm.openai import OpenAIModel
from asyndbt_mpi.llm.servers.failures import Filtered, Unusable
from asyndbt_mpi.llm.servers.thinking import Thinks
from asyndbt_mpi.llm.servers.written import (
    OTHER_LABELS,
    label_of,
    normal_form,
    of_answer,
    read_text,
)
from tests.helpers import ROOT
from tests.llm.api_server import Manners, serving

TABLE = ROOT / "docs" / "answers.md"


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
    assert label_of(f"{text}!", labels, cut=True) == 0


@pytest.mark.parametrize("text", ["4.", "Rating: 4.", "The answer is 4."])
def test_a_number_that_is_cut_off_may_be_the_beginning_of_a_fraction(text: str) -> None:
    assert label_of(text, ["3", "4"]) == 1
    assert label_of(text, ["3", "4"], cut=True) is None
    assert label_of(f"{text}\nThe reviewer is", ["3", "4"], cut=True) == 1


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


NO_WORD = st.text("bdfgk", min_size=4, max_size=9)
PLACES = [
    "{word} {label}", "{label} {word}", "{label}, {word}", "{label} - {word}", "{label}: {word}",
    "{label} ({word})", "{label}. {word}", "{label}! {word}.", "{label}\n{word}", "{word}\n{label}",
    "{word}: {label}", "The answer is {word} {label}.", "The {word} answer is {label}.",
    "{word} answer: {label}", "Answer: {label} {word}", "Answer: {label}. {word}.",
    "The sentiment is {word} {label}", "The review is {label} {word}", "I {word} {label}",
    "The review {word} {label}", "{{\"{word}\": \"{label}\"}}", "<{word}>{label}</{word}>",
    "{word}. Answer: {label}", "{word}\nThe answer is {label}.",
    "Final answer: {label}, {word}", "{label} is {word}", "**{word}** {label}",
]  # fmt: skip


@given(NO_WORD, st.sampled_from(PLACES), st.sampled_from(["positive", "Negative", "**positive**"]))
@pytest.mark.parametrize("cut", [False, True])
def test_a_word_that_is_in_no_form_leaves_it_open(
    cut: bool, word: str, place: str, label: str
) -> None:
    assert label_of(place.format(word=word, label=label), ["negative", "positive"], cut) is None


@given(
    st.lists(
        st.sampled_from(["good", "bad", "It is", "Answer:", "the", "and", "because", "The review is"]),
        max_size=8,
    ),
    st.lists(st.sampled_from([" ", ". ", ", ", "\n", "; ", " - ", ": "]), min_size=8, max_size=8),
    st.booleans(),
)  # fmt: skip
def test_of_two_labels_only_a_final_one_is_named(
    words: list[str], between: list[str], cut: bool
) -> None:
    text = "".join(word + mark for word, mark in zip(words, between, strict=False))
    named = label_of(text, ["bad", "good"], cut)
    if {"good", "bad"} <= set(words) and named is not None:
        before, mark, behind = text.rpartition("Answer:")
        assert mark
        assert "Answer:" not in before
        assert ["bad", "good"][named] in behind
        assert ["good", "bad"][named] not in behind


@pytest.mark.parametrize(
    "lead", ["The answer is", "Answer:", "The review is", "Sentiment:", "It is"]
)
def test_a_sentence_that_may_go_on_names_nothing(lead: str) -> None:
    labels = ["negative", "positive"]
    assert label_of(f"{lead} positive", labels) == label_of(f"{lead} positive.", labels, True) == 1
    assert label_of(f"{lead} positive", labels, cut=True) is None


@pytest.mark.parametrize(
    "part", ["positive ", "Answer: positive. ", "'", "(", "*a ", "_a ", "because ", "\n", ": the "]
)
def test_of_an_answer_without_end_the_beginning_is_read(part: str) -> None:
    labels = ["negative", "positive"]
    begun = time.process_time()
    label_of(part * 20_000, labels)
    assert time.process_time() - begun < 5
    assert label_of(f"Well {part * 20_000}Answer: negative.", labels) is None


def test_what_is_not_read_may_say_anything() -> None:
    labels = ["negative", "positive"]
    assert label_of("positive" + " " * 20_000, labels) == 1
    assert label_of("positive" + " " * 20_000 + "negative", labels) is None
    assert label_of("Answer: positive." + "\n" * 20_000 + "Answer: negative", labels) is None
    assert label_of("Positive. The review is" + " good" * 20_000, labels) == 1


def test_a_fence_around_an_answer() -> None:
    assert label_of('```json\n{"label": "B"}\n```', ["A", "B"]) == 1
    assert label_of("```\nB\n```", ["A", "B"]) == 1
    assert label_of("The format is\n```\nB\n```", ["A", "B"]) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [("non fiction", "non-fiction"), ("a_b", "A b"), ("２", "2"), ("*x*", "x"), ("a\u200bb", "ab")],
)
def test_labels_that_are_spelt_alike(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(
    ("one", "other"), [("-1", "1"), ("C++", "C"), ("5²", "52"), ("+", "-"), ("1.5", "15")]
)
def test_labels_that_are_not(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)
    assert label_of(one, [one, other]) == label_of(other, [other, one]) == 0


@pytest.mark.parametrize("labels", [("non fiction", "non-fiction"), ("２", "2"), ("a_b", "a b")])
def test_labels_that_no_answer_tells_apart_are_refused(labels: tuple[str, str]) -> None:
    with serving(Manners()) as server:
        model = OpenAIModel(
            "toy", base_url=server.url, key_variable="", api="chat", scores="answers",
            concurrency=1, timeout=9.0, attempts=1, requests_per_minute=0, workers=1,
        )  # fmt: skip
        with pytest.raises(ValueError, match="cannot be distinguished"):
            model.label_log_probabilities([Prompt("", "Which?")], labels)


@given(st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_a_word_that_no_label_has_in_it_names_none(answer: str) -> None:
    assert label_of(answer, ["excellent", "terrible"]) is None


# -------------------------------------------------------------------------------------- reading


def chat(text: object, **fields: object) -> dict[str, object]:
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
        (
            chat(
                "<|start|>assistant<|channel|>analysis<|message|>x<|end|><|start|>assistant"
                "<|channel|>final<|message|>bad"
            ),
            "bad",
        ),
        (chat("<|channel|>final<|message|>bad"), "bad"),
        (chat("analysisUser wants good.assistantfinalbad"), "bad"),
        (chat("<think>a</think><think>b</think>bad"), "bad"),
        (chat("<think>a<think>b</think>c</think>bad"), "bad"),
        (chat("<scratchpad>good</scratchpad>bad"), "bad"),
        (chat("[Thinking]good[/Thinking]bad"), "bad"),
        (chat("good[/THINK]bad"), "bad"),
        (chat("‹｜think｜>good‹｜/think｜>bad"), "bad"),
        (chat('<details type="reasoning" done="true">good</details>bad'), "bad"),
        (chat("```think\ngood\n```\nbad"), "\nbad"),
        (chat("&lt;think&gt;good&lt;/think&gt;bad"), "bad"),
        # An explanation is no thought that came before.
        (chat("good <reason>It is</reason>"), "good <reason>It is</reason>"),
        (
            chat("<answer>good</answer><analysis>It is</analysis>"),
            "<answer>good</answer><analysis>It is</analysis>",
        ),
        (chat([{"type": "text", "text": "posi"}, {"type": "text", "text": "tive"}]), "positive"),
        (
            chat(
                [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "negative"}]},
                    {"type": "text", "text": "positive"},
                ]
            ),
            "positive",
        ),
        (chat([]), ""),
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
        chat(None, reasoning_details=[{"type": "reasoning.text", "text": "Okay"}]),
        chat(None, thinking="Okay"),
        chat([{"type": "thinking", "thinking": [{"type": "text", "text": "positive"}]}]),
        {**chat(None), "usage": {"reasoning_tokens": 16}},
        *(
            chat(f"{beginning}positive")
            for beginning in (
                *("<|start|>assistant<|channel|>analysis<|message|>", "analysisUser: "),
                *("<scratchpad>", "[Thinking]", "‹｜think｜>", "<｜think｜>", "&lt;think&gt;"),
                *('<details type="reasoning">', "```think\n", "<|begin_of_thought|>"),
            )
        ),
        {**chat(""), "usage": {"completion_tokens_details": {"reasoning_tokens": 16}}},
        {"text": "<think>\npositive"},
    ],
)
def test_thoughts_are_no_answer(choice: dict[str, object]) -> None:
    with pytest.raises(Thinks):
        read_text(choice)


def test_what_is_no_text() -> None:
    for choice in (
        {}, {"message": {}}, {"message": {"content": 3}}, {"text": None}, chat([3]), chat({}),
        chat([{"type": "image_url"}]), chat([{"type": "text", "text": None}]),
    ):  # fmt: skip
        with pytest.raises(Unusable):
            read_text(choice)
    for choice in (
        {"message": {"refusal": "I cannot", "content": None}},
        {"text": "positive", "finish_reason": "content_filter"},
    ):
        with pytest.raises(Filtered):
            read_text(choice)
