"""Malicious workers that lie in their reports.

Every colluder lives through its own run honestly, in the shadow; what it reports is made of its
honest report, of the lies that it told before, and of what it knows of the reports of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from asyndbt_mpi.adversary.attacks import LIES, OMNISCIENT, View
from asyndbt_mpi.algorithm.additive import prior_variance
from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.simplex import onto_simplex
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.messages import LowerReport, Report, Shapes, ToServer
from asyndbt_mpi.protocol.ranges import RANGES

MALFORMED = "malformed"
"""The attack of those that lie about the protocol, not about p."""

NEVER = 2**31
"""An iteration, or an estimate, that no run has."""

UPPER, LOWER, SCORES = range(3)
"""What is lied about: p of either level, and scores of words."""


@dataclass(slots=True)
class _Past:
    """A worker's earlier reports.

    ``p`` (M, N) is its own, ``told`` what the server has of it; ``lower`` is the latter of the last
    round of the estimate of phi that has this ``estimation`` as its number. ``iteration`` is that
    of its last upper step.
    """

    p: FloatArray
    told: FloatArray
    lower: FloatArray
    estimation: int = -1
    iteration: int = 0


class Colluders:
    """What the malicious ``members`` report; as a function of the reports alone, in their order.

    Parameters
    ----------
    members : numbers of the workers that lie
    """

    def __init__(self, config: Config, shapes: Shapes, members: frozenset[int]) -> None:
        self.members = members
        self.seed = config.run.seed
        self.attack, self.strength = config.adversary.attack, config.adversary.strength
        self.from_iteration = config.run.iterations / 2 if self.attack == "slow_poison" else 0
        self._prior = prior_variance(shapes.positions, shapes.classes)
        self._start: FloatArray = np.full((shapes.positions, shapes.words), 1.0 / shapes.words)
        self._pasts: dict[int, _Past] = {}
        # By what it is about and worker: the newest of the honest, with its move.
        self._newest: dict[int, dict[int, tuple[FloatArray, FloatArray]]]
        self._newest = {UPPER: {}, LOWER: {}, SCORES: {}}
        self._first: dict[tuple[int, int], FloatArray] = {}

    @property
    def look_at_others(self) -> bool:
        """Whether they need the reports of the honest."""
        return self.attack in OMNISCIENT

    def report(self, worker: int, message: ToServer) -> ToServer:
        """What ``worker`` sends in place of ``message``.

        That of an honest worker is returned as it is, and remembered.
        """
        match message:
            case Report() | LowerReport() if self.attack == MALFORMED and worker in self.members:
                return self._malformed(worker, message)
            case Report():
                return self._upper(worker, message)
            case LowerReport():
                return self._lower(worker, message)
            case _:
                return message

    def _malformed(self, worker: int, report: Report | LowerReport) -> Report | LowerReport:
        """``report`` with a number that it cannot have: one of several, at random."""
        lower = isinstance(report, LowerReport)
        fields: list[dict[str, Any]] = [
            {"number": report.number + 1},
            {"loss": np.inf},
            {"p": np.full_like(report.p, np.nan)},
            {"estimation" if lower else "iteration": NEVER},
        ]
        generator = self._generator(worker, 2 * report.number + lower)
        return replace(report, **fields[generator.integers(len(fields))])

    def _upper(self, worker: int, report: Report) -> Report:
        past = self._past(worker)
        past.iteration = report.iteration
        generator = self._generator(worker, 2 * report.number)
        move = report.p - past.p
        past.p = report.p
        p = self._lie(UPPER, worker, past.told, report.p, move, generator)
        if p is not None:
            report = replace(report, p=p)
        if report.information.size:
            certain = report.precision + 1.0 / self._prior
            effects = report.information / certain  # on the loss: more is worse
            none = np.zeros_like(effects)
            scores = self._lie(SCORES, worker, none, -effects, -effects, generator)
            if scores is not None:
                information = (-scores * certain).clip(*RANGES["information"])
                report = replace(report, information=information)
        past.told = self._believed(report.p, past.told)
        return report

    def _lower(self, worker: int, report: LowerReport) -> LowerReport:
        """A round starts where the server has the worker: from its last round, or from its p."""
        past = self._past(worker)
        start = past.lower if past.estimation == report.estimation else past.told
        generator = self._generator(worker, 2 * report.number + 1)
        p = self._lie(LOWER, worker, start, report.p, report.p - start, generator)
        if p is not None:
            report = replace(report, p=p)
        past.lower, past.estimation = self._believed(report.p, start), report.estimation
        return report

    def _lie(
        self,
        about: int,
        worker: int,
        start: FloatArray,
        honest: FloatArray,
        move: FloatArray,
        generator: np.random.Generator,
    ) -> FloatArray | None:
        """What a colluder reports in place of ``honest``; None: just that.

        The honest, and who has no lie to tell yet, report what they have.
        """
        newest = self._newest[about]
        if worker not in self.members:
            newest[worker] = honest, move
            return None
        first = self._first.setdefault((about, worker), honest)
        if self._pasts[worker].iteration < self.from_iteration:
            return None
        if self.look_at_others and not newest:
            return None
        others = [newest[other] for other in sorted(newest)]
        reports, moves = _stacked(others, 0, move), _stacked(others, 1, move)
        view = View(start, move, first, reports, moves, generator)
        lie = LIES[self.attack](view, self.strength)
        return lie if about == SCORES else lie.clip(*RANGES["p"])

    def _past(self, worker: int) -> _Past:
        return self._pasts.setdefault(worker, _Past(self._start, self._start, self._start))

    def _generator(self, worker: int, number: int) -> np.random.Generator:
        return stream(self.seed, worker, number, Purpose.ATTACK)

    def _believed(self, p: FloatArray, before: FloatArray) -> FloatArray:
        """What the server makes of ``p``; of what it refuses, nothing."""
        return onto_simplex(p) if np.isfinite(p).all() else before


def _stacked(
    others: Sequence[tuple[FloatArray, FloatArray]], which: int, like: FloatArray
) -> FloatArray:
    return np.array([each[which] for each in others]).reshape(-1, *like.shape)


def colluders(config: Config, shapes: Shapes, workers: int) -> Colluders | None:
    """The run's colluders among so many ``workers``; None if nobody lies in reports."""
    members = config.adversary.of(workers)
    if not members or config.adversary.attack not in {*LIES, MALFORMED}:
        return None
    return Colluders(config, shapes, members)
