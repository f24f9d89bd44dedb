"""How a log's file comes into being: whole, or not at all.

It is made under a hidden name beside its own, which it is given once it is whole and on the disk.
A kill before that leaves at most the hidden file, which nobody reads.
"""

import errno
import os
import uuid
from pathlib import Path

from asyndbt_mpi.log.chain import (
    is_log,
    may_be_segment,
    remove_segments,
    segment_path,
    segments_of,
)

NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)


def check_free(path: Path, continuing: bool = False) -> None:
    """Raise a FileExistsError if there is a file at ``path``.

    Or, unless it is ``continuing`` a log, a segment that would become part of a new one.
    """
    if os.path.lexists(path):
        raise _exists(path)
    others = [] if continuing else segments_of(str(path))
    if others:
        raise FileExistsError(errno.EEXIST, "is left of another log: delete it", others[0].path)
    if not continuing:
        check_next(path)


def check_next(path: Path) -> None:
    """Raise a FileExistsError if what is no segment would be taken for one of a new log."""
    following = segment_path(str(path), 1)
    is_segment = any(each.path == following for each in segments_of(str(path)))
    if may_be_segment(following) and not is_segment:
        reason = "would be taken for a part of the log: move it away"
        raise FileExistsError(errno.EEXIST, reason, following)


def check_replaceable(path: Path) -> None:
    """Raise a FileExistsError if there is anything at ``path`` but a log, which may be replaced."""
    if os.path.lexists(path) and not is_log(str(path)):
        reason = (
            "is no asyndbt log, and only logs are replaced: delete it, or give another --output"
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


def replace(made: Path, path: Path) -> None:
    """Give the whole file at ``made`` the name ``path``, in place of the log that may be there.

    Its segments go first: what a kill leaves is the old log, maybe shorter, or the new one.
    """
    synchronise(made)
    remove_segments(str(path))
    os.replace(made, path)


def synchronise(path: Path) -> None:
    """Have the file at ``path`` on the disk: else a power failure could leave its name alone."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
