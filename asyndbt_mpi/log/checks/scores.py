"""Checks of the scores behind evaluations: /answer, and what they were calibrated by."""

from collections.abc import Iterator

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, IntArray
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.blackbox import calibration_of
from asyndbt_mpi.protocol.evaluations import CONSENSUS
from asyndbt_mpi.protocol.messages import Candidate, Split
from asyndbt_mpi.protocol.ranges import LOG_PROBABILITY
from asyndbt_mpi.protocol.scoring import is_normalised, scored

TOLERANCE = 1e-9
"""As `wire.SAME_MEAN`, by which the server has checked them."""


def biases(log: Log) -> Iterator[str]:
    """Biases that are missing, that should not be there, or that are not of mean probabilities."""
    bias = log.rows("evaluation/bias")
    candidates, workers = (log.rows(f"evaluation/{name}") for name in ("candidate", "worker"))
    configured = log.config.task.calibration
    known = {candidate.value: calibration_of(candidate, configured) for candidate in Candidate}
    for row, (candidate, worker) in enumerate(
        zip(candidates.tolist(), workers.tolist(), strict=True)
    ):
        due = "none" if worker == CONSENSUS else known.get(candidate, "none")
        if bias[row].any() != (due != "none"):
            has = "a" if bias[row].any() else "no"
            yield f"/evaluation/bias row {row}: {has} bias, but the calibration is {due}"
        elif bias[row].any() and not (
            LOG_PROBABILITY.holds_all(bias[row]) and is_normalised(bias[row])
        ):
            yield f"/evaluation/bias row {row}: {bias[row].tolist()} is not of mean probabilities"


def answers(log: Log) -> Iterator[str]:
    """Tests whose rows are missing, or give another loss or accuracy; rows of something else."""
    of_evaluation = log.rows("answer/evaluation")
    due = _with_rows(log)
    wrong = (of_evaluation < 0) | (of_evaluation >= len(due))
    for row in np.flatnonzero(wrong | (np.diff(of_evaluation, prepend=0) < 0)).tolist():
        yield f"/answer/evaluation row {row}: {of_evaluation[row]} is out of range or of order"
        return
    evaluations = np.arange(len(due))
    starts, ends = (np.searchsorted(of_evaluation, evaluations, side) for side in ("left", "right"))
    for row in np.flatnonzero((ends > starts) != due).tolist():
        has, due_rows = int(ends[row] - starts[row]), "some" if due[row] else "none"
        yield f"/answer has {has} rows for row {row} of /evaluation; there should be {due_rows}"
    first: IntArray | None = None
    for row in np.flatnonzero((ends > starts) & due).tolist():
        labels = log.rows("answer/label", starts[row], ends[row])
        first = labels if first is None else first
        yield from _of_test(log, row, int(starts[row]), labels, first)


def _with_rows(log: Log) -> BoolArray:
    """Which evaluations have rows: workers' tests of a language model."""
    if log.config.llm.is_function:
        return np.zeros(log.count("evaluation"), dtype=bool)
    workers = log.rows("evaluation/worker")
    tests: BoolArray = (log.rows("evaluation/split") == Split.TEST) & (workers != CONSENSUS)
    return tests


def _of_test(log: Log, row: int, start: int, labels: IntArray, first: IntArray) -> Iterator[str]:
    """The rows from ``start`` on, which are those of ``row`` of /evaluation."""
    place, end = f"/answer rows {start} to {start + len(labels) - 1}", start + len(labels)
    if not np.array_equal(log.rows("answer/row", start, end), np.arange(len(labels))):
        yield f"{place} are not numbered from 0 in their order"
    if not np.array_equal(labels, first):
        yield f"{place} have different labels from the first test, which is of the same rows"
    if not ((labels >= 0) & (labels < log.shapes.classes)).all():
        yield f"{place} have labels outside [0, {log.shapes.classes})"
        return
    log_probabilities = log.rows("answer/log_probabilities", start, end)
    if not (LOG_PROBABILITY.holds_all(log_probabilities) and is_normalised(log_probabilities)):
        yield f"{place} have log-probabilities that are out of range or not normalised"
        return
    losses, accuracies = scored(log_probabilities[None], labels)
    for name, value in (("loss", losses[0]), ("accuracy", accuracies[0])):
        logged = log.rows(f"evaluation/{name}", row, row + 1)[0]
        if not abs(logged - value) <= TOLERANCE * max(1.0, abs(value)):
            yield f"/evaluation/{name} row {row} is {logged:.12g}, but its rows give {value:.12g}"
