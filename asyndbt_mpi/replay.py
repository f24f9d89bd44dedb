"""`asyndbt replay`: run again from a log's record of arrivals, and compare every iterate."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.log import schema
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import Event, EventKind, Iteration, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.rebuild import rebuild
from asyndbt_mpi.transport.replay import Replay, ReplayError


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many iterations were compared, and the first difference, if there is one.

    p, q and z could be compared in every ``every``-th of them.
    """

    iterations: int
    difference: str | None
    every: int


class _Differs(Exception):
    """The first difference, in one line."""


class _Comparer:
    """Holds every iterate against the log's, row by row."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.iterations = 0
        self.reports = 0

    def write(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, Iteration) and record.number < self.log.committed:
                self._compare(record)

    def _compare(self, iteration: Iteration) -> None:
        where = f"iteration {iteration.number}"
        active = self.log.rows("iteration/active", iteration.number, iteration.number + 1)[0]
        if not np.array_equal(active, iteration.active):
            raise _Differs(f"{where}: other workers are active")
        for used in iteration.reports:
            of_worker = f"{where}, worker {used.worker}"
            self._same("report/p", self.reports, used.report.p, of_worker, iteration)
            self._same("report/q", self.reports, used.report.q, of_worker, iteration)
            self.reports += 1
        self._same("iteration/z", iteration.number + 1, iteration.z, where, iteration)
        self.iterations += 1

    def _same(
        self, path: str, row: int, value: FloatArray, where: str, iteration: Iteration
    ) -> None:
        logged = self.log.rows(path, row, row + 1)[0]
        left_out = not schema.kept(iteration.number, self.log.every)  # by log.iterates
        if left_out and np.isnan(logged).all():
            return
        if not np.array_equal(logged, value):
            largest = float(np.abs(logged - value).max())
            raise _Differs(f"{where}: {path} differs by up to {largest:.3g}")


def replay(path: str | os.PathLike[str]) -> Comparison:
    """Run the log at ``path`` again in this process.

    Raises
    ------
    LogError
        The file is no log.
    ConfigurationError
        Its data or its language model are not to be had here.
    """
    with Log(path) as log:
        # It looks at a run, perhaps of somebody else, and leaves nothing behind.
        workers, black_box = rebuild(log, keeps_answers=False)
        server = Server(log.config, log.shapes, log.workers)
        comparer = _Comparer(log)
        try:
            Replay(server, workers, black_box).run(_events(log), comparer.write)
        except (_Differs, ReplayError) as error:
            return Comparison(comparer.iterations, str(error), log.every)
        if comparer.iterations < log.committed:
            return Comparison(
                comparer.iterations,
                f"the recorded arrivals end at iteration {comparer.iterations} of {log.committed}",
                log.every,
            )
        return Comparison(comparer.iterations, None, log.every)


def _events(log: Log) -> Iterator[Event]:
    columns = (
        log[f"event/{name}"] for name in ("kind", "worker", "number", "iteration", "time", "text")
    )
    for kind, worker, number, iteration, time, text in zip(*columns, strict=True):
        yield Event(
            EventKind(int(kind)),
            int(worker),
            int(number),
            int(iteration),
            float(time),
            text=str(text),
        )
