"""Files and folders that are trusted because they are one's own.

Files of other users are neither read nor written: their answers would be taken for the model's, and
a link would redirect writes.  The folders above are checked too if everybody can write to them;
those of a project often belong to its leader.  Root's files are trusted by every user, as root can
change anything anyway; root itself trusts only its own.
"""

import errno
import os
import stat
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o700, 0o600
"""Modes of what is created here."""

MOST_LINKS = 40
"""Links followed on the way to a folder, as in Linux."""


class NotOwn(OSError):
    """A file or folder that is not trusted: ``why``, and which one, in ``filename``."""

    def __init__(self, why: str, path: str | Path) -> None:
        super().__init__(errno.EPERM, why, str(path))
        self.why = why


def make_folder(path: Path) -> None:
    """Create a folder for this user alone, if there is none; the folders above it as usual.

    Raises
    ------
    NotOwn
        It, or a folder above it, is not trusted.
    OSError
        It cannot be created.
    """
    _check_above(path)
    if not path.is_symlink():
        try:
            path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        except FileExistsError:  # but not a folder
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    os.close(open_folder(path))


def open_folder(path: str | Path, within: int | None = None) -> int:
    """The descriptor of a folder, of that name ``within`` another one that is open.

    Raises
    ------
    NotOwn
        It is a link, another user's, or writable by others; or a folder above it is not trusted.
    OSError
        It does not exist, or cannot be read.
    """
    if within is None:
        _check_above(path)
    return _open(path, os.O_RDONLY | os.O_DIRECTORY, within)


def open_file(path: str | Path, flags: int, within: int | None = None) -> int:
    """The descriptor of a regular file, opened with the ``flags`` of `os.open`.

    Raises
    ------
    NotOwn
        It is a link or a device, another user's, or writable by others.
    OSError
        It cannot be opened.
    """
    return _open(path, flags | os.O_NONBLOCK, within)  # a pipe would block


def _check_above(path: str | Path) -> None:
    """Check every folder on the way to ``path``, up to the first that does not exist.

    Links are followed if they are not in a folder that everybody can write to.
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
        # In a folder that everybody can write to, the next step must be one's own or root's.
        if shared and found.st_uid not in (os.geteuid(), 0):
            raise NotOwn(f"is reached through {step}, which another user has put there", path)
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
            raise NotOwn(f"is in {step}, which everybody can write to", path)


def _open(path: str | Path, flags: int, within: int | None) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW, FILE_MODE, dir_fd=within)
    except OSError as error:
        # Linux says ELOOP, or ENOTDIR if a folder was expected.
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
        raise NotOwn("is not a regular file", path)
    if found.st_uid not in (os.geteuid(), 0):
        raise NotOwn(f"belongs to another user (uid {found.st_uid})", path)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotOwn("is writable by others (if all of it is yours: chmod -R go-w)", path)
