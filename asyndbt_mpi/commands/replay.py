"""`asyndbt replay`: run again from a log's record of arrivals, and compare every iterate."""

import os
from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.config import Config
from asyndbt_mpi.jobs.assemble import prepare, workers_without_model
from asyndbt_mpi.jobs.given import configuration
from asyndbt_mpi.jobs.rebuild import check_materials, rebuild
from asyndbt_mpi.log import schema
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.iterates import InOrder
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.records import Estimation, Iteration, Record
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


class Differs(Exception):
    """The first difference, in one line."""


class Comparer:
    """Holds every iterate, dual, estimate and plane against the log's, row by row.

    Entries may differ by ``tolerance``; 0 asks for the same bits.
    """

    def __init__(self, log: Log, tolerance: float = 0.0) -> None:
        self.log = log
        self.tolerance = tolerance
        self.iterations = 0
        self.reports = self.duals = self.estimates = 0
        self._columns: dict[str, InOrder] = {}

    def write(self, records: list[Record]) -> None:
        """Compare the iterates among the ``records`` of committed iterations.

        Raises
        ------
        Differs
            At the first that is not as in the log.
        """
        for record in records:
            if isinstance(record, Iteration) and record.number < self.log.committed:
                self._compare(record)

    def _compare(self, iteration: Iteration) -> None:
        where = f"iteration {iteration.number}"
        active = self._logged("iteration/active", iteration.number)
        if not np.array_equal(active, iteration.active):
            raise Differs(f"{where}: other workers are active")
        for used in iteration.reports:
            of_worker = f"{where}, worker {used.worker}"
            self._same("report/p", self.reports, used.report.p, of_worker, iteration)
            self._same("report/q", self.reports, used.report.q, of_worker, iteration)
            self.reports += 1
        self._same("iteration/z", iteration.number + 1, iteration.z, where, iteration)
        for plane, dual in zip(iteration.planes, iteration.duals, strict=True):
            self._same("dual/iteration", self.duals, iteration.number, where)
            self._same("dual/plane", self.duals, plane, where)
            self._same("dual/value", self.duals, dual, f"{where}, plane {plane}")
            self.duals += 1
        if iteration.estimation is not None:
            self._compare_estimation(iteration.estimation, where)
        self.iterations += 1

    def _compare_estimation(self, estimation: Estimation, where: str) -> None:
        self._same("lower/iteration", self.estimates, estimation.iteration, where)
        for name in ("phi_p", "phi_z", "h"):
            self._same(f"lower/{name}", self.estimates, getattr(estimation, name), where)
        self.estimates += 1
        if estimation.plane is not None:
            for name in ("created", "positions", "a", "b", "c"):
                value = getattr(estimation.plane, name)
                self._same(f"plane/{name}", estimation.plane.identifier, value, where)

    def _same(
        self,
        path: str,
        row: int,
        value: np.ndarray | int,
        where: str,
        iteration: Iteration | None = None,
    ) -> None:
        """Compare with a row of ``path``; an ``iteration``'s iterate may have been left out."""
        logged = self._logged(path, row)
        left_out = iteration is not None and not schema.kept(iteration.number, self.log.every)
        if left_out and np.isnan(logged).all():
            return
        if not np.array_equal(logged, value):
            largest = float(np.abs(np.subtract(logged, value, dtype=float)).max())
            if largest <= self.tolerance:
                return
            raise Differs(f"{where}: {path} differs by up to {largest:.3g}")

    def _logged(self, path: str, row: int) -> np.ndarray:
        if row >= self.log.count(path):
            raise Differs(f"{path} has no row {row}")
        if path not in self._columns:
            self._columns[path] = InOrder(self.log, path)
        return self._columns[path][row]


def _rebuild(log: Log, given: Config | None) -> tuple[Workers, BlackBox]:
    """The workers, and what answers them again.

    A server's answers are taken from the log: it might not give the same ones again, and would
    charge for them. A model that runs here is asked, but for the answers that are kept on disk.
    """
    asks_model = log.config.llm.backend != "openai"
    config = configuration(log, given, asks_model)
    if asks_model:
        # It looks at a run, perhaps of somebody else, and leaves nothing behind.
        return rebuild(log, config, keeps_answers=False)
    materials = prepare(config, log.workers)
    check_materials(log, materials)
    workers, box = workers_without_model(config, materials, range(1, log.workers + 1))
    return workers, Recorded(events(log), box)


def replay(path: str | os.PathLike[str], given: Config | None = None) -> Comparison:
    """Run the log at ``path`` again in this process.

    ``given`` is the run's configuration where its log names places; see `given.configuration`.

    Raises
    ------
    LogError
        The file is no log.
    ConfigurationError
        Its data or its language model are not to be had here.
    """
    with Log(path) as log:
        workers, black_box = _rebuild(log, given)
        server = Server(log.config, log.shapes, log.workers, log.committed)
        comparer = Comparer(log)
        try:
            Replay(server, workers, black_box).run(events(log), comparer.write)
        except (Differs, ReplayError) as error:
            return Comparison(comparer.iterations, str(error), log.every)
        if comparer.iterations < log.committed:
            return Comparison(
                comparer.iterations,
                f"the recorded arrivals end at iteration {comparer.iterations} of {log.committed}",
                log.every,
            )
        return Comparison(comparer.iterations, None, log.every)
