"""The final tests of a run, row by row where its log has the answers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.algorithm.aggregation import PLAIN, Aggregation
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.asyndbt import aggregation_of
from asyndbt_mpi.protocol.messages import Candidate, Split
from asyndbt_mpi.protocol.ranges import LOG_PROBABILITY, SAME_MEAN
from asyndbt_mpi.view import intervals
from asyndbt_mpi.view.intervals import Interval

NAMES = {
    Candidate.UNTUNED: "untuned prompt",
    Candidate.CALIBRATED: "untuned, calibrated",
    Candidate.RANDOM: "random demonstrations",
    Candidate.TUNED: "tuned",
    Candidate.CONSENSUS: "tuned, consensus words",
}
"""The prompts that are tested at the end, in the order in which they are shown."""

EVERYBODY = 0
"""In place of a worker, where several have scored the same prompt."""

TOLERANCE = 2 * SAME_MEAN
"""Twice that by which the server has checked a mean, which may have been rounded otherwise."""


@dataclass(frozen=True, slots=True)
class Answers:
    """A prompt's answers to B rows.

    The right ``labels`` (B,), those ``predicted``, whether they are ``right``, and the losses.
    """

    labels: IntArray
    predicted: IntArray
    right: BoolArray
    losses: FloatArray


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one kind of prompt achieved on the test rows, which are the same for all workers.

    By worker (1..R). A prompt that is the same for all was scored by one worker; or by several, of
    which a majority is honest, and then what they say together is that of worker `EVERYBODY`.
    Accuracies are NaN if nothing is classified. ``answers`` are those of all these workers, or
    none if the log has no answers by row. Means over workers are by the ``aggregation``.
    """

    accuracies: dict[int, float]
    losses: dict[int, float]
    answers: dict[int, Answers]
    aggregation: Aggregation = PLAIN

    def right(self, workers: Iterable[int] | None = None) -> BoolArray:
        """Which answers were right, (W, B), of all workers or those given."""
        chosen = self.answers if workers is None else workers
        return np.stack([self.answers[worker].right for worker in chosen])

    def row_losses(self, workers: Iterable[int]) -> FloatArray:
        """The losses of ``workers``, (W, B)."""
        return np.stack([self.answers[worker].losses for worker in workers])

    @property
    def accuracy(self) -> Interval | None:
        """The mean over workers and rows; None if the log has no answers by row."""
        return self.accuracy_on() if self.answers else None

    def accuracy_on(self, rows: BoolArray | slice = slice(None)) -> Interval:
        """The mean over workers and the given ``rows`` of the test, which has answers."""
        return intervals.accuracy(self.right()[:, rows], self.aggregation)

    @property
    def mean_accuracy(self) -> float:
        """Over workers."""
        return float(self.aggregation.mean(np.array([*self.accuracies.values()])))

    @property
    def mean_loss(self) -> float:
        """Over workers."""
        return float(self.aggregation.mean(np.array([*self.losses.values()])))

    def agreed(self) -> "Outcome":
        """Of one prompt that several workers have scored: what most of them say, row by row.

        The most frequent prediction, and the median loss; of a function the median.
        """
        if not self.answers:
            medians = (np.median([*each.values()]) for each in (self.accuracies, self.losses))
            accuracy, loss = map(float, medians)
            return Outcome({EVERYBODY: accuracy}, {EVERYBODY: loss}, {}, self.aggregation)
        every = [*self.answers.values()]
        labels, predicted = every[0].labels, np.stack([each.predicted for each in every])
        votes = (predicted[:, :, None] == np.arange(predicted.max() + 1)).sum(axis=0)  # (B, U)
        most = votes.argmax(axis=1)
        losses = np.median([each.losses for each in every], axis=0)
        together = Answers(labels, most, most == labels, losses)
        means = {EVERYBODY: float(together.right.mean())}, {EVERYBODY: float(losses.mean())}
        return Outcome(*means, {EVERYBODY: together}, self.aggregation)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One kind of prompt less another, paired over the test rows of the ``workers`` with both.

    ``accuracy`` and ``loss`` are differences of means; ``p_value`` is that of
    `intervals.sign_test`.
    """

    workers: list[int]
    accuracy: Interval
    p_value: float
    loss: Interval


def score(labels: IntArray, log_probabilities: FloatArray) -> Answers:
    """Judge ``log_probabilities`` (B, U) of all labels by the right ``labels`` (B,), 0 to U-1."""
    is_label = np.arange(log_probabilities.shape[1]) == labels[:, None]
    of_label = log_probabilities[is_label]
    others = np.where(is_label, -np.inf, log_probabilities)
    right = of_label > others.max(axis=1)  # a tie is not a correct answer
    return Answers(labels, np.where(right, labels, others.argmax(axis=1)), right, -of_label)


def compare(first: Outcome, second: Outcome, shared: bool) -> Comparison | None:
    """``first`` less ``second``, which is one prompt for all workers if ``shared``.

    None if no worker has tested both, or the log has no answers by row.
    """
    workers = [v for v in first.answers if shared or v in second.answers]
    if not workers or not second.answers:
        return None
    others = list(second.answers) if shared else workers
    right = first.right(workers), second.right(others)
    losses = first.row_losses(workers), second.row_losses(others)
    return Comparison(
        workers,
        intervals.difference(*right, first.aggregation),
        intervals.sign_test(*right, first.aggregation),
        intervals.difference(*losses, first.aggregation),
    )


def newest_tests(log: Log) -> IntArray:
    """Rows of ``log["evaluation/..."]`` with the workers' tests, from the run's latest end."""
    names = ("iteration", "split", "worker")
    iteration, split, worker = (log[f"evaluation/{name}"] for name in names)
    tests = (split == Split.TEST) & (worker > 0)
    # A resumed run may have ended earlier, too.
    rows: IntArray = np.flatnonzero(tests & (iteration == iteration[tests].max(initial=0)))
    return rows


def outcomes(log: Log) -> dict[Candidate, Outcome]:
    """What each kind of prompt achieved at the end of the run, in the order of `NAMES`.

    Tests whose rows have other labels than those of most workers, which the server refuses today,
    are left out.

    Raises
    ------
    LogError
        The log's answers are damaged, or do not give the logged means.
    """
    tests = newest_tests(log)
    names = ("candidate", "worker", "accuracy", "loss")
    columns = [log[f"evaluation/{name}"][tests].tolist() for name in names]
    aggregation = aggregation_of(log.config, log.workers)
    found = {candidate: Outcome({}, {}, {}, aggregation) for candidate in NAMES}
    by_row = dict(zip(tests.tolist(), columns[1], strict=True))
    answers = _answers(log, tests)
    labels = _most_named(answers, by_row)
    for row, candidate, worker, accuracy, loss in zip(tests.tolist(), *columns, strict=True):
        if row in answers and answers[row].labels.tobytes() != labels:
            continue
        outcome = found[Candidate(candidate)]
        outcome.accuracies[worker], outcome.losses[worker] = accuracy, loss
        if row in answers:
            outcome.answers[worker] = answers[row]
            means = answers[row].right.mean(), answers[row].losses.mean()
            if not np.allclose((accuracy, loss), means, rtol=TOLERANCE, atol=TOLERANCE):
                raise log.file.error(f"row {row} of /evaluation is not what its answers give")
    for outcome in found.values():
        if len(outcome.answers) < len(outcome.losses):
            outcome.answers.clear()
    untuned = found[Candidate.UNTUNED]
    if len(untuned.losses) > 1 and not aggregation.is_mean:
        found[Candidate.UNTUNED] = untuned.agreed()
    return {candidate: outcome for candidate, outcome in found.items() if outcome.losses}


def _answers(log: Log, tests: IntArray) -> dict[int, Answers]:
    """By row of ``tests`` the answers that the log has to it."""
    found: dict[int, Answers] = {}
    for row in tests.tolist():
        labels, log_probabilities = log.answers(row)
        if not len(labels):
            continue  # of a function
        if not ((labels >= 0) & (labels < log.shapes.classes)).all():
            raise log.file.error("/answer/label has labels that there are not")
        if not LOG_PROBABILITY.holds_all(log_probabilities):
            raise log.file.error("/answer/log_probabilities has values that are none")
        found[row] = score(labels, log_probabilities)
    return found


def _most_named(answers: Mapping[int, Answers], workers: Mapping[int, int]) -> bytes:
    """The labels that most ``workers``, by row, name in their first test; b"" if there are none."""
    first: dict[int, bytes] = {}
    for row, answer in answers.items():
        first.setdefault(workers[row], answer.labels.tobytes())
    [(labels, _)] = Counter(first.values()).most_common(1) or [(b"", 0)]
    return labels
