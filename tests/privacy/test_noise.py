"""[privacy]: the noise is as large as it says, of no known seed, and accounted for."""

import math
import sys
from pathlib import Path

import h5py
import mpmath as mp
import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.stats import kstest, norm

from asyndbt_mpi.config import ConfigurationError, load
from asyndbt_mpi.inputs.trust import Privacy
from asyndbt_mpi.log.home import read
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.rows import cost_bounds_of
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.blackbox import Answer, Completed, Query
from asyndbt_mpi.protocol.messages import (
    WITHOUT,
    Assignment,
    Candidate,
    Costs,
    EvaluationRequest,
    LowerAssignment,
    LowerReport,
    Reset,
    Shapes,
    Split,
    Stop,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.noise import AskedTooOften, Noise, most_answers, normal
from asyndbt_mpi.protocol.records import EventKind
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.task.synthetic import Synthetic
from asyndbt_mpi.view import privacy
from tests.helpers import asyndbt, sets

PRIVACY = Privacy(noise=3.0, clip=0.5)
SAMPLES, REPEATS = 4, 4000
SHAPES = Shapes(positions=3, words=4, classes=2, pool=5, samples=8)
SETTINGS = (
    *("log.private=true", "privacy.noise=2", "privacy.clip=1", "run.iterations=20"),
    *("run.evaluate_every=6", "algorithm.plane_period=5", "algorithm.active_workers=2"),
)


def of_samples(losses: list[float]) -> np.ndarray:
    noise = Noise(PRIVACY, {})
    answer = Answer(np.array(losses), np.zeros(SAMPLES), 0, 0)
    return np.array([noise.heard(answer, False).losses for _ in range(REPEATS)])


def test_the_noise_of_a_step_hides_any_losses_within_the_clip() -> None:
    found = of_samples([-1.0, 0.2, 0.5, 7.0])
    scale = PRIVACY.noise * PRIVACY.clip * math.sqrt(SAMPLES)
    error = scale / math.sqrt(REPEATS)
    np.testing.assert_allclose(found.mean(axis=0), [0.0, 0.2, 0.5, 0.5], atol=5 * error)
    np.testing.assert_allclose(found.std(axis=0), scale, rtol=5 / math.sqrt(2 * REPEATS))
    correlation = np.corrcoef(found.T) - np.eye(SAMPLES)
    assert np.abs(correlation).max() < 5 / math.sqrt(REPEATS)


def test_nobody_can_draw_the_same_noise_again() -> None:
    assert not np.array_equal(of_samples([0.1] * SAMPLES), of_samples([0.1] * SAMPLES))


def test_the_noise_is_normal_to_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kstest(normal(20_000), "norm").pvalue > 1e-6
    for byte, sign in ((b"\0", -1), (b"\xff", 1)):
        monkeypatch.setattr("os.urandom", lambda count, byte=byte: byte * count)
        assert normal(2) == pytest.approx([sign * 8.29, sign * 8.29], abs=0.01)


def test_of_a_step_nothing_is_left_without_noise() -> None:
    answer = Answer(
        np.full(SAMPLES, 0.3), np.full(SAMPLES, 0.5), 6, 90, labels=np.zeros(6, int),
        log_probabilities=np.zeros((SAMPLES, 6, 2)), bias=np.zeros((SAMPLES, 2)),
        row_losses=np.zeros((SAMPLES, 6)),
    )  # fmt: skip
    heard = Noise(PRIVACY, {}).heard(answer, False)
    assert np.isnan(heard.accuracies).all()
    exact = heard.log_probabilities, heard.labels, heard.bias, heard.row_losses
    assert exact == (None,) * 4


def test_an_evaluation_tells_a_noisy_loss_and_accuracy_alone() -> None:
    noise = Noise(Privacy(noise=0.1, clip=0.5), {})
    scores = np.log(np.full((1, 6, 2), 0.5))
    answer = Answer(
        np.array([0.3]), np.array([0.5]), 6, 90, log_probabilities=scores,
        labels=np.zeros(6, int), bias=np.log([[0.4, 0.6]]),
    )  # fmt: skip
    heard = [noise.heard(answer, True) for _ in range(REPEATS)]
    for each in heard[:50]:
        assert each.log_probabilities is None
        assert each.labels is None
        assert each.bias is None
        assert each.row_losses is not None
        np.testing.assert_array_equal(each.row_losses, np.full((1, 6), each.losses[0]))
    losses = np.array([each.losses[0] for each in heard])
    accuracies = np.array([each.accuracies[0] for each in heard])
    assert 0 <= losses.min() < losses.max() <= 0.5
    assert 0 <= accuracies.min() < accuracies.max() <= 1
    scale = 0.1 * math.sqrt(2)  # of the loss over the clip, and of the accuracy
    assert np.median(np.abs(losses - 0.3)) == pytest.approx(0.5 * scale * 0.6745, rel=0.1)
    assert np.median(np.abs(accuracies - 0.5)) == pytest.approx(scale * 0.6745, rel=0.1)


def test_a_mean_is_told_within_the_clip() -> None:
    noise = Noise(PRIVACY, {})
    for mean, told in ((-3.0, 0.0), (0.2, 0.2), (9.0, 0.5)):
        p, k = np.ones((1, 1)), np.zeros(1, int)
        message = noise.told(LowerReport(0, 0, mean, Costs(), p, k, np.array([mean])))
        assert message.loss == told


@pytest.mark.parametrize(
    ("noise", "count", "delta"),
    [(8.0, 60, 1e-5), (8.0, 216, 1e-5), (1.0, 30, 1e-6), (2.0, 1, 1e-5), (1e3, 1, 1e-5)],
)
def test_epsilon_solves_its_definition(noise: float, count: int, delta: float) -> None:
    """That of n answers of multiplier s in docs/privacy.md, in 60 digits."""
    mp.mp.dps = 60
    mu = mp.sqrt(count) / noise
    found = mp.mpf(privacy.epsilon(noise, count, delta))
    below, above = mp.ncdf(mu / 2 - found / mu), mp.ncdf(-mu / 2 - found / mu)
    assert float(below - mp.exp(found) * above) == pytest.approx(delta, rel=1e-6)
    assert privacy.epsilon(noise, 0, delta) == 0.0


@pytest.mark.parametrize(("noise", "count", "delta"), [(8.0, 60, 1e-5), (4.0, 5, 1e-6)])
def test_epsilon_is_that_of_composed_loss_distributions(
    noise: float, count: int, delta: float
) -> None:
    accountant = PLDAccountant()
    accountant.compose(GaussianDpEvent(noise), count)
    due = accountant.get_epsilon(delta)
    assert privacy.epsilon(noise, count, delta) == pytest.approx(due, rel=1e-3)


@pytest.mark.parametrize(
    ("noise", "count"), [(1.0, 390), (0.5, 100), (0.02, 20), (1e-6, 10_000), (1e-6, 10**9)]
)
def test_little_noise_is_accounted_for_at_once(noise: float, count: int) -> None:
    """Then epsilon is close to mu^2 / 2 + mu z, z the quantile of delta."""
    mu = math.sqrt(count) / noise
    near = mu**2 / 2 + mu * norm.isf(1e-5)
    assert privacy.epsilon(noise, count, 1e-5) == pytest.approx(near, rel=5e-3)
    config = load("synthetic", [*SETTINGS, f"privacy.noise={noise}"])
    assert "no guarantee that means anything" in privacy.guarantee(config, count)


def test_a_run_is_told_its_guarantee_before_and_after(tmp_path: Path) -> None:
    foretold = asyndbt("estimate", "synthetic", *sets(*SETTINGS), folder=tmp_path).stdout
    command = "simulate", "synthetic", "--output", "run.h5", *sets(*SETTINGS)
    done = asyndbt(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert verify(tmp_path / "run.h5").violations == []
    said = " ".join(asyndbt("show", "run.h5", folder=tmp_path).stdout.split())
    with Log(tmp_path / "run.h5") as log:
        count, config = privacy.releases(log), log.config
        told = {worker: log["report/loss"][log["report/worker"] == worker] for worker in (1, 2, 3)}
    line = privacy.guarantee(config, count)
    assert line in said
    most = int(foretold.partition("At most ")[2].split()[0])
    assert count <= most <= count + 4
    assert privacy.guarantee(config, most) in foretold
    for worker, losses in told.items():
        kept = read(tmp_path / "run.h5.home" / f"worker-{worker}.jsonl").kept
        true = np.array([each.loss for each in kept if each.kind == "report"])[: len(losses)]
        assert 0 <= losses.min() < losses.max() <= 1
        assert not np.isclose(losses, true).any()


def test_answers_that_were_on_their_way_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    done = asyndbt("simulate", "synthetic", "-o", "run.h5", *sets(*SETTINGS), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with Log(path) as log:
        kinds, workers = log["event/kind"], log["event/worker"]
        told = np.isin(kinds, privacy.ANSWERS)
        most = max(int((told & (workers == worker)).sum()) for worker in (1, 2, 3))
        assert privacy.releases(log) == most
        busiest = max((1, 2, 3), key=lambda worker: int((told & (workers == worker)).sum()))
    with h5py.File(path, "r+") as file:
        hello = np.flatnonzero((kinds == EventKind.HELLO) & (workers == busiest))
        file["event/kind"][hello[0]] = EventKind.LOST
    with Log(path) as log:
        assert privacy.releases(log) == most + 3


# ---------------------------------------------------------------- a curious server


def asking(*settings: str) -> Workers:
    """Worker 2 of a run with noise on each answer."""
    config = load("synthetic", [*SETTINGS, *settings])
    box = Synthetic(0, SHAPES, [2], 0.3)
    return Workers(config, SHAPES, box.data_sizes)


def ask(workers: Workers, message: ToWorker) -> ToServer:
    [query] = workers.receive([(2, message)])
    assert isinstance(query, Query)
    [answer] = Synthetic(0, SHAPES, [2], 0.3).answer([query])
    [reply] = workers.answer([Completed(2, answer, 0.1, 0.0)])
    return reply


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        # Steps, 4 estimates of 3 rounds, 3 validations, and a race of 8 on one row.
        ((), 20 + 12 + 3 + 8),
        (("run.race=0",), 20 + 12 + 3),
        (("run.evaluate_every=0", "algorithm.lower_steps=1"), 20 + 4),
        (("run.evaluate_every=0", "algorithm.plane_until=11"), 20 + 6),
    ],
)
def test_a_worker_answers_no_more_often_than_it_has_promised(
    settings: tuple[str, ...], most: int
) -> None:
    """Whatever it is asked, and told to forget in between."""
    workers = asking(*settings)
    z = np.full((SHAPES.positions, SHAPES.words), 1 / SHAPES.words)
    nothing = np.full(SHAPES.positions, WITHOUT), np.full(SHAPES.classes, WITHOUT)
    kinds = (
        lambda n: Assignment(n, n, np.zeros_like(z)),
        lambda n: LowerAssignment(n, n, z, np.zeros_like(z)),
        lambda n: EvaluationRequest(n, Split.VALIDATION, Candidate.UNTUNED, *nothing),
    )
    for number in range(most):
        assert ask(workers, kinds[number % 3](number)) is not None
        workers.receive([(2, Reset(z))])
    for kind in kinds:
        with pytest.raises(AskedTooOften, match=f"asked for more than {most} noisy answers"):
            ask(workers, kind(most))
    workers.receive([(2, Stop())])
    assert workers.stopped


def test_without_noise_it_answers_whatever_it_is_asked() -> None:
    workers = asking("privacy.noise=0", "run.iterations=1", "run.evaluate_every=0")
    force = np.zeros((SHAPES.positions, SHAPES.words))
    assert all(ask(workers, Assignment(number, 0, force)) for number in range(50))


@pytest.mark.parametrize("every", [1, 2, 7, 20])
@pytest.mark.parametrize("active", [1, 3])
def test_a_run_needs_no_more_answers_than_it_may(tmp_path: Path, every: int, active: int) -> None:
    """In a synchronous one every worker gives all of them, but for a race that ends early."""
    settings = f"run.evaluate_every={every}", f"algorithm.active_workers={active}", "run.race=0"
    command = "simulate", "synthetic", "-o", "run.h5", *sets(*SETTINGS, *settings)
    done = asyndbt(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with Log(tmp_path / "run.h5") as log:
        given = privacy.releases(log)
        most = {most_answers(log.config, cost_bounds_of(text)) for text in log.cost_bounds}
    assert given <= min(most)
    if active == 3:
        assert {given} == most


def test_without_the_accountant_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    config = load("synthetic", SETTINGS)
    assert "pip install 'asyndbt-mpi[privacy]'" in privacy.guarantee(config, 17)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["privacy.noise=1"], "privacy.noise needs log.private = true"),
        (["privacy.noise=1", "log.private=true", "task.test=9"], "needs task.test = 0"),
        (["privacy.noise=1", "log.private=true", "estimator.name=exact"], "not 'exact'"),
    ],
)
def test_what_would_undo_the_noise_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load("synthetic", ["run.evaluate_every=2", *settings])


def test_tests_are_off_by_default_with_noise() -> None:
    assert load("synthetic", SETTINGS).task.test == 0
    assert load("synthetic").task.test > 0
