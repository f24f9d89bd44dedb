"""A run under MPI from start to finish: every rank calls `run`, rank 0 writes the log."""

import os
import shlex
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from asyndbt_mpi.adversary.colluders import colluders
from asyndbt_mpi.assemble import (
    Place,
    gpu_of,
    language_model,
    rows_fit,
    workers_with_black_box,
)
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.inputs.sections import Run
from asyndbt_mpi.jobs import precision
from asyndbt_mpi.jobs.again import announcement, run_command
from asyndbt_mpi.jobs.answer_cache import Answers
from asyndbt_mpi.jobs.codes import BAD_USAGE, DONE, FAILED
from asyndbt_mpi.jobs.job import Job, Request, log_path
from asyndbt_mpi.jobs.opening import Ended, Opened, open_run, removed_if_empty, verdict
from asyndbt_mpi.jobs.readings import first_difference, reading
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.log.errors import LogWriteError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.protocol.worker import Workers, state_length
from asyndbt_mpi.task.partition import most_rows
from asyndbt_mpi.transport.drive import serve, signals_noted, stop_all, work
from asyndbt_mpi.transport.interruption import Interrupted
from asyndbt_mpi.transport.launcher import launched, misfit, wait_for_spokesman
from asyndbt_mpi.transport.mpi import (
    LEAVING,
    SERVER,
    WORLD,
    Channel,
    ServerDied,
    StartError,
    leave,
    leave_at_exit,
    library,
    survives_deaths,
)
from asyndbt_mpi.transport.together import Together, count_equal
from asyndbt_mpi.view.progress import Progress
from asyndbt_mpi.view.sink import LogAndProgress
from asyndbt_mpi.view.summary import print_summary

GRACE_SECONDS = 5.0
"""Seconds that workers may take to end after a problem ..."""
PATIENCE_SECONDS = 60.0
"""... and without one, when only an excluded worker can still be busy."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: an exit code, what was wrong, if anything, and the log's ``path``.

    Returned by `launch`, only rank 0's has the last two.
    """

    code: int
    problem: str | None = None
    path: Path | None = None


class Refused(Exception):
    """The run does not start; ``why`` (None: another rank reports it) and the exit ``code``."""

    def __init__(self, why: str | None, code: int) -> None:
        super().__init__(why)
        self.why = why
        self.code = code


def run(request: Request) -> int:
    """Run a configuration on all ranks; the exit code of this rank."""
    try:
        return leave(launch(request).code)
    except Refused as error:
        # If launcher and MPI library do not match, every process is rank 0 of its own world.
        if error.why is not None and (
            WORLD.Get_size() > 1 or wait_for_spokesman(launched(os.environ))
        ):
            _say(error.why, debug=False)
        return leave(error.code)


def launch(request: Request) -> Outcome:
    """Run a configuration on all ranks.

    Raises
    ------
    Refused
        On all ranks: the run cannot start.
    """
    try:
        return _run(request)
    except Refused:
        raise
    except ServerDied as error:
        _say(f"rank {WORLD.Get_rank()} ends: {error}; to continue, add --resume", debug=False)
        return Outcome(leave(FAILED))
    except StartError as error:
        _say(f"{error}; no model was asked anything", debug=False)
        WORLD.Abort(FAILED)
        raise
    except Exception as error:
        # The state of the other ranks is unknown now: only an abort ends them all.
        where = f"rank {WORLD.Get_rank()} on {socket.gethostname()}"
        text = f"{where}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
        _say(text, request.debug)
        WORLD.Abort(FAILED)
        raise


def launch_from_python(request: Request) -> Outcome:
    """Like `launch`, for code that continues afterwards: every rank learns how and why it ended.

    Raises
    ------
    Refused
    """
    if LEAVING:
        raise Refused(
            "under mpiexec --with-ft ulfm a program can make only one run, because the workers'"
            " processes end with it; start the program once for each run",
            BAD_USAGE,
        )
    together = Together(WORLD, Run().worker_timeout)
    try:
        outcome = launch(request)
    except Refused as error:
        why = together.first_text(error.why or "")
        if error.code == DONE:  # the log has the result: there was nothing to resume
            path = log_path(request.configuration(), request.output)
            return Outcome(DONE, why, path if WORLD.Get_rank() == SERVER else None)
        raise Refused(why, error.code) from None
    if survives_deaths():
        if WORLD.Get_rank() != SERVER:
            leave(outcome.code)  # rank 0 waits for it, and MPI may be unable to end
        leave_at_exit()
        return outcome
    code, problem = together.from_server(outcome.code), together.first_text(outcome.problem or "")
    return replace(outcome, code=code, problem=problem)


def _run(request: Request) -> Outcome:
    job: Job | None = None
    problem: str | None = None
    try:
        job = Job.of(request, _workers(request))
    except ConfigurationError as error:
        # Rank 0 reports first; if another rank does, its files differ.
        rank, host = WORLD.Get_rank(), socket.gethostname()
        problem = str(error) if rank == SERVER else f"rank {rank} on {host}: {error}"
    together = Together(WORLD, (job.config.run if job else Run()).worker_timeout)
    together.wait_for_all()
    _agree(together, problem)
    assert job is not None
    texts = together.gather_texts(reading(job.config, job.materials))
    _agree(together, first_difference(texts) if texts else None)
    if WORLD.Get_rank() == SERVER:
        for line in job.materials.remarks(job.config):
            _say(line, request.debug)
    # From here on, because opening a long run's log or a large model takes a while.
    with signals_noted(_signals(job)) as signalled:
        return _run_job(job, request, together, signalled)


def _run_job(
    job: Job, request: Request, together: Together, signalled: list[signal.Signals]
) -> Outcome:
    problem: str | None = None
    rank = WORLD.Get_rank()
    fits = True
    if rank != SERVER:
        try:
            fits = rows_fit(job.config, job.materials, [rank])
        except ConfigurationError as error:
            problem = str(error)
    # Counting tokens takes the workers a while; the server sleeps meanwhile.
    together.wait_for_all()
    _agree(together, problem)
    job = _with_precision(job, request.resume, together)
    # An older log is replaced only now, when no rank objects to the run.
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
            problem = f"interrupted by {error} while the run was replayed; its log is unchanged"
            code = DONE if str(error) in job.config.run.signals else FAILED
    together.wait_for_all()  # a long run takes the server a while; the others sleep meanwhile
    _agree(together, problem, lambda: together.from_server(code))
    time, patience = opened.time if opened else 0.0, job.config.run.worker_timeout
    channel = Channel(WORLD, _codec(job), time, patience)
    place = _place(job.config, job.workers, together, signalled)
    if opened is not None:
        return _run_server(channel, job, opened, request, signalled)
    _run_worker(channel, job, place, fits, signalled)
    return Outcome(DONE)


def _with_precision(job: Job, resuming: bool, together: Together) -> Job:
    """``job`` with its precision decided, for all workers the same; all ranks call this together.

    A run that is resumed keeps its own. Else it is float32 if bfloat16 is slow for one worker, and
    rank 1 finds out whether it is near enough.
    """
    if not precision.is_open(job.config):
        return job
    rank, found = WORLD.Get_rank(), ""
    problem: str | None = None
    if rank == SERVER and resuming:
        try:
            found = precision.of_log(job)
        except ConfigurationError as error:
            problem = str(error)
    _agree(together, problem)
    found = together.first_text(found)
    if found:
        return replace(job, config=precision.decided(job.config, found))
    local_rank, cores = together.node_share()
    slow = ""
    if rank != SERVER:
        with suppress(ModelError):  # whoever loads the model reports it
            if why := precision.why_slow(job.config, local_rank):
                slow = f"on {socket.gethostname()} {why}"
    if slow := together.first_text(slow):
        decision = precision.Decision("float32", slow)
    else:
        if rank == SERVER + 1:
            try:
                place = Place(local_rank, cores)
                found = precision.compare(job.config, job.materials, place).to_text()
            except ModelError as error:
                problem = str(error)
        together.wait_for_all()  # it takes a while; the others sleep meanwhile
        _agree(together, problem)
        decision = precision.Decision.of_text(together.first_text(found))
    if rank == SERVER:
        _say(str(decision), debug=False)
    return replace(job, config=precision.decided(job.config, decision.precision))


def _codec(job: Job) -> Codec:
    shapes = job.materials.shapes
    config, length = job.config, state_length(job.config, shapes, job.materials.own.estimator)
    return Codec(
        shapes,
        length,
        free_losses=config.llm.is_function,
        rows=most_rows(job.materials.data),
        pools=config.algorithm.pools,
        private=config.log.private,
    )


def _place(
    config: Config, workers: int, together: Together, signalled: Sequence[signal.Signals] = ()
) -> Place:
    """Where this rank runs; all ranks call this together."""
    local_rank, cores = together.node_share()
    neighbours = together.workers_of_node()
    if WORLD.Get_rank() == SERVER:
        return Place(local_rank, cores)
    # Only among the workers of a node: torch takes seconds to load and a broken GPU may hang, but
    # neither the server nor other nodes wait for that. Workers that wait must report before the
    # server gives them up along with the one that hangs.
    on_gpu = count_equal(
        neighbours,
        gpu_of(config, local_rank),
        lambda: bool(signalled),
        config.run.worker_timeout / 2,
    )
    return Place(local_rank, cores, sharing=workers, on_gpu=on_gpu)


def _workers(request: Request) -> int:
    workers = WORLD.Get_size() - 1
    if found := misfit(launched(os.environ), library(), WORLD.Get_size()):
        raise ConfigurationError("; ".join(found))
    if workers < 1:
        how = f"asyndbt run {request.source}" if request.given is None else _script()
        raise ConfigurationError(
            "one process is not enough: rank 0 is the server, every other rank a worker."
            f" Start it with: mpiexec -n {request.configuration().usual_workers + 1} {how}"
        )
    return workers


def _script() -> str:
    """The command line of the Python code that started the run."""
    return shlex.join(["python", *sys.argv]) if sys.argv[0] else "python SCRIPT.py"


def _agree(
    together: Together, problem: str | None, code: Callable[[], int] = lambda: BAD_USAGE
) -> None:
    """Refuse the run on all ranks if one has a problem; the first such rank reports it."""
    well, says_it = together.agree(problem is None)
    if not well:
        raise Refused(problem if says_it else None, code())


def _run_worker(
    channel: Channel, job: Job, place: Place, fits: bool, signalled: list[signal.Signals]
) -> None:
    rank = WORLD.Get_rank()

    def prepare() -> tuple[Workers, BlackBox]:
        model = language_model(job.config, place, Answers(job.path, rank))
        if not fits:
            rows_fit(job.config, job.materials, [rank])  # now the model is on this machine
        home = job.home([rank])
        return workers_with_black_box(job.config, job.materials, [rank], model, home)

    with _warnings_signed(f"worker {rank} on {socket.gethostname()}"):
        liars = colluders(job.config, job.materials.shapes, job.workers)
        work(channel, prepare, job.delays[rank], _signals(job), signalled, liars)
    channel.close(float("inf"))


@contextmanager
def _warnings_signed(who: str) -> Iterator[None]:
    """Let every warning begin with ``who``, because all ranks write to one terminal."""
    show = warnings.showwarning

    def signed(message: Warning | str, *rest: Any, **named: Any) -> None:
        show(f"{who}: {message}", *rest, **named)

    warnings.showwarning = signed
    try:
        yield
    finally:
        warnings.showwarning = show


def _signals(job: Job) -> list[signal.Signals]:
    """Signals that end the run cleanly: Ctrl-C, the configured ones, and the launcher's."""
    named = {signal.Signals[name] for name in job.config.run.signals}
    return sorted(named | {signal.SIGINT, signal.SIGTERM})


def _run_server(
    channel: Channel,
    job: Job,
    opened: Opened,
    request: Request,
    signalled: list[signal.Signals],
) -> Outcome:
    """Serve until the run ends, close the log in any case, and release the workers."""
    server, writer = opened.server, opened.writer
    problem: str | None = None
    code = FAILED
    whole = False
    done, calls = server.iteration, server.spending.spent.calls
    if request.given is None:
        print(printable(announcement(job.path, _command(job, request))), file=sys.stderr)
    with Progress(job.config, job.workers, done, calls) as progress:
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
    if problem and request.given is not None:  # Python code prints the error itself
        problem = f"{problem.partition(chr(10))[0]}{_remains(job, server)}"
    elif problem:
        _say(problem, request.debug)
        _tell_how_to_go_on(job, server, request, signalled)
    elif request.given is None:
        if server.limit:
            _say(f"the run ends at {server.limit}", request.debug)
        code = _sum_up(job, request)
    # After a problem a worker may be deep in a computation, and so may a lost one at any time.
    given_up = problem or server.members.given_up - channel.gone
    if not channel.close(GRACE_SECONDS if given_up else PATIENCE_SECONDS):
        _say("a worker does not answer: its process is ended", request.debug)
        channel.comm.Abort(code)
    return Outcome(code, problem, job.path)


def _sum_up(job: Job, request: Request) -> int:
    """Print the summary of a run that is over; the exit code.

    Whatever is wrong with it must not end the job as `launch` would: the log is whole.
    """
    try:
        with Log(job.path) as log:
            # A rank sees the launcher's terminal even if the output goes to a file.
            print_summary(log, Console(force_terminal=False, color_system=None))
    except Exception as error:
        what = f"the run is over and its log is whole ({job.path}), but it cannot be summed up"
        text = f"{what}: {type(error).__name__}: {error}".partition("\n")[0]
        _say(f"{text}\n{traceback.format_exc()}", request.debug)
        return FAILED
    return DONE


def _remains(job: Job, server: Server) -> str:
    """How much of a run that had a problem can be resumed."""
    if removed_if_empty(job, server):
        return ""
    further = "" if job.config.log.private else "; to continue, add resume=True"
    return f" ({server.iteration} iterations are in {job.path}{further})"


def _tell_how_to_go_on(
    job: Job, server: Server, request: Request, signalled: list[signal.Signals]
) -> None:
    if removed_if_empty(job, server):
        return
    if job.config.log.private:
        _say(f"{server.iteration} iterations are in {job.path}", debug=False)
        return
    _say(f"{server.iteration} iterations are in {job.path}; to continue:", debug=False)
    _say(f"  {_command(job, request)}", debug=False)
    if signalled and signalled[0] is signal.SIGTERM and not survives_deaths():
        # This is how a launcher ends a job after one of its processes died.
        _say(
            "if a process died: mpiexec --with-ft ulfm lets a run continue without it", debug=False
        )


def _command(job: Job, request: Request) -> str:
    """What the user has to type to resume the run; "" if it cannot be resumed."""
    if job.config.log.private:
        return ""
    return run_command(request, job.workers, launched(os.environ), survives_deaths())


def _say(problem: str, debug: bool) -> None:
    """Print an error; what follows its first line is a traceback."""
    first, _, rest = problem.partition("\n")
    print(f"asyndbt: {printable(first)}", file=sys.stderr)
    if rest and debug:
        print(printable(rest, lines=True), file=sys.stderr)
