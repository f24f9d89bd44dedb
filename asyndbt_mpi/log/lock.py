"""One process at a time writes a log.

The lock is on a hidden file beside the log, never on the log itself, which viewers may lock. It is
the operating system's: what a kill leaves is the file, and it locks nothing.
"""

import contextlib
import tempfile
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from asyndbt_mpi.log.chain import LogError


class LogLock:
    """The right to write the log at ``path``, until it is released; its folder is made if need be.

    Where the file system has no locks, everybody has it.

    Raises
    ------
    LogError
        Somebody else has it.
    OSError
        The folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _lock_file(path)
        try:
            self._lock = take(self._file)
        except Timeout as error:
            raise LogError(f"another process is writing {path}") from error

    def release(self) -> None:
        """Let others write; to do so again does nothing."""
        if self._lock is not None and self._lock.is_locked:
            # Before the lock goes: after it, the file could be another process's already.
            with contextlib.suppress(OSError):
                self._file.unlink()
            self._lock.release()


def take(file: Path) -> FileLock | None:
    """The operating system's lock on ``file``; None where the file system has no locks.

    Raises
    ------
    Timeout
        Somebody else has it.
    """
    lock = FileLock(file, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError):
        return None
    if isinstance(lock, SoftFileLock):
        # What filelock makes do with where there are no locks would survive a kill.
        lock.release()
        return None
    return lock


def is_being_written(path: Path) -> bool:
    """Whether another process has the right to write the log at ``path``."""
    file = _lock_file(path)
    if not file.exists():
        return False
    try:
        lock = take(file)
    except Timeout:
        return True
    if lock is not None:
        lock.release()
    return False


def has_locks(folder: Path) -> bool:
    """Whether files in ``folder`` can be locked."""
    with tempfile.NamedTemporaryFile(prefix=".asyndbt-lock-", dir=folder) as file:
        lock = take(Path(file.name))
        if lock is not None:
            lock.release()
        return lock is not None


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
