"""One process at a time writes a log.

The lock is on a hidden file beside the log, never on the log itself, which viewers may lock. It is
the operating system's: what a kill leaves is the file, and it locks nothing.
"""

import contextlib
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
        self._file = path.with_name(f".{path.name}.lock")
        self._lock = FileLock(self._file, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise LogError(f"another process is writing {path}") from error
        except (OSError, NotImplementedError):
            return
        if isinstance(self._lock, SoftFileLock):
            # What filelock makes do with where there are no locks would survive a kill.
            self._lock.release()

    def release(self) -> None:
        """Let others write; to do so again does nothing."""
        if self._lock.is_locked:
            # Before the lock goes: after it, the file could be another process's already.
            with contextlib.suppress(OSError):
                self._file.unlink()
            self._lock.release()
