"""Calibrated label scores: a model's preference for some labels, whatever the row, is taken out.

    log p'(y|x) = log p(y|x) - log mean over x' of p(y|x') + log pi(y), renormalised over y

The mean over reference rows x', under the same prompt, is what the model answers on average; pi is
what it should. References of "batch" (Zhou et al., ICLR 2024) are the rows of a training batch
themselves, and for rows that a prompt is judged on the worker's training rows: how a row is scored
never depends on the others. Those of "content_free" (Zhao et al., ICML 2021) are rows whose texts
say nothing.
"""

from collections.abc import Sequence
from typing import TypeVar, assert_never

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.inputs.sections import Calibration
from asyndbt_mpi.protocol.messages import Split
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.template import Template

T = TypeVar("T")

CONTENT_FREE = [
    Row(text, text, 0, "the texts of task.calibration = 'content_free'", line)
    for line, text in enumerate(("N/A", "", "[MASK]"), start=1)
]


def check(config: Config, template: Template | None) -> None:
    """Refuse a calibration of what has no scores, or by what says nothing.

    Raises
    ------
    ConfigurationError
    """
    calibration = config.task.calibration
    if calibration == "none":
        return
    if config.llm.is_function:
        raise ConfigurationError(
            f"task.calibration = {calibration!r} needs a language model, but llm.backend ="
            f" {config.llm.backend!r} is a function, which scores no labels; set it to 'none'"
        )
    if calibration == "batch" and config.estimator.batch < 2:
        raise ConfigurationError(
            "task.calibration = 'batch' needs an estimator.batch of at least 2: a row calibrated by"
            " itself alone says nothing about its prompt"
        )
    if (
        calibration == "content_free"
        and template
        and not all(template.render(row, None).strip() for row in CONTENT_FREE)
    ):
        raise ConfigurationError(
            "task.calibration = 'content_free' asks about a row without text: task.template needs"
            " words besides its placeholders, outside the square brackets"
        )


def bias(log_probabilities: FloatArray) -> FloatArray:
    """The logarithm of the mean probability of each label over reference rows.

    (..., B, U) -> (..., U); the probabilities need not be normalised.
    """
    rows = log_probabilities.shape[-2]
    mean: FloatArray = np.logaddexp.reduce(log_probabilities, axis=-2) - np.log(rows)
    return mean


def log_prior(labels: IntArray, classes: int) -> FloatArray:
    """log pi (U,): the shares of the classes among ``labels``, with one added for each class."""
    counts = np.bincount(labels, minlength=classes) + 1
    shares: FloatArray = np.log(counts / counts.sum())
    return shares


def calibrated(
    log_probabilities: FloatArray, bias: FloatArray, log_prior: FloatArray
) -> FloatArray:
    """log p' (I, B, U) from log p (I, B, U), the `bias` of each prompt (I, U) and log pi (U,)."""
    scores = log_probabilities - bias[:, None, :] + log_prior
    normalised: FloatArray = scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)
    return normalised


def references(calibration: Calibration, split: Split, train: Sequence[T]) -> Sequence[T | Row]:
    """The rows that are scored besides those of ``split``, under each of its prompts.

    ``train`` are the worker's training rows.
    """
    match calibration:
        case "none":
            return []
        case "batch":
            return [] if split in (Split.TRAIN, Split.RACE) else train
        case "content_free":
            return CONTENT_FREE
        case _:
            assert_never(calibration)
