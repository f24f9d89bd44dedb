"""Validation during a run: whose turn it is, the best iterate so far, and when to stop early."""

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.protocol.records import Evaluation


class Validation:
    """Keeps each worker's best prompt, and counts evaluations without improvement.

    The median over workers of the newest validation losses is compared once a round, a round
    being one evaluation of every live worker: a mean could be steered by a single one.

    Attributes
    ----------
    best : by worker, the evaluation of its own prompt with the lowest loss
    latest : array (R,), the newest loss of each worker that counts; nan for none
    """

    def __init__(self, workers: int, every: int, patience: int) -> None:
        self.every = every
        self.patience = patience
        self.best: dict[int, Evaluation] = {}
        self.latest: FloatArray = np.full(workers, np.nan)
        self._asked_at = np.zeros(workers, dtype=np.int64)
        self._heard: set[int] = set()
        self._best_median = np.inf
        self._rounds_without_improvement = 0

    def is_due(self, worker: int, iteration: int) -> bool:
        """Whether ``worker`` should evaluate now."""
        return bool(self.every and iteration - self._asked_at[worker - 1] >= self.every)

    def asked(self, worker: int, iteration: int) -> None:
        """Note that ``worker`` is asked for an evaluation at ``iteration``."""
        self._asked_at[worker - 1] = iteration

    def add(self, evaluation: Evaluation, live: int) -> None:
        """Take one ``evaluation`` of a worker's own prompt, of ``live`` workers in all."""
        worker, loss = evaluation.worker, evaluation.loss
        if worker not in self.best or loss < self.best[worker].loss:
            self.best[worker] = evaluation
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
        """``worker`` left: it counts no more, neither in a round nor in the median."""
        self._heard.discard(worker)
        self.latest[worker - 1] = np.nan

    @property
    def exhausted(self) -> bool:
        """Early stopping: patience is over."""
        return 0 < self.patience <= self._rounds_without_improvement
