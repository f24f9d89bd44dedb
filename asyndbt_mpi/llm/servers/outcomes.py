"""What came of prompts that a server was asked for, and what has to be said of it."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.servers.thinking import SWITCH

ENOUGH = 4
"""Answers without a label that show that a model does not answer as it has to."""

SHOWN, SHOWN_CHARACTERS = 3, 40
"""Of such answers, so many are shown, and of each so much."""

EQUAL = "all labels are then equally probable"

MEND = {
    "answers": (
        "ask for nothing but a label in task.template, or have prompts continued verbatim:"
        " llm.api = 'completion'"
    ),
    "first tokens": (
        "ask for nothing but a label in task.template, spelt as in task.labels, or set"
        " llm.scores = 'answers' or llm.api = 'completion'"
    ),
    "tokens": "check that task.labels are spelt as the model continues, with or without a space",
}
"""What to do where none of these is a label."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a prompt: log-probabilities (U,), not normalised, or None and what came instead.

    The model's ``words`` are the beginning of its answer.
    """

    log_probabilities: NDArray[np.float64] | None
    words: str = ""
    thinks: bool = False
    refused: bool = False


class Outcomes:
    """All that came of the prompts of a run that ``model`` at ``server`` was asked for.

    ``shown`` is what may be told of words about a prompt.
    """

    def __init__(self, model: str, server: str, shown: Callable[[str, str], str]) -> None:
        self._model = model
        self._server = server
        self._shown = shown
        self._recognised = False
        self._instead: list[Outcome] = []
        self._told: set[str] = set()

    def note(
        self,
        texts: Sequence[str],
        outcomes: Sequence[Outcome],
        labels: Sequence[str],
        asked_for: Literal["answers", "first tokens", "tokens"],
    ) -> None:
        """Take in what came of the prompts ``texts``, and warn once of each kind of trouble.

        Raises
        ------
        ModelError
            No answer so far named a label.
        """
        self._recognised |= any(each.log_probabilities is not None for each in outcomes)
        without = [
            Outcome(None, self._shown(each.words, text), each.thinks, each.refused)
            for text, each in zip(texts, outcomes, strict=True)
            if each.log_probabilities is None
        ]
        if not self._recognised:
            self._instead += without
            if len(self._instead) >= ENOUGH:
                raise ModelError(self._what_came(labels, asked_for))
        if any(each.refused for each in without):
            self.warn_once(f"{self._server} refused a prompt: {EQUAL}")
        if any(each.thinks for each in without):
            self.warn_once(f"{self._model} thought before it answered a prompt: {EQUAL}")
        if any(not (each.refused or each.thinks) for each in without):
            self.warn_once(f"an answer of {self._server} has none of the labels: {EQUAL}")

    def warn_once(self, what: str) -> None:
        """Warn, but never again of the same."""
        if what not in self._told:
            self._told.add(what)
            warnings.warn(what, stacklevel=4)

    @property
    def thinking(self) -> str:
        """What to say of a model that does not come to an answer."""
        return f"{self._model} thinks before it answers, so that no label is scored: {SWITCH}"

    def _what_came(
        self, labels: Sequence[str], asked_for: Literal["answers", "first tokens", "tokens"]
    ) -> str:
        number = len(self._instead)
        if any(each.thinks or _may_think(each.words) for each in self._instead):
            return self.thinking
        if all(each.refused for each in self._instead):
            return f"{self._server} refused each of the first {number} prompts"
        came = dict.fromkeys(_shortened(each.words) for each in self._instead if not each.refused)
        shown = ", ".join(map(repr, list(came)[:SHOWN])) + ", ..." * (len(came) > SHOWN)
        likeliest = "" if asked_for == "answers" else "likeliest "
        return (
            f"{self._model} at {self._server} named none of the labels"
            f" {', '.join(map(repr, labels))} in its first {number} answers; its {likeliest}"
            f"{asked_for} were {shown}: {MEND[asked_for]}"
        )


def _may_think(words: str) -> bool:
    """Whether words are the beginning of "<think>", which some models write in several tokens."""
    return bool(words.strip()) and "<think>".startswith(words.strip().casefold())


def _shortened(text: str) -> str:
    line = " ".join(text.split()) or text
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."
