"""The table /batch of a file that is being written."""

from collections.abc import Mapping

import h5py
import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray
from asyndbt_mpi.log import checksums, schema
from asyndbt_mpi.log.schema import Column

CHUNK = 16


class Batches:
    """How many rows every group has after each batch, and the checksums of each batch's rows.

    Attributes
    ----------
    checksums : by path, of the column's rows in the batch that is being written

    Parameters
    ----------
    file : has the datasets of ``groups``, and what `create` makes
    """

    def __init__(self, file: h5py.File, groups: Mapping[str, tuple[Column, ...]]) -> None:
        self.columns = {column.path: column for group in groups.values() for column in group}
        self.checksums = dict.fromkeys(self.columns, 0)
        # They stay open: HDF5 writes when one is closed, and then nobody hears that it failed.
        self._of_columns = {path: file[path] for path in self.columns}
        self._rows, self._checksums = (file[path] for path in schema.batch())
        ends = self._rows[:]
        self._ends: dict[str, list[int]] = {group: ends[group].tolist() for group in groups}

    def end(self, rows: Mapping[str, int]) -> None:
        """End the batch after which the groups have so many ``rows``."""
        sums = self.checksums
        self.checksums = dict.fromkeys(self.columns, 0)
        for group, ends in self._ends.items():
            ends.append(rows[group])
        _append(self._rows, schema.rows_by_group(rows))
        record = np.zeros((), schema.CHECKSUMS)
        for path, checksum in sums.items():
            record[path] = checksum
        _append(self._checksums, record)

    def cut(self, rows: Mapping[str, int]) -> bool:
        """Keep only so many ``rows`` of each group; False if no batch ends there or behind.

        Batches that are left without rows go.
        """
        groups = list(self._ends)
        before = np.transpose([self._ends[group] for group in groups]).reshape(-1, len(groups))
        wanted = np.array([rows[group] for group in groups])
        after = np.minimum(before, wanted)
        if not len(after) or (after[-1] != wanted).any():
            return False
        stays = (np.diff(after, axis=0, prepend=0) > 0).any(axis=1)
        stays[0] = True  # it has the start of /iteration/z
        changed = (after != before).any(axis=1)
        if changed.any():
            self._ends = dict(zip(groups, after[stays].T.tolist(), strict=True))
            self._rewrite(int(np.argmax(changed)), stays, changed)
        return True

    def _rewrite(self, first: int, stays: BoolArray, changed: BoolArray) -> None:
        """From batch ``first`` on, write those that stay; of the ``changed`` ones anew."""
        records = self._checksums[first:][stays[first:]]
        bounds = {
            path: schema.bounds(column, self._ends[path.partition("/")[0]])
            for path, column in self.columns.items()
        }
        for index in np.flatnonzero(changed[stays]):
            for path, column in self.columns.items():
                rows = self._of_columns[path][slice(*bounds[path][index : index + 2])]
                records[index - first][path] = checksums.of_rows(column, rows)
        ends = {group: ends[first:] for group, ends in self._ends.items()}
        numbers = np.zeros(len(records), schema.ROWS_BY_GROUP)
        for group, of_group in ends.items():
            numbers[group] = of_group
        for dataset, values in ((self._rows, numbers), (self._checksums, records)):
            dataset.resize(first + len(values), axis=0)
            dataset[first:] = values

    def renew(self, path: str, first: int) -> None:
        """Rows of ``path`` from the ``first`` on were changed in place, in batches that ended."""
        column = self.columns[path]
        bounds = schema.bounds(column, self._ends[path.partition("/")[0]])
        start = max(0, int(np.searchsorted(bounds, first, side="right")) - 1)
        rows = self._of_columns[path][bounds[start] :]
        records = self._checksums[start:]
        inner = (bounds[start + 1 : -1] - bounds[start]).tolist()
        for record, of_batch in zip(records, np.split(rows, inner), strict=True):
            record[path] = checksums.of_rows(column, of_batch)
        self._checksums[start:] = records


def create(file: h5py.File) -> None:
    """The table, empty."""
    for path, dtype in schema.batch().items():
        file.create_dataset(path, (0,), dtype, maxshape=(None,), chunks=(CHUNK,))


def _append(dataset: h5py.Dataset, record: np.ndarray) -> None:
    dataset.resize(len(dataset) + 1, axis=0)
    dataset[-1] = record
