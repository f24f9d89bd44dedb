"""A run that is gone through again, held against its log row by row."""

import numpy as np

from asyndbt_mpi.log import schema
from asyndbt_mpi.log.iterates import InOrder
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import Estimation, Iteration, Record


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
            raise Differs(f"{where}: different workers are active")
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
