"""Probabilities of labels, read out of what a server with OpenAI's API lists of tokens."""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.llm.base import ENDING
from asyndbt_mpi.llm.servers.bounds import MOST_STEPS, beginnings
from asyndbt_mpi.llm.servers.failures import Filtered, Unlisted, Unscorable, Unusable
from asyndbt_mpi.llm.servers.spelling import ends_text, text_of
from asyndbt_mpi.llm.servers.thinking import check_not_begun, check_not_thinking

LEAST = 1e-10
"""Probability that no alternative falls below, so that logarithms stay finite."""


MOST_LISTED, MOST_CHARACTERS = 1000, 1000
"""Alternatives of a token, of which 20 are asked for, and characters of each."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The likeliest next tokens: the probability of each text, and what is known of the others."""

    probability: dict[bytes, float]
    """By the token's text; those of tokens that read the same are added up."""

    unlisted: float
    """The most that a token can have that is not listed: as much as the least listed one, and as
    much as all together leave over."""

    ends: float = 0.0
    """The probability of listed tokens that end the text."""

    @property
    def likeliest(self) -> str:
        """The likeliest text, for a person to see."""
        text = max(self.probability, key=lambda text: self.probability[text])
        return text.decode(errors="replace")

    def ending(self, spaceless: bool = False) -> float:
        """The probability that what follows is what ends an answer; at least `unlisted`.

        That is what begins as `ENDING` does, or ends the text.  Where tokens are ``spaceless``,
        one without a text is a space.
        """
        first = ENDING[0].encode()
        listed = sum(p for text, p in self.probability.items() if text.startswith(first))
        ends = self.ends - (self.probability.get(b"", 0.0) if spaceless else 0.0)
        return max(min(listed + ends, 1.0), self.unlisted)


def read_alternatives(choice: Mapping[str, Any], number: int | None = None) -> Alternatives:
    """The alternatives of the first token that the model wrote, in either format.

    OpenAI's older one, which vLLM keeps, has a table of tokens; llama.cpp and all chat APIs list
    them one by one.  Where more than the ``number`` that was asked for are listed, the token that
    was written is one of them, however improbable, and says nothing of those that are not listed.

    Raises
    ------
    Filtered
        The model, or a filter, refused, or the model had nothing to say.
    Thinks
        The model thinks before it answers.
    Unlisted
        There are none.
    Unusable
        They are damaged, or tokens are listed by their numbers.
    """
    check_not_filtered(choice)
    check_not_thinking(choice)
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, Mapping):
        raise Unlisted("the answer has no log-probabilities")
    tokens = logprobs.get("content", logprobs.get("top_logprobs"))
    if tokens == [] and choice.get("finish_reason") == "stop":
        raise Filtered
    if not tokens:
        raise Unlisted("the answer has no log-probabilities")
    try:
        first = tokens[0]
        if "content" in logprobs:
            listed = [
                (one["token"], one.get("bytes"), one["logprob"]) for one in first["top_logprobs"]
            ]
        else:
            listed = [(token, None, value) for token, value in first.items()]
        if not listed:
            raise Unlisted("the answer has no log-probabilities")
        _check(listed)
        found = _alternatives(listed, number or len(listed))
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
        raise Unusable("the answer has damaged log-probabilities") from None
    check_not_begun(max(listed, key=lambda one: one[2])[0])
    return found


def check_not_filtered(choice: Mapping[str, Any]) -> None:
    """Raise `Filtered` if the model, or a filter, refused."""
    message = choice.get("message")
    refusal = message.get("refusal") if isinstance(message, Mapping) else None
    if refusal or choice.get("finish_reason") == "content_filter":
        raise Filtered


def _check(listed: list[tuple[Any, Any, Any]]) -> None:
    """Raise `ValueError` if these are no texts with log-probabilities, or too many."""
    for token, given, value in listed:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(token, str) or len(token) > MOST_CHARACTERS:
            raise ValueError
        if not is_number or math.isnan(value) or value > 1e-3:
            raise ValueError
        if isinstance(given, list) and len(given) > 4 * MOST_CHARACTERS:
            raise ValueError
    if len(listed) > MOST_LISTED:
        raise ValueError


def _alternatives(listed: list[tuple[str, Any, float]], number: int) -> Alternatives:
    values = [value for *_, value in listed]
    plain = any(character in token for token, *_ in listed for character in " \n\t")
    probability: dict[bytes, float] = {}
    ends = 0.0
    for token, given, value in listed:
        share = max(math.exp(value), LEAST)
        text = text_of(token, given, plain)
        if not text or ends_text(token):
            ends += share
        probability[text] = probability.get(text, 0.0) + share
    least = math.exp(min(heapq.nlargest(number, values)))
    left = 1 - sum(probability.values())
    return Alternatives(probability, max(min(least, left), LEAST), ends)


def walk(
    labels: Sequence[str],
    ask: Callable[[str], Alternatives],
    spaceless: bool = False,
    listed: set[str] | None = None,
) -> NDArray[np.float64]:
    """Log-probabilities (U,) of the labels' whole texts, token by token; not normalised.

    A label, or the rest of one, that is listed as one token has that token's probability.
    Otherwise it is divided, and nobody says how: it gets the most that any division into tokens
    can have.  In one, a token that is not listed has `Alternatives.unlisted` at the most, and what
    follows it 1.  What follows a listed one is asked for behind it, unless another division is
    sure to have more.  So a score is the label's probability, or more than that.

    A label that begins another one counts only where the answer ends behind it: its probability
    is multiplied by `Alternatives.ending` there.

    Parameters
    ----------
    ask : the alternatives behind the prompt and a text
        Asked once for each text that some labels begin with: `bounds.most_steps` times at the most.
    spaceless : the server lists tokens without the space before a word
    listed : takes in the labels that are among the alternatives to their end

    Raises
    ------
    Unscorable
        A label has more than `MOST_STEPS` tokens, or one that ends within a character.
    """
    paths = _Paths(ask, spaceless)
    found = np.array([paths.probability(label) for label in labels])
    for number in beginnings(labels):
        found[number] *= paths.behind(labels[number]).ending(spaceless)
    if listed is not None:
        listed |= paths.listed
    logarithms: NDArray[np.float64] = np.log(found)  # at least LEAST for each token
    return logarithms


@dataclass(order=True, frozen=True, slots=True)
class _Division:
    """Tokens that a label begins with; those with the most probability come first."""

    negative: float
    """Of the most that it can have."""

    behind: bytes
    """The text of its tokens."""

    tokens: int
    ends: bool
    """Whether nothing more is asked for it."""


class _Paths:
    """The divisions of labels into tokens that were looked at."""

    def __init__(self, ask: Callable[[str], Alternatives], spaceless: bool) -> None:
        self._ask = ask
        self._spaceless = spaceless
        self._known: dict[str, Alternatives] = {}
        self.listed: set[str] = set()
        """Labels of which a division has all its tokens listed."""

    def behind(self, text: str) -> Alternatives:
        if text not in self._known:
            self._known[text] = self._ask(text)
        return self._known[text]

    def probability(self, label: str) -> float:
        """The most that any division of the label can have.

        The one that can have the most is taken further until it is at its end.
        """
        divisions = [_Division(-1.0, b"", 0, ends=False)]
        asked: set[bytes] = set()
        while True:
            best = heapq.heappop(divisions)
            if best.ends:
                return -best.negative
            if best.tokens == MOST_STEPS:
                raise Unscorable(
                    f"label {label!r} has more than {MOST_STEPS} tokens: use shorter task.labels,"
                    " or llm.scores = 'answers'"
                )
            asked.add(best.behind)
            if len(asked) > MOST_STEPS:
                return -best.negative  # as if what follows were certain
            for further in self._further(label, best):
                heapq.heappush(divisions, further)

    def _further(self, label: str, begun: _Division) -> list[_Division]:
        """What a division can be one token later."""
        try:
            alternatives = self.behind(begun.behind.decode())
        except UnicodeDecodeError:
            raise Unscorable(
                f"label {label!r} has a token that ends within a character: use other"
                " task.labels, or llm.scores = 'answers'"
            ) from None
        whole = label.encode()
        shares = self._fitting(whole[len(begun.behind) :], alternatives)
        further = [
            _Division(begun.negative * share, text, begun.tokens + 1, ends=text == whole)
            for token, share in shares.items()
            for text in [begun.behind + token]
        ]
        for division in further:
            if division.ends:
                self.listed.add(label)
                return [division]
        unlisted = begun.negative * alternatives.unlisted
        return [*further, _Division(unlisted, whole, begun.tokens + 1, ends=True)]

    def _fitting(self, rest: bytes, alternatives: Alternatives) -> dict[bytes, float]:
        """The listed tokens that the ``rest`` of a label begins with."""
        shares: dict[bytes, float] = {}
        for text, share in alternatives.probability.items():
            if self._spaceless and rest.startswith(b" ") and not text.startswith(b" "):
                text = b" " + text
            if text and rest.startswith(text):
                shares[text] = shares.get(text, 0.0) + share
        return shares
