import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.llm.answers import (
    LEAST,
    OTHER_LABELS,
    Alternatives,
    FirstTokens,
    of_answer,
    read_alternatives,
    walk,
)
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.bounds import most_steps
from asyndbt_mpi.llm.client import Filtered, Unusable

LETTERS = "ab "
TOKENS = ["a", "b", " ", "ab", " a", "ba", "aab", " ab"]


def content(*listed: tuple[str, float]) -> dict[str, Any]:
    top = [{"token": token, "logprob": math.log(share)} for token, share in listed]
    return {"logprobs": {"content": [{"top_logprobs": top}]}}


def table(**shares: float) -> Alternatives:
    return read_alternatives(content(*((name.replace("_", " "), p) for name, p in shares.items())))


# -------------------------------------------------------------------------------------- reading


def test_both_formats_say_the_same() -> None:
    older = {"logprobs": {"top_logprobs": [{" yes": math.log(0.5), " no": math.log(0.2)}]}}
    assert read_alternatives(older) == read_alternatives(content((" yes", 0.5), (" no", 0.2)))


def test_tokens_that_read_the_same_are_added_up() -> None:
    found = read_alternatives(content(("a", 0.5), ("a", 0.125), ("b", 0.25)))
    assert found.probability == {b"a": 0.625, b"b": 0.25}
    assert found.unlisted == pytest.approx(0.125)


def test_a_token_that_is_not_listed_has_as_much_as_the_least_or_as_is_left() -> None:
    assert table(a=0.5, b=0.1).unlisted == pytest.approx(0.1)
    assert table(a=0.7, b=0.29).unlisted == pytest.approx(0.01)
    assert table(a=0.7, b=0.3).unlisted == LEAST


@pytest.mark.parametrize("value", [-9999.0, -math.inf])
def test_an_impossible_token_keeps_its_logarithm_finite(value: float) -> None:
    text = json.dumps({"logprobs": {"top_logprobs": [{"a": 0.0, "b": value}]}})
    assert read_alternatives(json.loads(text)).probability[b"b"] == LEAST


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        [],
        {},
        {"content": None},
        {"content": []},
        {"content": [None]},
        {"content": [{}]},
        {"content": [{"top_logprobs": []}]},
        {"content": [{"top_logprobs": [{"token": "a"}]}]},
        {"content": [{"top_logprobs": [{"token": "a", "logprob": "?"}]}]},
        {"content": [{"top_logprobs": [{"token": None, "logprob": -1}]}]},
        {"content": [{"top_logprobs": [{"token": "a", "bytes": [999], "logprob": -1}]}]},
        {"content": [{"top_logprobs": [{"token": "a", "logprob": math.nan}]}]},
        {"content": [{"top_logprobs": [{"token": "a", "logprob": 5.0}]}]},
        {"top_logprobs": None},
        {"top_logprobs": [None]},
        {"top_logprobs": [{}]},
        {"top_logprobs": [{"a": None}]},
    ],
)
def test_damaged_log_probabilities_are_unusable(logprobs: Any) -> None:
    with pytest.raises(Unusable):
        read_alternatives({"logprobs": logprobs, "finish_reason": "length"})


@pytest.mark.parametrize(
    "choice",
    [
        {"finish_reason": "content_filter", **content(("a", 0.5))},
        {"message": {"refusal": "I cannot"}, "finish_reason": "stop"},
        {"finish_reason": "stop", "logprobs": {"content": []}},
    ],
)
def test_refusals_are_told_apart(choice: dict[str, Any]) -> None:
    with pytest.raises(Filtered):
        read_alternatives(choice)


# ----------------------------------------------------------------------------------------- walk


@st.composite
def toys(draw: st.DrawFn) -> dict[str, dict[str, float]]:
    """Next-token probabilities behind each text that a label of `LETTERS` may begin with."""
    weights = st.lists(st.floats(0.01, 1), min_size=len(TOKENS), max_size=len(TOKENS))
    texts = ["", *LETTERS, *(a + b for a in LETTERS for b in LETTERS)]
    return {
        text: {t: w / sum(drawn) for t, w in zip(TOKENS, drawn, strict=True)}
        for text in texts
        for drawn in [draw(weights)]
    }


labels_of_toys = st.lists(
    st.text(LETTERS, min_size=1, max_size=3), min_size=1, max_size=4, unique=True
)


@given(toys(), labels_of_toys)
def test_a_label_has_the_product_of_its_tokens(
    toy: dict[str, dict[str, float]], labels: list[str]
) -> None:
    asked = []

    def ask(behind: str) -> Alternatives:
        asked.append(behind)
        return read_alternatives(content(*toy[behind].items()))

    found = walk(labels, ask)
    for label, value in zip(labels, found, strict=True):
        probability, behind = 1.0, ""
        while behind != label:
            token = max((t for t in TOKENS if label[len(behind) :].startswith(t)), key=len)
            probability *= toy[behind][token]
            behind += token
        assert value == pytest.approx(math.log(probability))
    assert len(asked) == len(set(asked)) <= most_steps(labels)


@given(toys(), st.sampled_from(TOKENS), st.integers(1, len(TOKENS)))
def test_a_label_that_is_not_listed_gets_an_upper_bound(
    toy: dict[str, dict[str, float]], label: str, number: int
) -> None:
    ranked = sorted(toy[""].items(), key=lambda item: -item[1])
    # Without its pieces, which would be followed.
    listed = [item for item in ranked[:number] if item[0] == label or not label.startswith(item[0])]
    if len(listed) < number:
        return
    [found] = walk([label], lambda behind: read_alternatives(content(*listed)))
    assert found >= math.log(toy[""][label]) - 1e-9
    if label not in dict(listed):
        left = 1 - sum(dict(listed).values())
        assert found == pytest.approx(math.log(min(listed[-1][1], left)))


def test_a_label_may_not_have_too_many_tokens() -> None:
    with pytest.raises(ModelError, match=r"'aaaaaaaaa' has more than 8 tokens"):
        walk(["aaaaaaaaa"], lambda behind: table(a=0.5))
    [found] = walk(["aaaaaaaa"], lambda behind: table(a=0.5))
    assert found == pytest.approx(8 * math.log(0.5))
    assert most_steps(["a" * 100, "b", "cc"]) == 1 + 7 + 0 + 1


def test_a_token_that_ends_within_a_character_is_an_error() -> None:
    whole = Alternatives({"é".encode(): 0.5}, 0.1)
    assert walk(["é"], lambda behind: whole) == [math.log(0.5)]
    half = Alternatives({"é".encode()[:1]: 0.5}, 0.1)
    with pytest.raises(ModelError, match="ends within a character"):
        walk(["é"], lambda behind: half)


# ----------------------------------------------------------------------------------------- chat


def test_variants_of_a_label_are_added_up() -> None:
    [row] = FirstTokens().log_probabilities(
        [" yes", "no "], [table(yes=0.25, _yes=0.25, no=0.125, x=0.0625)]
    )
    np.testing.assert_allclose(np.exp(row), [0.5, 0.125])


def test_a_piece_of_a_label_is_an_error_unless_it_is_noise() -> None:
    score = FirstTokens().log_probabilities
    with pytest.raises(ModelError, match="'positive' is several tokens"):
        score(["positive", "bad"], [table(pos=0.001, bad=0.5)])
    # The chat's usual way to write it is in two tokens, whatever else is listed.
    with pytest.raises(ModelError, match="'positive' is several tokens"):
        score(["positive", "bad"], [table(pos=0.5, _positive=0.1)])
    # It is one token elsewhere.
    rows = score(["positive", "bad"], [table(pos=0.001, bad=0.5), table(positive=0.5, bad=0.1)])
    np.testing.assert_allclose(np.exp(rows), [[0.001, 0.5], [0.5, 0.1]])


def test_a_label_may_begin_with_another_one() -> None:
    rows = FirstTokens().log_probabilities(["no", "not"], [table(no=0.7, not_=0.1)])
    np.testing.assert_allclose(np.exp(rows), [[0.7, 0.1]])


# -------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (" Positive.", "positive"),
        ("POSITIVE", "positive"),
        ("positively good", "positive"),
        ("very positive indeed", "very positive"),
        ("It is negative", "negative"),
        ("I'd say: Negative!", "negative"),
        ("Neither negative nor positive", None),
        ("unpositive", None),
        ("", None),
        ("I cannot help with that", None),
    ],
)
def test_an_answer_names_a_label(answer: str, named: str | None) -> None:
    labels = [" negative", " positive", " Very positive"]
    row = of_answer(answer, labels)
    if named is None:
        assert row is None
        return
    assert row is not None
    shares = np.exp(row)
    assert shares.sum() == pytest.approx(1)
    assert labels[int(shares.argmax())].strip().casefold() == named
    assert sorted(shares)[:2] == pytest.approx([OTHER_LABELS / 2] * 2)


@given(st.text(), st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=4))
def test_any_answer_can_be_read(answer: str, labels: list[str]) -> None:
    row = of_answer(answer, labels)
    if row is not None and len({label.strip().casefold() for label in labels}) == len(labels):
        assert np.exp(row).sum() == pytest.approx(1)
