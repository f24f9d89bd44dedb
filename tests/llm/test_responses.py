import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.servers.bounds import most_steps
from asyndbt_mpi.llm.servers.failures import Filtered, Unusable
from asyndbt_mpi.llm.servers.first_tokens import FirstTokens
from asyndbt_mpi.llm.servers.responses import (
    LEAST,
    Alternatives,
    read_alternatives,
    walk,
)
from asyndbt_mpi.llm.servers.thinking import Thinks

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
    texts += [a + b + c for a in LETTERS for b in LETTERS for c in LETTERS]
    return {
        text: {t: w / sum(drawn) for t, w in zip(TOKENS, drawn, strict=True)}
        for text in texts
        for drawn in [draw(weights)]
    }


labels_of_toys = st.lists(
    st.text(LETTERS, min_size=1, max_size=3), min_size=1, max_size=4, unique=True
)


def divisions(toy: dict[str, dict[str, float]], label: str, behind: str = "") -> list[float]:
    """The probability of every way to write a label, none of which divides a token of its own."""
    rest = label[len(behind) :]
    if rest in TOKENS:
        return [toy[behind][rest]]
    return [
        toy[behind][token] * further
        for token in TOKENS
        if rest.startswith(token)
        for further in divisions(toy, label, behind + token)
    ]


def begun(labels: list[str]) -> list[str]:
    return [a for a in labels if any(b != a and b.startswith(a) for b in labels)]


@given(toys(), labels_of_toys, st.integers(1, len(TOKENS)))
def test_no_way_to_write_a_label_is_more_probable_than_its_score(
    toy: dict[str, dict[str, float]], labels: list[str], number: int
) -> None:
    asked = []

    def ask(behind: str) -> Alternatives:
        asked.append(behind)
        ranked = sorted(toy[behind].items(), key=lambda item: -item[1])
        return read_alternatives(content(*ranked[:number]))

    listed: set[str] = set()
    found = walk(labels, ask, listed=listed)
    for label, value in zip(labels, found, strict=True):
        if label not in begun(labels):
            assert value >= math.log(max(divisions(toy, label))) - 1e-9
    assert len(asked) == len(set(asked)) <= most_steps(labels)
    if number == len(TOKENS):
        assert listed == set(labels)


@given(toys(), labels_of_toys)
def test_where_all_tokens_are_listed_a_score_is_that_of_the_likeliest_way(
    toy: dict[str, dict[str, float]], labels: list[str]
) -> None:
    found = walk(labels, lambda behind: read_alternatives(content(*toy[behind].items())))
    for label, value in zip(labels, found, strict=True):
        if label not in begun(labels):
            assert value == pytest.approx(math.log(max(divisions(toy, label))))


@given(toys(), st.sampled_from(TOKENS), st.integers(1, len(TOKENS)))
def test_a_label_that_is_not_listed_gets_an_upper_bound(
    toy: dict[str, dict[str, float]], label: str, number: int
) -> None:
    ranked = sorted(toy[""].items(), key=lambda item: -item[1])
    # Without its pieces, which would be followed.
    listed = [item for item in ranked[:number] if item[0] == label or not label.startswith(item[0])]
    if len(listed) < number:
        return
    names: set[str] = set()
    [found] = walk([label], lambda behind: read_alternatives(content(*listed)), listed=names)
    assert found >= math.log(toy[""][label]) - 1e-9
    assert names == ({label} if label in dict(listed) else set())
    if label not in dict(listed):
        left = 1 - sum(dict(listed).values())
        assert found == pytest.approx(math.log(min(listed[-1][1], left)))


def test_a_bare_space_that_is_listed_is_no_way_around_the_bound() -> None:
    # " good" itself may have up to 0.02; behind a space of its own the word is most unlikely.
    tables = {"": table(_bad=0.5, _=0.1, _the=0.02), " ": table(x=0.9, y=0.001)}
    [found] = walk([" good"], tables.__getitem__)
    assert found == pytest.approx(math.log(0.02))
    # There it may be likelier than that.
    tables[" "] = table(good=0.7, y=0.001)
    assert walk([" good"], tables.__getitem__) == pytest.approx([math.log(0.07)])


def test_a_label_is_asked_for_no_further_than_another_way_can_have_more() -> None:
    asked = []

    def ask(behind: str) -> Alternatives:
        asked.append(behind)
        return table(aab=0.3, a=0.4, b=0.2) if behind == "" else table(x=0.9, y=0.01)

    # "aaba" may be "aab" and more (0.3 at most), or "a" and more (0.4 at most): both are bounded.
    [found] = walk(["aaba"], ask)
    assert asked == ["", "a", "aab"]
    assert found == pytest.approx(math.log(0.1))  # what the three leave over, for a token "aaba"
    asked.clear()
    # "aab" is a token: no other way is looked at.
    assert walk(["aab"], ask) == pytest.approx([math.log(0.3)])
    assert asked == [""]


@pytest.mark.parametrize(
    ("behind", "ending"),
    [
        (table(**{"\n": 0.25, "\n\n": 0.125, ".": 0.5}), 0.375),
        (read_alternatives(content(("2", 0.75), ("</s>", 0.125), ("\n", 0.0625))), 0.1875),
        (read_alternatives(content(("2", 0.75), ("", 0.125), (".", 0.0625))), 0.125),
        (read_alternatives(content(("2", 0.75), ("Ċ", 0.125), ("Ġ", 0.0625))), 0.125),
        (table(**{"2": 0.75, "3": 0.125}), 0.125),  # not listed: as much as may be left
    ],
)
def test_a_label_that_begins_another_counts_where_the_answer_ends(
    behind: Alternatives, ending: float
) -> None:
    tables = {"": table(_1=0.5, _12=0.25, _2=0.125), " 1": behind}
    found = walk([" 1", " 12", " 2"], tables.__getitem__)
    np.testing.assert_allclose(np.exp(found), [0.5 * ending, 0.25, 0.125])


def test_both_of_two_labels_of_which_one_begins_the_other_can_win() -> None:
    for after, best in ((table(**{"\n": 0.9, "2": 0.05}), 0), (table(**{"\n": 0.1, "2": 0.8}), 1)):
        # " 12" is written as " 1" and "2".
        tables = {"": table(_1=0.75, _3=0.125), " 1": after}
        assert walk([" 1", " 12"], tables.__getitem__).argmax() == best


def test_a_label_may_not_have_too_many_tokens() -> None:
    with pytest.raises(ModelError, match=r"'aaaaaaaaa' has more than 8 tokens"):
        walk(["aaaaaaaaa"], lambda behind: table(a=0.9, b=0.01))
    [found] = walk(["aaaaaaaa"], lambda behind: table(a=0.9, b=0.01))
    assert found == pytest.approx(8 * math.log(0.9))
    assert most_steps(["a" * 100, "b", "cc"]) == 1 + 7 + 0 + 1
    assert most_steps([" 1", " 12", " 2"]) == 1 + 1 + 2 + 1 + 1


def test_a_token_that_ends_within_a_character_is_an_error() -> None:
    whole = Alternatives({"é".encode(): 0.5}, 0.1)
    assert walk(["é"], lambda behind: whole) == [math.log(0.5)]
    both = Alternatives({"é".encode(): 0.25, "é".encode()[:1]: 0.5}, 0.1)
    assert walk(["é"], lambda behind: both) == [math.log(0.25)]
    half = Alternatives({"é".encode()[:1]: 0.5}, 0.1)
    with pytest.raises(ModelError, match="ends within a character"):
        walk(["é"], lambda behind: half)


def test_a_server_may_list_tokens_without_their_leading_space() -> None:
    # As "▁" and "▁positive" of a SentencePiece vocabulary, decoded one by one.
    tables = {
        "": read_alternatives(content(("positive", 0.5), ("", 0.25), ("neg", 0.125))),
        " neg": table(ative=0.5, x=0.125),
        " ": table(**{"1": 0.5, "2": 0.125}),
    }
    found = walk([" positive", " negative", " 1"], tables.__getitem__, spaceless=True)
    np.testing.assert_allclose(np.exp(found), [0.5, 0.125, 0.125])
    # A token without a text is a space there, and ends nothing.
    after = read_alternatives(content(("2", 0.5), ("", 0.25), ("</s>", 0.125)))
    assert (after.ending(), after.ending(spaceless=True)) == (0.375, 0.125)


# ----------------------------------------------------------------------------------------- chat


def first(labels: list[str], *tables: Alternatives) -> Any:
    found, _ = FirstTokens().log_probabilities(labels, tables)
    return np.exp(found)


def test_variants_of_a_label_are_added_up() -> None:
    [row] = first([" yes", "no "], table(yes=0.25, _yes=0.25, no=0.125, x=0.0625))
    np.testing.assert_allclose(row, [0.5, 0.125])


def test_capitals_count_unless_they_tell_labels_apart() -> None:
    listed = table(Yes=0.5, _YES=0.125, yes=0.0625, No=0.25)
    np.testing.assert_allclose(first(["yes", "no"], listed), [[0.6875, 0.25]])
    # "no" is not listed: as much as all leave over.
    np.testing.assert_allclose(first(["Yes", "yes", "no"], listed), [[0.5, 0.0625, 0.0625]])


def test_it_is_told_whether_some_label_is_listed() -> None:
    answers = [table(yes=0.5, x=0.1), None, table(maybe=0.9, x=0.05)]
    found, listed = FirstTokens().log_probabilities(["yes", "no"], answers)
    assert listed.tolist() == [True, False, False]
    np.testing.assert_allclose(np.exp(found), [[0.5, 0.1], [1, 1], [0.05, 0.05]])


def test_a_piece_of_a_label_is_an_error_unless_it_is_noise() -> None:
    with pytest.raises(ModelError, match="'positive' is several tokens"):
        first(["positive", "bad"], table(pos=0.001, bad=0.5))
    # The chat's usual way to write it is in two tokens, whatever else is listed.
    with pytest.raises(ModelError, match="'positive' is several tokens"):
        first(["positive", "bad"], table(pos=0.5, _positive=0.1))
    # It is one token elsewhere.
    rows = first(["positive", "bad"], table(pos=0.001, bad=0.5), table(positive=0.5, bad=0.1))
    np.testing.assert_allclose(rows, [[0.001, 0.5], [0.5, 0.1]])


def test_a_word_that_is_no_piece_of_a_label_as_it_is_spelt() -> None:
    # "I see ..."
    np.testing.assert_allclose(first(["irony", "bad"], table(I=0.5, bad=0.25)), [[0.25, 0.25]])


def test_a_label_may_begin_with_another_one() -> None:
    np.testing.assert_allclose(first(["no", "not"], table(no=0.7, not_=0.1)), [[0.7, 0.1]])
    with pytest.raises(ModelError, match="'good enough' is several tokens"):
        first(["good", "good enough"], table(good=0.7, x=0.1))
    with pytest.raises(ModelError, match="'12' is several tokens"):
        first(["1", "12"], table(**{"1": 0.7, "2": 0.1}))


# ------------------------------------------------------------------------------------ spellings


@pytest.mark.parametrize(
    ("spelt", "texts"),
    [
        (["Ġgood", "ĠmÃ¤ÃŁig", "Ċ", "ĊĊ", "bad"], [" good", " mäßig", "\n", "\n\n", "bad"]),
        (["naÃ¯ve", "æĹ¥", "x"], ["naïve", "日", "x"]),
        (["▁good", "▁", "▁mäßig", "<0x0A>", "bad"], [" good", " ", " mäßig", "\n", "bad"]),
        ([" good", "Ġan", "\n"], [" good", "Ġan", "\n"]),  # Maltese, and spelt as it is
        (["Ġużeppi", "x"], ["Ġużeppi", "x"]),
        (["naïve", "Ü", "ß"], ["naïve", "Ü", "ß"]),
    ],
)
@pytest.mark.parametrize("with_bytes", [True, False])
def test_tokens_are_read_however_they_are_spelt(
    spelt: list[str], texts: list[str], with_bytes: bool
) -> None:
    listed = content(*((token, 0.5 / len(spelt)) for token in spelt))
    if with_bytes:
        for one in listed["logprobs"]["content"][0]["top_logprobs"]:
            one["bytes"] = list(one["token"].encode())
    assert list(read_alternatives(listed).probability) == [text.encode() for text in texts]


def test_bytes_that_are_no_characters() -> None:
    for spelt in ("bytes:\\xe2\\x80", "<0xE2>", "Ġâ"):
        [text] = read_alternatives(content((spelt, 0.5))).probability
        assert text in (b"\xe2\x80", b"\xe2", b" \xe2")
    older = {"logprobs": {"top_logprobs": [{"bytes: \\xe2\\x80": -1.0}]}}
    assert list(read_alternatives(older).probability) == [b" \xe2\x80"]


def test_the_bytes_that_a_server_gives_are_right() -> None:
    one = {"token": "�", "bytes": [0xE2, 0x80], "logprob": -1.0}
    given = {"logprobs": {"content": [{"top_logprobs": [one]}]}}
    assert list(read_alternatives(given).probability) == [b"\xe2\x80"]


@pytest.mark.parametrize(
    "token",
    [
        *("", "</s>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<eos>"),
        *("<end_of_turn>", "<|end|>", "<｜end▁of▁sentence｜>", "[EOS]", "<|return|>"),
    ],
)
def test_tokens_that_end_a_text(token: str) -> None:
    found = read_alternatives(content((token, 0.5), ("x", 0.25)))
    assert found.ending() == 0.5
    assert read_alternatives(content((f"a{token}b", 0.5), ("x", 0.25))).ending() == 0.25


def test_tokens_that_are_only_numbers_are_refused() -> None:
    with pytest.raises(Unusable, match="tokens by their numbers"):
        read_alternatives(content(("token_id:17", 0.5)))


# ------------------------------------------------------------------------------------- thoughts


@pytest.mark.parametrize("token", ["<think>", "<thinking>", "◁think▷", "[THINK]", "<|channel|>"])
def test_a_first_token_of_thoughts(token: str) -> None:
    with pytest.raises(Thinks):
        read_alternatives(content((token, 0.9), ("yes", 0.05)))
    # One that is listed, but not the likeliest, is none.
    assert read_alternatives(content((token, 0.05), ("yes", 0.9)))


@pytest.mark.parametrize("logprobs", [{}, {"content": None}, content(("Okay", 0.9))["logprobs"]])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("text", [None, ""])
def test_thoughts_beside_an_answer_that_is_not_there(
    name: str, text: str | None, logprobs: Any
) -> None:
    message = {"content": text, name: "Okay, so the user"}
    with pytest.raises(Thinks):
        read_alternatives({"message": message, "logprobs": logprobs or None})


@given(
    values=st.lists(st.floats(-20, -3.2), min_size=3, max_size=20, unique=True),
    written=st.floats(-60, -20.1),
)
def test_the_written_token_that_is_listed_besides_bounds_no_other_one(
    values: list[float], written: float
) -> None:
    top = {f" w{number}": value for number, value in enumerate(values)}
    choice = {"logprobs": {"tokens": [" z"], "top_logprobs": [top | {" z": written}]}}
    found = read_alternatives(choice, number=len(values))
    left = 1 - sum(map(math.exp, [*values, written]))
    assert found.unlisted == pytest.approx(max(min(math.exp(min(values)), left), LEAST), rel=1e-6)
    assert read_alternatives(choice, number=20).unlisted <= found.unlisted


@pytest.mark.parametrize("value", [-(10**400), 10**400])
def test_a_number_beyond_all_floats_is_unusable(value: int) -> None:
    with pytest.raises(Unusable):
        read_alternatives({"logprobs": {"tokens": [" a"], "top_logprobs": [{" a": value}]}})
