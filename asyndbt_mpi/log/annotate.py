"""What is added to a log when its run is over."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np

from asyndbt_mpi.log import checksums, schema
from asyndbt_mpi.log.errors import LogWriteError
from asyndbt_mpi.log.reader import Log, Stationarity
from asyndbt_mpi.log.storage.journal import finish
from asyndbt_mpi.log.storage.lock import LogLock
from asyndbt_mpi.log.storage.preallocate import reserve
from asyndbt_mpi.log.storage.publish import hidden, replace

CHUNK = 1024
SPARE_BYTES = 1 << 18
"""Reserved beyond the rows: HDF5's own bookkeeping."""


def add_stationarity(path: str | os.PathLike[str], found: Stationarity) -> None:
    """Put ``found`` into the log at ``path``, in place of what may be there.

    It goes into a copy, which takes the log's place once it is whole and on the disk: nothing
    that happens on the way can harm the log.

    Raises
    ------
    LogError
        There is no such log, or another process is writing it.
    LogWriteError
        The copy cannot be written.
    """
    Log(path).close()
    log = Path(path)
    copy: Path | None = None
    lock = LogLock(log)  # a run that is resumed meanwhile would go on in what is replaced here
    try:
        copy = hidden(log)
        shutil.copymode(log, copy)  # before there is anything to read
        shutil.copy2(log, copy)
        finish(copy)
        _reserve(copy, found)
        _write(copy, found)
        replace(copy, log)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise LogWriteError(f"{log}: is unchanged, because copying it failed: {reason}") from error
    finally:
        lock.release()
        if copy:
            copy.unlink(missing_ok=True)


def _reserve(copy: Path, found: Stationarity) -> None:
    rows = -(-len(found.iteration) // CHUNK) * CHUNK
    with open(copy, "r+b") as file:
        size = 8 * rows * (1 + len(schema.STATIONARITY)) + SPARE_BYTES
        reserve(file.fileno(), os.path.getsize(copy), size)


def _write(copy: Path, found: Stationarity) -> None:
    with h5py.File(copy, "r+", locking=False) as file:
        if "stationarity" in file:
            del file["stationarity"]
        group = file.create_group("stationarity")
        group.attrs["kind"] = found.kind
        for name in ("iteration", *schema.STATIONARITY):
            values: np.ndarray = getattr(found, name)
            group.create_dataset(name, data=values, maxshape=(None,), chunks=(CHUNK,))
        group.attrs[checksums.SEAL] = checksums.of_stationarity(group)
        file.flush()
        end = file.id.get_filesize()
    os.truncate(copy, end)  # HDF5 does not give back what was reserved
