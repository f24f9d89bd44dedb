"""Rebuilds a resumed run's server from the log's p and q, even if a worker's answers disagree.

A worker may have reported anything: its recorded answers then do not lead to the p and q that the
server used. The latter count, and the log has them. Such a worker continues from the p and q that
the server has, with everything else (the optimizer's moments, what the estimator has learnt) as at
the start, because the true values are unknown.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from asyndbt_mpi.algorithm.simplex import onto_simplex
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.protocol.messages import (
    Candidate,
    EvaluationReport,
    LowerReport,
    Report,
    ToServer,
)
from asyndbt_mpi.protocol.records import Event, Iteration, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.worker import Workers


@dataclass(frozen=True, slots=True)
class UsedValues:
    """A report's p (M, N) and q (U, V), None if they were left out, and its loss."""

    p: FloatArray | None
    q: FloatArray | None
    loss: float


class Logged(Protocol):
    """What a log has of the iterations that count."""

    def report(self, worker: int, number: int) -> UsedValues | None:
        """Report ``number`` of ``worker``; None if no counting iteration used it."""
        ...

    def gradient(self, iteration: int) -> FloatArray | None:
        """The models' gradient (M, N) by which ``iteration`` moved z; None if it is not there."""
        ...

    def estimate(self, number: int) -> tuple[FloatArray, FloatArray] | None:
        """phi_p (R, M, N) and phi_z (M, N) of the estimate ``number``, from 0; None if beyond."""
        ...


class Adoption:
    """Puts the ``logged`` values into the replies of ``workers`` before ``server`` gets them.

    Attributes
    ----------
    unexplained : by worker, the first iteration whose report its answers do not explain
    estimate : the first iteration whose estimate of phi is not explained, None if all are
    """

    def __init__(self, server: Server, workers: Workers, logged: Logged, tolerance: float) -> None:
        self.server = server
        self.workers = workers
        self.logged = logged
        self.tolerance = tolerance
        self.unexplained: dict[int, int] = {}
        self.estimate: int | None = None
        self._rounds = server.config.algorithm.lower_steps
        self._estimates = 0
        # Participants in the current estimate whose last p does not follow from their answers.
        self._doubted: set[int] = set()

    def reply(self, event: Event, reply: ToServer) -> ToServer:
        """The ``reply`` of ``event``, with the log's numbers if it has them."""
        worker = event.worker
        match reply:
            case Report():
                return self._report(worker, reply)
            case LowerReport():
                return self._lower_report(worker, reply)
            case EvaluationReport(candidate=Candidate.MODEL) if event.prompt and self.unexplained:
                words, demonstrations = event.prompt  # what the model knew is unknown
                return replace(reply, words=words, demonstrations=demonstrations)
            case _:
                return reply

    def _report(self, worker: int, reply: Report) -> Report:
        logged = self.logged.report(worker, reply.number)
        if logged is None:
            return reply
        explained = self._same(reply.loss, logged.loss)
        if logged.p is not None and logged.q is not None:
            explained &= self._same(onto_simplex(reply.p), logged.p)
            explained &= self._same(onto_simplex(reply.q), logged.q)
            reply = replace(reply, p=logged.p, q=logged.q)
            if not explained:
                self.workers.start_afresh(worker, logged.p, logged.q)
        pools = self.server.config.algorithm.pools
        if not explained and not (pools and self.unexplained):
            self.unexplained.setdefault(worker, self.server.iteration)
        if pools and self.unexplained:
            self._take_models()
        return replace(reply, loss=logged.loss)

    def _take_models(self) -> None:
        """Take from the log what models say: what the first liar knew of words is unknown.

        The others heard of it, so that their steps are not explained either.
        """
        algorithm = self.server.algorithm
        if not algorithm.is_open:
            algorithm.known_gradient = self.logged.gradient(algorithm.iteration)
        algorithm.known_phi = self.logged.estimate(self._estimates)

    def _lower_report(self, worker: int, reply: LowerReport) -> LowerReport:
        """The log has the p of the last round only; those of earlier rounds went into phi."""
        number, round_ = divmod(reply.number, self._rounds)
        phi = self.logged.estimate(number)
        if phi is None or round_ < self._rounds - 1:
            return reply
        p, algorithm = phi[0][worker - 1], self.server.algorithm
        if not algorithm.aggregation.is_mean and np.array_equal(p, algorithm.p[worker - 1]):
            # It was too far from phi (`AsynDBT._plausible`): what it sent is in no log.
            algorithm.known_phi = phi
            return reply
        if not self._same(onto_simplex(reply.p), p):
            self._doubted.add(worker)
            self._take_next_estimate()
        return replace(reply, p=p)

    def left(self, worker: int) -> None:
        """``worker`` leaves; forget its part in the current estimate."""
        self._doubted.discard(worker)
        self._take_next_estimate()

    def _take_next_estimate(self) -> None:
        """Take the next phi from the log, if the reports of its first rounds are lost."""
        if self._rounds > 1:
            self.server.algorithm.known_phi = self.logged.estimate(self._estimates)

    def concluded(self, records: list[Record]) -> None:
        """Account for the iterations among ``records``."""
        for record in records:
            if isinstance(record, Iteration) and record.estimation is not None:
                self._estimates += 1
                if self._doubted and self.estimate is None:
                    self.estimate = record.number
                self._doubted.clear()

    def _same(self, one: FloatArray | float, other: FloatArray | float) -> bool:
        return bool(np.allclose(one, other, rtol=self.tolerance, atol=self.tolerance))

    def __str__(self) -> str:
        """What is not explained; "" if everything is."""
        parts = [
            f"what worker {worker} reported from iteration {iteration} on"
            for worker, iteration in sorted(self.unexplained.items(), key=lambda each: each[1])
        ]
        if self.estimate is not None:
            parts.append(f"the estimates of phi from iteration {self.estimate} on")
        return ", ".join(parts)
