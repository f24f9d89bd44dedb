"""Loss (1) and accuracy of prompts, from the log-probabilities of the labels on each row."""

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray

NORMALISED = 1e-5


def scored(log_probabilities: FloatArray, labels: IntArray) -> tuple[FloatArray, FloatArray]:
    """Losses and accuracies (I,) of I prompts.

    Parameters
    ----------
    log_probabilities : array (I, B, U)
    labels : array (B,), the right one of each row, 0 to U-1
    """
    right = np.arange(log_probabilities.shape[2]) == labels[:, None]  # (B, U)
    of_label = log_probabilities[:, right]
    of_others = np.where(right, -np.inf, log_probabilities).max(axis=2)
    losses: FloatArray = -of_label.mean(axis=1)  # (1)
    accuracies: FloatArray = (of_label > of_others).mean(axis=1)  # a tie is not a correct answer
    return losses, accuracies


def is_normalised(log_probabilities: FloatArray) -> bool:
    """Whether the probabilities of the labels (..., U) sum to 1, up to a model's rounding."""
    sums = np.logaddexp.reduce(log_probabilities, axis=-1)
    return bool((np.abs(sums) <= NORMALISED).all())
