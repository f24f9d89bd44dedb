"""The last act of a run: which prompts are scored on the test split, and by whom."""

from collections import deque

import numpy as np

from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.protocol.messages import WITHOUT, Candidate, EvaluationRequest, Split

OF_EACH_WORKER = 3
"""Tests of its own; the one of the untuned prompt comes on top, once for all workers."""


class FinalTests:
    """Hands out the test evaluations.

    Each worker scores its tuned prompt, random demonstrations of its own, and the consensus
    words with its own tuned demonstrations. The untuned prompt is the same everywhere: the
    worker that is first done scores it.

    Parameters
    ----------
    tuned : dict of worker to (words (M,), demonstrations (U,))
    consensus : array (M,), the consensus' words
    available : array (R, U, V), positive where a worker has a demonstration
    """

    def __init__(
        self,
        iteration: int,
        tuned: dict[int, tuple[IntArray, IntArray]],
        consensus: IntArray,
        available: FloatArray,
        seed: int,
    ) -> None:
        self._own: dict[int, deque[EvaluationRequest]] = {}
        without = np.full_like(consensus, WITHOUT)
        for worker, (words, demonstrations) in tuned.items():
            random = draw_demonstrations(available[worker - 1], seed, worker)
            self._own[worker] = deque(
                EvaluationRequest(iteration, Split.TEST, candidate, fragment, shown)
                for candidate, fragment, shown in (
                    (Candidate.TUNED, words, demonstrations),
                    (Candidate.RANDOM, without, random),
                    (Candidate.CONSENSUS, consensus, demonstrations),
                )
            )
        no_demonstrations = np.full(available.shape[1], WITHOUT)
        self._shared = deque(
            [
                EvaluationRequest(
                    iteration, Split.TEST, Candidate.UNTUNED, without, no_demonstrations
                )
            ]
        )

    def next(self, worker: int) -> EvaluationRequest | None:
        """The next prompt that ``worker`` is to score; None when it may stop."""
        own = self._own.get(worker)
        if own is None:
            return None  # it joined after the iterations were over
        queue = own or self._shared
        return queue.popleft() if queue else None

    def give_back(self, requests: list[EvaluationRequest]) -> None:
        """Of the ``requests`` that a worker left unanswered, another may take the shared one."""
        self._shared.extend(
            request for request in requests if request.candidate is Candidate.UNTUNED
        )


def draw_demonstrations(q: FloatArray, seed: int, worker: int) -> IntArray:
    """One demonstration of each class, uniform over those with positive ``q`` (U, V); (U,)."""
    generator = stream(seed, worker, 0, Purpose.RANDOM_DEMONSTRATIONS)
    return np.array([generator.choice(np.flatnonzero(row > 0)) for row in q])
