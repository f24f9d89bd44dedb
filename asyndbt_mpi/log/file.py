"""A log's file, as it stood when it was opened; read also beside the run that still writes it.

What a reader meets there may be half a commit, or lie beyond the end that it knew of. Rows that
count stay as they are, so it opens the file anew and tries again. A run that is resumed goes on in
the same file, and cuts off rows that count no more: whoever had them before is told.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import TypeVar

import h5py
import numpy as np

from asyndbt_mpi.config import Config
from asyndbt_mpi.log import schema
from asyndbt_mpi.log.checks import foreign
from asyndbt_mpi.log.checks.foreign import ForeignError
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.storage.journal import (
    HDF5_ERRORS,
    NOT_REGULAR,
    JournaledFile,
    cause_of,
    open_regular,
)
from asyndbt_mpi.protocol.messages import Shapes

SIGNATURE = b"\x89HDF\r\n\x1a\n"
ATTEMPTS = 10
SECONDS_BETWEEN_ATTEMPTS = 0.02
BLOCK_BYTES = 1 << 23
"""Read at once: in much less time than there is between two commits."""

UNREADABLE = (*HDF5_ERRORS, TypeError, ValueError, LookupError, ArithmeticError, MemoryError)
"""What h5py raises where a file is damaged: it may say anything of itself, say that a text is none,
or that an array is larger than any memory."""

Result = TypeVar("Result")


class LogFile:
    """An HDF5 file that is known to be a log, and its attributes.

    Attributes
    ----------
    starts : how often the run was started: 1, and one more for every time that it was resumed
    kept_rows : by group, how many rows the last start found; 0 of the first
    committed, committed_rows : how many iterations, and rows by group, are in it

    The others are those of `reader.Log`.

    Raises
    ------
    LogError
        It is none that this version can read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.status = "running"  # until the file says otherwise: it may be in the making
        self.starts = 0
        self._source: JournaledFile | None = None
        self._file: h5py.File | None = None
        self._cut: set[str] = set()  # groups some of whose rows count no more
        try:
            self.attempt(lambda file: self._read_attributes(file, os.path.getsize(path)))
        except LogError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._close_hdf5()
        if self._source is not None:
            self._source.close()
            self._source = None

    def rows(self, path: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of ``path``, whether they count or not."""
        dtype, row = self.type_and_row(path)
        step = max(1, BLOCK_BYTES // max(1, dtype.itemsize * math.prod(row)))
        first = self._block(path, start, min(start + step, stop))
        if start + step >= stop or len(first) < step:
            return first
        rows = np.empty((stop - start, *row), first.dtype)
        end = len(first)
        rows[:end] = first
        while end < stop - start:
            block = self._block(path, start + end, min(start + end + step, stop))
            rows[end : end + len(block)] = block
            end += len(block)
            if len(block) < step:
                break
        return rows[:end]

    def _block(self, path: str, start: int, stop: int) -> np.ndarray:
        def read(file: h5py.File) -> np.ndarray:
            dataset = self._dataset(file, path)
            foreign.check_unfolding(dataset, start, stop)
            if h5py.check_string_dtype(dataset.dtype):
                dataset = dataset.asstr()
            rows: np.ndarray = dataset[start:stop]
            return rows

        return self.attempt(read, path)

    def length(self, path: str) -> int:
        """How many rows ``path`` has, whether they count or not."""
        return self.attempt(lambda file: len(self._dataset(file, path)))

    def type_and_row(self, path: str) -> tuple[np.dtype, tuple[int, ...]]:
        """Type of the dataset ``path`` and shape of one of its rows."""

        def read(file: h5py.File) -> tuple[np.dtype, tuple[int, ...]]:
            dataset = self._dataset(file, path)
            return dataset.dtype, dataset.shape[1:]

        return self.attempt(read)

    def _dataset(self, file: h5py.File, path: str) -> h5py.Dataset:
        dataset = file.get(path)
        if not isinstance(dataset, h5py.Dataset):
            raise self.error(f"the dataset {path!r} is missing")
        return dataset

    def attempt(self, read: Callable[[h5py.File], Result], path: str = "") -> Result:
        """``read`` the file; again and again while a writer is in the way.

        If it reads rows of ``path``, they must be those that were there when it was opened.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                source, file = self._opened()
                if path.partition("/")[0] in self._cut:
                    raise self.error(
                        f"was resumed since it was opened, and rows of /{path} no longer count:"
                        " open it again"
                    )
                result = read(file)
                if source.error is not None:
                    raise source.error
                if not source.changed():
                    return result
                if attempts == ATTEMPTS:
                    raise self.error("is being written faster than it can be read; try again")
            except LogError:
                raise
            except ForeignError as found:
                # A file that is changing is looked at again: it is whole after every commit.
                if attempts == ATTEMPTS or self._source is None or not self._source.changed():
                    raise self.error(str(found)) from found
            except UNREADABLE as raised:
                error = cause_of(raised)
                if self._source is not None and self._source.error is not None:
                    error = self._source.error
                if not isinstance(error, UNREADABLE):
                    raise error from raised
                hopeless = not self._may_change() or not _is_hdf5(self.path)
                self._close_hdf5()
                if hopeless or attempts == ATTEMPTS:
                    raise self.error(_why_not(self.path, error)) from error
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)

    def _opened(self) -> tuple[JournaledFile, h5py.File]:
        """The file as it is now: HDF5 keeps in mind what may have changed on the disk."""
        if self._source is None:
            self._source = JournaledFile(self.path)
        if self._source.changed():
            self._close_hdf5()
        if self._file is None:
            # By the same handle: another log may have taken this one's name since.
            self._source.refresh()
            file = h5py.File(self._source, "r")
            try:
                foreign.check(file, self._source)
                if self.starts:
                    self._note_resumption(file)
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._source, self._file

    def _may_change(self) -> bool:
        """Whether somebody writes the file, as far as can be told."""
        if self.status == "running":
            return True
        return self._source is not None and self._source.changed()

    def _note_resumption(self, file: h5py.File) -> None:
        """Find out whether all rows still count that did when the log was opened."""
        starts = int(file.attrs["starts"])
        if starts == self.starts + 1:
            kept = _by_group(file.attrs["kept_rows"])
            self._cut |= {
                group for group, rows in self.committed_rows.items() if rows > kept[group]
            }
        elif starts != self.starts:
            self._cut |= set(self.committed_rows)
        if self._cut:
            self._cut.add("batch")

    def _close_hdf5(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_attributes(self, file: h5py.File, size: int) -> None:
        attributes = file.attrs
        try:
            self.committed = int(attributes["committed"])
            self.committed_rows = _by_group(attributes["committed_rows"])
            starts = int(attributes["starts"])
            self.kept_rows = _by_group(attributes["kept_rows"])
            self.workers = int(attributes["workers"])
            self.active_workers = int(attributes["active_workers"])
            self.max_delay = int(attributes["max_delay"])
            self.seed = int(attributes["seed"])
            self.transport = str(attributes["transport"])
            self.package_version = str(attributes["package_version"])
            self.data_digest = str(attributes.get("data_digest", ""))
            self.logging_seconds = float(attributes.get("logging_seconds", float("nan")))
            self.config = Config.from_toml(str(attributes["config"]))
            names = "positions", "words", "classes", "pool"
            positions, words, classes, pool = (int(attributes[name]) for name in names)
            samples = self.config.estimator.losses
            self.shapes = Shapes(positions, words, classes, pool, samples)
            foreign.check_rows(file, self.shapes, self.workers, size)
            self.status = str(attributes["status"])
            self.starts = starts
        except ForeignError:
            raise
        except KeyError as error:
            raise self.error(f"an attribute is missing: {error.args[0]}") from error
        except (TypeError, ValueError) as error:
            raise self.error(f"a bad attribute: {error}") from error

    def error(self, reason: str) -> LogError:
        """What is wrong with this file."""
        return LogError(f"{self.path}: {reason}")


def check_no_link(path: str | os.PathLike[str]) -> None:
    """Raise a LogError if ``path`` is a link: who writes by it would lock another name."""
    if os.path.islink(path):
        raise LogError(f"{os.fspath(path)}: is a link; name the log that it points to")


def remove_log(path: str | os.PathLike[str]) -> None:
    """Delete the log at ``path``, if there is one; what is no log stays."""
    name = os.fspath(path)
    if is_log(name):
        os.unlink(name)


def is_log(path: str) -> bool:
    """Whether the file at ``path`` itself, and not one that it is a link to, is a log's."""
    if os.path.islink(path):
        return False
    try:
        with contextlib.closing(JournaledFile(path)) as source, h5py.File(source, "r") as file:
            return foreign.format_of(file, source) == schema.FORMAT
    except UNREADABLE:
        return False


def _by_group(rows: np.void) -> dict[str, int]:
    """A compound attribute such as ``committed_rows`` as a dictionary."""
    names = schema.ROWS_BY_GROUP.names
    if rows.dtype.names != names:
        raise ValueError(f"rows of {rows.dtype.names}, not of {names}")
    return {group: int(rows[group]) for group in names or ()}


def _is_hdf5(path: str) -> bool:
    """Whether the file begins like one of HDF5's; not asked of HDF5, which trusts every file."""
    try:
        return _signature(path) == SIGNATURE
    except OSError:
        return False


def _signature(path: str) -> bytes:
    handle = open_regular(path, os.O_RDONLY)
    try:
        return os.pread(handle, len(SIGNATURE), 0)
    finally:
        os.close(handle)


def _why_not(path: str, error: Exception) -> str:
    if not os.path.exists(path):
        return "no such file"
    if os.path.isdir(path):
        return "is a folder"
    if not os.path.isfile(path):
        return NOT_REGULAR
    try:
        if _signature(path) != SIGNATURE:
            return "not an HDF5 file"
    except OSError as failed:
        return f"cannot be read: {failed.strerror}"
    return f"cannot be read: {str(error).splitlines()[0]}"
