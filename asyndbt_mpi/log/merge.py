"""`asyndbt merge`: one file instead of a log's segments."""

import os
import shutil
from pathlib import Path

import h5py

from asyndbt_mpi.log import checksums, datasets, schema
from asyndbt_mpi.log.batches import Batches
from asyndbt_mpi.log.errors import LogError, LogWriteError
from asyndbt_mpi.log.integrity import damage
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.schema import Column
from asyndbt_mpi.log.storage.preallocate import reserve
from asyndbt_mpi.log.storage.publish import check_free, hidden, settle, synchronise

SPARE_BYTES = 1 << 20
"""Reserved beyond the rows: HDF5's own bookkeeping."""


def merge(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> str:
    """Join the files of the log at ``path``, in their place or into the new file ``output``.

    The joined file has its name only once it is whole, checked and on the disk: nothing that
    happens on the way can harm the log. Without ``output`` the segments go after that; those
    that a kill leaves are no part of the log any more.

    Returns
    -------
    one line that says what was done.

    Raises
    ------
    LogError
        There is no such log, its run is not over, or ``output`` exists.
    LogWriteError
        The joined file cannot be written.
    """
    with Log(path) as log:
        files = [each.path for each in log.files]
        if len(files) == 1:
            return f"{log.path}: is one file, there is nothing to join"
        if output is None:
            _check_over(log)
            _check_undamaged(log)
            _make(log, Path(log.path), anew=False)
        else:
            _check_free(Path(output))
            _check_undamaged(log)
            _make(log, Path(output), anew=True)
    for stale in files[1:] if output is None else ():
        os.unlink(stale)
    return f"{output or log.path}: {len(files)} files joined, {log.committed} iterations"


def _check_over(log: Log) -> None:
    # Of a run that was killed the status says the same: a run in progress would go on to write
    # into a file that is not part of the log any more.
    if log.status == "running":
        raise LogError(
            f"{log.path}: the run is not over, or was killed; end it by asyndbt run --resume, or"
            " give --output, which leaves it as it is"
        )


def _check_undamaged(log: Log) -> None:
    """The joined file gets checksums of its own: they must not be those of damaged rows."""
    for line in damage(log):
        raise LogError(f"{log.path}: is damaged, and stays as it is: {line}")


def _check_free(output: Path) -> None:
    try:
        check_free(output)
    except FileExistsError as error:
        raise LogError(f"{error.filename}: is there already; give another --output") from error


def _make(log: Log, target: Path, anew: bool) -> None:
    """Write the joined file beside ``target``, and give it that name; ``anew`` if none has it."""
    made: Path | None = None
    try:
        made = hidden(target)
        shutil.copymode(log.path, made)
        _write(log, made)
        _compare(log, made)
        if anew:
            settle(made, target)
        else:
            synchronise(made)
            os.replace(made, target)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise LogWriteError(f"{log.path}: stays as it was, for joining failed: {reason}") from error
    finally:
        if made:
            made.unlink(missing_ok=True)


def _write(log: Log, made: Path) -> None:
    with h5py.File(made, "w", locking=False, rdcc_nbytes=2 * datasets.CHUNK_BYTES) as file:
        columns = [column for group in log.groups.values() for column in group]
        for column in columns:
            datasets.create(file, column, log.config, log.shapes, log.workers)
        size = sum(os.path.getsize(each.path) for each in log.files) + SPARE_BYTES
        size += sum(datasets.chunk_bytes(file[column.path]) for column in columns)
        reserve(file.id.get_vfd_handle(), 0, size)
        datasets.create_texts(
            file,
            log.shapes,
            log.workers,
            log.vocabulary,
            log.descriptions,
            log.needs,
            log.models,
        )
        batches, rows = Batches(file, log.groups), {g: log.count(g) for g in log.groups}
        for column in columns:
            batches.checksums[column.path] = _copy(log, column, file[column.path])
        batches.end(rows)
        # It can only be the first file's: nothing is added to a log of several.
        log.files[0].attempt(
            lambda first: first.copy("stationarity", file) if "stationarity" in first else None
        )
        file.attrs.update(log.files[-1].attempt(lambda last: dict(last.attrs)))
        file.attrs.update(
            {
                "logging_seconds": log.logging_seconds,
                "segment": 0,
                "segments": log.segments,
                "first_rows": schema.NO_ROWS,
                "committed_rows": schema.rows_by_group(rows),
                "committed": log.committed,
            }
        )
        checksums.seal(file)
        file.flush()
        end = file.id.get_filesize()
    os.truncate(made, end)  # HDF5 does not give back what was reserved


def _copy(log: Log, column: Column, dataset: h5py.Dataset) -> int:
    """Copy the rows that count, and return their checksum.

    Those without an iterate take no room here either.
    """
    sparse = column.iterate and log.every > 1
    checksum = 0
    for start, block in log.blocks(column.path):
        if column.dtype == schema.TEXT:
            texts = [text or None for text in block]
            checksum = datasets.append_some(dataset, column, start, texts, checksum)
        elif sparse:
            # An iterate is there as a whole or not at all.
            rows = [None if row.flat[0] != row.flat[0] else row for row in block]
            checksum = datasets.append_some(dataset, column, start, rows, checksum)
        else:
            checksum = datasets.append(dataset, column, start, list(block), checksum)
    return checksum


def _compare(log: Log, made: Path) -> None:
    """Raise an OSError unless ``made`` can be read and has every row that it should have."""
    try:
        with Log(made) as joined:
            columns = [column.path for group in log.groups.values() for column in group]
            whole = joined.committed == log.committed and all(
                joined.count(path) == joined.length(path) == log.count(path) for path in columns
            )
    except LogError as error:
        raise OSError(str(error)) from error
    if not whole:
        raise OSError("it came out incomplete")
