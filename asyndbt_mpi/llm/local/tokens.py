"""How texts become tokens: a prompt and a label as one text, split at the prompt.

A label's tokens depend on the text before them: SentencePiece puts a space before every text, and
a prompt that ends in a space merges with the label.  So each label is tokenised behind its prompt.
Let n be the number of tokens that the prompt alone and the prompt with every label begin with; a
label's sequence is what follows these n tokens, and where the boundary merges tokens n is less
than the prompt's length.

Of the special tokens that the tokenizer adds, those before a text (BOS) are kept, those behind it
(EOS, SEP) are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from asyndbt_mpi.llm.base import ENDING, LabelError, ModelError

Tokens: TypeAlias = list[int]

REACH_CHARACTERS, REACH_TOKENS = 64, 16
"""How far back from its end a prompt decides on the tokens of what follows it.  Prompts that end
alike over both, and begin with the same character, share the tokens of the labels, which are then
worked out once."""

_SAMPLE = "one two"


@dataclass(frozen=True, slots=True)
class Continuation:
    """The labels behind a prompt: their token sequences, which replace its last ``back`` tokens."""

    back: int
    labels: tuple[tuple[int, ...], ...]


class Tokenizer:
    """Tokens of prompts and of the labels behind them.

    Parameters
    ----------
    tokenizer : of transformers, fast or slow

    Raises
    ------
    ModelError
        The tokenizer has no vocabulary, or does more to a text than to put special tokens before
        and behind it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._before = self._special_tokens_before()
        self._labels: tuple[str, ...] = ()
        self._known: dict[tuple[str, str, tuple[int, ...]], Continuation] = {}

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Token sequences of whole texts, with what the model wants to see before them."""
        return [self._begin(tokens) for tokens in self.encode(texts)]

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of the texts alone."""
        # Not verbose: it would warn of lengths, which are checked elsewhere.
        encoded: list[Tokens] = self._tokenizer(
            list(texts), add_special_tokens=False, verbose=False
        )["input_ids"]
        return encoded

    def continuations(
        self, texts: Sequence[str], prompts: Sequence[Tokens], labels: Sequence[str]
    ) -> list[Continuation]:
        """The labels behind each of the ``texts``, whose tokens are ``prompts``.

        Raises
        ------
        ValueError
            Two labels have the same tokens, one has none or unknown ones, or one begins another in
            such a way that they cannot be told apart.
        """
        if tuple(labels) != self._labels:
            self._labels, self._known = tuple(labels), {}
        ends = [
            (_next_row(text), text[-REACH_CHARACTERS:], tuple(tokens[-REACH_TOKENS:]))
            for text, tokens in zip(texts, prompts, strict=True)
        ]
        found = []
        for end, text, prompt in zip(ends, texts, prompts, strict=True):
            known = self._known.get(end)
            if known is None:
                known = self._continue(text, prompt)
                if known.back < REACH_TOKENS:
                    self._known[end] = known
            found.append(known)
        return found

    # ------------------------------------------------------------------------------------ within

    def _begin(self, tokens: Tokens) -> Tokens:
        """``tokens`` behind the special ones, unless the text brings these itself."""
        before = self._before
        return tokens if before and tokens[: len(before)] == before else before + tokens

    def _special_tokens_before(self) -> Tokens:
        plain = self.encode([_SAMPLE])[0]
        if not plain:  # what transformers makes of a folder without a tokenizer's files
            raise ModelError("its tokenizer makes no tokens from a text: are its files missing?")
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if getattr(getattr(backend, "model", None), "dropout", None):
            raise ModelError("its tokenizer skips merges at random: set dropout to null")
        whole: Tokens = self._tokenizer(_SAMPLE)["input_ids"]
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start]
        raise ModelError(
            f"{type(self._tokenizer).__name__} makes different tokens from a text with special"
            " tokens than without: its prompts and labels cannot be separated"
        )

    def _continue(self, text: str, prompt: Tokens) -> Continuation:
        labels = list(self._labels)
        wholes = [self._begin(each) for each in self.encode([text + label for label in labels])]
        for number, whole in enumerate(wholes):
            if _common(prompt, whole) == len(whole):
                raise LabelError(f"label {number} has no tokens of its own")
        for number in _beginning_others(wholes):
            wholes[number] = self._ended(text, labels[number], wholes[number])
        start = min(_common(prompt, whole) for whole in wholes)
        if not start:
            raise ValueError("a prompt has no tokens")
        if still := _beginning_others(wholes):
            raise LabelError(
                f"label {still[0]} is the beginning of another and cannot be distinguished from it"
            )
        sequences = tuple(tuple(whole[start:]) for whole in wholes)
        for label, sequence in zip(labels, sequences, strict=True):
            if self._tokenizer.unk_token_id in sequence:
                raise LabelError(f"label {label!r} has characters that the tokenizer does not know")
        return Continuation(len(prompt) - start, sequences)

    def _ended(self, text: str, label: str, whole: Tokens) -> Tokens:
        """Tokens of a text and a label up to the first one that reaches beyond the label.

        What ends it in a demonstration is `ENDING` and the next row, which begins like the prompt:
        line breaks at the end of a text may be other tokens.
        """
        spaced, ended = self.encode(
            [f"{text}{label}{end}{_next_row(text)}" for end in (" ", ENDING)]
        )
        if spaced == ended:
            raise LabelError(
                f"label {label!r} is the beginning of another, and the tokenizer has no line break"
                " to end it"
            )
        ended = self._begin(ended)
        length = len(self._tokenizer.decode(whole))
        # Where the label's end and the line break are one token, the label is part of it.
        for end in range(_common(whole, ended) + 1, len(ended)):
            if len(self._tokenizer.decode(ended[:end])) > length:
                return ended[:end]
        return ended


def _next_row(text: str) -> str:
    """How the row behind a demonstration begins: all are rendered alike."""
    return text.lstrip()[:1]


def _common(first: Tokens, second: Tokens) -> int:
    """How many tokens both begin with."""
    end = min(len(first), len(second))
    return next((n for n in range(end) if first[n] != second[n]), end)


def _beginning_others(sequences: Sequence[Tokens]) -> list[int]:
    """Numbers of the sequences that some longer one begins with.

    Raises
    ------
    ValueError
        Two are the same.
    """
    order = sorted(range(len(sequences)), key=lambda number: sequences[number])
    found = []
    for this, following in pairwise(order):
        if sequences[this] == sequences[following]:
            first, second = sorted((this, following))
            raise LabelError(f"labels {first} and {second} have the same tokens")
        # Whatever a sequence begins stands right behind it in this order.
        if sequences[following][: len(sequences[this])] == sequences[this]:
            found.append(this)
    return found
