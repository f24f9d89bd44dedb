"""A run under MPI from start to end: every rank calls `run`, rank 0 writes the log."""

import socket
import sys
import traceback

from rich.console import Console

from asyndbt_mpi.assemble import Place, language_model, workers_with_black_box
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.job import BAD_USAGE, DONE, FAILED, Job, LogAndProgress, Request
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.server import Server, WorkerFailed
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.transport.mpi import (
    SERVER,
    WORLD,
    Channel,
    agree,
    node_share,
    serve,
    stop_all,
    work,
)
from asyndbt_mpi.view.progress import Progress
from asyndbt_mpi.view.summary import print_summary

GRACE_SECONDS = 5.0
"""How long workers may take to end after a problem ..."""
PATIENCE_SECONDS = 60.0
"""... and when all is well, where only an excluded worker can still be at work."""


def run(request: Request) -> int:
    """Run a configuration on all ranks; the exit code of this rank."""
    try:
        return _run(request)
    except Exception as error:
        # Nothing can be said about the other ranks any more: only an abort ends them all.
        where = f"rank {WORLD.Get_rank()} on {socket.gethostname()}"
        text = f"{where}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
        _say(text, request.debug)
        WORLD.Abort(FAILED)
        raise


def _run(request: Request) -> int:
    job: Job | None = None
    problem: str | None = None
    try:
        job = Job.of(request, _workers(request.source))
    except ConfigurationError as error:
        problem = str(error)
    if not _all_well(problem) or job is None:
        return BAD_USAGE
    # Only now, when no rank has anything against the run, is an older log replaced.
    opened: tuple[Server, Writer] | None = None
    if WORLD.Get_rank() == SERVER:
        try:
            server = Server(job.config, job.materials.shapes, job.workers)
            opened = server, job.open_log("mpi", server.z)
        except (ConfigurationError, MemoryError) as error:
            problem = str(error)
    if not _all_well(problem):
        return BAD_USAGE
    channel = Channel(WORLD, Codec(job.materials.shapes))
    place = Place(*node_share(WORLD))
    if opened is not None:
        return _run_server(channel, job, *opened, request.debug)
    return _run_worker(channel, job, place)


def _workers(source: str) -> int:
    workers = WORLD.Get_size() - 1
    if workers < 1:
        raise ConfigurationError(
            "one process is not enough: rank 0 is the server, every other rank a worker."
            f" Start it with: mpiexec -n 4 asyndbt run {source}"
        )
    return workers


def _all_well(problem: str | None) -> bool:
    """Whether no rank has a problem; the first one that has says it."""
    well, speaks = agree(WORLD, problem is None)
    if speaks:
        _say(problem or "", debug=False)
    return well


def _run_worker(channel: Channel, job: Job, place: Place) -> int:
    rank = WORLD.Get_rank()

    def prepare() -> tuple[Workers, BlackBox]:
        model = language_model(job.config, place, job.workers)
        return workers_with_black_box(job.config, job.materials, [rank], model)

    work(channel, prepare, job.delays[rank])
    channel.close(float("inf"))
    return DONE


def _run_server(channel: Channel, job: Job, server: Server, writer: Writer, debug: bool) -> int:
    """Serve until the end, close the log whatever the end is, and let the workers go."""
    problem: str | None = None
    with Progress(job.config.run.iterations, job.workers) as progress:
        try:
            whole = serve(channel, server, LogAndProgress(writer, progress))
            problem = server.failure if whole else "interrupted"
        except WorkerFailed as error:
            problem = str(error)
        finally:
            writer.close("finished" if server.finished and not problem else "interrupted")
            stop_all(channel, server)
    if problem:
        _say(problem, debug)
        if server.iteration:
            _say(f"{server.iteration} iterations are in {job.path}", debug)
        else:
            job.path.unlink()  # an empty log would only be in the way of the next try
    else:
        with Log(job.path) as log:
            # A rank's output is a terminal of the launcher's even if it ends up in a file.
            print_summary(log, Console(force_terminal=False, color_system=None))
    # After a problem somebody may be deep in a computation, and so may an excluded worker ever be.
    if not channel.close(GRACE_SECONDS if problem else PATIENCE_SECONDS):
        _say("a worker does not answer: the job is aborted", debug)
        channel.comm.Abort(FAILED)
    return FAILED if problem else DONE


def _say(problem: str, debug: bool) -> None:
    """Print an error; what follows its first line is a traceback."""
    first, _, rest = problem.partition("\n")
    print(f"asyndbt: {first}", file=sys.stderr)
    if rest and debug:
        print(rest, file=sys.stderr)
