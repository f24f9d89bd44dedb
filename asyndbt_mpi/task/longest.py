"""The longest prompts of a worker, by their parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from asyndbt_mpi.inputs.sections import Calibration
from asyndbt_mpi.task.calibration import CONTENT_FREE
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import WorkerData
from asyndbt_mpi.task.template import Template

TokenCounter: TypeAlias = Callable[[list[str]], list[int]]
"""The number of tokens of each text."""


@dataclass(frozen=True, slots=True)
class Part:
    """A row as part of a prompt, with the longest fragment, and its number of tokens there."""

    row: Row
    tokens: int


@dataclass(frozen=True, slots=True)
class LongestParts:
    """What the longest prompts consist of.

    Attributes
    ----------
    fragment : the words (M,) with the most tokens
    demonstrations : for each class (U,) the longest in the pool
    queries : all rows of all splits, and of the calibration, the longest first
    """

    fragment: list[str]
    demonstrations: list[Part]
    queries: list[Part]

    @property
    def tokens(self) -> int:
        """Tokens of the longest prompt, apart from changes where parts meet."""
        return sum(part.tokens for part in (*self.demonstrations, self.queries[0]))


def longest_parts(
    template: Template,
    vocabulary: Sequence[str],
    positions: int,
    held: WorkerData,
    calibration: Calibration,
    count: TokenCounter,
) -> LongestParts:
    """The longest parts of the prompts on the rows ``held``; each text is counted once.

    The fragment has M = ``positions`` words of the ``vocabulary``, possibly repeated.
    """
    fragments = [[word] * positions for word in vocabulary]
    tokens = count([" ".join(fragment) for fragment in fragments])
    fragment = fragments[tokens.index(max(tokens))]
    demonstrations = [
        _by_length(rows, count([template.context([row], fragment) for row in rows]))[0]
        for rows in held.pool
    ]
    queries = [*held.train, *held.validation, *held.test]
    if calibration == "content_free":  # "batch" has only training rows
        queries += CONTENT_FREE
    lengths = count([template.render(row, fragment) for row in queries])
    return LongestParts(fragment, demonstrations, _by_length(queries, lengths))


def _by_length(rows: Sequence[Row], tokens: Sequence[int]) -> list[Part]:
    parts = [Part(row, length) for row, length in zip(rows, tokens, strict=True)]
    return sorted(parts, key=lambda part: -part.tokens)
