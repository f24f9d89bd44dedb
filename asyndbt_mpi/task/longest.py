"""The longest prompts that a worker can ask, by their parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from asyndbt_mpi.protocol.messages import Split
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import WorkerData, rows_of
from asyndbt_mpi.task.template import Template

TokenCounter: TypeAlias = Callable[[list[str]], list[int]]
"""How many tokens each of some texts has."""


@dataclass(frozen=True, slots=True)
class Part:
    """A row as a part of a prompt, under the longest fragment, and its tokens there."""

    row: Row
    tokens: int


@dataclass(frozen=True, slots=True)
class LongestParts:
    """What the longest prompts consist of.

    Attributes
    ----------
    fragment : the words (M,) that have the most tokens
    demonstrations : of each class (U,) the longest of the pool
    queries : all rows of all splits, the longest first
    """

    fragment: list[str]
    demonstrations: list[Part]
    queries: list[Part]

    @property
    def tokens(self) -> int:
        """Of the longest prompt, but for what changes where parts meet."""
        return sum(part.tokens for part in (*self.demonstrations, self.queries[0]))


def longest_parts(
    template: Template,
    vocabulary: Sequence[str],
    positions: int,
    held: WorkerData,
    count: TokenCounter,
) -> LongestParts:
    """The longest parts of the prompts on the rows ``held``; each text is counted once.

    The fragment has M = ``positions`` words of the ``vocabulary``, of which each may come again.
    """
    fragments = [[word] * positions for word in vocabulary]
    tokens = count([" ".join(fragment) for fragment in fragments])
    fragment = fragments[tokens.index(max(tokens))]
    demonstrations = [
        _by_length(rows, count([template.context([row], fragment) for row in rows]))[0]
        for rows in held.pool
    ]
    queries = [row for split in Split for row in rows_of(held, split)]
    lengths = count([template.render(row, fragment) for row in queries])
    return LongestParts(fragment, demonstrations, _by_length(queries, lengths))


def _by_length(rows: Sequence[Row], tokens: Sequence[int]) -> list[Part]:
    parts = [Part(row, length) for row, length in zip(rows, tokens, strict=True)]
    return sorted(parts, key=lambda part: -part.tokens)
