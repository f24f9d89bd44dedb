"""Ends a process for which MPI never starts, because another process of the job is missing."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from asyndbt_mpi.transport.launcher import launched

LATER_SECONDS = 2.0
"""Extra seconds for which the others watch, so that rank 0 reports for all."""


@contextmanager
def watched(seconds: float) -> Iterator[None]:
    """End this process with a message if the body takes more than ``seconds``.

    A separate process watches it, because while MPI starts no other thread and no signal handler of
    Python can run.
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
    """In the watching process: wait until the other end of ``pipe`` is closed, or time is up."""
    if not select.select([pipe], [], [], seconds)[0]:
        line = (
            f"asyndbt: rank {rank}: MPI has not started for {seconds:g} seconds: a rank of the job"
            " did not start it; no model was asked anything\n"
        )
        os.write(sys.stderr.fileno(), line.encode())
        os.kill(os.getppid(), signal.SIGKILL)
    os._exit(0)
