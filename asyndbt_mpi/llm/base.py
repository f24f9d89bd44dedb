"""What the rest of the package knows of a language model: its methods, their input and answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

LABEL_TOKENS = 64
"""Room for the tokens that labels, or a server, add to a prompt's own."""

LEAST_ANSWER = 16
"""Tokens that a written answer may have at least; more if a label has more characters.  Room for
"The answer is: ..." before the label, or for a word in quotes and braces."""

ENDING = "\n\n"
"""The text that follows a label in a demonstration, and so what ends an answer."""


UNASKED = "a language model was asked although all answers should be known"


class ModelError(Exception):
    """A model cannot be found, loaded, or used for what is asked; says what would be right."""


class LabelError(ValueError):
    """A model cannot tell the labels apart, or there are none; quotes nothing but labels."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt in two parts: the model reads ``context + query``, as one text."""

    context: str
    """What the queries of one sample share: the fragment and the demonstrations."""

    query: str
    """The rest, up to where the label is to follow."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities of U labels after each of P prompts, and what they cost."""

    log_probabilities: NDArray[np.float64]
    """(P, U), in nats; each row is normalised over the U labels."""

    calls: int
    """Prompts that were really sent to the model; of a server, requests that it answered or may
    have billed."""

    prompt_tokens: int
    """Tokens that really went through the model; a shared context counts once, pads never."""

    completion_tokens: int = 0
    """Tokens that the model wrote, where it is one that charges for them."""

    unrecognised: int = 0
    """Prompts whose answer named no label, or was refused: their labels are equally probable."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote behind each of P prompts, and what that cost, as in `Scores`."""

    texts: list[str]
    """(P,), without the model's thoughts; "" where it, or a server, refused."""

    tokens: list[int]
    """(P,) that each text has, with the one that ended it; an upper bound where nobody says."""

    cut: list[bool]
    """(P,): whether a text ended only because it had as many tokens as it may have."""

    calls: int
    prompt_tokens: int
    completion_tokens: int


class LanguageModel(Protocol):
    """A black box that scores labels as the continuation of a prompt, or writes one of its own."""

    description: str
    """One line: model, device, precision, threads."""

    at_once: int | None
    """Prompts that are best asked in one call; None for as many as there are."""

    @property
    def digest(self) -> str:
        """Tells the model from others: equal on ranks that have the same one, at most 64 ASCII
        characters; "" where it is not known."""
        ...

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        """Score every label after every prompt, in the order given.

        Raises
        ------
        ValueError
            The labels cannot be told apart, or a prompt or a label is empty.
        ModelError
            A prompt is longer than the model can read, or a server cannot answer.
        """
        ...

    def write(self, prompts: Sequence[str], most_tokens: int) -> Written:
        """Continue every prompt greedily, up to the end of the text or ``most_tokens`` tokens.

        Raises
        ------
        ValueError
            A prompt is empty, or ``most_tokens`` is not positive.
        ModelError
            As `label_log_probabilities`.
        """
        ...

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """The most that `Scores.calls` of ``prompts`` prompts can be."""
        ...

    def longest(self, text: str) -> int:
        """A bound on the tokens that one call with the prompt ``text`` reads."""
        ...


class NoModel:
    """Stands where all answers are known: it has none."""

    description = "no language model"
    digest = ""
    at_once: int | None = None

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        """See `LanguageModel`."""
        raise ModelError(UNASKED)

    def write(self, prompts: Sequence[str], most_tokens: int) -> Written:
        """See `LanguageModel`."""
        raise ModelError(UNASKED)

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """See `LanguageModel`."""
        return prompts

    def longest(self, text: str) -> int:
        """See `LanguageModel`."""
        return 0
