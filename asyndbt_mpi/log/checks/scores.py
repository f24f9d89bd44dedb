"""Checks of the scores behind evaluations: /answer, and what they were calibrated by."""

from collections.abc import Iterator

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, IntArray
from asyndbt_mpi.inputs.sections import Calibration
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.blackbox import calibration_of
from asyndbt_mpi.protocol.evaluations import CONSENSUS
from asyndbt_mpi.protocol.messages import Candidate, RowScores, Split
from asyndbt_mpi.protocol.ranges import LOG_PROBABILITY, LOSS, SAME_MEAN
from asyndbt_mpi.protocol.scoring import is_normalised, scored


def biases(log: Log) -> Iterator[str]:
    """Biases that are missing, that should not be there, or that are not of mean probabilities."""
    bias = log.rows("evaluation/bias")
    columns = (log.rows(f"evaluation/{name}").tolist() for name in ("candidate", "split", "worker"))
    configured = log.config.task.calibration
    known: dict[tuple[int, int], Calibration] = {
        (candidate, split): calibration_of(candidate, split, configured)
        for candidate in Candidate
        for split in Split
    }
    for row, (candidate, split, worker) in enumerate(zip(*columns, strict=True)):
        due = "none" if worker == CONSENSUS else known.get((candidate, split), "none")
        if log.config.privacy.noise:
            due = "none"  # it stays with the worker
        if bias[row].any() != (due != "none"):
            has = "a" if bias[row].any() else "no"
            yield f"/evaluation/bias row {row}: {has} bias, but the calibration is {due}"
        elif bias[row].any() and not (
            LOG_PROBABILITY.holds_all(bias[row]) and is_normalised(bias[row])
        ):
            yield f"/evaluation/bias row {row}: {bias[row].tolist()} is not of mean probabilities"


def answers(log: Log) -> Iterator[str]:
    """Evaluations whose rows are missing, or give another loss or accuracy; rows of others."""
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
    split = log.rows("evaluation/split")
    first: IntArray | None = None
    for row in np.flatnonzero((ends > starts) & due).tolist():
        start, end = int(starts[row]), int(ends[row])
        place = f"/answer rows {start} to {end - 1}"
        if not np.array_equal(log.rows("answer/row", start, end), np.arange(end - start)):
            yield f"{place} are not numbered from 0 in their order"
        labels = log.rows("answer/label", start, end)
        if split[row] != Split.TEST:
            yield from _of_own_rows(log, row, place, start, labels)
            continue
        first = labels if first is None else first
        if not np.array_equal(labels, first):
            yield f"{place} have different labels from the first test, which is of the same rows"
        yield from _of_test(log, row, place, start, labels)


def _with_rows(log: Log) -> BoolArray:
    """Which evaluations have rows: workers' of a language model."""
    of_workers: BoolArray = log.rows("evaluation/worker") != CONSENSUS
    return of_workers & (not log.config.llm.is_function)


def _of_own_rows(log: Log, row: int, place: str, start: int, labels: IntArray) -> Iterator[str]:
    """The rows from ``start`` on, which are those of ``row`` of /evaluation: losses alone."""
    end = start + len(labels)
    if (labels != -1).any() or not np.isnan(log.rows("answer/log_probabilities", start, end)).all():
        yield f"{place} have labels or log-probabilities, but are of a worker's own rows"
    losses = log.rows("answer/loss", start, end)
    if not LOSS.holds_all(losses):
        yield f"{place} have losses outside {LOSS}"
        return
    yield from _differs(log, row, "loss", losses.mean())


def _of_test(log: Log, row: int, place: str, start: int, labels: IntArray) -> Iterator[str]:
    """The rows from ``start`` on, which are those of ``row`` of /evaluation."""
    end = start + len(labels)
    if not ((labels >= 0) & (labels < log.shapes.classes)).all():
        yield f"{place} have labels outside [0, {log.shapes.classes})"
        return
    log_probabilities = log.rows("answer/log_probabilities", start, end)
    if not (LOG_PROBABILITY.holds_all(log_probabilities) and is_normalised(log_probabilities)):
        yield f"{place} have log-probabilities that are out of range or not normalised"
        return
    of_rows = RowScores(labels, log_probabilities).losses
    if not np.array_equal(log.rows("answer/loss", start, end), of_rows):
        yield f"{place} have losses other than their log-probabilities give"
    losses, accuracies = scored(log_probabilities[None], labels)
    yield from _differs(log, row, "loss", losses[0])
    yield from _differs(log, row, "accuracy", accuracies[0])


def _differs(log: Log, row: int, name: str, value: float) -> Iterator[str]:
    logged = log.rows(f"evaluation/{name}", row, row + 1)[0]
    if not abs(logged - value) <= SAME_MEAN * max(1.0, abs(value)):
        yield f"/evaluation/{name} row {row} is {logged:.12g}, but its rows give {value:.12g}"
