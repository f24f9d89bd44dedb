"""What is shown of the final tests where workers may lie: no liar's numbers decide it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.algorithm.aggregation import PLAIN, RULES, Aggregation
from asyndbt_mpi.assemble import prepare, workers_with_black_box
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.blackbox import Completed
from asyndbt_mpi.protocol.final_tests import FinalTests, number_of_tests, own_tests, scorers
from asyndbt_mpi.protocol.messages import (
    Candidate,
    EvaluationReport,
    EvaluationRequest,
    RowScores,
    Split,
    ToServer,
)
from asyndbt_mpi.protocol.race import bare_prompt
from asyndbt_mpi.protocol.scoring import scored
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.task.partition import held
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.virtual import VirtualCluster
from asyndbt_mpi.view import intervals
from asyndbt_mpi.view.accuracy import differences
from asyndbt_mpi.view.outcomes import EVERYBODY, Answers, Outcome, compare, outcomes
from tests.conftest import Opinionated
from tests.protocol.hand import SHAPES

ROWS, LIAR = 40, 4
LABELS = np.arange(ROWS) % 3
DEFENDED = Aggregation("trimmed_mean", "nnm", liars=1)
RIGHT = np.random.default_rng(0).random((5, ROWS)) < 0.6
NEVER, ALWAYS = np.zeros(ROWS, dtype=bool), np.ones(ROWS, dtype=bool)


def outcome(right: dict[int, np.ndarray], aggregation: Aggregation = DEFENDED) -> Outcome:
    """Of each worker which rows are ``right``; a right one has loss 0.5, another 1.5."""
    answers = {
        worker: Answers(
            LABELS, np.where(each, LABELS, (LABELS + 1) % 3), each, np.where(each, 0.5, 1.5)
        )
        for worker, each in right.items()
    }
    accuracies = {worker: float(each.right.mean()) for worker, each in answers.items()}
    losses = {worker: float(each.losses.mean()) for worker, each in answers.items()}
    return Outcome(accuracies, losses, answers, aggregation)


def honest_and(liars: np.ndarray, rows: Sequence[int] = (0, 1, 2)) -> dict[int, np.ndarray]:
    """Three honest workers, of which each is right on `RIGHT`, and the liar."""
    return {v: RIGHT[row] for v, row in enumerate(rows, start=1)} | {LIAR: liars}


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("before", ["none", "nnm", "bucketing"])
@pytest.mark.parametrize("liars", [NEVER, ALWAYS])
def test_means_are_among_those_of_the_honest(rule: str, before: str, liars: np.ndarray) -> None:
    shown = outcome(honest_and(liars), Aggregation(rule, before, liars=1))
    honest = [RIGHT[row].mean() for row in range(3)]
    slack = max(honest) - min(honest)  # as of z, docs/threats.md
    assert min(honest) - slack <= shown.mean_accuracy <= max(honest) + slack
    assert shown.accuracy is not None
    assert shown.accuracy.value == pytest.approx(shown.mean_accuracy)
    assert shown.mean_loss == pytest.approx(1.5 - shown.mean_accuracy)
    of_class = shown.accuracy_on(LABELS == 0).value
    shares = [RIGHT[row][LABELS == 0].mean() for row in range(3)]
    slack = max(shares) - min(shares)
    assert min(shares) - slack <= of_class <= max(shares) + slack


def test_the_interval_of_a_mean_is_as_wide_as_that_of_one_worker() -> None:
    """Which answers unlike the others' would narrow, up to four times as many rows."""
    same = dict.fromkeys((1, 2, 3), RIGHT[0])
    undefended = outcome(same | {LIAR: ~RIGHT[0]}, PLAIN).accuracy
    shown = outcome(same | {LIAR: ~RIGHT[0]}).accuracy
    assert shown is not None
    assert shown == pytest.approx(intervals.accuracy(RIGHT[:1]))
    assert undefended is not None
    assert undefended.high - undefended.low < 0.75 * (shown.high - shown.low)


@pytest.mark.parametrize("liars", [NEVER, ALWAYS])
def test_a_difference_is_that_of_the_honest(liars: np.ndarray) -> None:
    """Of honest workers that answer alike: the value, the ends and the loss are theirs exactly."""
    first = dict.fromkeys((1, 2, 3), RIGHT[0]) | {LIAR: liars}
    second = dict.fromkeys((1, 2, 3), RIGHT[1]) | {LIAR: ~liars}
    shown = compare(outcome(first), outcome(second), shared=False)
    alone = compare(outcome({1: RIGHT[0]}, PLAIN), outcome({1: RIGHT[1]}, PLAIN), shared=False)
    assert shown is not None
    assert alone is not None
    np.testing.assert_allclose(shown.accuracy, alone.accuracy, atol=1e-12)
    np.testing.assert_allclose(shown.loss, alone.loss, atol=1e-12)
    # By 5,000 choices of signs in place of all: three standard deviations.
    assert 0.05 < alone.p_value < 0.95
    assert abs(shown.p_value - alone.p_value) < 3 * np.sqrt(0.25 / intervals.RESAMPLES)
    undefended = compare(outcome(first, PLAIN), outcome(second, PLAIN), shared=False)
    assert undefended is not None
    assert abs(undefended.accuracy.value - alone.accuracy.value) > 0.2


def test_of_one_or_two_workers_the_difference_is_their_mean() -> None:
    """Of fewer than three none can be left out; the rule's draws give the same interval."""
    first, second = {1: RIGHT[0], 2: RIGHT[1]}, {1: RIGHT[2], 2: RIGHT[3]}
    shown = compare(outcome(first), outcome(second), shared=False)
    plain = compare(outcome(first, PLAIN), outcome(second, PLAIN), shared=False)
    assert shown is not None
    assert plain is not None
    np.testing.assert_allclose(shown.accuracy, plain.accuracy, atol=1e-12)


@pytest.mark.parametrize("liars", [NEVER, ALWAYS, ~RIGHT[0]])
def test_of_a_prompt_that_several_have_scored_the_majority_is_taken(liars: np.ndarray) -> None:
    three = {1: RIGHT[0], 2: RIGHT[0], LIAR: liars}
    agreed = outcome(three).agreed()
    assert [*agreed.answers] == [EVERYBODY]
    answers, honest = agreed.answers[EVERYBODY], outcome({1: RIGHT[0]}).answers[1]
    for name in ("labels", "predicted", "right", "losses"):
        np.testing.assert_array_equal(getattr(answers, name), getattr(honest, name))
    assert agreed.accuracies == {EVERYBODY: RIGHT[0].mean()}
    assert agreed.losses == {EVERYBODY: honest.losses.mean()}


def test_of_a_function_the_median_is_taken() -> None:
    scored_by = Outcome(dict.fromkeys((1, 2, 3), np.nan), {1: 0.4, 2: -1e9, 3: 0.5}, {}, DEFENDED)
    agreed = scored_by.agreed()
    assert agreed.losses == {EVERYBODY: 0.4}
    assert np.isnan(agreed.accuracies[EVERYBODY])
    assert agreed.answers == {}


# ---------------------------------------------------------------- who scores what all share


def entered(workers: int, scorers: int) -> FinalTests:
    final = FinalTests(5, [Candidate.TUNED], bare_prompt(SHAPES), scorers)
    for worker in range(1, workers + 1):
        final.enter(worker, *[bare_prompt(SHAPES)] * 3)
        assert final.next(worker) is not None
    return final


def test_each_worker_scores_the_shared_prompt_once_and_no_more_than_are_needed() -> None:
    final = entered(workers=5, scorers=3)
    shared = [final.next(worker) for worker in (2, 2, 5, 1, 3)]
    assert [each is not None for each in shared] == [True, False, True, True, False]
    assert {each.candidate for each in shared if each} == {Candidate.UNTUNED}


def test_what_a_lost_worker_left_is_scored_by_another() -> None:
    final = entered(workers=4, scorers=3)
    asked = [final.next(worker) for worker in (1, 2, 3)]
    assert final.next(4) is None
    final.give_back([each for each in asked[2:] if each])
    assert final.next(1) is None
    assert isinstance(final.next(4), EvaluationRequest)


@pytest.mark.parametrize(("workers", "malicious", "due"), [(4, 0.3, 3), (3, 0.3, 1), (10, 0.3, 7)])
def test_there_are_2f_1_scorers(workers: int, malicious: float, due: int) -> None:
    config = load("demo", [f"defence.malicious={malicious}"])
    assert scorers(config, workers) == due
    assert number_of_tests(config, workers) == len(own_tests(config)) * workers + due
    assert scorers(load("demo", ["defence.aggregator=rsa"]), workers) == 1


# ---------------------------------------------------------------- a whole run


class AtOnce:
    """The delays of a worker that is always the first."""

    def draw(self) -> float:
        return 0.0

    def skip(self, number: int) -> None:
        pass


def false(report: EvaluationReport) -> EvaluationReport:
    """All test rows right, or of the untuned prompt none."""
    if report.split is not Split.TEST or not isinstance(report.rows, RowScores):
        return report
    labels, classes = report.rows.labels, report.rows.log_probabilities.shape[1]
    sure = labels + (report.candidate is Candidate.UNTUNED)
    claimed = np.where(
        np.arange(classes) == sure[:, None] % classes, 1 - 1e-6, 1e-6 / (classes - 1)
    )
    rows = RowScores(labels, np.log(claimed))
    losses, accuracies = scored(rows.log_probabilities[None], labels)
    return replace(report, rows=rows, loss=float(losses[0]), accuracy=float(accuracies[0]))


def run(config: Config, path: Path, liar: int = 0) -> None:
    materials, everyone = prepare(config, 4), range(1, 5)
    workers, box = workers_with_black_box(config, materials, [*everyone], Opinionated())
    answer = workers.answer

    def lying(completed: Sequence[Completed]) -> list[ToServer]:
        replies = zip(completed, answer(completed), strict=True)
        return [
            false(reply) if done.worker == liar and isinstance(reply, EvaluationReport) else reply
            for done, reply in replies
        ]

    workers.answer = lying  # type: ignore[method-assign]
    server = Server(config, materials.shapes, 4, held=held(materials.data))
    delays = {v: Delays(config.delay, config.run.seed, v, 4) for v in everyone}
    if liar:
        delays[liar] = AtOnce()  # type: ignore[assignment]
    words, start = materials.vocabulary, server.algorithm.z
    with Writer(path, config, materials.shapes, 4, words, "virtual", start) as writer:
        VirtualCluster(server, workers, box, delays).run(writer.write_all)


def test_a_liar_that_is_first_is_neither_the_baseline_nor_the_gain(tmp_path: Path) -> None:
    settings = "run.iterations=4", "run.evaluate_every=2", "task.test=40", "delay.model=lognormal"
    config = load("demo", [*settings, "delay.mean=1"])
    run(config, tmp_path / "honest.h5")
    run(config, tmp_path / "lies.h5", liar=LIAR)
    with Log(tmp_path / "honest.h5") as log:
        honest = outcomes(log)
    assert verify(tmp_path / "lies.h5").violations == []
    with Log(tmp_path / "lies.h5") as log:
        shown = outcomes(log)
        kinds, who = log["evaluation/candidate"], log["evaluation/worker"]
        untuned = (log["evaluation/split"] == Split.TEST) & (kinds == Candidate.UNTUNED)
    assert LIAR in who[untuned]
    assert len({*who[untuned].tolist()}) == untuned.sum() == 3
    assert shown[Candidate.UNTUNED].accuracies == honest[Candidate.UNTUNED].accuracies
    tuned = shown[Candidate.TUNED].accuracies
    assert tuned.pop(LIAR) == 1.0
    slack = max(tuned.values()) - min(tuned.values())
    assert shown[Candidate.TUNED].mean_accuracy <= max(tuned.values()) + slack
    for who_gains, against, comparison in differences(shown):
        assert comparison.accuracy.low < 0.1, (who_gains, against)
