"""AdaICL (Mavromatis et al., arXiv:2310.20046): label what the model is unsure of.

The pool's labels count as unknown until they are chosen. Each round the model classifies the rows
of the pool behind the demonstrations chosen so far; the half it is least sure of is hard. Rows are
then chosen greedily so that the hard ones are near to one of them (maximum coverage), until all are
covered or `CHOSEN` rows are there; in between, the model is asked again.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, FloatArray
from asyndbt_mpi.baselines.similar import NearestRows, nearest, rows_of_pool
from asyndbt_mpi.baselines.trial import Predict, Trial, by_rows
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.llm.base import LanguageModel, Prompt
from asyndbt_mpi.task.dataset import Row

CHOSEN = 20
"""Rows whose labels are paid for."""

NEIGHBOURS = 5
"""Edges of a row in the graph; a row covers what it reaches in two steps."""

HARD = 0.5
"""Share of the rows that the model is least sure of."""


def adaicl(trial: Trial) -> Mapping[int, Predict]:
    """Each query behind its nearest neighbours among the rows chosen.

    Raises
    ------
    ConfigurationError
        The calls do not suffice to classify the pool once.
    """
    found = {}
    for worker in trial.data:
        rows = rows_of_pool(trial, worker)
        chosen = _choose(trial, rows)
        trial.details[f"chosen by worker {worker}"] = chosen
        found[worker] = by_rows(trial, NearestRows(trial, [rows[k] for k in chosen]), worker)
    return found


def _choose(trial: Trial, rows: Sequence[Row]) -> list[int]:
    rounds = trial.calls_each // len(rows)
    if not rounds:
        raise ConfigurationError(
            f"--calls: {trial.calls_each} of a worker are too few to classify its {len(rows)}"
            " demonstrations once"
        )
    model, reach, chosen = trial.model(), reachable(trial.vectors(rows)), list[int]()
    most = min(CHOSEN, len(rows))
    while rounds and len(chosen) < most:
        shown = NearestRows(trial, [rows[k] for k in chosen])
        sure = _confidence(trial, model, rows, shown)
        chosen += cover(hard(sure, chosen), reach, most - len(chosen), chosen)
        rounds -= 1
    return chosen


def _confidence(
    trial: Trial, model: LanguageModel, rows: Sequence[Row], shown: NearestRows
) -> FloatArray:
    """The probability (n,) of the label that the model takes each row for."""
    template = trial.template
    prompts = [
        Prompt(template.context(shown(row), None), template.render(row, None)) for row in rows
    ]
    scores = model.label_log_probabilities(prompts, template.labels)
    sure: FloatArray = np.exp(scores.log_probabilities.max(axis=1))
    return sure


def reachable(vectors: FloatArray) -> BoolArray:
    """Which rows (n, n) each row covers: itself, its nearest neighbours, and theirs."""
    size = len(vectors)
    edges = np.zeros((size, size), dtype=bool)
    near = nearest(vectors, vectors, NEIGHBOURS + 1)  # a row is the nearest to itself
    edges[np.arange(size)[:, None], near] = True
    np.fill_diagonal(edges, val=True)
    covered: BoolArray = edges | ((edges.astype(np.int64) @ edges) > 0)
    return covered


def hard(sure: FloatArray, chosen: Sequence[int]) -> BoolArray:
    """The share `HARD` of the rows not ``chosen`` that the model is least ``sure`` (n,) of."""
    left = np.setdiff1d(np.arange(len(sure)), chosen)
    order = left[np.argsort(sure[left], kind="stable")]
    is_hard = np.zeros(len(sure), dtype=bool)
    is_hard[order[: int(np.ceil(HARD * len(left)))]] = True
    return is_hard


def cover(is_hard: BoolArray, reach: BoolArray, most: int, chosen: Sequence[int]) -> list[int]:
    """Up to ``most`` further rows, each the one that covers most hard rows not yet covered.

    ``reach`` (n, n) is what each row covers. At least one row, so that rounds come to an end.
    """
    left, found = is_hard.copy(), list[int]()
    free = np.ones(len(is_hard), dtype=bool)
    free[list(chosen)] = False
    while len(found) < most and free.any() and (left.any() or not found):
        gains = np.where(free, (reach & left).sum(axis=1), -1)
        best = int(gains.argmax())
        if found and not gains[best]:
            break
        found.append(best)
        free[best] = False
        left &= ~reach[best]
    return found
