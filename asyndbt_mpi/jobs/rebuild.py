"""The workers of a run that is over, built again from its log."""

import os
from pathlib import Path

from asyndbt_mpi.config import Config
from asyndbt_mpi.jobs.answer_cache import Answers
from asyndbt_mpi.jobs.assemble import (
    Materials,
    Place,
    language_model,
    prepare,
    workers_with_black_box,
)
from asyndbt_mpi.log.reader import Log, LogError
from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.worker import Workers


def rebuild(log: Log, config: Config, keeps_answers: bool) -> tuple[Workers, BlackBox]:
    """All workers of ``log`` at their start, and the black box that answers them.

    ``config`` is the run's, with the places that a log does not decide: see `given`. What the run
    has kept of its model's answers costs nothing; ``keeps_answers`` says whether new ones are
    added, as those of worker 0.

    Raises
    ------
    LogError
        What is here has other sizes or words than the run had.
    ConfigurationError
        Its data or its language model are not to be had here.
    """
    materials = prepare(config, log.workers)
    check_materials(log, materials)
    place = Place(0, len(os.sched_getaffinity(0)))
    answers = Answers(Path(log.path), 0 if keeps_answers else None)
    model = language_model(config, place, answers)
    everyone = range(1, log.workers + 1)
    return workers_with_black_box(config, materials, everyone, model)


def check_materials(log: Log, materials: Materials) -> None:
    """Raise a `LogError` where what is here has other sizes, words or data than the run had."""
    if materials.shapes != log.shapes or materials.vocabulary != log.vocabulary:
        raise LogError(f"{log.path}: was made with another vocabulary or other sizes")
    if log.data_digest and materials.data_digest != log.data_digest:
        raise LogError(f"{log.path}: was made with other data, or another template")
