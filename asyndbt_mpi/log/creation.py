"""How a log's file comes into being: under its name there is nothing, or a whole file.

A kill at any moment leaves at most an empty file under the name, and a hidden one beside it that
the next attempt overwrites.
"""

import errno
import os
from pathlib import Path

from asyndbt_mpi.log.chain import segment_begun, stale_segments


def claim(path: Path, continuing: bool) -> Path:
    """Reserve the name ``path`` by an empty file; where the file itself is to be made.

    Its folder is made if need be. A segment that was killed as it began, while ``continuing`` a
    log, is replaced.

    Raises
    ------
    FileExistsError
        There is something already, or a segment that would become part of the new log.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [] if continuing else stale_segments(str(path))
    if others:
        raise FileExistsError(errno.EEXIST, "is left of another log: delete it", others[0])
    try:
        path.touch(exist_ok=False)
    except FileExistsError as error:
        if not continuing or segment_begun(str(path)):
            # Of Path.touch the message has no text that a person could use.
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
    return path.with_name(f".{path.name}.new")


def settle(made: Path, path: Path) -> None:
    """Give the whole file at ``made`` the name ``path``, once it is on the disk."""
    with open(made, "rb") as file:
        os.fsync(file.fileno())  # else a power failure could leave the name, and no file
    os.replace(made, path)
