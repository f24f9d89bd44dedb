"""`asyndbt simulate`: a run in one process, under a virtual clock."""

import os

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.jobs.answer_cache import Answers
from asyndbt_mpi.jobs.assemble import Place, language_model, rows_fit, workers_with_black_box
from asyndbt_mpi.jobs.job import Job
from asyndbt_mpi.jobs.resume import Resumed, Unlogged, log_to_resume, nothing_left, resume
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.transport.replay import Recorded
from asyndbt_mpi.transport.virtual import VirtualCluster
from asyndbt_mpi.view.progress import Progress
from asyndbt_mpi.view.sink import LogAndProgress
from asyndbt_mpi.view.summary import print_summary


def simulate(job: Job, resuming: bool = False) -> None:
    """Run ``job`` to its end; the delays of [delay] are all the time there is.

    Raises
    ------
    ConfigurationError
        The log cannot be written, or is not to be resumed by this job.
    """
    log = log_to_resume(job) if resuming else None
    if log is None:
        cluster = _cluster(job, len(os.sched_getaffinity(0)))
        with (
            job.open_log("virtual", cluster.server.iterates.z) as writer,
            Progress(job.config.run.iterations, job.workers) as progress,
        ):
            cluster.run(LogAndProgress(writer, progress).write)
            _tell_limit(cluster.server, progress)
    else:
        with log:
            _go_on(job, log)
    with Log(job.path) as log:
        print_summary(log)


def _go_on(job: Job, log: Log) -> None:
    """Simulate the run of ``log`` again, with the answers that it has, and then beyond it.

    The virtual clock's arrivals follow from the delays alone, so that there is nothing else to
    restore; what the run has committed is gone through first, to see that it is the same.
    """
    resumed = resume(log, job, "virtual")
    if resumed.server.finished and log.status == "finished":
        raise ConfigurationError(nothing_left(log, resumed))
    cluster = _cluster(job, len(os.sched_getaffinity(0)), log, resumed)
    _check_models(cluster, resumed)
    new: list[Record] = []
    unlogged = Unlogged(
        log,
        [*resumed.events, resumed.event],
        new.append,
        lambda event: cluster.server.spending.count(event.costs),
    )
    # What the replay found new comes again.
    writer = job.reopen_log(log, resumed.counted)
    with writer, Progress(job.config.run.iterations, job.workers, log.committed) as progress:
        sink = LogAndProgress(writer, progress)
        sink.write([resumed.event])

        def write_new(records: list[Record]) -> None:
            unlogged(records)
            sink.write(new)
            new.clear()

        cluster.run(write_new)
        _tell_limit(cluster.server, progress)


def _check_models(cluster: VirtualCluster, resumed: Resumed) -> None:
    box, models = cluster.black_box, resumed.server.models
    for worker, digest in box.digests.items():
        if why := models.difference(worker, box.descriptions[worker], digest):
            raise ConfigurationError(why)


def _tell_limit(server: Server, progress: Progress) -> None:
    if server.limit and not server.iteration:
        raise ConfigurationError(f"{server.limit}: does not cover one iteration")
    if server.limit:
        progress.say(f"the run ends by {server.limit}")


def simulate_silently(job: Job, cores: int) -> None:
    """As `simulate`, without a word, on ``cores`` cores."""
    cluster = _cluster(job, cores)
    with job.open_log("virtual", cluster.server.iterates.z) as writer:
        cluster.run(writer.write_all)


def _cluster(
    job: Job, cores: int, log: Log | None = None, resumed: Resumed | None = None
) -> VirtualCluster:
    least = log.committed if log else 0
    server = Server(job.config, job.materials.shapes, job.workers, least)
    everyone = range(1, job.workers + 1)
    fits = rows_fit(job.config, job.materials, everyone)
    model = language_model(job.config, Place(0, cores), Answers(job.path, 0))
    if not fits:
        rows_fit(job.config, job.materials, everyone)  # now the model is on this machine
    workers, black_box = workers_with_black_box(job.config, job.materials, everyone, model)
    if log and resumed:
        black_box = Recorded(resumed.events, black_box)
    return VirtualCluster(server, workers, black_box, job.delays)
