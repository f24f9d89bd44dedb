"""How a run under MPI begins, and what its end means: rank 0's part, without the messages."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from asyndbt_mpi.jobs.codes import BAD_USAGE, DONE, FAILED, TOO_FEW_WORKERS
from asyndbt_mpi.jobs.job import Job
from asyndbt_mpi.jobs.resume import (
    expected_hellos,
    log_to_resume,
    nothing_left,
    reopen_log,
    resume,
)
from asyndbt_mpi.log.file import remove_log
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.task.partition import held
from asyndbt_mpi.transport.replay import Replay


@dataclass(frozen=True, slots=True)
class Opened:
    """What rank 0 has before the run starts: server, log, and the state of a resumed run."""

    server: Server
    writer: Writer
    earlier: Replay | None = None
    time: float = 0.0


class Ended(Exception):
    """The run cannot or need not be resumed: why, and the exit ``code``."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.code = code


def open_run(job: Job, resuming: bool, signalled: Sequence[signal.Signals] = ()) -> Opened:
    """A new log, or the run to be resumed and its log.

    Raises
    ------
    Ended
        There is nothing to resume; the log is left unchanged.
    ConfigurationError
        The log cannot be written, or cannot be resumed by this job.
    Interrupted
        The process was ``signalled`` while the run was replayed.
    """
    log = log_to_resume(job) if resuming else None
    if log is None:
        shapes, expected = job.materials.shapes, expected_hellos(job)
        known = held(job.materials.data)
        server = Server(job.config, shapes, job.workers, expected=expected, held=known)
        return Opened(server, job.open_log("mpi", server.algorithm.z))
    with log:
        resumed = resume(log, job, "mpi", signalled)
        if resumed.server.failure:
            why, code = verdict(resumed.server)
            raise Ended(f"{job.path} cannot be resumed: {why}", code)
        if resumed.server.finished and log.status == "finished":
            raise Ended(nothing_left(log, resumed), DONE)
        writer = reopen_log(log, job, resumed)
        on_from = f"{job.path}: resuming from iteration {resumed.server.iteration}"
        print(printable(on_from), flush=True)
        return Opened(resumed.server, writer, resumed.replay, resumed.time)


def removed_if_empty(job: Job, server: Server) -> bool:
    """Remove a log without content, which would only be in the way of the next attempt."""
    if server.iteration or server.spending.spent.calls:
        return False
    remove_log(job.path)
    return True


def verdict(server: Server) -> tuple[str | None, int]:
    """What is wrong with how the run ended, and the exit code."""
    if server.refusal:
        return server.refusal, BAD_USAGE
    if server.failure:
        enough = server.members.count >= server.config.algorithm.min_workers
        return server.failure, FAILED if enough else TOO_FEW_WORKERS
    if server.limit and not server.iteration:
        return (
            f"{server.limit}: too small for the first iteration; see asyndbt estimate",
            BAD_USAGE,
        )
    return None, DONE
