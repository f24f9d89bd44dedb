"""Checks of the races at the end of a run: who was scored, on how many rows, in which order."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

import numpy as np

from asyndbt_mpi.config import Config
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.rows import cost_bounds_of
from asyndbt_mpi.protocol.messages import MalformedMessage
from asyndbt_mpi.protocol.race import Race, Rounds, first_rows, is_same, rounds


def race_rows(log: Log, worker: int) -> int:
    """How many rows the race of ``worker`` has, as it said in its hello.

    Raises
    ------
    ValueError
        It cannot have said that.
    """
    bounds = cost_bounds_of(log.cost_bounds[worker - 1])
    return bounds.race_rows if bounds and not log.config.llm.is_function else 1


def plans(config: Config, rows: int, entrants: int, scored: Sequence[int]) -> list[Rounds]:
    """The rounds that a race of at most so many ``entrants`` on ``rows`` can have had.

    ``scored`` are the rows of each prompt, in the order of the log: a budget may have had room for
    fewer prompts, on fewer rows. All entrants may also be fewer than there was room for.
    """
    most = config.run.races
    if not (most and config.budget.limits_calls):
        return [rounds(most, rows) if most else []]
    first = max(2, len(list(takewhile(lambda each: each == scored[0], scored))))
    room = range(first, min(most, 2 * first - 2) + 1) if first == entrants else [first]
    every = [rounds(each, rows, halved) for halved in range(rows.bit_length() + 1) for each in room]
    fitting = [
        each for each in every if {*scored} <= {first_rows(rows, halved) for _, halved in each}
    ]
    return fitting or every[:1]


def differences(
    race: Race, column: Mapping[str, np.ndarray], losses: Mapping[int, np.ndarray]
) -> Iterator[str]:
    """Let ``race`` run by what was scored, as far as that goes.

    ``column`` has the columns of /evaluation by name, ``losses`` the losses (B,) of its rows.
    """
    for row, of_row in losses.items():
        request, place = race.next(0), f"/evaluation row {row}"
        if request is None:
            yield f"{place} is of a race that was over"
            return
        candidate = int(column["candidate"][row])
        prompt = column["words"][row], column["demonstrations"][row]
        due = request.words, request.demonstrations
        known = not request.is_of_model
        if candidate != request.candidate or (known and not is_same(prompt, due)):
            of = f"{request.candidate.name.lower()} {due[0].tolist()}, {due[1].tolist()}"
            yield f"{place} should be of the next prompt in the race: {of if known else 'model'}"
            return
        try:
            race.check(of_row)
        except MalformedMessage as error:
            yield f"{place}: {error}"
            return
        race.take(prompt, of_row)


def losses(log: Log, row: int, loss: float) -> np.ndarray:
    """Of each of the rows behind ``row`` of /evaluation; a function's is its only one."""
    start, end = np.searchsorted(log.answered, (row, row + 1)).tolist()
    return log.rows("answer/loss", start, end) if end > start else np.array([loss])
