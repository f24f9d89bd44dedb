"""Validation during a run: whose turn it is, the best iterate so far, and when to stop early."""

from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Best:
    """The prompt with the lowest validation loss of a worker: its words and demonstrations."""

    loss: float
    words: IntArray
    demonstrations: IntArray


class Validation:
    """Keeps each worker's best prompt, and counts evaluations without improvement.

    The median over workers of the newest validation losses is compared once a round, a round
    being one evaluation of every live worker: a mean could be steered by a single one.
    """

    def __init__(self, workers: int, every: int, patience: int) -> None:
        self.every = every
        self.patience = patience
        self.best: dict[int, Best] = {}
        self.latest: FloatArray = np.full(workers, np.nan)
        self._asked_at = np.zeros(workers, dtype=np.int64)
        self._heard: set[int] = set()
        self._best_median = np.inf
        self._rounds_without_improvement = 0

    def due(self, worker: int, iteration: int) -> bool:
        """Whether ``worker`` should evaluate now; counts as asked if so."""
        if not self.is_due(worker, iteration):
            return False
        self._asked_at[worker - 1] = iteration
        return True

    def is_due(self, worker: int, iteration: int) -> bool:
        """As `due`, but nothing counts as asked."""
        return bool(self.every and iteration - self._asked_at[worker - 1] >= self.every)

    def add(
        self, worker: int, loss: float, words: IntArray, demonstrations: IntArray, live: int
    ) -> None:
        """Take one evaluation of a worker's own prompt, of ``live`` workers in all."""
        if worker not in self.best or loss < self.best[worker].loss:
            self.best[worker] = Best(loss, words.copy(), demonstrations.copy())
        self.latest[worker - 1] = loss
        self._heard.add(worker)
        if len(self._heard) < live:
            return
        self._heard.clear()
        median = float(np.nanmedian(self.latest))
        improved = median < self._best_median
        self._best_median = min(median, self._best_median)
        self._rounds_without_improvement = 0 if improved else self._rounds_without_improvement + 1

    def prompt(self, worker: int) -> tuple[IntArray, IntArray] | None:
        """The best words (M,) and demonstrations (U,) of ``worker``, if it has scored any."""
        best = self.best.get(worker)
        return (best.words, best.demonstrations) if best else None

    def forget(self, worker: int) -> None:
        """``worker`` left: it counts no more, neither in a round nor in the mean."""
        self._heard.discard(worker)
        self.latest[worker - 1] = np.nan

    @property
    def exhausted(self) -> bool:
        """Early stopping: patience is over."""
        return 0 < self.patience <= self._rounds_without_improvement
