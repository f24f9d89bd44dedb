"""How a log's file comes into being: whole, or not at all.

It is made under a hidden name beside its own, which it is given once it is whole and on the disk.
A kill before that leaves at most the hidden file, which nobody reads.
"""

import errno
import os
import uuid
from pathlib import Path

from asyndbt_mpi.log.chain import stale_segments

NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)


def check_free(path: Path, continuing: bool = False) -> None:
    """Raise a FileExistsError if there is a file at ``path``.

    Or, unless it is ``continuing`` a log, a segment that would become part of a new one.
    """
    if path.exists():
        raise _exists(path)
    others = [] if continuing else stale_segments(str(path))
    if others:
        raise FileExistsError(errno.EEXIST, "is left of another log: delete it", others[0])


def hidden(path: Path) -> Path:
    """An empty file in which to make that for ``path``; its folder is made if need be.

    Raises
    ------
    OSError
        The folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two processes may be at the same log.
    made = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
    try:
        made.touch()
    except OSError as error:  # HDF5 would not say it as clearly
        raise OSError(error.errno, error.strerror, str(path)) from error
    return made


def settle(made: Path, path: Path) -> None:
    """Give the whole file at ``made`` the name ``path``.

    Raises
    ------
    FileExistsError
        Another file has come there in the meantime; it stays.
    """
    synchronise(made)
    try:
        os.link(made, path)  # unlike os.rename, it never replaces a file
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if path.exists():
            raise _exists(path) from error
        os.rename(made, path)
    else:
        os.unlink(made)


def synchronise(path: Path) -> None:
    """Have the file at ``path`` on the disk: else a power failure could leave its name alone."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
