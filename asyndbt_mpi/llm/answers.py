"""Probabilities of labels, read out of what a server with OpenAI's API answers."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.bounds import MOST_STEPS
from asyndbt_mpi.llm.client import Filtered, Unusable

LEAST = 1e-10
"""Probability that no alternative falls below, so that logarithms stay finite."""

OTHER_LABELS = 0.05
"""Share of the labels that a written answer does not name.  An answer tells which label is the
most probable one and no more; a twentieth is a usual smoothing of a label (Szegedy et al. 2016
take a tenth), and keeps the loss of a wrong answer finite: 3 nats more than that of a right one,
for two labels."""

PIECE = 0.01
"""Probability from which on a label's first piece is more than noise among the alternatives."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The likeliest next tokens: the probability of each text, and what is known of the others."""

    probability: dict[bytes, float]
    """By the token's text; those of tokens that read the same are added up."""

    unlisted: float
    """The most that a token can have that is not listed: as much as the least listed one, and as
    much as all together leave over."""


def read_text(choice: Mapping[str, Any]) -> str:
    """What the model wrote.

    Raises
    ------
    Filtered
        The model, or a filter, refused.
    Unusable
        There is no text.
    """
    _check_not_filtered(choice)
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    if not isinstance(text, str):
        raise Unusable("the answer has no text")
    return text


def read_alternatives(choice: Mapping[str, Any]) -> Alternatives:
    """The alternatives of the first token that the model wrote, in either format.

    OpenAI's older one, which vLLM keeps, has a table of tokens; llama.cpp and all chat APIs list
    them one by one.

    Raises
    ------
    Filtered
        The model, or a filter, refused, or the model had nothing to say.
    Unusable
        There are none, or they are damaged.
    """
    _check_not_filtered(choice)
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, Mapping):
        raise Unusable("the answer has no log-probabilities")
    tokens = logprobs.get("content", logprobs.get("top_logprobs"))
    if tokens == [] and choice.get("finish_reason") == "stop":
        raise Filtered
    try:
        if "content" in logprobs:
            listed = [(_bytes(one), float(one["logprob"])) for one in tokens[0]["top_logprobs"]]
        else:
            listed = [(token.encode(), float(value)) for token, value in tokens[0].items()]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise Unusable("the answer has no log-probabilities") from None
    if not listed or any(math.isnan(value) or value > 1e-3 for _, value in listed):
        raise Unusable("the answer has damaged log-probabilities")
    return _alternatives(listed)


def _check_not_filtered(choice: Mapping[str, Any]) -> None:
    message = choice.get("message")
    refusal = message.get("refusal") if isinstance(message, Mapping) else None
    if refusal or choice.get("finish_reason") == "content_filter":
        raise Filtered


def _bytes(token: Mapping[str, Any]) -> bytes:
    """The text of a token, which need not be whole characters."""
    given = token.get("bytes")
    text: str = token["token"]
    return bytes(given) if given is not None else text.encode()


def _alternatives(listed: list[tuple[bytes, float]]) -> Alternatives:
    probability: dict[bytes, float] = {}
    for text, value in listed:
        probability[text] = probability.get(text, 0.0) + max(math.exp(value), LEAST)
    least = math.exp(min(value for _, value in listed))
    left = 1 - sum(probability.values())
    return Alternatives(probability, max(min(least, left), LEAST))


def walk(labels: Sequence[str], ask: Callable[[str], Alternatives]) -> NDArray[np.float64]:
    """Log-probabilities (U,) of the labels' whole texts, token by token; not normalised.

    The longest alternative that the rest of a label begins with is taken for its next token, and
    what follows is asked for behind it.  Where none fits, the label's next token has
    `Alternatives.unlisted` at the most; it gets that, and the rest of the label 1: an upper bound.

    Parameters
    ----------
    ask : the alternatives behind the prompt and a text
        Asked once for each text that some labels begin with: `bounds.most_steps` times at the most.

    Raises
    ------
    ModelError
        A label has more than `MOST_STEPS` tokens, or one that ends within a character.
    """
    found = np.zeros(len(labels))
    known: dict[str, Alternatives] = {}
    pending = [(label, "") for label in labels]
    for _ in range(MOST_STEPS):
        further = []
        for label, behind in pending:
            if behind not in known:
                known[behind] = ask(behind)
            token, probability = _next_token(label[len(behind) :], known[behind])
            found[labels.index(label)] += math.log(probability)
            if token and behind + token != label:
                further.append((label, behind + token))
        pending = further
        if not pending:
            return found
    raise ModelError(
        f"label {pending[0][0]!r} has more than {MOST_STEPS} tokens: give shorter ones in"
        " task.labels, or llm.scores = 'answers'"
    )


def _next_token(rest: str, alternatives: Alternatives) -> tuple[str, float]:
    """The token that ``rest`` begins with, "" if none is listed, and its probability."""
    wanted = rest.encode()
    fitting = [text for text in alternatives.probability if text and wanted.startswith(text)]
    if not fitting:
        return "", alternatives.unlisted
    token = max(fitting, key=len)
    try:
        return token.decode(), alternatives.probability[token]
    except UnicodeDecodeError:
        raise ModelError(
            f"label text {rest!r} has a token that ends within a character: give other"
            " task.labels, or llm.scores = 'answers'"
        ) from None


class FirstTokens:
    """Scores labels by the first token of a chat's answer, which must be the whole label.

    Texts are compared without the space around them: an answer has no leading one.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        """Labels that were listed whole before: a piece of one among the alternatives is noise."""

    def log_probabilities(
        self, labels: Sequence[str], answers: Sequence[Alternatives | None]
    ) -> NDArray[np.float64]:
        """(P, U), not normalised; a row of zeros where there is no answer.

        Raises
        ------
        ModelError
            A label is several tokens of this model.
        """
        wanted = [label.strip() for label in labels]
        tables = [None if answer is None else _stripped(answer) for answer in answers]
        for table in tables:
            self._seen.update(label for label in wanted if table and label in table)
        found = np.zeros((len(answers), len(labels)))
        for row, (table, answer) in enumerate(zip(tables, answers, strict=True)):
            if table is None or answer is None:
                continue
            for column, label in enumerate(wanted):
                self._check(label, table, wanted)
                found[row, column] = math.log(table.get(label, answer.unlisted))
        return found

    def _check(self, label: str, table: Mapping[str, float], labels: Sequence[str]) -> None:
        whole = table.get(label, 0.0)
        # Another label is a word of its own, even if this one begins with it.
        others = labels if label in self._seen else ()
        pieces = sum(
            probability
            for text, probability in table.items()
            if text and text != label and label.startswith(text) and text not in others
        )
        unseen = pieces > 0 and label not in self._seen
        if unseen or (pieces > whole and pieces >= PIECE):
            raise ModelError(
                f"label {label!r} is several tokens of this model, which a chat API cannot score:"
                " give llm.api = 'completion', llm.scores = 'answers' or other task.labels"
            )


def _stripped(alternatives: Alternatives) -> dict[str, float]:
    table: dict[str, float] = {}
    for token, probability in alternatives.probability.items():
        text = token.decode(errors="replace").strip()
        table[text] = table.get(text, 0.0) + probability
    return table


def of_answer(text: str, labels: Sequence[str]) -> NDArray[np.float64] | None:
    """Log-probabilities (U,) of the labels, of which a written answer names one; else None."""
    names = [label.strip().casefold() for label in labels]
    answer = text.strip().casefold()
    begun = [name for name in names if answer.startswith(name)]
    within = [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", answer)]
    if begun:
        named = max(begun, key=len)
    elif len(within) == 1:
        named = within[0]
    else:
        return None
    others = len(labels) - 1
    shares = np.full(len(labels), OTHER_LABELS / others if others else 0.0)
    shares[names.index(named)] = 1 - others * shares[0]
    logarithms: NDArray[np.float64] = np.log(shares)
    return logarithms
