"""`asyndbt simulate`: a run in one process, under a virtual clock."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

from asyndbt_mpi.adversary.colluders import colluders
from asyndbt_mpi.assemble import (
    Materials,
    Place,
    language_model,
    rows_fit,
    workers_with_black_box,
)
from asyndbt_mpi.config import Config, ConfigurationError, with_choices_of
from asyndbt_mpi.jobs.again import announcement
from asyndbt_mpi.jobs.answer_cache import Answers
from asyndbt_mpi.jobs.codes import DONE
from asyndbt_mpi.jobs.job import Job
from asyndbt_mpi.jobs.opening import Ended, removed_if_empty
from asyndbt_mpi.jobs.precision import settled
from asyndbt_mpi.jobs.resume import Resumed, ResumeSink, log_to_resume, nothing_left, resume
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.private import Home
from asyndbt_mpi.protocol.records import Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.task.partition import held
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.replay import Recorded
from asyndbt_mpi.transport.virtual import VirtualCluster
from asyndbt_mpi.view.progress import Progress, loading
from asyndbt_mpi.view.say import say
from asyndbt_mpi.view.sink import LogAndProgress
from asyndbt_mpi.view.summary import print_summary


def simulate(job: Job, resuming: bool = False, again: str = "") -> None:
    """Run ``job`` to its end and show it; only the delays of [delay] take time.

    ``again`` is the command that resumes the run, for the user.

    Raises
    ------
    ConfigurationError
        The log cannot be written, or cannot be resumed by this job.
    Ended
        The run to be resumed has finished; the log is left unchanged.
    """

    @contextmanager
    def shown(job: Job, writer: Writer, done: int) -> Iterator[tuple[Write, Say]]:
        if again:
            say(announcement(job.path, again), err=True)
        with Progress(job.config, job.workers, done) as progress:
            yield LogAndProgress(writer, progress).write, progress.say

    try:
        _simulate(job, len(os.sched_getaffinity(0)), resuming, Display(loading, shown))
    except KeyboardInterrupt:
        if again and job.path.exists():
            say(f"asyndbt: to resume it: {again}", err=True)
        raise
    with Log(job.path) as log:
        print_summary(log)


def simulate_silently(job: Job, cores: int, resuming: bool = False) -> None:
    """Like `simulate`, without output, on ``cores`` cores; a finished run is not an error."""
    with suppress(Ended):
        _simulate(job, cores, resuming, Display(lambda config: nullcontext(), _silent))


Write: TypeAlias = Callable[[list[Record]], None]
Say: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Display:
    """What is shown while a model is loaded, and then of the run.

    ``sinks`` makes the latter from the log's writer and the number of iterations already made.
    """

    loading: Callable[[Config], AbstractContextManager[None]]
    sinks: Callable[[Job, Writer, int], AbstractContextManager[tuple[Write, Say]]]


@contextmanager
def _silent(job: Job, writer: Writer, done: int) -> Iterator[tuple[Write, Say]]:
    yield writer.write_all, lambda line: None


def _simulate(job: Job, cores: int, resuming: bool, display: Display) -> None:
    log = log_to_resume(job) if resuming else None
    if log is not None:
        with log:
            kept = replace(job, config=with_choices_of(job.config, log.config))
            _go_on(kept, log, cores, display)
        return
    with display.loading(job.config):
        config, decision = settled(job.config, job.materials, Place(0, cores))
        job = replace(job, config=config)
        cluster = _cluster(job, cores)
    writer = job.open_log("virtual", cluster.server.algorithm.z)
    try:
        with writer, display.sinks(job, writer, 0) as (write, say):
            if decision:
                say(str(decision))
            cluster.run(write)
            _tell_limit(cluster.server, say)
    except BaseException:
        removed_if_empty(job, cluster.server)
        raise


def _go_on(job: Job, log: Log, cores: int, display: Display) -> None:
    """Simulate the run of ``log`` again with its recorded answers, and then beyond it.

    The virtual clock's arrivals follow from the delays alone, so nothing else needs restoring; the
    committed part is replayed first, to check that it is the same.
    """
    resumed = resume(log, job, "virtual")
    if resumed.server.finished and log.status == "finished":
        raise Ended(nothing_left(log, resumed), DONE)
    with display.loading(job.config):
        cluster = _cluster(job, cores, log, resumed)
    _check_models(cluster, resumed)
    new: list[Record] = []
    sink = ResumeSink(
        log,
        [*resumed.events, resumed.event],
        new.append,
        lambda event: cluster.server.spending.count(event.costs),
    )
    # The new records of the replay will come again.
    writer = job.reopen_log(log, resumed.counted)
    with writer, display.sinks(job, writer, log.committed) as (write, say):
        write([resumed.event])

        def write_new(records: list[Record]) -> None:
            sink(records)
            write(new)
            new.clear()

        cluster.run(write_new)
        _tell_limit(cluster.server, say)


def _check_models(cluster: VirtualCluster, resumed: Resumed) -> None:
    box, models = cluster.black_box, resumed.server.models
    for worker, digest in box.digests.items():
        if why := models.difference(worker, box.descriptions[worker], digest):
            raise ConfigurationError(why)


def _tell_limit(server: Server, say: Say) -> None:
    if server.limit and not server.iteration:
        raise ConfigurationError(
            f"{server.limit}: too small for one iteration; see asyndbt estimate"
        )
    if server.limit:
        say(f"the run ends at {server.limit}")


def _cluster(
    job: Job, cores: int, log: Log | None = None, resumed: Resumed | None = None
) -> VirtualCluster:
    answers = Answers(job.path, 0)
    least, home = log.committed if log else 0, job.home(sorted(job.delays))
    cluster = virtual_cluster(job.config, job.materials, job.delays, cores, answers, least, home)
    if resumed:
        cluster.black_box = Recorded(resumed.events, cluster.black_box)
    return cluster


def virtual_cluster(
    config: Config,
    materials: Materials,
    delays: Mapping[int, Delays],
    cores: int,
    answers: Answers | None = None,
    least_iterations: int = 0,
    home: Home | None = None,
) -> VirtualCluster:
    """Server and workers of a run in this process, with the black box that answers them.

    There are as many workers as ``delays``. Without ``answers``, those of a language model are
    kept in memory only. The run makes at least ``least_iterations``; see `Server`. ``home`` takes
    what the workers do not tell.

    Raises
    ------
    ConfigurationError
        The prompts do not fit into the model's context, or the run into this machine's memory.
    ModelError
        The language model cannot be found, loaded or reached.
    """
    everyone = sorted(delays)
    known = held(materials.data)
    server = Server(config, materials.shapes, len(everyone), least_iterations, held=known)
    fits = rows_fit(config, materials, everyone)
    model = language_model(config, Place(0, cores), answers)
    if not fits:
        rows_fit(config, materials, everyone)  # now the model is on this machine
    workers, black_box = workers_with_black_box(config, materials, everyone, model, home)
    liars = colluders(config, materials.shapes, len(everyone))
    return VirtualCluster(server, workers, black_box, delays, liars)
