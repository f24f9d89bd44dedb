"""Ends a process for which MPI never starts, because another one of the job never came so far."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from asyndbt_mpi.transport.launcher import launched

LATER_SECONDS = 2.0
"""How much longer the others watch than rank 0, which speaks for all."""


@contextmanager
def watched(seconds: float) -> Iterator[None]:
    """End this process with a line if what is done here takes more than ``seconds``.

    A process of its own watches it: while MPI starts, no other thread and no signal handler of
    Python has its turn.
    """
    launcher = launched(os.environ)
    if launcher.size == 1:
        yield
        return
    reading, writing = os.pipe()
    watcher = os.fork()
    if not watcher:
        os.close(writing)
        _watch(reading, seconds + LATER_SECONDS * bool(launcher.rank), launcher.rank)
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        os.waitpid(watcher, 0)


def _watch(pipe: int, seconds: float, rank: int) -> None:
    """In the process that watches: until the other end of ``pipe`` is closed, or time is over."""
    if not select.select([pipe], [], [], seconds)[0]:
        line = (
            f"asyndbt: rank {rank}: MPI has not started for {seconds:g} seconds: a rank of the job"
            " has not come so far; nothing was asked of any model\n"
        )
        os.write(sys.stderr.fileno(), line.encode())
        os.kill(os.getppid(), signal.SIGKILL)
    os._exit(0)
