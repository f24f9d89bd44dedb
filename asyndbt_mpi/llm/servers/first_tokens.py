"""Probabilities of labels by the first token of a chat's answer."""

import math
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.llm.servers.failures import Unscorable
from asyndbt_mpi.llm.servers.responses import Alternatives

PIECE = 0.01
"""Probability from which on a label's first piece is more than noise among the alternatives."""


MANY = 4
"""Answers by which a label is several tokens that are enough to believe it at the start."""


def names_of(labels: Sequence[str]) -> tuple[list[str], bool]:
    """Labels as a chat's answer spells them, and whether upper and lower case tell them apart."""
    names = [label.strip() for label in labels]
    folded = list(map(_folded, names))
    by_case = len(set(folded)) < len(folded)
    return (names, True) if by_case else (folded, False)


def _folded(text: str) -> str:
    """In lower case, but for letters that only look like others: the sign of Kelvin is no "k"."""
    return text.lower() if unicodedata.normalize("NFKC", text) == text else text


class FirstTokens:
    """Scores labels by the first token of a chat's answer, which must be the whole label.

    Texts are compared without the space around them, for an answer has no leading one, and in
    upper and lower case alike unless some labels differ in that alone.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        """Labels that were listed whole before: a piece of one among the alternatives is noise."""
        self._scored = False

    def doubted(self, labels: Sequence[str], answers: Sequence[Alternatives | None]) -> list[int]:
        """The places of answers by which a label is several tokens, where that may be a slip.

        They are worth another try: an answer may be rotten.  Many are no slip, unless such labels
        were scored before.
        """
        divided = self._divided(labels, answers)
        places = [place for place, name in enumerate(divided) if name]
        return places if self._scored or len(places) < MANY else []

    def log_probabilities(
        self, labels: Sequence[str], answers: Sequence[Alternatives | None]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(P, U), not normalised, and whether some label was listed (P,); zeros without an answer.

        Raises
        ------
        Unscorable
            A label is several tokens of this model.
        """
        wanted, by_case = names_of(labels)
        found = np.zeros((len(answers), len(labels)))
        listed = np.zeros(len(answers), dtype=bool)
        divided = self._divided(labels, answers)
        for row, (name, answer) in enumerate(zip(divided, answers, strict=True)):
            if name:
                raise Unscorable(
                    f"label {name!r} is several tokens of this model, which a chat API cannot"
                    " score: set llm.api = 'completion', llm.scores = 'answers' or other"
                    " task.labels"
                )
            if answer is None:
                continue
            table = _plain(answer, by_case)
            listed[row] = any(label in table for label in wanted)
            found[row] = [math.log(table.get(label, answer.unlisted)) for label in wanted]
        self._scored = True
        return found, listed

    def _divided(self, labels: Sequence[str], answers: Sequence[Alternatives | None]) -> list[str]:
        """For each answer, a label that is several tokens by it; "" if there is none."""
        wanted, by_case = names_of(labels)
        names = [label.strip() for label in labels]
        tables = [{} if answer is None else _plain(answer, by_case) for answer in answers]
        for table in tables:
            self._seen.update(label for label in wanted if label in table)
        divided = []
        for table, answer in zip(tables, answers, strict=True):
            spelt = {} if answer is None else _plain(answer, True)
            several = (
                name
                for name, label in zip(names, wanted, strict=True)
                if _is_divided(name, table.get(label, 0.0), label in self._seen, spelt, names)
            )
            divided.append(next(several, ""))
        return divided


def _is_divided(
    name: str, whole: float, seen: bool, table: Mapping[str, float], names: Sequence[str]
) -> bool:
    """Whether pieces of a label are listed, as it is spelt: "I" is no piece of "irony"."""
    # Another label is a word of its own, even if this one begins with it.
    others = names if seen else ()
    pieces = sum(
        probability
        for text, probability in table.items()
        if text and text != name and name.startswith(text) and text not in others
    )
    return (pieces > 0 and not seen) or (pieces > whole and pieces >= PIECE)


def _plain(alternatives: Alternatives, by_case: bool) -> dict[str, float]:
    table: dict[str, float] = {}
    for token, probability in alternatives.probability.items():
        text = token.decode(errors="replace").strip()
        text = text if by_case else _folded(text)
        table[text] = table.get(text, 0.0) + probability
    return table
