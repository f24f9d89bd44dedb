"""Does a log still read as it was written? Its checksums tell."""

import math
from collections.abc import Iterator

import h5py
import numpy as np

from asyndbt_mpi.algorithm.types import IntArray
from asyndbt_mpi.log import checksums, schema
from asyndbt_mpi.log.checksums import SEAL
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.file import BLOCK_BYTES, LogFile
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.schema import Column


def damage(log: Log) -> Iterator[str]:
    """What differs from its checksum, or cannot be read, line by line."""
    yield from damaged_roots(log)
    yield from damaged_rows(log)


def damaged_roots(log: Log) -> Iterator[str]:
    """The attributes or texts of fixed length are not what they were."""
    paths = ", ".join(f"/{column.path}" for column in schema.fixed())
    try:
        if not log.file.attempt(_seal_holds):
            yield f"the attributes, {paths}: one differs from the checksum"
    except LogError as error:
        yield str(error)


def damaged_rows(log: Log) -> Iterator[str]:
    """Batches and additions that are not what they were."""
    try:
        yield from _damaged_rows(log)
    except LogError as error:
        yield str(error)


def _damaged_rows(log: Log) -> Iterator[str]:
    file = log.file
    if not file.attempt(_stationarity_holds):
        yield "/stationarity differs from its checksum"
    # The first batch may have no rows of its own, each of the others has one. Beside a run there
    # may be more batches by now than when its log was opened.
    most = 1 + sum(file.committed_rows.values())
    ends = file.rows("batch/rows", 0, min(file.length("batch/rows"), most))
    whole = [all(row[group] == n for group, n in file.committed_rows.items()) for row in ends]
    if True not in whole:
        yield "/batch/rows: the last batch does not end at the committed rows"
        return
    ends = ends[: whole.index(True) + 1]
    for path in schema.batch():
        if file.status != "running" and file.length(path) != len(ends):
            yield f"/{path} has {file.length(path)} rows, not {len(ends)}"
            return
    if any((np.diff(ends[group], prepend=0) < 0).any() for group in log.groups):
        yield "/batch/rows: a batch ends before it begins"
        return
    for columns in log.groups.values():
        for column in columns:
            for batch in _differing(file, column, ends):
                place = _iterations(ends["iteration"], batch)
                yield f"{place}: /{column.path} differs from its checksum"


def _seal_holds(file: h5py.File) -> bool:
    return bool(file.attrs.get(SEAL) == checksums.of_parts(checksums.parts(file)))


def _stationarity_holds(file: h5py.File) -> bool:
    group = file.get("stationarity")
    return group is None or bool(group.attrs.get(SEAL) == checksums.of_stationarity(group))


def _differing(file: LogFile, column: Column, ends: np.ndarray) -> Iterator[int]:
    """Numbers of the batches whose rows of ``column`` are not those of their checksum.

    As many batches are read at once as a block holds, together with their checksums: beside a
    run, some rows change in their places.
    """
    bounds = schema.bounds(column, ends[column.path.partition("/")[0]])
    dtype, row = file.type_and_row(column.path)
    step = max(1, BLOCK_BYTES // max(1, dtype.itemsize * math.prod(row)))
    first = 0
    while first < len(ends):
        fitting = int(np.searchsorted(bounds, bounds[first] + step, side="right")) - 1
        last = max(first + 1, fitting)
        compare = _Comparison(column, first, bounds[first : last + 1], step)
        yield from file.attempt(compare, "batch")
        first = last


class _Comparison:
    """Holds batches against their checksums: from the ``first`` on, as ``bounds`` delimit them."""

    def __init__(self, column: Column, first: int, bounds: IntArray, step: int) -> None:
        self.column, self.first, self.bounds, self.step = column, first, bounds, step

    def __call__(self, file: h5py.File) -> list[int]:
        count = len(self.bounds) - 1
        logged = file["batch/checksum"][self.first : self.first + count][self.column.path]
        found = [self._checksum(file, *self.bounds[index : index + 2]) for index in range(count)]
        differing: IntArray = self.first + np.flatnonzero(logged != np.array(found, "u4"))
        return list(differing.tolist())

    def _checksum(self, file: h5py.File, start: int, stop: int) -> int:
        dataset, checksum = file[self.column.path], 0
        for low in range(start, stop, self.step):
            rows = dataset[low : min(low + self.step, stop)]
            checksum = checksums.of_rows(self.column, rows, checksum)
        return checksum


def _iterations(ends: IntArray, batch: int) -> str:
    """Which iterations the ``batch`` brought."""
    first, last = (ends[batch - 1] if batch else 0), ends[batch] - 1
    if last < first:
        return f"before iteration {first}"
    return f"iterations {first} to {last}"
