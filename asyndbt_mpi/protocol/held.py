"""The rows of a worker, as far as rank 0 knows them: what its answers on rows are held to."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.algorithm.types import IntArray
from asyndbt_mpi.protocol.messages import (
    EvaluationReport,
    EvaluationRequest,
    MalformedMessage,
    RowScores,
    Split,
)
from asyndbt_mpi.protocol.race import first_rows


@dataclass(frozen=True, slots=True)
class Held:
    """The number of ``rows`` of each split, and the right ``labels`` (B,) of the test rows.

    Every rank reads the data of all workers, so rank 0 knows both of each. A function has no rows.
    """

    rows: Mapping[Split, int]
    labels: IntArray

    def check(self, worker: int, request: EvaluationRequest, report: EvaluationReport) -> None:
        """Refuse a ``report`` of ``worker`` that is not on the rows of the ``request``.

        Raises
        ------
        MalformedMessage
        """
        due = first_rows(self.rows[request.split], request.halvings)
        scored = 0 if report.rows is None else len(report.rows)
        if scored != due:
            raise MalformedMessage(
                f"worker {worker} scored {scored} {request.split.name} rows, not the {due} that it"
                " was asked for"
            )
        if isinstance(report.rows, RowScores):
            wrong = np.flatnonzero(report.rows.labels != self.labels)
            if len(wrong):
                raise MalformedMessage(
                    f"worker {worker} names other labels than the data have for {len(wrong)} of"
                    f" {due} test rows, first for row {wrong[0]}"
                )
