"""`asyndbt simulate`: a run in one process, under a virtual clock."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeAlias

from asyndbt_mpi.assemble import (
    Materials,
    Place,
    language_model,
    rows_fit,
    workers_with_black_box,
)
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.jobs.answer_cache import Answers
from asyndbt_mpi.jobs.job import DONE, Job
from asyndbt_mpi.jobs.opening import Ended, removed_if_empty
from asyndbt_mpi.jobs.resume import Resumed, ResumeSink, log_to_resume, nothing_left, resume
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.replay import Recorded
from asyndbt_mpi.transport.virtual import VirtualCluster
from asyndbt_mpi.view.progress import Progress
from asyndbt_mpi.view.sink import LogAndProgress
from asyndbt_mpi.view.summary import print_summary


def simulate(job: Job, resuming: bool = False) -> None:
    """Run ``job`` to its end and show it; only the delays of [delay] take time.

    Raises
    ------
    ConfigurationError
        The log cannot be written, or cannot be resumed by this job.
    Ended
        The run to be resumed has finished; the log is left unchanged.
    """
    _simulate(job, len(os.sched_getaffinity(0)), resuming, _shown)
    with Log(job.path) as log:
        print_summary(log)


def simulate_silently(job: Job, cores: int, resuming: bool = False) -> None:
    """Like `simulate`, without output, on ``cores`` cores; a finished run is not an error."""
    with suppress(Ended):
        _simulate(job, cores, resuming, _silent)


Write: TypeAlias = Callable[[list[Record]], None]
Say: TypeAlias = Callable[[str], None]
Sinks: TypeAlias = Callable[[Job, Writer, int], AbstractContextManager[tuple[Write, Say]]]
"""Makes a sink from the log's writer and the number of iterations already made."""


@contextmanager
def _shown(job: Job, writer: Writer, done: int) -> Iterator[tuple[Write, Say]]:
    tokens = not job.config.llm.is_function
    with Progress(job.config.run.iterations, job.workers, done, tokens=tokens) as progress:
        yield LogAndProgress(writer, progress).write, progress.say


@contextmanager
def _silent(job: Job, writer: Writer, done: int) -> Iterator[tuple[Write, Say]]:
    yield writer.write_all, lambda line: None


def _simulate(job: Job, cores: int, resuming: bool, sinks: Sinks) -> None:
    log = log_to_resume(job) if resuming else None
    if log is not None:
        with log:
            _go_on(job, log, cores, sinks)
        return
    cluster = _cluster(job, cores)
    writer = job.open_log("virtual", cluster.server.algorithm.z)
    try:
        with writer, sinks(job, writer, 0) as (write, say):
            cluster.run(write)
            _tell_limit(cluster.server, say)
    except BaseException:
        removed_if_empty(job, cluster.server)
        raise


def _go_on(job: Job, log: Log, cores: int, sinks: Sinks) -> None:
    """Simulate the run of ``log`` again with its recorded answers, and then beyond it.

    The virtual clock's arrivals follow from the delays alone, so nothing else needs restoring; the
    committed part is replayed first, to check that it is the same.
    """
    resumed = resume(log, job, "virtual")
    if resumed.server.finished and log.status == "finished":
        raise Ended(nothing_left(log, resumed), DONE)
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
    with writer, sinks(job, writer, log.committed) as (write, say):
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
    least = log.committed if log else 0
    cluster = virtual_cluster(job.config, job.materials, job.delays, cores, answers, least)
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
) -> VirtualCluster:
    """Server and workers of a run in this process, with the black box that answers them.

    There are as many workers as ``delays``. Without ``answers``, those of a language model are
    kept in memory only. The run makes at least ``least_iterations``; see `Server`.

    Raises
    ------
    ConfigurationError
        The prompts do not fit into the model's context, or the run into this machine's memory.
    ModelError
        The language model cannot be found, loaded or reached.
    """
    everyone = sorted(delays)
    server = Server(config, materials.shapes, len(everyone), least_iterations)
    fits = rows_fit(config, materials, everyone)
    model = language_model(config, Place(0, cores), answers)
    if not fits:
        rows_fit(config, materials, everyone)  # now the model is on this machine
    workers, black_box = workers_with_black_box(config, materials, everyone, model)
    return VirtualCluster(server, workers, black_box, delays)
