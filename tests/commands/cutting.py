"""Logs as a kill leaves them, and whether two logs hold the same."""

from pathlib import Path

import h5py
import numpy as np

from asyndbt_mpi.log import schema
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import SPLIT_OF, EventKind
from tests.log.reseal import reseal


def cut(path: Path, committed: int, more_events: int = 0) -> None:
    """Make of a finished log what a kill would have left, after so many committed iterations.

    ``more_events`` had been written, though no iteration had used them yet.
    """
    with Log(path) as log:
        counts = {group: log.count(group) for group in schema.ROWS_BY_GROUP.names}
        keys = {group: log[key] for group, key in schema.KEY.items()}
        used = log["event/iteration"] < committed
        kinds, answered = log["event/kind"], log["answer/evaluation"]
    counts |= {group: int((key < committed).sum()) for group, key in keys.items()}
    counts["iteration"] = committed
    counts["event"] = min(int(used.sum()) + more_events, len(kinds))
    evaluated = np.isin(kinds[: counts["event"]], list(SPLIT_OF))
    counts["evaluation"] = int(evaluated.sum())
    counts["answer"] = int(np.searchsorted(answered, counts["evaluation"]))
    with h5py.File(path, "r+") as file:
        rows = np.zeros((), dtype=schema.ROWS_BY_GROUP)
        for group, count in counts.items():
            rows[group] = count
        file.attrs.modify("committed_rows", rows)
        file.attrs.modify("committed", np.int64(committed))
        file.attrs["status"] = "running"
        reseal(file)


def assert_same(one: Path, other: Path, leave_out: tuple[str, ...] = ()) -> None:
    """All that two logs hold, but for the seconds of the wall clock."""
    with Log(one) as a, Log(other) as b:
        assert (a.committed, a.status) == (b.committed, b.status)
        kinds = [log["event/kind"] != EventKind.RESUMED for log in (a, b)]
        for group, columns in a.groups.items():
            for column in columns:
                if column.path in leave_out:
                    continue
                rows = a[column.path], b[column.path]
                if group == "event":
                    rows = rows[0][kinds[0]], rows[1][kinds[1]]
                np.testing.assert_array_equal(*rows, column.path)
        assert a.vocabulary == b.vocabulary
        assert a.descriptions == b.descriptions
