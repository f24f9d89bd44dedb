"""`asyndbt predict`: labels and probabilities for rows, by a tuned prompt."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.llm.base import LanguageModel
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.tuned import TunedPrompt

AT_ONCE = 64
"""Rows that are scored at once; their predictions are written before the next ones are."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """Log-probabilities (B, U) for the ``rows``, in their order."""

    rows: Sequence[Row]
    log_probabilities: FloatArray


def predictions(
    prompt: TunedPrompt, model: LanguageModel, rows: Sequence[Row]
) -> Iterator[Predicted]:
    """Those for all ``rows``, some at a time."""
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        yield Predicted(some, prompt.log_probabilities(model, some))


def write_predictions(
    path: Path, prompt: TunedPrompt, found: Iterator[Predicted]
) -> FloatArray:
    """Write each row's place, label and probabilities as CSV; all log-probabilities (B, U)."""
    names = [label.strip() for label in prompt.labels]
    every = []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "label", *(f"p({name})" for name in names)])
        number = 0
        for part in found:
            for logs in part.log_probabilities:
                number += 1
                shares = [f"{share:.6f}" for share in np.exp(logs)]
                writer.writerow([number, names[int(logs.argmax())], *shares])
            file.flush()
            every.append(part.log_probabilities)
    return np.concatenate(every) if every else np.empty((0, len(names)))
