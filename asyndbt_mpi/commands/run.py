"""A run under MPI from start to end: every rank calls `run`, rank 0 writes the log."""

import os
import shlex
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from asyndbt_mpi.config import Config, ConfigurationError, Run
from asyndbt_mpi.jobs.answer_cache import Answers
from asyndbt_mpi.jobs.assemble import (
    Place,
    gpu_of,
    language_model,
    rows_fit,
    workers_with_black_box,
)
from asyndbt_mpi.jobs.job import (
    BAD_USAGE,
    DONE,
    FAILED,
    Job,
    Request,
)
from asyndbt_mpi.jobs.opening import Ended, Opened, open_run, verdict
from asyndbt_mpi.jobs.readings import first_difference, reading
from asyndbt_mpi.log.errors import LogWriteError
from asyndbt_mpi.log.file import remove_log
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.protocol.worker import Workers, state_length
from asyndbt_mpi.transport.drive import serve, signals_noted, stop_all, work
from asyndbt_mpi.transport.interruption import Interrupted
from asyndbt_mpi.transport.launcher import launched, misfit, speaks
from asyndbt_mpi.transport.mpi import (
    SERVER,
    WORLD,
    Channel,
    ServerDied,
    StartError,
    leave,
    library,
    survives_deaths,
)
from asyndbt_mpi.transport.together import Together, alike
from asyndbt_mpi.view.progress import Progress
from asyndbt_mpi.view.sink import LogAndProgress
from asyndbt_mpi.view.summary import print_summary

GRACE_SECONDS = 5.0
"""How long workers may take to end after a problem ..."""
PATIENCE_SECONDS = 60.0
"""... and when all is well, where only an excluded worker can still be at work."""


def run(request: Request) -> int:
    """Run a configuration on all ranks; the exit code of this rank."""
    try:
        return leave(_run(request))
    except ServerDied as error:
        _say(f"rank {WORLD.Get_rank()} ends: {error}; to go on, add --resume", debug=False)
        return leave(FAILED)
    except StartError as error:
        _say(f"{error}; nothing was asked of any model", debug=False)
        WORLD.Abort(FAILED)
        raise
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
        # Rank 0 speaks first: who does instead has files of its own.
        rank, host = WORLD.Get_rank(), socket.gethostname()
        problem = str(error) if rank == SERVER else f"rank {rank} on {host}: {error}"
    together = Together(WORLD, (job.config.run if job else Run()).worker_timeout)
    together.wait_for_all()
    if not _all_well(together, problem) or job is None:
        return BAD_USAGE
    texts = together.gather_texts(reading(job.config, job.materials))
    if not _all_well(together, first_difference(texts) if texts else None):
        return BAD_USAGE
    # From here on: to open a log of a long run, or a large model, takes a while.
    with signals_noted(_signals(job)) as signalled:
        return _run_job(job, request, together, signalled)


def _run_job(
    job: Job, request: Request, together: Together, signalled: list[signal.Signals]
) -> int:
    problem: str | None = None
    rank = WORLD.Get_rank()
    fits = True
    if rank != SERVER:
        try:
            fits = rows_fit(job.config, job.materials, [rank])
        except ConfigurationError as error:
            problem = str(error)
    # To count tokens takes the workers a while, in which the server sleeps.
    together.wait_for_all()
    if not _all_well(together, problem):
        return BAD_USAGE
    # Only now, when no rank has anything against the run, is an older log replaced.
    opened: Opened | None = None
    code = BAD_USAGE
    if rank == SERVER:
        try:
            opened = open_run(job, request.resume, signalled)
        except (ConfigurationError, MemoryError) as error:
            problem = str(error)
        except LogWriteError as error:
            problem, code = str(error), FAILED
        except Ended as error:
            problem, code = str(error), error.code
        except Interrupted as error:
            problem = f"interrupted by {error} while the run was gone through; it is as it was"
            code = DONE if str(error) in job.config.run.signals else FAILED
    together.wait_for_all()  # a long run takes the server a while; the others sleep
    if not _all_well(together, problem):
        return together.from_server(code)
    time, patience = opened.time if opened else 0.0, job.config.run.worker_timeout
    channel = Channel(WORLD, _codec(job), time, patience)
    place = _place(job.config, job.workers, together, signalled)
    if opened is not None:
        return _run_server(channel, job, opened, request, signalled)
    return _run_worker(channel, job, place, fits, signalled)


def _codec(job: Job) -> Codec:
    shapes = job.materials.shapes
    synthetic = job.config.llm.backend == "synthetic"
    return Codec(shapes, state_length(job.config, shapes), free_losses=synthetic)


def _place(
    config: Config, workers: int, together: Together, signalled: Sequence[signal.Signals] = ()
) -> Place:
    """Where this rank runs; all ranks call this together."""
    local_rank, cores = together.node_share()
    neighbours = together.workers_of_node()
    if WORLD.Get_rank() == SERVER:
        return Place(local_rank, cores)
    # Among the workers of a node alone: torch takes seconds to load and a broken GPU may hang,
    # for which neither the server nor the other nodes wait.
    # Whoever waits has to be heard of before the server gives it up with the one that hangs.
    on_gpu = alike(
        neighbours,
        gpu_of(config, local_rank),
        lambda: bool(signalled),
        config.run.worker_timeout / 2,
    )
    return Place(local_rank, cores, sharing=workers, on_gpu=on_gpu)


def _workers(source: str) -> int:
    workers = WORLD.Get_size() - 1
    if found := misfit(launched(os.environ), library(), WORLD.Get_size()):
        raise ConfigurationError("; ".join(found))
    if workers < 1:
        raise ConfigurationError(
            "one process is not enough: rank 0 is the server, every other rank a worker."
            f" Start it with: mpiexec -n 4 asyndbt run {source}"
        )
    return workers


def _all_well(together: Together, problem: str | None) -> bool:
    """Whether no rank has a problem; the first one that has says it."""
    well, says_it = together.agree(problem is None)
    # Where launcher and MPI library do not fit, every process is rank 0 of a world of its own.
    if says_it and (WORLD.Get_size() > 1 or speaks(launched(os.environ))):
        _say(problem or "", debug=False)
    return well


def _run_worker(
    channel: Channel, job: Job, place: Place, fits: bool, signalled: list[signal.Signals]
) -> int:
    rank = WORLD.Get_rank()

    def prepare() -> tuple[Workers, BlackBox]:
        model = language_model(job.config, place, Answers(job.path, rank))
        if not fits:
            rows_fit(job.config, job.materials, [rank])  # now the model is on this machine
        return workers_with_black_box(job.config, job.materials, [rank], model)

    with _warnings_signed(f"worker {rank} on {socket.gethostname()}"):
        work(channel, prepare, job.delays[rank], _signals(job), signalled)
    channel.close(float("inf"))
    return DONE


@contextmanager
def _warnings_signed(who: str) -> Iterator[None]:
    """Let every warning begin with ``who`` gives it: all ranks write to one terminal."""
    show = warnings.showwarning

    def signed(message: Warning | str, *rest: Any, **named: Any) -> None:
        show(f"{who}: {message}", *rest, **named)

    warnings.showwarning = signed
    try:
        yield
    finally:
        warnings.showwarning = show


def _signals(job: Job) -> list[signal.Signals]:
    """What ends the run in order: Ctrl-C, what the configuration names, and a launcher's kill."""
    named = {signal.Signals[name] for name in job.config.run.signals}
    return sorted(named | {signal.SIGINT, signal.SIGTERM})


def _run_server(
    channel: Channel,
    job: Job,
    opened: Opened,
    request: Request,
    signalled: list[signal.Signals],
) -> int:
    """Serve until the end, close the log whatever the end is, and let the workers go."""
    server, writer = opened.server, opened.writer
    problem: str | None = None
    code = FAILED
    whole = False
    done, calls = server.iteration, server.spending.spent.calls
    with Progress(job.config.run.iterations, job.workers, done, calls) as progress:
        try:
            sink = LogAndProgress(writer, progress)
            whole = serve(channel, server, sink, signalled, opened.earlier)
            problem, code = verdict(server)
            writer.close("finished" if whole and not problem else "interrupted")
        except LogWriteError as error:
            problem = str(error)
        finally:
            writer.close("interrupted")
            stop_all(channel, server)
    if signalled and not whole and not problem:
        problem = f"interrupted by {signalled[0].name}"
        code = DONE if signalled[0].name in job.config.run.signals else FAILED
    if problem:
        _say(problem, request.debug)
        _tell_how_to_go_on(job, server, request, signalled)
    else:
        if server.limit:
            _say(f"the run ends by {server.limit}", request.debug)
        with Log(job.path) as log:
            # A rank's output is a terminal of the launcher's even if it ends up in a file.
            print_summary(log, Console(force_terminal=False, color_system=None))
    # After a problem somebody may be deep in a computation, and so may ever be who was given up.
    given_up = problem or server.members.lost - channel.gone
    if not channel.close(GRACE_SECONDS if given_up else PATIENCE_SECONDS):
        _say("a worker does not answer: its process is ended", request.debug)
        channel.comm.Abort(code)
    return code


def _tell_how_to_go_on(
    job: Job, server: Server, request: Request, signalled: list[signal.Signals]
) -> None:
    if not server.iteration and not server.spending.spent.calls:
        remove_log(job.path)  # an empty log would only be in the way of the next try
        return
    _say(f"{server.iteration} iterations are in {job.path}; to go on:", debug=False)
    _say(f"  {_command(job, request)}", debug=False)
    if signalled and signalled[0] is signal.SIGTERM and not survives_deaths():
        # So a launcher ends a job one of whose processes died.
        _say("if a process died: with mpiexec --with-ft ulfm a run goes on without it", debug=False)


def _command(job: Job, request: Request) -> str:
    """What the user has to type to resume the run."""
    launcher = ["mpiexec", *(["--with-ft", "ulfm"] if survives_deaths() else [])]
    sets = [part for assignment in request.assignments for part in ("--set", assignment)]
    output = ["--output", request.output] if request.output else []
    words = ["-n", str(job.workers + 1), "asyndbt", "run", request.source, *sets, *output]
    return shlex.join([*launcher, *words, "--resume"])


def _say(problem: str, debug: bool) -> None:
    """Print an error; what follows its first line is a traceback."""
    first, _, rest = problem.partition("\n")
    print(f"asyndbt: {printable(first)}", file=sys.stderr)
    if rest and debug:
        print(printable(rest, lines=True), file=sys.stderr)
