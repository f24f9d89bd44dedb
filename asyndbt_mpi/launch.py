"""A run under MPI from start to end: every rank calls `run`, rank 0 writes the log."""

import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from asyndbt_mpi.assemble import Materials, Place, prepare, worker_with_black_box
from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.messages import Codec
from asyndbt_mpi.protocol.records import Event, EventKind, Record
from asyndbt_mpi.protocol.server import Server, WorkerFailed
from asyndbt_mpi.transport.delay import DelayModel
from asyndbt_mpi.transport.mpi import (
    GRACE_SECONDS,
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

DONE, FAILED, BAD_USAGE = 0, 1, 2


class LogAndProgress:
    """The sink of a run: every record goes to the log and to the progress bar."""

    def __init__(self, writer: Writer, progress: Progress) -> None:
        self.writer = writer
        self.progress = progress

    def write(self, records: list[Record]) -> None:
        """Log the records, and show what they say."""
        for record in records:
            self.writer.write(record)
            self.progress.update(record)
            match record:
                case Event(kind=EventKind.HELLO):
                    self.writer.describe(record.worker, record.text)
                case Event(kind=EventKind.EXCLUDED):
                    self.progress.say(f"worker {record.worker} is excluded: {record.text}")

    def idle(self) -> None:
        """Nothing arrives: what is buffered may as well be written."""
        self.writer.flush_if_due()


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asked for; ``debug`` shows the tracebacks of errors."""

    source: str
    assignments: tuple[str, ...]
    output: str | None
    overwrite: bool
    debug: bool


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
    problem: str | None = None
    writer: Writer | None = None
    try:
        workers = _workers(request.source)
        config = load(request.source, request.assignments)
        materials = prepare(config, workers)
        path = Path(request.output or config.run.output.replace("{name}", config.run.name))
        if WORLD.Get_rank() == SERVER:
            writer = _open_log(path, config, materials, workers, request.overwrite)
    except (ConfigurationError, OSError) as error:
        problem = str(error)
    everyone_ok, speaks = agree(WORLD, problem is None)
    if not everyone_ok:
        if speaks:
            _say(problem or "", request.debug)
        if writer is not None:
            writer.close("interrupted")
            path.unlink()
        return BAD_USAGE
    channel = Channel(WORLD, Codec(materials.shapes))
    place = Place(*node_share(WORLD))
    if writer is not None:
        return _run_server(channel, config, materials, workers, writer, path, request.debug)
    rank = WORLD.Get_rank()
    work(
        channel,
        lambda: worker_with_black_box(config, materials, rank, place),
        DelayModel(config.delay, config.run.seed, rank, workers),
    )
    channel.close(float("inf"))
    return DONE


def _workers(source: str) -> int:
    workers = WORLD.Get_size() - 1
    if workers < 1:
        raise ConfigurationError(
            "one process is not enough: rank 0 is the server, every other rank a worker."
            f" Start it with: mpiexec -n 4 asyndbt run {source}"
        )
    return workers


def _open_log(
    path: Path, config: Config, materials: Materials, workers: int, overwrite: bool
) -> Writer:
    if path.exists() and not overwrite:
        raise ConfigurationError(
            f"{path} is there already; give another --output, or --overwrite to replace it"
        )
    path.unlink(missing_ok=True)
    server_start = Server(config, materials.shapes, workers)
    return Writer(
        path, config, materials.shapes, workers, materials.vocabulary, "mpi", server_start.z
    )


def _run_server(
    channel: Channel,
    config: Config,
    materials: Materials,
    workers: int,
    writer: Writer,
    path: Path,
    debug: bool,
) -> int:
    """Serve until the end, close the log whatever the end is, and let the workers go."""
    server = Server(config, materials.shapes, workers)
    problem: str | None = None
    with Progress(config.run.iterations, workers) as progress:
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
        _say(f"{server.iteration} iterations are in {path}", debug)
    if not channel.close(GRACE_SECONDS):
        # Somebody is deep in a computation and has not seen the stop.
        channel.comm.Abort(FAILED)
    if problem:
        return FAILED
    with Log(path) as log:
        print_summary(log)
    return DONE


def _say(problem: str, debug: bool) -> None:
    """Print an error; what follows its first line is a traceback."""
    first, _, rest = problem.partition("\n")
    print(f"asyndbt: {first}", file=sys.stderr)
    if rest and debug:
        print(rest, file=sys.stderr)
