"""A log's files: the first, and a segment for every time that its run was continued.

`run.h5` is continued by `run.h5.1`, that by `run.h5.2`. Of a group g, segment k has the logical
rows from its ``first_rows[g]`` on, up to where a later segment begins: where several have a row,
the last of them counts.
"""

import contextlib
import math
import os
import re
import stat
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

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


class Segment:
    """One file of a log, as it stood when it was opened; the attributes are those of the file.

    Attributes
    ----------
    number, segments : of the run's starts the file holds ``segments``, ``number`` the first
    first_rows : by group, the logical number of the file's first row
    committed, committed_rows : how many iterations, and rows by group, of this file alone

    The others are those of `reader.Log`.

    Raises
    ------
    LogError
        It is none that this version can read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.status = "running"  # until the file says otherwise: it may be in the making
        self._source: JournaledFile | None = None
        self._file: h5py.File | None = None
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
        """Rows ``start`` to ``stop``, counted in this file, of ``path``."""
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

        return self.attempt(read)

    def length(self, path: str) -> int:
        """How many rows ``path`` has in this file, whether they count or not."""
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

    def attempt(self, read: Callable[[h5py.File], Result]) -> Result:
        """``read`` the file; again and again while a writer is in the way."""
        attempts = 0
        while True:
            attempts += 1
            try:
                source, file = self._opened()
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
                self._close_hdf5()
                hopeless = self.status != "running" or not _is_hdf5(self.path)
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
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._source, self._file

    def _close_hdf5(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_attributes(self, file: h5py.File, size: int) -> None:
        attributes = file.attrs
        try:
            self.committed = int(attributes["committed"])
            self.committed_rows = _by_group(attributes["committed_rows"])
            # Logs of one file that were made before there were segments have none of these.
            self.number = int(attributes.get("segment", 0))
            self.segments = int(attributes.get("segments", 1))
            self.first_rows = _by_group(attributes.get("first_rows", schema.NO_ROWS))
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
        except ForeignError:
            raise
        except KeyError as error:
            raise self.error(f"an attribute is missing: {error.args[0]}") from error
        except (TypeError, ValueError) as error:
            raise self.error(f"a bad attribute: {error}") from error

    def error(self, reason: str) -> LogError:
        """What is wrong with this file."""
        return LogError(f"{self.path}: {reason}")


def segment_path(path: str, number: int) -> str:
    """Where segment ``number`` of the log at ``path`` is; 0 is the log's first file."""
    return f"{path}.{number}" if number else path


def open_chain(path: str) -> list[Segment]:
    """The files of the log at ``path``, in order.

    Files that were merged into the first are no part of the log any more.

    Raises
    ------
    LogError
        One of them is missing, cannot be read, or is not of this log.
    """
    check_first_file(path)
    first = Segment(path)
    if first.number:
        whole = path.removesuffix(f".{first.number}")
        what = f"of {whole}: give that" if whole != path else "of a log: give its first file"
        first.close()
        raise first.error(f"is segment {first.number} {what}")
    chain = [first]
    try:
        while may_be_segment(following := next_path(path, chain[-1])):
            _check_own(following, path)
            chain.append(Segment(following))
            _check_continues(chain[-1], chain[-2])
        if beyond := segments_of(path, _after(chain[-1])):
            raise LogError(f"{following} is missing, {beyond[0].path} is there")
    except LogError:
        for segment in chain:
            segment.close()
        raise
    return chain


def _check_own(segment: str, path: str) -> None:
    """Raise a LogError where somebody else may have put the ``segment`` beside the log at ``path``.

    Its owner must be that of the log, or the user.
    """
    found = os.lstat(segment)
    if stat.S_ISLNK(found.st_mode):
        raise LogError(f"{segment}: is a link, and no part of {path}: take it away")
    if found.st_uid not in (os.stat(path).st_uid, os.geteuid()):
        raise LogError(f"{segment}: belongs to another user than {path}: take it away, or copy it")


def next_path(path: str, last: Segment) -> str:
    """Where the segment after ``last`` is, or would be, of the log at ``path``."""
    return segment_path(path, _after(last))


def _after(last: Segment) -> int:
    return last.number + last.segments


def check_first_file(path: str | os.PathLike[str]) -> None:
    """Raise a LogError if the log at ``path`` lacks its first file, but not its segments.

    Or if it is a link: the segments lie beside what it leads to.
    """
    name = os.fspath(path)
    if os.path.islink(name):
        raise LogError(
            f"{name}: is a link, beside which no log has its files: give the log that it leads to"
        )
    if not os.path.exists(name) and (segments := segments_of(name)):
        raise LogError(f"{name} is missing, {segments[0].path} is there")


def remove_log(path: str | os.PathLike[str]) -> None:
    """Delete the log at ``path`` with all its segments, if there is one.

    The last segment goes first, so that what a kill leaves is a log that is still whole. What is
    no log stays, and so do other people's files with such names.
    """
    name = os.fspath(path)
    remove_segments(name)
    if is_log(name):
        os.unlink(name)


def remove_segments(path: str) -> None:
    """Delete all of the log at ``path`` but its first file, the last segment first."""
    for segment in reversed(segments_of(path)):
        os.unlink(segment.path)


class Found(NamedTuple):
    """A segment beside a log."""

    number: int
    path: str


def segments_of(path: str, first: int = 1) -> list[Found]:
    """The segments of a log at ``path`` that lie beside it, in order, whether it has them or not.

    Those with numbers below ``first`` are not looked at.
    Other files with such names (a backup ``run.h5.20261122``) are somebody else's, and left out.
    """
    folder, name = os.path.split(path)
    ending = re.compile(re.escape(name) + r"\.([1-9][0-9]*)")
    entries = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    numbers = sorted(int(match[1]) for entry in entries if (match := ending.fullmatch(entry)))
    found = [Found(number, segment_path(path, number)) for number in numbers if number >= first]
    return [each for each in found if _is_segment(each)]


def _is_segment(found: Found) -> bool:
    is_own = not os.path.islink(found.path)
    return is_own and _format_and_number(found.path) == (schema.FORMAT, found.number)


def is_log(path: str) -> bool:
    """Whether the file at ``path`` itself, and not one that it is a link to, is a log's."""
    return not os.path.islink(path) and _format_and_number(path)[0] == schema.FORMAT


def may_be_segment(path: str) -> bool:
    """Whether there is a log's file at ``path``, or one that is too damaged to tell."""
    return _is_hdf5(path) and _format_and_number(path)[0] in (schema.FORMAT, None)


def _format_and_number(path: str) -> tuple[str | None, int]:
    """Two attributes of an HDF5 file; (None, 0) if it cannot be read."""
    try:
        with contextlib.closing(JournaledFile(path)) as source, h5py.File(source, "r") as file:
            return foreign.format_and_number(file, source)
    except UNREADABLE:
        return None, 0


def _check_continues(segment: Segment, before: Segment) -> None:
    """Raise a LogError unless ``segment`` leaves no gap behind the one ``before`` it."""
    fits = segment.number == before.number + before.segments and all(
        segment.first_rows[group] <= first + before.committed_rows[group]
        for group, first in before.first_rows.items()
    )
    same = all(
        getattr(segment, name) == getattr(before, name) for name in ("seed", "workers", "shapes")
    )
    if not (fits and same):
        raise segment.error(f"does not continue {before.path}")


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
