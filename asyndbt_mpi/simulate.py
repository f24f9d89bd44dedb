"""`asyndbt simulate`: a run in one process, under a virtual clock."""

import os

from asyndbt_mpi.assemble import Place, language_model, workers_with_black_box
from asyndbt_mpi.job import Job, LogAndProgress
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.transport.virtual import VirtualCluster
from asyndbt_mpi.view.progress import Progress
from asyndbt_mpi.view.summary import print_summary


def simulate(job: Job) -> None:
    """Run ``job`` to its end; the delays of [delay] are all the time there is.

    Raises
    ------
    ConfigurationError
        The log cannot be written.
    """
    cluster = _cluster(job, len(os.sched_getaffinity(0)))
    with (
        job.open_log("virtual", cluster.server.z) as writer,
        Progress(job.config.run.iterations, job.workers) as progress,
    ):
        cluster.run(LogAndProgress(writer, progress).write)
    with Log(job.path) as log:
        print_summary(log)


def simulate_silently(job: Job, cores: int) -> None:
    """As `simulate`, without a word, on ``cores`` cores."""
    cluster = _cluster(job, cores)
    with job.open_log("virtual", cluster.server.z) as writer:
        cluster.run(writer.write_all)


def _cluster(job: Job, cores: int) -> VirtualCluster:
    server = Server(job.config, job.materials.shapes, job.workers)
    model = language_model(job.config, Place(0, cores), 1)
    everyone = range(1, job.workers + 1)
    workers, black_box = workers_with_black_box(job.config, job.materials, everyone, model)
    return VirtualCluster(server, workers, black_box, job.delays)
