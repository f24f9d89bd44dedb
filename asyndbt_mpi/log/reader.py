"""Reads a log, also beside the run that still writes it.

A reader beside a writer may meet a batch half written, and addresses beyond the end that it
knew of. Rows that count never change, so it opens the file anew and tries again.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self, TypeVar

import h5py
import numpy as np

from asyndbt_mpi.config import Config
from asyndbt_mpi.log import schema
from asyndbt_mpi.protocol.messages import Shapes

ATTEMPTS = 10
SECONDS_BETWEEN_ATTEMPTS = 0.02
BLOCK_BYTES = 1 << 25

Result = TypeVar("Result")


class LogError(ValueError):
    """The file is no log that this version can read; one line that names it and says why."""


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


class Log:
    """A log as it stood when it was opened.

    ``log["report/p"]`` is a dataset as an array, without the rows that do not count: those of
    iterations that were not committed. The names and shapes are those of `schema`.

    Attributes
    ----------
    committed : how many iterations count
    committed_rows : by group, how many rows are in the file for certain
    status : "running", "finished" or "interrupted"
    config : Config, as resolved by the run
    shapes : Shapes, the sizes M, N, U and V
    workers, active_workers, max_delay, seed : R, S, tau and the seed
    transport : "mpi", "virtual" or "replay"
    package_version : what wrote it
    logging_seconds : what writing the log took rank 0, of the wall clock
    every : p, q and z are there for every so-manieth iteration; the others read as NaN

    Raises
    ------
    LogError
        On opening: no such file, not HDF5, no asyndbt log, or of another format version.
        On reading: the dataset is missing or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.status = "running"  # until the file says otherwise: it may be in the making
        self._file: h5py.File | None = None
        self._counts: dict[str, int] = {}
        try:
            self._attempt(self._read_attributes)
        except LogError:
            self.close()
            raise

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
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

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
    def stationarity(self) -> Stationarity | None:
        """How far from stationary the iterates are; None if nobody has worked it out."""

        def kind(file: h5py.File) -> str | None:
            group = file.get("stationarity")
            return None if group is None else str(group.attrs.get("kind"))

        found = self._attempt(kind)
        if found is None:
            return None
        if found not in schema.STATIONARITY_KINDS:
            raise self._error(f"/stationarity is of kind {found!r}")
        names = ("iteration", *schema.STATIONARITY)
        columns = [self.rows(f"stationarity/{name}") for name in names]
        if len({len(column) for column in columns}) > 1:
            raise self._error("the columns of /stationarity have different lengths")
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
        row_bytes = max(1, self._read(path, 0, 1).nbytes)
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
                key = self._read(schema.KEY[group], 0, count)
                count = int(np.searchsorted(key, self.committed))
            self._counts[group] = count
        return self._counts[group]

    def length(self, path: str) -> int:
        """How many rows ``path`` has in the file, whether they count or not."""
        return self._attempt(lambda file: len(self._dataset(file, path)))

    def type_and_row(self, path: str) -> tuple[np.dtype, tuple[int, ...]]:
        """Type of the dataset ``path`` and shape of one of its rows."""

        def read(file: h5py.File) -> tuple[np.dtype, tuple[int, ...]]:
            dataset = self._dataset(file, path)
            return dataset.dtype, dataset.shape[1:]

        return self._attempt(read)

    def _read(self, path: str, start: int, stop: int) -> np.ndarray:
        def read(file: h5py.File) -> np.ndarray:
            dataset = self._dataset(file, path)
            if h5py.check_string_dtype(dataset.dtype):
                dataset = dataset.asstr()
            rows: np.ndarray = dataset[start:stop]
            return rows

        return self._attempt(read)

    def _dataset(self, file: h5py.File, path: str) -> h5py.Dataset:
        dataset = file.get(path)
        if not isinstance(dataset, h5py.Dataset):
            raise self._error(f"the dataset {path!r} is missing")
        return dataset

    def _attempt(self, read: Callable[[h5py.File], Result]) -> Result:
        """``read`` the file; again and again while a writer may be in the way."""
        attempts = 0
        while True:
            attempts += 1
            try:
                if self._file is None:
                    # Without a lock: the writer may be at work, and file systems may have none.
                    self._file = h5py.File(self.path, "r", locking=False)
                return read(self._file)
            except (OSError, RuntimeError) as error:
                hopeless = self.status != "running" or not _is_hdf5(self.path)
                if hopeless or attempts == ATTEMPTS:
                    raise self._error(_why_not(self.path, error)) from error
            self.close()
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)

    def _read_attributes(self, file: h5py.File) -> None:
        attributes = file.attrs
        if attributes.get("format") != schema.FORMAT:
            raise self._error("an HDF5 file, but not an asyndbt log")
        version = attributes.get("format_version")
        if version != schema.FORMAT_VERSION:
            raise self._error(
                f"has format version {version}; this program reads {schema.FORMAT_VERSION}"
            )
        try:
            self.committed = int(attributes["committed"])
            rows = attributes["committed_rows"]
            self.committed_rows = {group: int(rows[group]) for group in rows.dtype.names}
            self.workers = int(attributes["workers"])
            self.active_workers = int(attributes["active_workers"])
            self.max_delay = int(attributes["max_delay"])
            self.seed = int(attributes["seed"])
            self.transport = str(attributes["transport"])
            self.package_version = str(attributes["package_version"])
            self.logging_seconds = float(attributes.get("logging_seconds", float("nan")))
            self.config = Config.from_toml(str(attributes["config"]))
            names = "positions", "words", "classes", "pool"
            positions, words, classes, pool = (int(attributes[name]) for name in names)
            samples = self.config.estimator.losses
            self.shapes = Shapes(positions, words, classes, pool, samples)
            self.status = str(attributes["status"])
        except KeyError as error:
            raise self._error(f"an attribute is missing: {error.args[0]}") from error
        except ValueError as error:
            raise self._error(f"a bad attribute: {error}") from error
        self.every = schema.period(self.config)
        self.groups = schema.groups(self.config.algorithm.lower_distance)

    def _error(self, reason: str) -> LogError:
        return LogError(f"{self.path}: {reason}")


def _is_hdf5(path: str) -> bool:
    return os.path.isfile(path) and bool(h5py.is_hdf5(path))


def _why_not(path: str, error: Exception) -> str:
    if not os.path.exists(path):
        return "no such file"
    if os.path.isdir(path):
        return "is a folder"
    if os.path.isfile(path) and os.access(path, os.R_OK) and not _is_hdf5(path):
        return "not an HDF5 file"
    return f"cannot be read: {str(error).splitlines()[0]}"
