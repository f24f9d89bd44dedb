"""How a log's file comes into being: whole, or not at all.

It is made under a hidden name beside its own, which it is given once it is whole and on the disk.
A kill before that leaves at most the hidden file, which nobody reads.
"""

import errno
import os
import uuid
from pathlib import Path

from asyndbt_mpi.log.file import is_log

NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)
NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP)
"""Errors of file systems that synchronise no folders."""


def check_free(path: Path) -> None:
    """Raise a FileExistsError if there is anything at ``path``."""
    if os.path.lexists(path):
        raise _exists(path)


def check_replaceable(path: Path) -> None:
    """Raise a FileExistsError if there is anything at ``path`` but a log, which may be replaced."""
    if os.path.lexists(path) and not is_log(str(path)):
        reason = (
            "is not an asyndbt log, and only logs are replaced: delete it, or give another --output"
        )
        raise FileExistsError(errno.EEXIST, reason, str(path))


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
    synchronise(path.parent)


def replace(made: Path, path: Path) -> None:
    """Give the whole file at ``made`` the name ``path``, in place of the log that may be there."""
    synchronise(made)
    os.replace(made, path)
    synchronise(path.parent)


def synchronise(path: Path) -> None:
    """Have the file at ``path``, or the names in that folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC or not path.is_dir():
            raise
    finally:
        os.close(handle)


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
