"""The best of many random prompts: by all rows at once, or by successive halving.

Every worker searches alone, by its own validation and training rows, with its share of the calls.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.baselines.trial import Chosen, Predict, Trial
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import Split
from asyndbt_mpi.task.prompts import PromptBlackBox

Loss: TypeAlias = Callable[[Chosen, int], float]
"""A prompt's mean loss on the first so many rows."""

Search: TypeAlias = Callable[[Loss, Iterator[Chosen], int, int, int], Chosen]

FIRST_ROWS = 5
"""Rows of the first round of successive halving."""


def random_search(trial: Trial) -> Mapping[int, Predict]:
    """See `best_of`."""
    return _searched(trial, best_of)


def successive_halving(trial: Trial) -> Mapping[int, Predict]:
    """See `halving`."""
    return _searched(trial, halving)


def _searched(trial: Trial, by: Search) -> Mapping[int, Predict]:
    box, found = trial.black_box(), {}
    for worker in trial.data:
        sizes, prompts = box.data_sizes[worker], random_prompts(trial, worker)
        given = sizes.rows[Split.RACE], trial.calls_each, sizes.references[Split.RACE]
        try:
            found[worker] = by(_loss(box, worker), prompts, *given)
        except ConfigurationError as error:
            raise ConfigurationError(f"--calls: for a worker, {error}") from error
    return trial.predict(found, box)


def random_prompts(trial: Trial, worker: int) -> Iterator[Chosen]:
    """Words and demonstrations, all equally likely; always the same ones."""
    shapes, generator = trial.materials.shapes, trial.generator(worker)
    pools = [len(rows) for rows in trial.data[worker].pool]
    while True:
        words = generator.integers(shapes.words, size=shapes.positions)
        yield words, generator.integers(pools)


def _loss(box: PromptBlackBox, worker: int) -> Loss:
    """On a worker's first rows, validation and then training: those of AsynDBT's own race.

    Calibration is by the rows that were scored.
    """

    def loss(prompt: Chosen, rows: int) -> float:
        words, demonstrations = (each[None] for each in prompt)
        query = Query(worker, Split.RACE, np.arange(rows), words, demonstrations)
        (answer,) = box.answer([query])
        return float(answer.losses[0])

    return loss


def best_of(
    loss: Loss, prompts: Iterator[Chosen], rows: int, calls: int, references: int = 0
) -> Chosen:
    """Of as many prompts as ``calls`` allow on all ``rows``, the one with the lowest loss.

    Calibration may cost each prompt so many calls more as there are ``references``.

    Raises
    ------
    ConfigurationError
        They allow none; as `halving`.
    """
    tried = list(islice(prompts, _some(calls // (rows + references), rows, calls)))
    return min(tried, key=lambda prompt: loss(prompt, rows))


def halving(
    loss: Loss, prompts: Iterator[Chosen], rows: int, calls: int, references: int = 0
) -> Chosen:
    """Successive halving: the better half survives each round, on twice as many rows.

    That gives every round but the first, and perhaps the last, the same number of calls, as
    TRIPLE-SH (Shi et al., NeurIPS 2024) does; a prompt keeps its earlier rows, which are paid for.
    """
    left = list(islice(prompts, _some(most_prompts(rows, calls, references), rows, calls)))
    for seen in rounds(rows):
        losses = {place: loss(prompt, seen) for place, prompt in enumerate(left)}
        best = sorted(losses, key=lambda place: losses[place])
        left = [left[place] for place in best[: survivors(len(left))]]
    return left[0]


def _some(prompts: int, rows: int, calls: int) -> int:
    if not prompts:
        raise ConfigurationError(
            f"{calls} calls are too few to score one prompt on {rows} rows; give more --calls"
        )
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


def cost(prompts: int, rows: int, references: int = 0) -> int:
    """Calls of successive halving, if no two prompts are alike."""
    calls, before = prompts * references, 0
    for seen in rounds(rows):
        calls += prompts * (seen - before)
        prompts, before = survivors(prompts), seen
    return calls


def most_prompts(rows: int, calls: int, references: int = 0) -> int:
    """The most prompts that successive halving can begin with."""
    prompts = 0
    while cost(prompts + 1, rows, references) <= calls:
        prompts += 1
    return prompts
