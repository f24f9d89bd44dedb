"""AdaICL (Mavromatis et al., arXiv:2310.20046): label what the model is unsure of.

The pool's labels count as unknown until they are chosen. Each round the model classifies the rows
of the pool behind the demonstrations chosen so far; the half it is least sure of is hard. Of the
hard rows some are then chosen greedily, so that as many hard ones as possible have one of them
among their neighbours or their neighbours' (maximum coverage), until all are covered or `CHOSEN`
rows are there; in between, the model is asked again.
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
"""Rows that a row would be shown behind."""

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
    model, shows, chosen = trial.model(), shown_for(trial.vectors(rows)), list[int]()
    most = min(CHOSEN, len(rows))
    while rounds and len(chosen) < most:
        shown = NearestRows(trial, [rows[k] for k in chosen])
        sure = _confidence(trial, model, rows, shown)
        chosen += cover(hard(sure, chosen), shows, most - len(chosen))
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


def shown_for(vectors: FloatArray) -> BoolArray:
    """Whether row a is b itself or one of its nearest neighbours, by a and b (n, n)."""
    near = nearest(vectors, vectors, NEIGHBOURS + 1)  # a row is the nearest to itself
    shows = np.eye(len(vectors), dtype=bool)
    shows[near, np.arange(len(vectors))[:, None]] = True
    return shows


def hard(sure: FloatArray, chosen: Sequence[int]) -> BoolArray:
    """The share `HARD` of the rows not ``chosen`` that the model is least ``sure`` (n,) of."""
    left = np.setdiff1d(np.arange(len(sure)), chosen)
    order = left[np.argsort(sure[left], kind="stable")]
    is_hard = np.zeros(len(sure), dtype=bool)
    is_hard[order[: int(np.ceil(HARD * len(left)))]] = True
    return is_hard


def cover(is_hard: BoolArray, shows: BoolArray, most: int) -> list[int]:
    """Up to ``most`` hard rows, each the one that covers most hard rows not yet covered.

    A row covers those that it is shown for, see `shown_for`, and those that these are shown for;
    steps lead over hard rows only.
    """
    step = shows & is_hard[:, None] & is_hard
    reach = step | (step @ step)
    left, found = is_hard.copy(), list[int]()
    while len(found) < most and left.any():
        best = int((reach & left).sum(axis=1).argmax())
        found.append(best)
        left &= ~reach[best]
    return found
