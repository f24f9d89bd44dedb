"""Validation during a run: whose turn it is, the best prompts so far, and when to stop early."""

from bisect import insort
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.protocol.race import Prompt, is_clear, is_same
from asyndbt_mpi.protocol.records import Evaluation

Scored: TypeAlias = tuple[float, Prompt]
"""A prompt and its loss."""


class Validation:
    """Keeps each worker's best prompts, and counts rounds of evaluations without progress.

    A round is one evaluation of every live worker. A worker makes progress with a prompt that is
    clearly better than the last one that was, by the paired differences over its rows; a round,
    if half of the workers do: a mean could be steered by a single one.

    Parameters
    ----------
    kept : how many of each worker's prompts
    """

    def __init__(self, workers: int, every: int, patience: int, kept: int) -> None:
        self.every = every
        self.patience = patience
        self.kept = max(1, kept)
        self._asked_at: IntArray = np.zeros(workers, dtype=np.int64)
        self._best: dict[int, list[Scored]] = {}
        self._heard: set[int] = set()
        self._landmarks: dict[int, FloatArray] = {}
        self._progressed: set[int] = set()
        self._rounds_without_progress = 0

    def is_due(self, worker: int, iteration: int) -> bool:
        """Whether ``worker`` should evaluate now."""
        return bool(self.every and iteration - self._asked_at[worker - 1] >= self.every)

    def asked(self, worker: int, iteration: int) -> None:
        """Note that ``worker`` is asked for an evaluation at ``iteration``."""
        self._asked_at[worker - 1] = iteration

    def add(self, evaluation: Evaluation, live: int) -> None:
        """Take one ``evaluation`` of a worker's own prompt, of ``live`` workers in all."""
        worker = evaluation.worker
        scored = evaluation.loss, (evaluation.words, evaluation.demonstrations)
        keep(self._best.setdefault(worker, []), scored, self.kept)
        before = self._landmarks.get(worker)
        # A worker that came back with other rows begins again.
        same = before is not None and len(before) == len(evaluation.losses)
        if before is None or not same or is_clear(before - evaluation.losses):
            self._landmarks[worker] = evaluation.losses
            self._progressed.add(worker)
        self._heard.add(worker)
        if len(self._heard) < live:
            return
        progress = 2 * len(self._progressed) >= live
        self._rounds_without_progress = 0 if progress else self._rounds_without_progress + 1
        self._heard.clear()
        self._progressed.clear()

    def prompts(self, worker: int) -> list[Prompt]:
        """The words (M,) and demonstrations (U,) that ``worker`` has scored, the best first."""
        return [prompt for _, prompt in self._best.get(worker, [])]

    def forget(self, worker: int) -> None:
        """``worker`` left: it counts no more."""
        self._heard.discard(worker)
        self._progressed.discard(worker)

    @property
    def exhausted(self) -> bool:
        """Early stopping: patience is over."""
        return 0 < self.patience <= self._rounds_without_progress


def keep(best: list[Scored], scored: Scored, most: int) -> None:
    """Add ``scored`` to the at most ``most`` different prompts that are ``best``, by their loss."""
    loss, prompt = scored
    if not any(is_same(prompt, other) for _, other in best):
        insort(best, (loss, prompt), key=lambda each: each[0])
        del best[most:]
