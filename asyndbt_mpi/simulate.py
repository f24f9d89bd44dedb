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
    server = Server(job.config, job.materials.shapes, job.workers)
    model = language_model(job.config, Place(0, len(os.sched_getaffinity(0))))
    everyone = range(1, job.workers + 1)
    workers, black_box = workers_with_black_box(job.config, job.materials, everyone, model)
    cluster = VirtualCluster(server, workers, black_box, job.materials.delays)
    with (
        job.open_log("virtual", server.z) as writer,
        Progress(job.config.run.iterations, job.workers) as progress,
    ):
        cluster.run(LogAndProgress(writer, progress).write)
    with Log(job.path) as log:
        print_summary(log)
