"""The table /batch of a file that is being written."""

from collections.abc import Mapping

import h5py
import numpy as np

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
    file : has the datasets of ``groups``
    """

    def __init__(self, file: h5py.File, groups: Mapping[str, tuple[Column, ...]]) -> None:
        self.columns = {column.path: column for group in groups.values() for column in group}
        self.checksums = dict.fromkeys(self.columns, 0)
        self._ends: dict[str, list[int]] = {group: [] for group in groups}
        # They stay open: HDF5 writes when one is closed, and then nobody hears that it failed.
        self._of_columns = {path: file[path] for path in self.columns}
        self._rows, self._checksums = (
            file.create_dataset(path, (0,), dtype, maxshape=(None,), chunks=(CHUNK,))
            for path, dtype in schema.batch().items()
        )

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


def _append(dataset: h5py.Dataset, record: np.ndarray) -> None:
    dataset.resize(len(dataset) + 1, axis=0)
    dataset[-1] = record
