"""One process at a time writes a log.

The lock is on a hidden file beside the log, never on the log itself, which viewers may lock. It is
the operating system's: what a kill leaves is the file, and it locks nothing. A link in its place
is refused, and so is another user's file. It names the machine whose process wrote last: elsewhere
the lock may not be seen.
"""

import contextlib
import errno
import fcntl
import os
import socket
import tempfile
from pathlib import Path

from asyndbt_mpi.inputs import ownership
from asyndbt_mpi.log.errors import LogError

TAKEN = (errno.EACCES, errno.EAGAIN)
"""Errors by which file systems say that somebody else has the lock."""

LONGEST_NAME = 256
"""Of a machine."""


class Locked(Exception):
    """Somebody else has the lock."""


class FileLock:
    """A lock that is held, on the open file ``descriptor``, until it is released or collected."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def sign(self, text: str) -> None:
        """Let the file be this ``text``."""
        assert self._descriptor is not None
        with contextlib.suppress(OSError):  # a full disk: the lock is held all the same
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        """Let others have it; to do so again does nothing."""
        if self._descriptor is not None:
            # Closing would not do where a child process has a copy of the descriptor.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


class LogLock:
    """The right to write the log at ``path``, until it is released; its folder is made if need be.

    Where the file system has no locks, everybody has it.

    Raises
    ------
    LogError
        Somebody else has it, or the hidden file is not this user's own.
    OSError
        The folder or the hidden file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _lock_file(path)
        try:
            self._lock = take(self._file)
        except Locked as error:
            raise LogError(f"another process is writing {path}") from error
        except ownership.NotOwn as error:
            raise LogError(
                f"{self._file} {error.why}: remove it if no process is writing {path}"
            ) from error
        if self._lock is None:
            self._remove_file()
        else:
            self._lock.sign(_machine())

    def release(self) -> None:
        """Let others write; to do so again does nothing."""
        if self._lock is not None:
            # Before the lock goes: after it, the file could be another process's already.
            self._remove_file()
            self._lock.release()
            self._lock = None

    def _remove_file(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink()


def take(file: Path) -> FileLock | None:
    """The operating system's lock on ``file``; None where the file system has no locks.

    `flock` alone: what libraries make do with where it is missing would survive a kill.

    Raises
    ------
    Locked
        Somebody else has it.
    OSError
        The file can be neither made nor opened, or is not this user's own (`NotOwn`).
    """
    while True:
        descriptor = ownership.open_file(file, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in TAKEN:
                raise Locked(f"{file} is locked") from error
            return None
        if os.fstat(descriptor).st_nlink:
            return FileLock(descriptor)
        os.close(descriptor)  # its owner removed the file meanwhile: the name is another one's


def is_being_written(path: Path) -> bool:
    """Whether another process has the right to write the log at ``path``."""
    file = _lock_file(path)
    if not file.exists():
        return False
    try:
        lock = take(file)
    except Locked:
        return True
    except OSError:
        return False  # whoever tries to write will hear why not
    if lock is not None:
        lock.release()
    return False


def was_killed(path: Path) -> bool:
    """Whether whoever wrote the log at ``path`` died on this machine; to be asked if it is running.

    If it was on another machine, its lock may only be invisible here.
    """
    try:
        descriptor = ownership.open_file(_lock_file(path), os.O_RDONLY)
    except OSError:
        return False
    try:
        signed = os.read(descriptor, LONGEST_NAME).decode(errors="replace")
    finally:
        os.close(descriptor)
    return signed == _machine() and not is_being_written(path)


def _machine() -> str:
    """The kernel's boot id: host names may be the same in several containers."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


def has_locks(folder: Path) -> bool:
    """Whether files in ``folder`` can be locked."""
    with tempfile.NamedTemporaryFile(prefix=".asyndbt-lock-", dir=folder) as file:
        lock = take(Path(file.name))
        if lock is not None:
            lock.release()
        return lock is not None


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
