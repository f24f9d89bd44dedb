"""Checks of the races at the end of a run: who was scored, on how many rows, in which order."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from asyndbt_mpi.config import Config
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.messages import MalformedMessage
from asyndbt_mpi.protocol.race import Race, Rounds, first_rows, is_same, rounds

MOST_HALVED = 16
"""More often than a worker's rows can be halved."""


def plans(config: Config) -> Iterator[Rounds]:
    """The rounds that a race can have, the longest first; with a budget there are several."""
    most, by_rows = config.run.races, not config.llm.is_function
    budget = config.budget
    if not (most and budget.limits_calls):
        yield rounds(most, by_rows)
        return
    for halved in range(MOST_HALVED if by_rows else 1):
        for prompts in range(most, 1, -1):
            yield rounds(prompts, by_rows, halved)
    yield rounds(0, by_rows)


def differences(
    log: Log, race: Race, column: Mapping[str, np.ndarray], rows: Sequence[int]
) -> Iterator[str]:
    """Let ``race`` run by the scores in ``rows`` of /evaluation, as far as these go.

    ``column`` has the columns of /evaluation by name.
    """
    scored: dict[int, int] = {}
    for row in rows:
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
        losses = _losses(log, row, float(column["loss"][row]))
        try:
            race.check(losses)
        except MalformedMessage as error:
            yield f"{place}: {error}"
            return
        scored[request.halvings] = len(losses)
        race.take(prompt, losses)
    if 0 in scored and not log.config.llm.is_function:
        for halved, number in scored.items():
            if number != first_rows(scored[0], halved):
                yield (
                    f"/evaluation rows {rows[0]} to {rows[-1]}: a round of the race is of"
                    f" {number} rows, of {scored[0]} halved {halved} times"
                )


def _losses(log: Log, row: int, loss: float) -> np.ndarray:
    """Of each of the rows behind ``row`` of /evaluation; a function's is its only one."""
    start, end = np.searchsorted(log.answered, (row, row + 1)).tolist()
    return log.rows("answer/loss", start, end) if end > start else np.array([loss])
