"""What a log being written has in its HDF5 file: rows by group, attributes, checksums of both.

When any of it reaches the disk is the business of `Writer`.
"""

from collections.abc import Iterable, Mapping, Sequence

import h5py
import numpy as np

from asyndbt_mpi import __version__
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.log import batches, checksums, datasets, rows, schema
from asyndbt_mpi.log.batches import Batches
from asyndbt_mpi.log.schema import Column
from asyndbt_mpi.protocol.messages import Shapes


class Tables:
    """The tables of an open file.

    Attributes
    ----------
    lengths : by group, how many rows are written

    Parameters
    ----------
    file : has them all; see `create`
    lengths : rows of each group that count
    """

    def __init__(self, file: h5py.File, config: Config, lengths: Mapping[str, int]) -> None:
        self.file = file
        self.lengths = dict(lengths)
        self._every = schema.period(config)
        # With log.private q stays with the workers.
        self._left_out = {"report/q"} if config.log.private else set()
        self._groups = schema.groups(config.algorithm.lower_distance)
        self._batches = Batches(file, self._groups)
        self._datasets = {
            column.path: file[column.path]
            for columns in self._groups.values()
            for column in columns
        }

    def cut(self) -> bool:
        """Cut off the rows that do not count; False if the batches are damaged."""
        for path, dataset in self._datasets.items():
            rows = self.lengths[path.partition("/")[0]]
            dataset.resize(rows + (path == "iteration/z"), axis=0)
        return self._batches.cut(self.lengths)

    def describe(self, attributes: Mapping[str, object]) -> None:
        """Set the root's attributes: those of this run's log, and the given ones."""
        lengths = schema.rows_by_group(self.lengths)
        self.file.attrs.update(
            {
                "format": schema.FORMAT,
                "format_version": schema.FORMAT_VERSION,
                "package_version": __version__,
                **attributes,
                "kept_rows": lengths,
                "committed_rows": lengths,
                "committed": np.int64(self.lengths["iteration"]),
            }
        )
        checksums.seal(self.file)
        self._sealed = checksums.parts(self.file)

    def append(self, gathered: Mapping[str, Sequence[rows.Row]]) -> None:
        """Add a batch of rows by group; nothing if there are none."""
        for group, new in gathered.items():
            if new:
                self._append_rows(group, new)
        if any(gathered.values()):
            self._batches.end(self.lengths)

    def _append_rows(self, group: str, new: Sequence[rows.Row]) -> None:
        columns: list[datasets.Values] = list(zip(*new, strict=True))
        if group in rows.BLOCKS:
            columns = [np.concatenate(blocks) for blocks in columns]
        for column, values in zip(self._groups[group], columns, strict=True):
            start = self.lengths[group] + (column.path == "iteration/z")  # its row 0: the start
            self._append(column, start, values)
        self.lengths[group] += len(columns[0])

    def begin(self, z0: FloatArray) -> None:
        """The first batch: row 0 of /iteration/z alone."""
        self._append(self._groups["iteration"][0], 0, [z0])
        self._batches.end(self.lengths)

    def _append(self, column: Column, start: int, values: datasets.Values) -> None:
        some = column.dtype == schema.TEXT or (column.iterate and self._every > 1)
        some |= column.path in self._left_out
        append = datasets.append_some if some else datasets.append
        before = self._batches.checksums[column.path]
        self._batches.checksums[column.path] = append(
            self._datasets[column.path], column, start, values, before
        )

    def enter_drops(self, drops: Sequence[tuple[int, int, int]]) -> None:
        """Bring /plane/dropped up to date: plane, position and iteration of each of ``drops``."""
        planes, positions, iterations = np.array(drops).T
        first = int(planes.min())
        dropped = self._datasets["plane/dropped"][first:]
        dropped[planes - first, positions] = iterations
        self._datasets["plane/dropped"][first:] = dropped
        self._batches.renew("plane/dropped", first)

    def enter_hellos(self, hellos: Mapping[int, tuple[str, str, str]]) -> None:
        """Keep what workers say of themselves: description, cost bounds and model by worker."""
        for column, name in enumerate(("worker/description", "worker/cost_bounds", "worker/model")):
            texts = self.file[name].asstr()[:]
            for worker, said in hellos.items():
                texts[worker - 1] = said[column]
            self.file[name][:] = texts
            self._sealed[name] = checksums.of_some(Column(name, "R", schema.TEXT), list(texts))

    def enter_iterates(self, iterates: Iterable[tuple[str, int, FloatArray]]) -> None:
        """Store iterates that were left out: path, row and value of each."""
        first: dict[str, int] = {}
        for path, row, iterate in iterates:
            self._datasets[path][row] = iterate
            first[path] = min(row, first.get(path, row))
        for path, row in first.items():
            self._batches.renew(path, row)

    def count(self, logging_seconds: float) -> None:
        """Say how many rows there are, and seal that; the last thing written of a batch."""
        self._set("committed_rows", schema.rows_by_group(self.lengths))
        self._set("logging_seconds", logging_seconds)
        self._set("committed", np.int64(self.lengths["iteration"]))
        self.file.attrs.modify(checksums.SEAL, checksums.of_parts(self._sealed))

    def _set(self, name: str, value: object) -> None:
        """Change an attribute of the root, which is sealed again later."""
        self.file.attrs.modify(name, value)
        self._sealed[name] = checksums.of_attribute(value)


def create(
    file: h5py.File,
    config: Config,
    shapes: Shapes,
    workers: int,
    vocabulary: Sequence[str],
    z0: FloatArray,
) -> Tables:
    """The tables of a new log, with the start ``z0`` (M, N) as the only row."""
    nothing = [""] * workers
    datasets.create_texts(file, shapes, workers, vocabulary, nothing, nothing, nothing)
    groups = schema.groups(config.algorithm.lower_distance)
    for columns in groups.values():
        for column in columns:
            datasets.create(file, column, config, shapes, workers)
    batches.create(file)
    tables = Tables(file, config, dict.fromkeys(groups, 0))
    tables.begin(z0)
    return tables
