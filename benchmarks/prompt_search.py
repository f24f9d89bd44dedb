"""What tuning competes with: random prompts, and the best of them by training and validation rows.

Every worker searches alone, on rows of its own. A prompt is M words and one demonstration of each
class, as indices.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import IntArray
from asyndbt_mpi.inputs.sections import Calibration
from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import Shapes, Split
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


class Judge:
    """Scores prompts on a worker's first rows, validation and then training, and counts the calls.

    The rows are those of AsynDBT's own race. Calibration is by the rows that were scored.

    Attributes
    ----------
    rows : their number, B
    calls : paid for so far; the black box must have an empty cache to begin with
    """

    def __init__(self, box: PromptBlackBox, worker: int, calibration: Calibration) -> None:
        self.box = box
        self.worker = worker
        self.calibration = calibration
        self.rows = box.data_sizes[worker].rows[Split.RACE]
        self.calls = 0

    def loss(self, prompt: Prompt, rows: int) -> float:
        """Mean loss on the first so many ``rows``."""
        words, demonstrations = (each[None] for each in prompt)
        first = self.worker, Split.RACE, np.arange(rows)
        query = Query(*first, words, demonstrations, calibration=self.calibration)
        (answer,) = self.box.answer([query])
        self.calls += answer.calls
        return float(answer.losses[0])
