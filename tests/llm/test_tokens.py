import json
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedTokenizerFast

from asyndbt_mpi.llm.local import tokens as module
from asyndbt_mpi.llm.local.tokens import Continuation, Tokenizer
from tests.llm.tokenizers_of_all_kinds import KINDS, Letters, byte_level

MADE: dict[str, Any] = {}
ENDINGS = ["sentiment:", "sentiment: ", "sentiment:\n", "sentiment (", "sentiment", ": \n", "po"]
LABELS = [
    [" positive", " negative"],
    ["positive", "negative"],
    [" good", " good enough", " bad"],
    [" 1", " 2", " 12", " 121"],
    ["1", "12", "2"],
    ["A", "B"],
    [" :)", " :) it", " :("],
]


def made(kind: str) -> Any:
    if kind not in MADE:
        MADE[kind] = KINDS[kind]()
    return MADE[kind]


def plainly(tokenizer: Any, text: str) -> list[int]:
    """Tokens of the whole text by the tokenizer's own call, without the special ones at its end."""
    found = list(tokenizer(text)["input_ids"])
    special = {tokenizer.eos_token_id}
    while found and found[-1] in special and not text.endswith(tokenizer.eos_token):
        found.pop()
    return found


def common(first: list[int], second: list[int]) -> int:
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_a_prompt_and_a_label_are_tokenised_as_one_text(
    kind: str, end: str, labels: list[str]
) -> None:
    tokenizer = made(kind)
    text = f"Review: it is a film\n{end}"
    own = Tokenizer(tokenizer)
    [prompt] = own([text])
    assert prompt == plainly(tokenizer, text)
    wholes = [plainly(tokenizer, text + label) for label in labels]
    if len(set(map(tuple, wholes))) < len(labels):  # one unknown word to WordPiece
        with pytest.raises(ValueError, match="have the same tokens"):
            own.continuations([text], [prompt], labels)
        return
    try:
        [found] = own.continuations([text], [prompt], labels)
    except ValueError:
        assert kind == "WordPiece"  # which has neither line breaks nor all words
        return
    start = len(prompt) - found.back
    assert start == min(common(prompt, whole) for whole in wholes)
    for whole, label, sequence in zip(wholes, labels, found.labels, strict=True):
        joined = [*prompt[:start], *sequence]
        if any(other != whole and other[: len(whole)] == whole for other in wholes):
            # What ends the label: the first token that reaches beyond it, as in a demonstration.
            ended = plainly(tokenizer, f"{text}{label}\n\nReview: it is long")
            assert joined == ended[: len(joined)]
            assert len(tokenizer.decode(joined)) > len(tokenizer.decode(whole))
            assert len(tokenizer.decode(joined[:-1])) <= len(tokenizer.decode(whole))
        else:
            assert joined == whole
    for one in found.labels:
        assert not any(other != one and other[: len(one)] == one for other in found.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_stand_before_a_text_or_not_at_all(kind: str) -> None:
    tokenizer = made(kind)
    own = Tokenizer(tokenizer)
    [found] = own(["it is good"])
    assert tokenizer.eos_token_id not in found
    starts = list(tokenizer("it")["input_ids"])[:1] == [tokenizer.bos_token_id]
    assert found.count(tokenizer.bos_token_id) == starts


def test_a_text_that_brings_its_bos_gets_no_second_one() -> None:
    own = Tokenizer(byte_level("<s>"))
    assert own(["<s>it is"]) == own(["it is"])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_that_end_alike_have_the_labels_of_whole_texts(
    kind: str, data: st.DataObject
) -> None:
    parts = ["good", "bad", " ", "\n", "it", "1", "po", "si", ".", " positive", "12", "aaaa", "  "]
    text = st.lists(st.sampled_from(parts), min_size=1, max_size=12).map("".join)
    texts = data.draw(st.lists(text.map(lambda each: "R" + each), min_size=1, max_size=6))
    end = data.draw(st.sampled_from(["", ":", " ", "\n\nthe sentiment of this long review is:"]))
    labels = data.draw(st.sampled_from([[" positive", " bad"], ["good", "bad"], [" 1", " 12"]]))
    tokenizer = made(kind)
    own, texts = Tokenizer(tokenizer), [each + end for each in texts]
    prompts = own(texts)
    try:
        together = own.continuations(texts, prompts, labels)
    except ValueError:
        reject()  # WordPiece knows too few words to tell the labels apart
    for each, prompt, found in zip(texts, prompts, together, strict=True):
        [alone] = Tokenizer(tokenizer).continuations([each], [prompt], labels)
        assert found == alone


def test_prompts_that_end_alike_are_tokenised_with_their_labels_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = Tokenizer(made("byte level"))
    end = " and the end of it, which is as long as the reach of a prompt, is: good sentiment:"
    assert len(end) > module.REACH_CHARACTERS
    texts = [f"Review: {n}{end}" for n in range(20)]
    prompts = own(texts)
    assert min(map(len, prompts)) > module.REACH_TOKENS
    asked: list[str] = []
    encode = own.encode
    monkeypatch.setattr(own, "encode", lambda some: asked.extend(some) or encode(some))
    found = own.continuations(texts, prompts, [" good", " bad"])
    assert asked == [texts[0] + " good", texts[0] + " bad"]
    assert len(set(map(id, found))) == 1


def test_a_label_whose_end_is_one_token_with_the_line_break_is_scored_whole() -> None:
    own = Tokenizer(made("line breaks that cling"))
    labels = [" :)", " :) it", " :("]
    [found] = own.continuations(["It is"], own(["It is"]), labels)
    assert own._tokenizer.decode(found.labels[0]) == " :)\n\n"


def test_what_ends_a_label_does_not_depend_on_what_was_asked_before() -> None:
    text = "Review: long and bad, it is not a good film, it is long, it is not good, is it: "
    texts = [begin + text for begin in ("", "A", "Ab", "B", "\n\nA")]
    own = Tokenizer(made("line breaks that cling"))
    together = own.continuations(texts, own(texts), [" 1", " 12"])
    for each, found in zip(texts, together, strict=True):
        alone = Tokenizer(made("line breaks that cling"))
        assert alone.continuations([each], alone([each]), [" 1", " 12"]) == [found]


def test_tokens_that_the_tokenizer_does_not_know() -> None:
    own = Tokenizer(made("unigram with EOS"))
    with pytest.raises(ValueError, match="label ' ☃' has characters that"):
        own.continuations(["it is"], own(["it is"]), [" good", " ☃"])


def test_a_tokenizer_that_is_not_the_same_twice() -> None:
    tokenizer = byte_level()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["dropout"] = 0.3
    wrap: Any = PreTrainedTokenizerFast
    unsteady = wrap(tokenizer_object=RawTokenizer.from_str(json.dumps(content)))
    with pytest.raises(module.ModelError, match="skips merges at random"):
        Tokenizer(unsteady)


def test_other_labels_are_asked_for_anew() -> None:
    own = Tokenizer(made("byte level"))
    text = "Review: it is"
    [first] = own.continuations([text], own([text]), [" good", " bad"])
    [second] = own.continuations([text], own([text]), [" bad", " good"])
    assert second == Continuation(0, first.labels[::-1])


def test_a_label_that_cannot_be_told_from_one_that_it_begins() -> None:
    text = "Number:"
    own = Tokenizer(made("byte level"))
    with pytest.raises(
        ValueError, match="label 0 is the beginning of another and cannot be distinguished from it"
    ):
        own.continuations([text], own([text]), [" 1", " 1\n\nN", " 2"])
    with pytest.raises(ValueError, match="labels 0 and 2 have the same tokens"):
        own.continuations([text], own([text]), [" 1", " 2", " 1"])


def test_labels_without_tokens_of_their_own() -> None:
    own = Tokenizer(made("WordPiece"))  # to which a space is nothing
    with pytest.raises(ValueError, match="label 1 has no tokens of its own"):
        own.continuations(["it is"], own(["it is"]), [" good", " "])


def test_a_tokenizer_that_does_more_than_to_add_special_tokens() -> None:
    class Reversing(Letters):
        def build_inputs_with_special_tokens(
            self, token_ids_0: list[int], token_ids_1: list[int] | None = None
        ) -> list[int]:
            return token_ids_0[::-1]

    with pytest.raises(module.ModelError, match="Reversing makes different tokens from a text"):
        Tokenizer(Reversing())
