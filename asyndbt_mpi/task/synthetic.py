"""A cheap deterministic black box whose expected loss, gradient and optimum are known exactly.

The loss of words J and demonstrations K is multilinear in their indicators, and bounded:

    sum_i A[i, J_i] + sum_i B[i, J_i, J_{i+1}] + sum_u C[u, K_u] + sum_u D[u, J_u', K_u] + e_row

(u' = u mod M): unary, word-word and word-demonstration terms, and a difficulty of each query.
Its expectation under independent J_i ~ p_i, K_u ~ q_u is therefore the same sum with p and q in
place of the indicators. Each row of p or q enters linearly, so the least expected loss is that of a
single prompt; the word-word terms form a chain, along which dynamic programming finds it (Viterbi,
1967).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.protocol.blackbox import (
    Answer,
    AnyQuery,
    DataSizes,
    ExactAnswer,
    ExactQuery,
    Query,
)
from asyndbt_mpi.protocol.messages import WITHOUT, Shapes, Split

Tables: TypeAlias = tuple[FloatArray, FloatArray, FloatArray, FloatArray]

INTERACTION = 0.3
"""Size of the pairwise terms, relative to the unary ones."""

ROWS = {Split.TRAIN: 20, Split.VALIDATION: 20, Split.TEST: 200, Split.RACE: 40}


@lru_cache(maxsize=4)
def _shared_tables(seed: int, shapes: Shapes) -> Tables:
    """Terms that all workers have in common: A (M, N), B (M-1, N, N), C (U, V), D (U, N, V)."""
    generator = stream(seed, 0, 0, Purpose.BLACK_BOX)
    m, n, u, v = shapes.positions, shapes.words, shapes.classes, shapes.pool
    return (
        generator.uniform(-1, 1, (m, n)),
        INTERACTION * generator.uniform(-1, 1, (m - 1, n, n)),
        generator.uniform(-1, 1, (u, v)),
        INTERACTION * generator.uniform(-1, 1, (u, n, v)),
    )


@dataclass(frozen=True, slots=True)
class Optimum:
    """Words (M,) shared by W workers, their demonstrations (W, U), and the mean loss."""

    loss: float
    words: IntArray
    demonstrations: IntArray


class Synthetic:
    """The black box of several workers.

    A prompt has one token per word and demonstration; an exact answer counts as one call with one
    prompt.

    Parameters
    ----------
    workers : their numbers; a worker's losses do not depend on which others there are
    heterogeneity : float in [0, 1]
        0: all workers have the same tables; 1: the unary terms are each worker's own.

    Attributes
    ----------
    unary, demonstrations : arrays (W, M, N), (W, U, V): A and C, in the order of ``workers``
    pairs, cross : arrays (M-1, N, N), (U, N, V): B and D
    """

    def __init__(
        self, seed: int, shapes: Shapes, workers: Sequence[int], heterogeneity: float
    ) -> None:
        unary, self.pairs, demonstrations, self.cross = _shared_tables(seed, shapes)
        self.unary: FloatArray = np.empty((len(workers), *unary.shape))
        self.demonstrations: FloatArray = np.empty((len(workers), *demonstrations.shape))
        # By split, worker and row; shorter splits leave the end unused.
        self.difficulty = np.zeros((len(ROWS), len(workers), max(ROWS.values())))
        for index, worker in enumerate(workers):
            generator = stream(seed, worker, 1, Purpose.BLACK_BOX)
            for of_workers, common in (
                (self.unary, unary),
                (self.demonstrations, demonstrations),
            ):
                own = generator.uniform(-1, 1, common.shape)
                of_workers[index] = (1 - heterogeneity) * common + heterogeneity * own
            for split, rows in ROWS.items():
                self.difficulty[split, index, :rows] = generator.uniform(-1, 1, rows)
        self._index = {worker: index for index, worker in enumerate(workers)}
        self._position = np.arange(shapes.positions)
        self._class = np.arange(shapes.classes)
        self._partner = self._class % shapes.positions
        tokens = shapes.positions + shapes.classes
        self.data_sizes = {
            worker: DataSizes(np.full(shapes.classes, shapes.pool), ROWS, prompt_tokens=tokens)
            for worker in workers
        }
        self.digests = dict.fromkeys(workers, "")
        description = f"synthetic, without data, heterogeneity {heterogeneity:g}"
        self.descriptions = {
            worker: f"{description}, least expected loss {self.optimum(np.array([index])).loss:.3f}"
            for worker, index in self._index.items()
        }

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        """Losses from the tables; nothing is classified, so accuracies are NaN.

        The queries are all exact or all sampled; sampled ones have equal numbers of prompts and
        rows.
        """
        members = np.array([self._index[query.worker] for query in queries])
        exact = [query for query in queries if isinstance(query, ExactQuery)]
        sampled = [query for query in queries if isinstance(query, Query)]
        if exact and sampled:
            raise TypeError("exact and sampled queries cannot be mixed in one call")
        if not sampled:
            return self._answer_exactly(exact, members)
        words = np.array([query.words for query in sampled])
        shown = np.array([query.demonstrations for query in sampled])
        rows = np.array([query.rows for query in sampled])
        losses = self._losses(words, shown, members)
        split = np.array([query.split for query in sampled])
        difficulty = self.difficulty[split[:, None], members[:, None], rows]
        losses += difficulty.mean(axis=1)[:, None]
        calls = words.shape[1] * rows.shape[1]
        tokens = rows.shape[1] * ((words != WITHOUT).sum((1, 2)) + (shown != WITHOUT).sum((1, 2)))
        accuracies = np.full(words.shape[1], np.nan)
        return [
            Answer(of_query, accuracies, calls, count, prompts=calls)
            for of_query, count in zip(losses, tokens.tolist(), strict=True)
        ]

    def _losses(self, words: IntArray, shown: IntArray, members: IntArray) -> FloatArray:
        """Losses (W, I) of words (W, I, M) and demonstrations (W, I, U), without e_row."""
        has_words, has_shown = words[..., 0] != WITHOUT, shown[..., 0] != WITHOUT
        who = members[:, None, None]
        position, partner = self._position, self._partner
        of_words = self.unary[who, position, words].sum(axis=-1)
        of_words += self.pairs[position[:-1], words[..., :-1], words[..., 1:]].sum(axis=-1)
        of_shown = self.demonstrations[who, self._class, shown].sum(axis=-1)
        of_both = self.cross[self._class, words[..., partner], shown].sum(axis=-1)
        return (
            _where(has_words, of_words)
            + _where(has_shown, of_shown)
            + _where(has_words & has_shown, of_both)
        )

    def _answer_exactly(self, queries: Sequence[ExactQuery], members: IntArray) -> list[Answer]:
        p = np.array([query.p for query in queries])
        q = np.array([query.q for query in queries])
        losses = self.expected_loss(p, q, members)
        p_gradient, q_gradient = self.gradient(p, q, members)
        tokens = len(self._position) + len(self._class)
        accuracies = np.full(1, np.nan)
        return [
            ExactAnswer(losses[row : row + 1], accuracies, 1, tokens, *gradients, prompts=1)
            for row, gradients in enumerate(zip(p_gradient, q_gradient, strict=True))
        ]

    def expected_loss(self, p: FloatArray, q: FloatArray, members: IntArray) -> FloatArray:
        """E[loss] (W,) under p (W, M, N), q (W, U, V), without e_row.

        ``members`` (W,) are indices into the workers of this black box.
        """
        words = self.unary[members]
        words[:, :-1] += _times(self.pairs, p[:, 1:])
        shown = self.demonstrations[members] + _times_transposed(p[:, self._partner], self.cross)
        loss: FloatArray = (words * p).sum(axis=(1, 2)) + (shown * q).sum(axis=(1, 2))
        return loss

    def gradient(
        self, p: FloatArray, q: FloatArray, members: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Derivatives of `expected_loss` in p (W, M, N) and q (W, U, V)."""
        p_gradient = self.unary[members]
        p_gradient[:, :-1] += _times(self.pairs, p[:, 1:])
        p_gradient[:, 1:] += _times_transposed(p[:, :-1], self.pairs)
        of_shown = _times(self.cross, q)
        for cls, position in enumerate(self._partner):  # a position may have several classes
            p_gradient[:, position] += of_shown[:, cls]
        q_gradient = self.demonstrations[members] + _times_transposed(
            p[:, self._partner], self.cross
        )
        return p_gradient, q_gradient

    def optimum(self, members: IntArray) -> Optimum:
        """The best words shared by ``members``, each with its own best demonstrations.

        For a single member it is this worker's optimum.
        """
        # The best demonstration of each class, given the word next to it: (W, U, N).
        of_shown = self.demonstrations[members][:, :, None, :] + self.cross
        # The mean cost of a word at a position, (M, N), and then the chain from the left.
        cost = self.unary[members].mean(axis=0)
        for cls, position in enumerate(self._partner):
            cost[position] += of_shown[:, cls].min(axis=-1).mean(axis=0)
        reached = cost[0]
        before = []
        for pairs, own in zip(self.pairs, cost[1:], strict=True):
            along = reached[:, None] + pairs
            before.append(along.argmin(axis=0))
            reached = along.min(axis=0) + own
        words = [int(reached.argmin())]
        for choice in reversed(before):
            words.append(int(choice[words[-1]]))
        best = np.array(words[::-1])
        demonstrations = of_shown[:, self._class, best[self._partner]].argmin(axis=-1)
        return Optimum(float(reached.min()), best, demonstrations)


def _where(there: BoolArray, losses: FloatArray) -> FloatArray:
    """``losses``, but 0 if the prompt lacks the part they belong to."""
    return losses if there.all() else np.where(there, losses, 0.0)


def _times(matrices: FloatArray, vectors: FloatArray) -> FloatArray:
    """Each matrix (rows, n, k) times each worker's vector (W, rows, k); (W, rows, n)."""
    # One product per vector: a joint product could sum in an order that depends on the workers.
    product: FloatArray = (matrices @ vectors[..., None])[..., 0]
    return product


def _times_transposed(vectors: FloatArray, matrices: FloatArray) -> FloatArray:
    """Each worker's vector (W, rows, n) times each matrix (rows, n, k); (W, rows, k)."""
    product: FloatArray = (vectors[..., None, :] @ matrices)[..., 0, :]
    return product
