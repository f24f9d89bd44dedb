"""Which workers took part when: lost ones do not count until they have said hello again."""

from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import EventKind


@dataclass(frozen=True, slots=True)
class Attendance:
    """``live`` (T, R): who counted when each iteration was committed.

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
