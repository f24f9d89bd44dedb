"""What a worker asks of its black box, and what comes back."""

from dataclasses import dataclass
from typing import Protocol

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.protocol.messages import Split


@dataclass(frozen=True, slots=True)
class Holdings:
    """How much data a worker holds; its texts stay with the black box.

    ``pool`` (U,) counts the demonstrations of each class; ``rows`` counts each split's queries.
    """

    pool: IntArray
    rows: dict[Split, int]


@dataclass(frozen=True, slots=True)
class Query:
    """Score I prompts, each on the same B rows of a split.

    ``words`` (I, M) and ``demonstrations`` (I, U) are indices, `WITHOUT` for none;
    ``rows`` (B,) are row numbers of the worker's ``split``.
    """

    split: Split
    rows: IntArray
    words: IntArray
    demonstrations: IntArray


@dataclass(frozen=True, slots=True)
class Answer:
    """Loss (1) and accuracy of each prompt, (I,) each, averaged over the rows asked for."""

    losses: FloatArray
    accuracies: FloatArray
    calls: int
    prompt_tokens: int


class BlackBox(Protocol):
    """A language model with a task, or a synthetic function; known only by its answers."""

    holdings: Holdings
    description: str

    def answer(self, query: Query) -> Answer:
        """Score ``query``; the same query always gets the same losses."""
        ...
