"""A cheap deterministic black box whose expected loss and gradient are known exactly.

The loss of words J and demonstrations K is multilinear in their indicators,

    sum_i A[i, J_i] + sum_i B[i, J_i, J_{i+1}] + sum_u C[u, K_u] + sum_u D[u, J_u', K_u] + e_row

(u' = u mod M): unary, word-word and word-demonstration terms, and a difficulty of each query.
Under independent J_i ~ p_i, K_u ~ q_u its expectation therefore is the same sum with p and q
in place of the indicators.
"""

from functools import lru_cache
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.protocol.blackbox import Answer, Holdings, Query
from asyndbt_mpi.protocol.messages import WITHOUT, Shapes, Split

Tables: TypeAlias = tuple[FloatArray, FloatArray, FloatArray, FloatArray]

INTERACTION = 0.3
"""Size of the pairwise terms, where the unary ones have size 1."""

ROWS = {Split.TRAIN: 20, Split.VALIDATION: 20, Split.TEST: 200}


@lru_cache(maxsize=4)
def _shared_tables(seed: int, shapes: Shapes) -> Tables:
    """Terms that all workers have in common: A (M, N), B (M-1, N, N), C (U, V), D (U, N, V)."""
    return _draw_tables(stream(seed, 0, 0, Purpose.BLACK_BOX), shapes)


def _draw_tables(generator: np.random.Generator, shapes: Shapes) -> Tables:
    m, n, u, v = shapes.positions, shapes.words, shapes.classes, shapes.pool
    return (
        generator.uniform(-1, 1, (m, n)),
        INTERACTION * generator.uniform(-1, 1, (m - 1, n, n)),
        generator.uniform(-1, 1, (u, v)),
        INTERACTION * generator.uniform(-1, 1, (u, n, v)),
    )


class Synthetic:
    """One worker's black box.

    Parameters
    ----------
    heterogeneity : float in [0, 1]
        0: all workers have the same loss; 1: the unary terms are each worker's own.
    """

    def __init__(self, seed: int, shapes: Shapes, worker: int, heterogeneity: float) -> None:
        generator = stream(seed, worker, 1, Purpose.BLACK_BOX)
        unary, self.pairs, demonstrations, self.cross = _shared_tables(seed, shapes)
        own_unary = generator.uniform(-1, 1, unary.shape)
        own_demonstrations = generator.uniform(-1, 1, demonstrations.shape)
        self.unary: FloatArray = (1 - heterogeneity) * unary + heterogeneity * own_unary
        self.demonstrations: FloatArray = (
            1 - heterogeneity
        ) * demonstrations + heterogeneity * own_demonstrations
        self.difficulty = {split: generator.uniform(-1, 1, rows) for split, rows in ROWS.items()}
        self.holdings = Holdings(np.full(shapes.classes, shapes.pool), ROWS)
        self.description = f"synthetic, without data, heterogeneity {heterogeneity:g}"
        self._position = np.arange(shapes.positions)
        self._class = np.arange(shapes.classes)
        self._partner = self._class % shapes.positions

    def answer(self, query: Query) -> Answer:
        """Losses by the tables; nothing is classified, so accuracies are NaN."""
        words, shown = query.words, query.demonstrations
        losses = np.zeros(len(words))
        if (words != WITHOUT).all():
            losses += self.unary[self._position, words].sum(axis=1)
            losses += self.pairs[self._position[:-1], words[:, :-1], words[:, 1:]].sum(axis=1)
        if (shown != WITHOUT).all():
            losses += self.demonstrations[self._class, shown].sum(axis=1)
        if (words != WITHOUT).all() and (shown != WITHOUT).all():
            losses += self.cross[self._class, words[:, self._partner], shown].sum(axis=1)
        losses += self.difficulty[query.split][query.rows].mean()
        calls = len(words) * len(query.rows)
        return Answer(losses, np.full(len(words), np.nan), calls, 0)

    def expected_loss(self, p: FloatArray, q: FloatArray) -> float:
        """E[loss] under p (M, N) and q (U, V), without the queries' difficulty."""
        loss = (
            np.vdot(self.unary, p)
            + np.einsum("ijk,ij,ik->", self.pairs, p[:-1], p[1:])
            + np.vdot(self.demonstrations, q)
            + np.einsum("ujk,uj,uk->", self.cross, p[self._partner], q)
        )
        return float(loss)

    def gradient(self, p: FloatArray, q: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Derivatives of `expected_loss` in p (M, N) and q (U, V)."""
        p_gradient = self.unary.copy()
        p_gradient[:-1] += np.einsum("ijk,ik->ij", self.pairs, p[1:])
        p_gradient[1:] += np.einsum("ijk,ij->ik", self.pairs, p[:-1])
        np.add.at(p_gradient, self._partner, np.einsum("ujk,uk->uj", self.cross, q))
        q_gradient: FloatArray = self.demonstrations + np.einsum(
            "ujk,uj->uk", self.cross, p[self._partner]
        )
        return p_gradient, q_gradient
