"""What workers keep to themselves with `log.private`, and what they tell in its place.

q stays at home; the losses of single samples and rows are told as their mean, each of them; and
demonstrations are told by the number of the choice: each that differs from all before it has the
next one. By such a number the server can have a prompt scored again, and tell one from another,
which is all that it uses demonstrations for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.protocol.blackbox import Answer
from asyndbt_mpi.protocol.messages import (
    NOTHING,
    WITHOUT,
    EvaluationReport,
    Hello,
    LowerReport,
    MalformedMessage,
    Report,
    RowLosses,
    ToServer,
)

RANDOM = 0
"""The number of the random demonstrations that a worker draws at the start."""
NO_INDICES: IntArray = np.empty(0, dtype=np.int64)


class Choices:
    """The demonstrations (U,) that a worker has told of, by their numbers.

    Parameters
    ----------
    random : array (U,), those of `RANDOM`
    """

    def __init__(self, random: IntArray) -> None:
        self._chosen: dict[tuple[int, ...], int] = {tuple(random.tolist()): RANDOM}

    def number(self, demonstrations: IntArray) -> int:
        """Of ``demonstrations`` (U,), a new one if they differ from all before.

        `WITHOUT` if there are none.
        """
        if (demonstrations == WITHOUT).all():
            return WITHOUT
        return self._chosen.setdefault(tuple(demonstrations.tolist()), len(self._chosen))

    def of(self, numbers: IntArray) -> IntArray:
        """The demonstrations (U,) of ``numbers`` (U,), which are all the same.

        Raises
        ------
        MalformedMessage
            There is no such choice.
        """
        number = int(numbers[0])
        if number == WITHOUT:
            return numbers
        if not ((numbers == number).all() and 0 <= number < len(self._chosen)):
            raise MalformedMessage(f"demonstrations {numbers.tolist()} are no choice of the worker")
        return np.array(list(self._chosen)[number])


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays with a worker of one answer, which ``kind``, number and iteration identify.

    ``demonstrations`` (U,) are those that were shown, after a step the most probable ones, and
    ``choice`` is their number. ``losses`` are those of the samples (I,) or rows (B,), as the black
    box gave them, ``loss`` and ``accuracy`` what they come to.
    """

    kind: str
    number: int
    iteration: int
    choice: int
    demonstrations: IntArray
    losses: FloatArray
    loss: float
    accuracy: float | None = None
    q: FloatArray | None = None


class Home(Protocol):
    """Where the workers of a process keep what they do not tell."""

    def keep(self, worker: int, kept: Kept) -> None:
        """Keep what belongs to ``worker``."""
        ...


class Secrets:
    """Keeps what is private of the messages of several workers.

    Parameters
    ----------
    random : by worker, demonstrations (U,) drawn at random
    home : where it is kept; nowhere if None
    """

    def __init__(self, random: Mapping[int, IntArray], home: Home | None = None) -> None:
        self.home = home
        self.choices = {worker: Choices(drawn) for worker, drawn in random.items()}

    def hello(self, worker: int, hello: Hello) -> Hello:
        """``hello`` as it is told."""
        number = self.choices[worker].number(hello.q.argmax(axis=1))
        return replace(hello, q=NOTHING, choice=number)

    def told(self, answers: Iterable[tuple[int, Answer, ToServer]]) -> list[ToServer]:
        """Each worker's message about an answer as it is told; the rest is kept at home."""
        return [self._told(*each) for each in answers]

    def _told(self, worker: int, answer: Answer, message: ToServer) -> ToServer:
        choices = self.choices[worker]
        if isinstance(message, Report):
            shown = message.q.argmax(axis=1)
            number = choices.number(shown)
            about = "report", message.number, message.iteration, number, shown
            self._keep(worker, Kept(*about, *_losses(answer), q=message.q))
            return replace(message, q=NOTHING, losses=_means(message), choice=number)
        if isinstance(message, LowerReport):
            number = choices.number(message.k)
            about = "lower_report", message.number, message.estimation, number, message.k
            self._keep(worker, Kept(*about, *_losses(answer)))
            return replace(message, k=NO_INDICES, losses=_means(message))
        assert isinstance(message, EvaluationReport)
        number = choices.number(message.demonstrations)
        kind = f"{message.candidate.name} on {message.split.name}".lower()
        about = kind, message.iteration, message.iteration, number, message.demonstrations
        self._keep(worker, Kept(*about, *_of_rows(answer), float(answer.accuracies[0])))
        rows = message.rows
        if isinstance(rows, RowLosses):
            rows = RowLosses(np.full(len(rows), message.loss))
        shown = np.full(len(message.demonstrations), number)
        return replace(message, demonstrations=shown, rows=rows)

    def _keep(self, worker: int, kept: Kept) -> None:
        if self.home is not None:
            self.home.keep(worker, kept)


def _means(message: Report | LowerReport) -> FloatArray:
    return np.full(len(message.losses), message.loss)


def _losses(answer: Answer) -> tuple[FloatArray, float]:
    """Of the samples, and their mean."""
    return answer.losses, float(answer.losses.mean())


def _of_rows(answer: Answer) -> tuple[FloatArray, float]:
    """Of the rows of the only prompt, as far as they are known, and their mean."""
    if answer.log_probabilities is None or answer.labels is None:
        return answer.losses, float(answer.losses[0])
    rows = np.arange(len(answer.labels))
    return -answer.log_probabilities[0][rows, answer.labels], float(answer.losses[0])
