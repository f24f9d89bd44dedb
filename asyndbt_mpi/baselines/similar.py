"""Demonstrations that are like the query: KATE."""

from collections.abc import Mapping, Sequence

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.baselines.trial import Predict, Trial, by_rows
from asyndbt_mpi.task.dataset import Row

SHOWN = 5
"""Demonstrations of a prompt."""


def kate(trial: Trial) -> Mapping[int, Predict]:
    """KATE (Liu et al., DeeLIO 2022): each query behind its nearest neighbours in the pool.

    The nearest one comes last, next to the query.
    """
    return {
        worker: by_rows(trial, NearestRows(trial, rows_of_pool(trial, worker)), worker)
        for worker in trial.data
    }


def rows_of_pool(trial: Trial, worker: int) -> list[Row]:
    """All demonstrations of a worker, class after class."""
    return [row for rows in trial.data[worker].pool for row in rows]


class NearestRows:
    """The `SHOWN` of ``rows`` that are nearest to a row, the nearest one last."""

    def __init__(self, trial: Trial, rows: Sequence[Row]) -> None:
        self.trial = trial
        self.rows = rows
        self.vectors = trial.vectors(rows) if rows else None

    def __call__(self, row: Row) -> list[Row]:
        """Of the others, if it is one of them."""
        others = [place for place, other in enumerate(self.rows) if other is not row]
        if not others or self.vectors is None:
            return []
        near = nearest(self.trial.vectors([row]), self.vectors[others], SHOWN)[0]
        return [self.rows[others[place]] for place in near[::-1]]


def nearest(queries: FloatArray, vectors: FloatArray, count: int) -> IntArray:
    """Places (n, up to ``count``) of the ``vectors`` (m, d) nearest to each of the ``queries``
    (n, d), by cosine, nearest first; of equally near ones the first."""
    order: IntArray = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :count]
    return order
