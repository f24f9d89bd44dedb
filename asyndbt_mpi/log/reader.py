"""Reads a log, also beside the run that still writes it.

A reader beside a writer may meet a batch half written, and addresses beyond the end that it
knew of. Rows that count never change, so it opens the file anew and tries again.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self

import h5py
import numpy as np

from asyndbt_mpi.log import schema
from asyndbt_mpi.log.chain import Segment, next_path, open_chain
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.protocol.messages import Candidate, Split

__all__ = ["Best", "Log", "LogError", "Stationarity", "printable"]

BLOCK_BYTES = 1 << 25


@dataclass(frozen=True, slots=True)
class Stationarity:
    """What `asyndbt stationarity` has added to a log: squared norms of the parts of the gradient.

    Row n of p, q, z and lam (Q,) is of the state after iteration ``iteration[n]`` (Q,).
    ``kind`` is "exact" or "estimated"; an estimate may be below 0.
    """

    kind: str
    iteration: np.ndarray
    p: np.ndarray
    q: np.ndarray
    z: np.ndarray
    lam: np.ndarray

    @property
    def squared_norm(self) -> np.ndarray:
        """||grad G^t||^2, all parts together; (Q,)."""
        total: np.ndarray = self.p + self.q + self.z + self.lam
        return total


@dataclass(frozen=True, slots=True)
class Best:
    """A worker's own prompt with the least loss on its validation rows, and when it was.

    words (M,) and demonstrations (U,) are indices.
    """

    iteration: int
    loss: float
    words: np.ndarray
    demonstrations: np.ndarray


class Log:
    """A log as it stood when it was opened, be it one file or several (see `chain`).

    ``log["report/p"]`` is a dataset as an array, without the rows that do not count: those of
    iterations that were not committed. The names and shapes are those of `schema`.

    Attributes
    ----------
    committed : how many iterations count
    committed_rows : by group, how many rows are in the log for certain; of events and
        evaluations they are what a run that is continued goes through again
    status : "running", "finished" or "interrupted"
    segments : how often the run was started; a resumed run has begun a segment
    files : the files that the log consists of; a merged one holds several segments
    config : Config, as resolved by the run when it was started last
    shapes : Shapes, the sizes M, N, U and V
    workers, active_workers, max_delay, seed : R, S, tau and the seed
    transport : "mpi", "virtual" or "replay"
    package_version : what wrote it
    data_digest : of the texts of the data; "" if the writer was not told
    logging_seconds : what writing the log took rank 0, of the wall clock
    every : p, q and z are there for every so-manieth iteration; the others read as NaN

    Raises
    ------
    LogError
        On opening: no such file, not HDF5, no asyndbt log, of another format version, or a
        segment that is not the first. On reading: the dataset is missing or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.files: list[Segment] = open_chain(self.path)
        last = self.files[-1]
        self.committed = last.first_rows["iteration"] + last.committed
        self.committed_rows = {
            group: last.first_rows[group] + rows for group, rows in last.committed_rows.items()
        }
        self.segments = last.number + last.segments
        self.status = last.status
        self.workers, self.active_workers = last.workers, last.active_workers
        self.max_delay, self.seed = last.max_delay, last.seed
        self.transport, self.package_version = last.transport, last.package_version
        self.data_digest = last.data_digest
        self.logging_seconds = sum(each.logging_seconds for each in self.files)
        self.config, self.shapes = last.config, last.shapes
        self.every = schema.period(self.config)
        self.groups = schema.groups(self.config.algorithm.lower_distance)
        self._counts: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        for each in self.files:
            each.close()

    def __getitem__(self, path: str) -> np.ndarray:
        """The dataset ``path``, cut to the rows that count; text as an array of str."""
        rows = self.rows(path)
        if path.startswith("evaluation/"):
            rows = rows[self.rows("evaluation/iteration") <= self.committed]
        return rows

    @cached_property
    def vocabulary(self) -> list[str]:
        """The N words."""
        return list(self.rows("vocabulary"))

    @cached_property
    def descriptions(self) -> list[str]:
        """What the R workers said of themselves."""
        return list(self.rows("worker/description"))

    @cached_property
    def needs(self) -> list[str]:
        """What answers of each of the R workers can cost at most; see `rows.needs_text`."""
        return list(self.rows("worker/needs"))

    @cached_property
    def models(self) -> list[str]:
        """Digests of the language models of the R workers, "" where not known."""
        return list(self.rows("worker/model"))

    @cached_property
    def best(self) -> dict[int, Best]:
        """By worker, the best that it has found so far; none without run.evaluate_every."""
        columns = ("split", "candidate", "worker", "iteration", "loss", "words", "demonstrations")
        split, candidate, workers, *values = (self[f"evaluation/{name}"] for name in columns)
        own = (split == Split.VALIDATION) & (candidate == Candidate.TUNED) & (workers > 0)
        best: dict[int, Best] = {}
        for row in np.flatnonzero(own).tolist():
            worker = int(workers[row])
            iteration, loss, words, demonstrations = (column[row] for column in values)
            if worker not in best or loss < best[worker].loss:
                best[worker] = Best(int(iteration), float(loss), words, demonstrations)
        return best

    @cached_property
    def stationarity(self) -> Stationarity | None:
        """How far from stationary the iterates are; None if nobody has worked it out."""

        def kind(file: h5py.File) -> str | None:
            group = file.get("stationarity")
            return None if group is None else str(group.attrs.get("kind"))

        first = self.files[0]
        found = first.attempt(kind)
        if found is None:
            return None
        if found not in schema.STATIONARITY_KINDS:
            raise first.error(f"/stationarity is of kind {found!r}")
        names = ("iteration", *schema.STATIONARITY)
        paths = [f"stationarity/{name}" for name in names]
        columns = [first.rows(path, 0, first.length(path)) for path in paths]
        if len({len(column) for column in columns}) > 1:
            raise first.error("the columns of /stationarity have different lengths")
        return Stationarity(found, *columns)

    def rows(self, path: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``start`` to ``stop`` of those of ``path`` that count.

        Of /evaluation, whose rows are in no order, that is every row; `__getitem__` knows which
        of them count.
        """
        count = self.count(path)
        rows = self._read(path, start, count if stop is None else min(stop, count))
        if path == "plane/dropped":
            rows[rows >= self.committed] = -1  # dropped by an iteration that does not count
        return rows

    def blocks(self, path: str) -> Iterator[tuple[int, np.ndarray]]:
        """``rows`` in blocks of bounded size, each with the number of its first row."""
        dtype, row = self.type_and_row(path)
        row_bytes = max(1, dtype.itemsize * math.prod(row))
        step = max(1, BLOCK_BYTES // row_bytes)
        for start in range(0, self.count(path), step):
            yield start, self.rows(path, start, start + step)

    def count(self, path: str) -> int:
        """How many rows `rows` has to offer."""
        group = path.partition("/")[0]
        if group == "iteration":
            return self.committed + (path == "iteration/z")
        if group not in self.groups:
            return self.length(path)
        if group not in self._counts:
            count = self.committed_rows[group]
            if group in schema.KEY:
                # What an earlier file has was committed when the last one began.
                key, before = schema.KEY[group], self.files[-1].first_rows[group]
                rows = self.files[-1].rows(key, 0, count - before)
                count = before + int(np.searchsorted(rows, self.committed))
            self._counts[group] = count
        return self._counts[group]

    def length(self, path: str) -> int:
        """How many rows ``path`` has in the log, whether they count or not."""
        return self._first_row(self.files[-1], path) + self.files[-1].length(path)

    def type_and_row(self, path: str) -> tuple[np.dtype, tuple[int, ...]]:
        """Type of the dataset ``path`` and shape of one of its rows."""
        return self.files[-1].type_and_row(path)

    @property
    def next_segment(self) -> str:
        """The file with which a continued run would go on."""
        return next_path(self.path, self.files[-1])

    def next_first_rows(self) -> dict[str, int]:
        """By group, the first row of the file with which a continued run would go on.

        What counts stays, and so do all events and evaluations: they are gone through again.
        Planes are taken over from the oldest in force, so that they can be dropped there.
        """
        rows = {group: self.count(group) for group in self.groups}
        before = self.files[-1].first_rows["plane"]
        stands = self.rows("plane/positions", before) & (self.rows("plane/dropped", before) < 0)
        standing = np.flatnonzero(stands.any(axis=1))
        if standing.size:
            rows["plane"] = before + int(standing[0])
        return rows

    def _first_row(self, file: Segment, path: str) -> int:
        """Logical number of the first row that ``file`` has of ``path``."""
        return file.first_rows.get(path.partition("/")[0], 0)

    def _read(self, path: str, start: int, stop: int) -> np.ndarray:
        """Rows of ``path`` by their numbers in the whole log, from the last file that has them."""
        pieces: list[np.ndarray] = []
        for file in reversed(self.files):
            first = self._first_row(file, path)
            low = max(start, first)
            if low < stop or not pieces:
                pieces.append(file.rows(path, low - first, max(low, stop) - first))
            stop = min(stop, first)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces[::-1])
