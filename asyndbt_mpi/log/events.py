"""The events of a log, read back as records, and which workers took part when."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, FloatArray
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.rows import cost_bounds_of
from asyndbt_mpi.protocol.evaluations import CONSENSUS
from asyndbt_mpi.protocol.messages import CostBounds, Costs, RowLosses, RowScores, Split
from asyndbt_mpi.protocol.race import Prompt
from asyndbt_mpi.protocol.records import SPLIT_OF, Event, EventKind

NUMBERS = ("worker", "number", "iteration", "time", "sent_time", "accuracy")
COSTS = (
    *("llm_calls", "prompt_tokens", "compute_seconds", "prompts", "completion_tokens"),
    "unrecognised",
)
KINDS = frozenset(map(int, EventKind))


def events(log: Log) -> Iterator[Event]:
    """Every event that counts, in the order in which they happened.

    A hello has the needs, and the digest of the model, that the worker named last.

    Raises
    ------
    LogError
        An event is of no kind or worker that a log has, a worker's cost bounds are no counts, or
        there are not as many evaluations as their events.
    """
    bounds = [_cost_bounds(log, worker, text) for worker, text in enumerate(log.cost_bounds, 1)]
    kinds, texts, losses = log["event/kind"], log["event/text"], log["event/losses"]
    numbers = [log[f"event/{name}"].tolist() for name in NUMBERS]
    costs = [log[f"event/{name}"].tolist() for name in COSTS]
    evaluated, number_evaluated = _evaluated(log), int(np.isin(kinds, list(SPLIT_OF)).sum())
    if (there := int((log.rows("evaluation/worker") != CONSENSUS).sum())) != number_evaluated:
        raise LogError(
            f"{log.path}: /evaluation has {there} answers of workers, /event {number_evaluated}"
        )
    for row, kind in enumerate(kinds.tolist()):
        worker, number, iteration, time, sent_time, accuracy = (column[row] for column in numbers)
        least = 1 if kind == EventKind.HELLO else 0
        if kind not in KINDS or not least <= worker <= log.workers:
            raise LogError(f"{log.path}: /event row {row} is of kind {kind} and worker {worker}")
        bias, rows, prompt = next(evaluated) if kind in SPLIT_OF else (None, None, None)
        yield Event(
            EventKind(kind), worker, number, iteration, time, Costs(*(c[row] for c in costs)),
            sent_time, losses[row], accuracy, str(texts[row]),
            bounds[worker - 1] if kind == EventKind.HELLO else None,
            log.models[worker - 1] if kind == EventKind.HELLO else "", bias, rows, prompt,
        )  # fmt: skip


def _evaluated(log: Log) -> Iterator[tuple[FloatArray, RowScores | RowLosses | None, Prompt]]:
    """What the log has of each worker's evaluation: bias (U,), the rows if any, the prompt."""
    (rows,) = np.nonzero(log.rows("evaluation/worker") != CONSENSUS)
    biases, answered = log.rows("evaluation/bias"), log.rows("answer/evaluation")
    words, shown = log.rows("evaluation/words"), log.rows("evaluation/demonstrations")
    bounds = (np.searchsorted(answered, rows, side).tolist() for side in ("left", "right"))
    tested = log.rows("evaluation/split") == Split.TEST
    for row, start, end in zip(rows.tolist(), *bounds, strict=True):
        scores: RowScores | RowLosses | None = None
        if end > start and tested[row]:
            columns = "answer/label", "answer/log_probabilities"
            scores = RowScores(*(log.rows(path, start, end) for path in columns))
        elif end > start:
            scores = RowLosses(log.rows("answer/loss", start, end))
        yield biases[row], scores, (words[row], shown[row])


def _cost_bounds(log: Log, worker: int, text: str) -> CostBounds | None:
    try:
        return cost_bounds_of(text)
    except ValueError as error:
        raise LogError(f"{log.path}: /worker/cost_bounds of worker {worker} {error}") from error


@dataclass(frozen=True, slots=True)
class Attendance:
    """Who took part when: a lost worker does not count until it has said hello again.

    ``live`` (T, R): who counted when each iteration was committed.
    ``returns``: iteration and column of every worker that was lost and said hello again.
    """

    live: BoolArray
    returns: list[tuple[int, int]]


def attendance(log: Log) -> Attendance:
    """Read from the log's events who was excluded, lost or back again."""
    live = np.ones((log.committed, log.workers), dtype=bool)
    returns = []
    returned: set[int] = set()
    kinds = log["event/kind"]
    comings = (EventKind.HELLO, EventKind.EXCLUDED, EventKind.LOST, EventKind.RETURNED)
    rows = np.flatnonzero(np.isin(kinds, comings))
    columns = (log[f"event/{name}"][rows].tolist() for name in ("iteration", "worker"))
    for kind, iteration, worker in zip(kinds[rows].tolist(), *columns, strict=True):
        column = worker - 1
        if kind == EventKind.RETURNED:
            returned.add(column)
        elif kind != EventKind.HELLO:
            live[iteration:, column] = False
        elif column in returned:
            returned.discard(column)
            live[iteration:, column] = True
            returns.append((iteration, column))
    return Attendance(live, [(iteration, v) for iteration, v in returns if iteration < len(live)])
