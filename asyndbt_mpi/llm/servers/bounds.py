"""The most that a server can be asked for, known before it is asked anything."""

from collections.abc import Sequence
from typing import Literal

from asyndbt_mpi.llm.base import LABEL_TOKENS, LEAST_ANSWER, NoModel

MOST_STEPS = 8
"""Tokens of a label at most, and requests for one: each token may cost one, or more where it is not
known how a label is divided."""

UNUSABLE = 1
"""Requests paid for in vain that a call to the model can bear for each of its prompts ..."""

SPARE = 8
"""... and so many more: for the trial at the start, and for the bad luck of a single prompt."""

ROUNDS = 4
"""Requests of each thread before answers are handed on: what a kill can cost, against the wait of
all threads for the last one."""


def beginnings(labels: Sequence[str]) -> list[int]:
    """The numbers of the labels that other ones begin with."""
    return [
        number
        for number, label in enumerate(labels)
        if any(other != label and other.startswith(label) for other in labels)
    ]


def most_steps(labels: Sequence[str]) -> int:
    """How often all labels are asked for behind a prompt.

    Once; then once for each text that one begins with, as far as `MOST_STEPS` go; and once behind
    each that begins another.
    """
    steps = sum(min(len(label), MOST_STEPS) - 1 for label in labels)
    return 1 + steps + len(beginnings(labels))


def most_calls(
    api: Literal["chat", "completion"],
    scores: Literal["auto", "logprobs", "answers"],
    labels: Sequence[str],
    prompts: int,
) -> int:
    """The most that scores of so many prompts, asked for together, can count as calls.

    That is the requests needed if every label has as many tokens as it could have, and
    `UNUSABLE` more for each prompt and `SPARE` in all, since unusable answers and time-outs
    count too.  "auto" may turn out to be "logprobs", which takes more.
    """
    by_token = api == "completion" and scores != "answers"
    return ((most_steps(labels) if by_token else 1) + UNUSABLE) * prompts + SPARE


def longest(text: str) -> int:
    """A bound on the tokens of a prompt: its bytes, since no token has less than one.

    `LABEL_TOKENS` are added, for a label and for what surrounds a message of a chat.
    """
    return len(text.encode()) + LABEL_TOKENS


def answer_tokens(labels: Sequence[str]) -> int:
    """Tokens that a written answer may have: a label's characters, and a few in any case."""
    return max(LEAST_ANSWER, *map(len, labels))


class Bytes(NoModel):
    """Stands for a model in this process whose tokenizer is not known: four tokens for each byte.

    A token has a byte at least, of a text that a normalisation may have made longer.
    """

    def longest(self, text: str) -> int:
        """See `LanguageModel`."""
        return 4 * longest(text)


class Bounds(NoModel):
    """Stands for a model behind a server where only its bounds are wanted."""

    def __init__(
        self,
        api: Literal["chat", "completion"],
        scores: Literal["auto", "logprobs", "answers"],
        concurrency: int,
    ) -> None:
        self._api = api
        self._scores = scores
        self.at_once = ROUNDS * concurrency

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """See `LanguageModel`."""
        return most_calls(self._api, self._scores, labels, prompts)

    def longest(self, text: str) -> int:
        """See `LanguageModel`."""
        return longest(text)
