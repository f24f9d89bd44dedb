"""Checks of a log's estimates and drops: did the server do what was due, when it was due?"""

from collections.abc import Iterator

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.log.reader import Log


def estimates(log: Log) -> Iterator[str]:
    """Estimates of phi that are missing, or that were not due."""
    due, logged = estimating(log), log["lower/iteration"]
    for iteration in np.setdiff1d(due, logged):
        yield f"iteration {iteration}: an estimate of phi is missing"
    for iteration in np.setdiff1d(logged, due):
        yield f"iteration {iteration}: an estimate of phi that was not due"
    for row in np.flatnonzero(np.diff(logged) == 0) + 1:
        yield f"iteration {logged[row]}: more than one estimate of phi"


def estimating(log: Log) -> IntArray:
    """Iterations at whose end phi is to be estimated."""
    algorithm = log.config.algorithm
    end = min(log.committed, algorithm.plane_until)
    return np.arange(algorithm.plane_period - 1, end, algorithm.plane_period)


def drops(log: Log) -> Iterator[str]:
    """Positions of planes that were dropped without a reason, or kept although they were slack."""
    yield from _impossible_drops(log)
    created, positions, dropped = log["plane/created"], log["plane/positions"], log["plane/dropped"]
    duals = _Duals(log)
    standing: IntArray = np.zeros(0, dtype=np.int64)
    arrived = 0
    for iteration in estimating(log).tolist():
        before, arrived = arrived, int(np.searchsorted(created, iteration))
        standing = np.append(standing, np.arange(before, arrived))
        gone = dropped[standing]
        active = positions[standing] & ((gone < 0) | (gone >= iteration))
        standing, active = standing[active.any(axis=1)], active[active.any(axis=1)]
        makes_plane = arrived < len(created) and created[arrived] == iteration
        due = _due(log, duals, iteration, standing, active, makes_plane)
        for index, position in np.argwhere(due != (active & (dropped[standing] == iteration))):
            what = "should be dropped" if due[index, position] else "dropped without a reason"
            yield f"iteration {iteration}, plane {standing[index]}, position {position}: {what}"


def _impossible_drops(log: Log) -> Iterator[str]:
    """Drops of what takes no part (yet), or at a time when nothing is dropped."""
    created, positions, dropped = log["plane/created"], log["plane/positions"], log["plane/dropped"]
    was_dropped = dropped >= 0
    no_part = was_dropped & (~positions | (dropped <= created[:, None]))
    no_time = was_dropped & ~no_part & ~np.isin(dropped, estimating(log))
    for wrong, why in ((no_part, "it does not take part"), (no_time, "phi is not estimated")):
        for plane, position in np.argwhere(wrong):
            yield (
                f"iteration {dropped[plane, position]}, plane {plane}, position {position}: "
                f"dropped, but {why}"
            )


class _Duals:
    """The logged duals, looked up by iteration and plane."""

    def __init__(self, log: Log) -> None:
        self.plane, self.value = log["dual/plane"], log["dual/value"]
        self.ends = np.searchsorted(log["dual/iteration"], np.arange(log.committed + 1))

    def after(self, iteration: int, planes: IntArray) -> FloatArray:
        """The duals of ``planes`` (ascending) after ``iteration``, 0 where there are none."""
        values = np.zeros((len(planes), self.value.shape[1]))
        if iteration < 0:
            return values
        rows = slice(self.ends[iteration], self.ends[iteration + 1])
        _, here, there = np.intersect1d(planes, self.plane[rows], return_indices=True)
        values[here] = self.value[rows][there]
        return values


def _due(
    log: Log,
    duals: _Duals,
    iteration: int,
    standing: IntArray,
    active: BoolArray,
    makes_plane: bool,
) -> BoolArray:
    """What ``iteration`` must drop of the ``standing`` planes' ``active`` positions (L, M).

    Those whose duals are small before and after (22), and then, where a new plane finds no
    room, the plane with the smallest duals.
    """
    algorithm = log.config.algorithm
    after = duals.after(iteration, standing)
    before = duals.after(iteration - 1, standing)
    threshold = algorithm.plane_threshold
    due: BoolArray = active & (after < threshold) & (before < threshold)
    left = np.flatnonzero((active & ~due).any(axis=1))
    if makes_plane and len(left) == algorithm.max_planes:
        sums = np.where(due, 0.0, after)[left].sum(axis=1)
        smallest = left[np.argmin(sums)]
        due[smallest] = active[smallest]
    return due
