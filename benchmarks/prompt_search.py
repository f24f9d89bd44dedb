"""What tuning competes with: random prompts, and the best of them by training and validation rows.

Every worker searches alone, on rows of its own. A prompt is M words and one demonstration of each
class, as indices.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import Shapes, Split
from asyndbt_mpi.protocol.scoring import scored
from asyndbt_mpi.task.calibration import bias, calibrated
from asyndbt_mpi.task.partition import rows_of
from asyndbt_mpi.task.prompts import PromptBlackBox

Prompt: TypeAlias = tuple[IntArray, IntArray]
Loss: TypeAlias = Callable[[Prompt, int], float]
"""A prompt's mean loss on the first so many rows."""

FIRST_ROWS = 5
"""Rows of the first round of successive halving."""


def random_prompts(shapes: Shapes, seed: int, worker: int) -> Iterator[Prompt]:
    """Words and demonstrations, all equally likely; always the same ones."""
    generator = np.random.default_rng([seed, worker])
    while True:
        words = generator.integers(shapes.words, size=shapes.positions)
        yield words, generator.integers(shapes.pool, size=shapes.classes)


def search(loss: Loss, prompts: Iterator[Prompt], rows: int, calls: int) -> Prompt:
    """Of as many prompts as ``calls`` allow on all ``rows``, the one with the lowest loss.

    Raises
    ------
    ValueError
        They allow none; as `halving`.
    """
    tried = list(islice(prompts, _some(calls // rows, calls)))
    return min(tried, key=lambda prompt: loss(prompt, rows))


def halving(loss: Loss, prompts: Iterator[Prompt], rows: int, calls: int) -> Prompt:
    """Successive halving: the better half survives each round, on twice as many rows.

    That gives every round but the first, and perhaps the last, the same number of calls, as
    TRIPLE-SH (Shi et al., NeurIPS 2024) does; a prompt keeps its earlier rows, which are paid for.
    """
    left = list(islice(prompts, _some(most_prompts(rows, calls), calls)))
    for seen in rounds(rows):
        losses = {place: loss(prompt, seen) for place, prompt in enumerate(left)}
        best = sorted(losses, key=lambda place: losses[place])
        left = [left[place] for place in best[: survivors(len(left))]]
    return left[0]


def _some(prompts: int, calls: int) -> int:
    if not prompts:
        raise ValueError(f"{calls} calls are too few to score one prompt; give more --calls")
    return prompts


def rounds(rows: int) -> list[int]:
    """Rows on which the prompts of each round are compared, the last time on all."""
    seen = [min(FIRST_ROWS, rows)]
    while seen[-1] < rows:
        seen.append(min(2 * seen[-1], rows))
    return seen


def survivors(prompts: int) -> int:
    """How many of a round's prompts go on to the next."""
    return (prompts + 1) // 2


def cost(prompts: int, rows: int) -> int:
    """Calls of successive halving, if no two prompts are alike."""
    calls, before = 0, 0
    for seen in rounds(rows):
        calls += prompts * (seen - before)
        prompts, before = survivors(prompts), seen
    return calls


def most_prompts(rows: int, calls: int) -> int:
    """The most prompts that successive halving can begin with."""
    prompts = 0
    while cost(prompts + 1, rows) <= calls:
        prompts += 1
    return prompts


def balanced_order(labels: IntArray, generator: np.random.Generator) -> IntArray:
    """The rows in random order, but one of each class in turn."""
    shuffled = generator.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        of_class = shuffled[labels[shuffled] == label]
        turn[of_class] = np.arange(len(of_class))
    order: IntArray = shuffled[np.argsort(turn[shuffled], kind="stable")]
    return order


class Judge:
    """A worker's training and validation rows in a balanced order, and what they cost so far.

    Attributes
    ----------
    rows : their number, B
    calls : paid for; the black box must have an empty cache to begin with
    """

    def __init__(self, box: PromptBlackBox, worker: int, seed: int) -> None:
        self.box = box
        self.worker = worker
        self.calls = 0
        both = Split.TRAIN, Split.VALIDATION
        held = [(split, row) for split in both for row in range(box.data_sizes[worker].rows[split])]
        data = box.data[worker]
        labels = np.array([rows_of(data, split)[row].label for split, row in held])
        order = balanced_order(labels, np.random.default_rng([seed, worker, 1]))
        self.labels: IntArray = labels[order]
        self.splits = np.array([split for split, _ in held])[order]
        self.numbers = np.array([row for _, row in held])[order]
        self.rows = len(held)

    def loss(self, prompt: Prompt, count: int, calibrate: bool) -> float:
        """Mean loss on the first ``count`` rows, calibrated by these rows themselves if asked."""
        log_probabilities = self._scores(prompt, count)[None]
        if calibrate:
            prior = self.box.log_priors[self.worker]
            log_probabilities = calibrated(log_probabilities, bias(log_probabilities), prior)
        losses, _ = scored(log_probabilities, self.labels[:count])
        return float(losses[0])

    def _scores(self, prompt: Prompt, count: int) -> FloatArray:
        """Log-probabilities (count, U), not calibrated."""
        words, demonstrations = (each[None] for each in prompt)
        scores = np.empty((count, len(self.box.template.labels)))
        for split in (Split.TRAIN, Split.VALIDATION):
            (own,) = np.nonzero(self.splits[:count] == split)
            if not len(own):
                continue
            rows = self.numbers[own]
            query = Query(self.worker, split, rows, words, demonstrations, calibration="none")
            (answer,) = self.box.answer([query])
            assert answer.log_probabilities is not None
            scores[own] = answer.log_probabilities[0]
            self.calls += answer.calls
        return scores
