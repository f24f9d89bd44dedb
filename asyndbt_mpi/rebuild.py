"""The workers of a run that is over, built again from its log."""

import os

from asyndbt_mpi.assemble import Place, language_model, prepare, workers_with_black_box
from asyndbt_mpi.log.reader import Log, LogError
from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.worker import Workers


def rebuild(log: Log) -> tuple[Workers, BlackBox]:
    """All workers of ``log`` at their start, and the black box that answers them.

    Raises
    ------
    LogError
        What is here has other sizes or words than the run had.
    ConfigurationError
        Its data or its language model are not to be had here.
    """
    materials = prepare(log.config, log.workers)
    if materials.shapes != log.shapes or materials.vocabulary != log.vocabulary:
        raise LogError(f"{log.path}: was made with another vocabulary or other sizes")
    model = language_model(log.config, Place(0, len(os.sched_getaffinity(0))), 1)
    everyone = range(1, log.workers + 1)
    return workers_with_black_box(log.config, materials, everyone, model)
