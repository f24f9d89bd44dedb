"""Probabilities of labels by the first token of a chat's answer."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.llm.answers import Alternatives
from asyndbt_mpi.llm.base import ModelError

PIECE = 0.01
"""Probability from which on a label's first piece is more than noise among the alternatives."""


def names_of(labels: Sequence[str]) -> tuple[list[str], bool]:
    """Labels as a chat's answer spells them, and whether upper and lower case tell them apart."""
    names = [label.strip() for label in labels]
    folded = [name.casefold() for name in names]
    by_case = len(set(folded)) < len(folded)
    return (names, True) if by_case else (folded, False)


class FirstTokens:
    """Scores labels by the first token of a chat's answer, which must be the whole label.

    Texts are compared without the space around them, for an answer has no leading one, and in
    upper and lower case alike unless some labels differ in that alone.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        """Labels that were listed whole before: a piece of one among the alternatives is noise."""

    def log_probabilities(
        self, labels: Sequence[str], answers: Sequence[Alternatives | None]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(P, U), not normalised, and whether some label was listed (P,); zeros without an answer.

        Raises
        ------
        ModelError
            A label is several tokens of this model.
        """
        wanted, by_case = names_of(labels)
        names = [label.strip() for label in labels]
        tables = [None if answer is None else _plain(answer, by_case) for answer in answers]
        as_spelt = [None if answer is None else _plain(answer, True) for answer in answers]
        for table in tables:
            self._seen.update(label for label in wanted if table and label in table)
        found = np.zeros((len(answers), len(labels)))
        listed = np.zeros(len(answers), dtype=bool)
        for row, (table, spelt, answer) in enumerate(zip(tables, as_spelt, answers, strict=True)):
            if table is None or spelt is None or answer is None:
                continue
            listed[row] = any(label in table for label in wanted)
            for column, label in enumerate(wanted):
                whole = table.get(label)
                self._check(names[column], whole or 0.0, label in self._seen, spelt, names)
                found[row, column] = math.log(answer.unlisted if whole is None else whole)
        return found, listed

    def _check(
        self,
        name: str,
        whole: float,
        seen: bool,
        table: Mapping[str, float],
        names: Sequence[str],
    ) -> None:
        """Refuse a label whose pieces are listed, as it is spelt: "I" is no piece of "irony"."""
        # Another label is a word of its own, even if this one begins with it.
        others = names if seen else ()
        pieces = sum(
            probability
            for text, probability in table.items()
            if text and text != name and name.startswith(text) and text not in others
        )
        if (pieces > 0 and not seen) or (pieces > whole and pieces >= PIECE):
            raise ModelError(
                f"label {name!r} is several tokens of this model, which a chat API cannot score:"
                " give llm.api = 'completion', llm.scores = 'answers' or other task.labels"
            )


def _plain(alternatives: Alternatives, by_case: bool) -> dict[str, float]:
    table: dict[str, float] = {}
    for token, probability in alternatives.probability.items():
        text = token.decode(errors="replace").strip()
        text = text if by_case else text.casefold()
        table[text] = table.get(text, 0.0) + probability
    return table
