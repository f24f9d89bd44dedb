"""`asyndbt replay`: repeats a run in the logged order of arrivals, and compares every iterate."""

import os
from dataclasses import dataclass

from asyndbt_mpi.adversary.colluders import colluders
from asyndbt_mpi.assemble import check_materials, prepare, rebuild, workers_without_model
from asyndbt_mpi.config import Config
from asyndbt_mpi.jobs.given import configuration
from asyndbt_mpi.jobs.own import Own
from asyndbt_mpi.log.compare import Comparer, Differs
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.transport.replay import Recorded, Replay, ReplayError


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many iterations were compared, and the first difference, if there is one.

    p, q and z could be compared in every ``every``-th of them.
    """

    iterations: int
    difference: str | None
    every: int


def asks_model(log: Log) -> bool:
    """Whether the run's model answers again: a server's answers are taken from the log.

    It might answer differently now, and would charge.
    """
    return log.config.llm.backend != "openai"


def _rebuild(log: Log, given: Config | None, own: Own) -> tuple[Workers, BlackBox]:
    """The workers, and the black box that answers them.

    A model in this process is asked, except for answers kept on disk.
    """
    own.check_same(log.config, log.path)
    config = configuration(log, given, asks_model(log))
    if asks_model(log):
        # A replay only looks at a run, perhaps someone else's, and leaves nothing behind.
        return rebuild(log, config, keeps_answers=False, own=own)
    materials = prepare(config, log.workers, own)
    check_materials(log, materials)
    workers, box = workers_without_model(config, materials, range(1, log.workers + 1))
    return workers, Recorded(events(log), box)


def replay(
    path: str | os.PathLike[str], given: Config | None = None, own: Own | None = None
) -> Comparison:
    """Replay the run of the log at ``path`` in this process.

    ``given`` is the run's configuration, needed if its log names places; see `given.configuration`.
    ``own`` is what Python code provided.

    Raises
    ------
    LogError
        The file is not a log.
    ConfigurationError
        Its data or its language model are not available here.
    """
    with Log(path) as log:
        log.check_public("a replay needs what the workers were answered")
        workers, black_box = _rebuild(log, given, own or Own())
        server = Server(log.config, log.shapes, log.workers, log.committed)
        comparer = Comparer(log)
        liars = colluders(log.config, log.shapes, log.workers)
        again = Replay(server, workers, black_box, colluders=liars)
        try:
            again.run(events(log), comparer.write)
        except (Differs, ReplayError) as error:
            return Comparison(comparer.iterations, str(error), log.every)
        if comparer.iterations < log.committed:
            return Comparison(
                comparer.iterations,
                f"the recorded arrivals end at iteration {comparer.iterations} of {log.committed}",
                log.every,
            )
        return Comparison(comparer.iterations, None, log.every)
