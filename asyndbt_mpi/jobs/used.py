"""The workers' reports that a log's iterations used, found by worker and number."""

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.log.iterates import InOrder
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.transport.adoption import UsedValues


class Used:
    """The reports and the estimates of phi of ``log``'s committed iterations; see `Logged`."""

    def __init__(self, log: Log) -> None:
        keys = zip(log["report/worker"].tolist(), log["report/seq"].tolist(), strict=True)
        self._rows = {key: row for row, key in enumerate(keys)}
        self._loss = log["report/loss"]
        iterations = log["report/iteration"]
        # The first row of each row's iteration: rows are requested one iteration at a time.
        self._first = np.searchsorted(iterations, iterations)
        self._p, self._q = InOrder(log, "report/p"), InOrder(log, "report/q")
        self._estimates = log.count("lower/iteration")
        self._gradient, self._iterations = InOrder(log, "iteration/gradient"), log.committed
        self._phi_p, self._phi_z = InOrder(log, "lower/phi_p"), InOrder(log, "lower/phi_z")

    def report(self, worker: int, number: int) -> UsedValues | None:
        """Report ``number`` of ``worker``; None if no iteration that counts used it."""
        row = self._rows.get((worker, number))
        if row is None:
            return None
        return UsedValues(self._at(self._p, row), self._at(self._q, row), float(self._loss[row]))

    def _at(self, column: InOrder, row: int) -> FloatArray | None:
        """Row of p or q; None if log.iterates left it out."""
        column[int(self._first[row])]  # so that the whole iteration is read at once
        value = column[row]
        return None if np.isnan(value).all() else value

    def gradient(self, iteration: int) -> FloatArray | None:
        """The models' gradient (M, N) by which ``iteration`` moved z; None if it is not there."""
        if iteration >= self._iterations:
            return None
        gradient = self._gradient[iteration]
        return None if np.isnan(gradient).all() else gradient

    def estimate(self, number: int) -> tuple[FloatArray, FloatArray] | None:
        """phi_p (R, M, N) and phi_z (M, N) of the estimate ``number``; None if beyond."""
        if number >= self._estimates:
            return None
        return self._phi_p[number], self._phi_z[number]
