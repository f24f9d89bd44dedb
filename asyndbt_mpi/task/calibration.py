"""Calibrated label scores: a model's preference for some labels, whatever the row, is taken out.

    log p'(y|x) = log p(y|x) - log mean over x' of p(y|x') + log pi(y), renormalised over y

The mean over reference rows x', under the same prompt, is what the model answers on average; pi is
what it should. References of "batch" (Zhou et al., ICLR 2024) are the rows of a training batch or
of a round of the race themselves, where prompts are compared on the same rows; for validation and
test rows they are the worker's training rows, so that how a row is scored never depends on the
others. Those of "content_free" (Zhao et al., ICML 2021) are rows whose texts say nothing.

Rows of the worker's own have its own class shares, as its training rows do. Test rows have those of
the data set: pi is then the data set's, and the mean is over references weighted to its shares.
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


class Everywhere(dict[str, str]):
    """The same text in every column."""

    def __init__(self, text: str) -> None:
        super().__init__({"": text})

    def __missing__(self, column: str) -> str:
        return self[""]


CONTENT_FREE = [
    Row(Everywhere(text), 0, f"the texts of task.calibration = 'content_free', line {line}")
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


def bias_at(log_probabilities: FloatArray, labels: IntArray, log_prior: FloatArray) -> FloatArray:
    """`bias` over reference rows with ``labels`` (B,), weighted to the shares of `log_prior` (U,).

    For a class without a row those of the others stand in, with the probability of their own label
    and that of the missing one exchanged. Left out, they would make its label seem too rare by far.
    """
    there = np.bincount(labels, minlength=len(log_prior))
    log_present = np.logaddexp.reduce(log_prior[there > 0])
    log_weights = log_prior[labels] - np.log(there[labels]) - log_present
    missing = np.flatnonzero(there == 0)
    if len(missing):
        log_probabilities = _standing_in(log_probabilities, labels, missing, log_prior)
    mean: FloatArray = np.logaddexp.reduce(log_probabilities + log_weights[:, None], axis=-2)
    return mean


def _standing_in(
    log_probabilities: FloatArray, labels: IntArray, missing: IntArray, log_prior: FloatArray
) -> FloatArray:
    """The mean of each row, as itself and as a row of each ``missing`` class, at their shares."""
    of_present = np.delete(log_prior, missing)
    own, of_missing = (..., np.arange(len(labels)), labels), log_prior[missing]
    log_own, log_missing = log_probabilities[own], log_probabilities[..., missing]
    mean = log_probabilities.copy()
    mean[own] = np.logaddexp(
        log_own + np.logaddexp.reduce(of_present),
        np.logaddexp.reduce(log_missing + of_missing, axis=-1),
    )
    mean[..., missing] = np.logaddexp(
        log_missing + np.log1p(-np.exp(of_missing)), log_own[..., None] + of_missing
    )
    return mean


def log_prior(counts: IntArray | Sequence[int]) -> FloatArray:
    """log pi (U,): the shares of classes with ``counts`` rows, with one added for each class."""
    added = np.asarray(counts) + 1
    shares: FloatArray = np.log(added / added.sum())
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
