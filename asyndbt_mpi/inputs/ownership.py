"""Files and folders that are believed because they are one's own.

What another user has put where this one looks is neither read nor written: answers of theirs would
be taken for the model's, and a link would lead writing elsewhere.  Of the folders above those count
too where everybody can write; those of a project often belong to whoever leads it.  Root counts as
everybody, for it can change anything; for root itself only its own files are its own.
"""

import errno
import os
import stat
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o700, 0o600
"""Of what is made here."""

MOST_LINKS = 40
"""On the way to a folder, as in Linux."""


class NotOwn(OSError):
    """A file or folder that is not believed; ``why``, and ``filename`` says which it is."""

    def __init__(self, why: str, path: str | Path) -> None:
        super().__init__(errno.EPERM, why, str(path))
        self.why = why


def make_folder(path: Path) -> None:
    """Make a folder for this user alone, if it is not there; those above it as usual.

    Raises
    ------
    NotOwn
        There is one that is not believed, or one above it.
    OSError
        It cannot be made.
    """
    _check_above(path)
    if not path.is_symlink():
        try:
            path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        except FileExistsError:  # but no folder
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    os.close(open_folder(path))


def open_folder(path: str | Path, within: int | None = None) -> int:
    """The descriptor of a folder, of that name ``within`` another one that is open.

    Raises
    ------
    NotOwn
        It is a link, another user's, or others may write there; or a folder above it is not
        believed.
    OSError
        It is not there, or cannot be read.
    """
    if within is None:
        _check_above(path)
    return _open(path, os.O_RDONLY | os.O_DIRECTORY, within)


def open_file(path: str | Path, flags: int, within: int | None = None) -> int:
    """The descriptor of a regular file, opened with the ``flags`` of `os.open`.

    Raises
    ------
    NotOwn
        It is a link or a device, another user's, or others may write to it.
    OSError
        It cannot be opened.
    """
    return _open(path, flags | os.O_NONBLOCK, within)  # a pipe would wait for a writer


def _check_above(path: str | Path) -> None:
    """Look at every folder on the way to ``path``, up to the first that is not there.

    Links are followed where not everybody can make any.
    """
    ahead = list(reversed(Path(path).absolute().parent.parts))
    folder, shared, links = ahead.pop(), False, 0
    while ahead:
        name = ahead.pop()
        step = os.path.dirname(folder) if name == ".." else os.path.join(folder, name)
        try:
            found = os.lstat(step)
        except FileNotFoundError:
            return
        # Where everybody can write, what is there must be one's own, or be root's.
        if shared and found.st_uid not in (os.geteuid(), 0):
            raise NotOwn(f"is reached by {step}, which another user has put there", path)
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), step)
            target = Path(os.readlink(step))
            ahead += reversed(target.parts)
            if target.is_absolute():
                folder, shared = ahead.pop(), False
            continue
        folder, shared = step, bool(found.st_mode & stat.S_IWOTH)
        if shared and not found.st_mode & stat.S_ISVTX:
            raise NotOwn(f"is in {step}, which everybody can write", path)


def _open(path: str | Path, flags: int, within: int | None) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW, FILE_MODE, dir_fd=within)
    except OSError as error:
        # Linux says ELOOP, or ENOTDIR of what was to be a folder.
        if error.errno == errno.ELOOP or _is_link(path, within):
            raise NotOwn("is a symbolic link", path) from None
        raise
    try:
        _check(os.fstat(descriptor), bool(flags & os.O_DIRECTORY), path)
    except NotOwn:
        os.close(descriptor)
        raise
    return descriptor


def _is_link(path: str | Path, within: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(path, dir_fd=within, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _check(found: os.stat_result, is_folder: bool, path: str | Path) -> None:
    if not (is_folder or stat.S_ISREG(found.st_mode)):
        raise NotOwn("is no regular file", path)
    if found.st_uid not in (os.geteuid(), 0):
        raise NotOwn(f"belongs to another user (number {found.st_uid})", path)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotOwn("can be written by others (if all of it is yours: chmod -R go-w)", path)
