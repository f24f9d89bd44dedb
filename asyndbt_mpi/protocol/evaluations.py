"""Evaluations asked for and answered: which answer belongs to which request."""

from collections import deque

import numpy as np

from asyndbt_mpi.algorithm.aggregation import Aggregation
from asyndbt_mpi.algorithm.types import IntArray
from asyndbt_mpi.protocol.held import Held
from asyndbt_mpi.protocol.messages import (
    WITHOUT,
    Candidate,
    EvaluationReport,
    EvaluationRequest,
    MalformedMessage,
    Split,
)
from asyndbt_mpi.protocol.race import is_same
from asyndbt_mpi.protocol.records import Evaluation

CONSENSUS = 0
"""The worker that evaluations of the consensus are logged under."""


class Evaluations:
    """Requests on their way, by worker; a worker answers them in the order of asking."""

    def __init__(self) -> None:
        self._asked: dict[int, deque[EvaluationRequest]] = {}
        self._of_consensus: list[EvaluationReport] = []

    def ask(self, worker: int, request: EvaluationRequest) -> None:
        """Note that ``request`` is sent to ``worker``."""
        self._asked.setdefault(worker, deque()).append(request)

    def accept(
        self, worker: int, report: EvaluationReport, time: float, held: Held | None = None
    ) -> Evaluation:
        """The record of an answer, which has to be on the rows that the worker ``held``, if known.

        Raises
        ------
        MalformedMessage
            It answers nothing that was asked, or on other rows; nothing is changed.
        """
        asked = self._asked.get(worker)
        request = asked[0] if asked else None
        if not asked or request is None or _key(report) != _key(request):
            raise MalformedMessage(f"evaluation of worker {worker} was not asked for")
        if not self._is_asked_for(request, report):
            raise MalformedMessage(f"worker {worker} scored another prompt than it was asked for")
        if held is not None:
            held.check(worker, request, report)
        asked.popleft()
        if (request.split, request.candidate) == (Split.TEST, Candidate.CONSENSUS):
            self._of_consensus.append(report)
        return Evaluation(
            iteration=request.iteration,
            worker=worker,
            split=request.split,
            candidate=request.candidate,
            accuracy=report.accuracy,
            loss=report.loss,
            words=report.words,
            demonstrations=report.demonstrations,
            calls=report.costs.calls,
            prompt_tokens=report.costs.prompt_tokens,
            time=time,
            bias=report.bias,
            rows=report.rows,
        )

    @staticmethod
    def _is_asked_for(request: EvaluationRequest, report: EvaluationReport) -> bool:
        """Whether the prompt is the one, if that is known; see `EvaluationRequest.is_of_model`."""
        if request.is_of_model:
            return bool((report.words >= 0).all() and (report.demonstrations >= 0).all())
        asked = request.words, request.demonstrations
        return is_same(asked, (report.words, report.demonstrations))

    def forget(self, worker: int) -> list[EvaluationRequest]:
        """What was asked of ``worker`` and will not be answered."""
        return list(self._asked.pop(worker, ()))

    def consensus(
        self, words: IntArray, classes: int, time: float, aggregation: Aggregation
    ) -> Evaluation | None:
        """The consensus' words (M,) over all workers, each with its own demonstrations.

        Accuracy and loss are means by the ``aggregation``.

        None if no worker has scored them.
        """
        reports = self._of_consensus
        if not reports:
            return None
        return Evaluation(
            iteration=reports[0].iteration,
            worker=CONSENSUS,
            split=Split.TEST,
            candidate=Candidate.CONSENSUS,
            accuracy=float(aggregation.mean(np.array([each.accuracy for each in reports]))),
            loss=float(aggregation.mean(np.array([each.loss for each in reports]))),
            words=words,
            demonstrations=np.full(classes, WITHOUT),
            calls=0,  # counted with the workers' own rows
            prompt_tokens=0,
            time=time,
            bias=np.zeros(classes),
        )


def _key(message: EvaluationReport | EvaluationRequest) -> tuple[int, Split, Candidate]:
    return message.iteration, message.split, message.candidate
