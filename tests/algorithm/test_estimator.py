"""The estimators against expectations by enumeration: every prompt of M = 2, N = 3."""

import itertools

import numpy as np
import pytest

from asyndbt_mpi.algorithm.estimator import (
    BDPL_NORM,
    bdpl,
    estimator,
    leave_one_out,
    sample,
)

P = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
LOSS = np.array([[1.0, -2.0, 0.5], [0.3, 4.0, -1.0], [2.0, 0.1, 0.7]])
"""Loss of prompt (j1, j2)."""

PROMPTS = np.array(list(itertools.product(range(3), repeat=2)))
PROBABILITIES = P[0, PROMPTS[:, 0]] * P[1, PROMPTS[:, 1]]
GRADIENT = np.array([LOSS @ P[1], LOSS.T @ P[0]])
"""Derivative of sum_jk p1_j p2_k LOSS_jk in p1 and p2."""


def expectation(estimator, samples: int) -> np.ndarray:
    """Mean of an estimator over all (3^2)^samples outcomes of its draws."""
    total = np.zeros_like(P)
    for outcome in itertools.product(range(len(PROMPTS)), repeat=samples):
        drawn = PROMPTS[list(outcome)]
        losses = LOSS[drawn[:, 0], drawn[:, 1]]
        total += PROBABILITIES[list(outcome)].prod() * estimator(P, drawn, losses)
    return total


@pytest.mark.parametrize("samples", [2, 3])
def test_leave_one_out_is_unbiased_along_the_simplex(samples: int) -> None:
    """On the simplex a gradient counts only up to a constant per row; the baseline removes it."""
    difference = expectation(leave_one_out, samples) - GRADIENT
    expected_loss = PROBABILITIES @ LOSS[PROMPTS[:, 0], PROMPTS[:, 1]]
    np.testing.assert_allclose(difference, np.full_like(P, -expected_loss), atol=1e-12)


def test_leave_one_out_by_hand() -> None:
    drawn, losses = np.array([[0, 1], [2, 1]]), np.array([3.0, 1.0])
    # Centred losses are +1 and -1, divided by I - 1 = 1; scores 1/p at the drawn words.
    expected = [[1 / 0.5, 0, -1 / 0.2], [0, 0, 0]]
    np.testing.assert_allclose(leave_one_out(P, drawn, losses), expected)


def test_bdpl_mean_is_twice_the_centred_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyndbt_mpi.algorithm.estimator.BDPL_NORM", np.inf)
    expected_loss = PROBABILITIES @ LOSS[PROMPTS[:, 0], PROMPTS[:, 1]]
    np.testing.assert_allclose(expectation(bdpl, 2), 2 * (GRADIENT - expected_loss), atol=1e-12)


def test_bdpl_clips_its_norm() -> None:
    gradient = bdpl(P, np.array([[0, 1], [2, 2]]), np.array([500.0, -500.0]))
    assert np.linalg.norm(gradient) == pytest.approx(BDPL_NORM)


def test_equal_losses_give_no_gradient() -> None:
    drawn = np.array([[0, 1], [2, 1], [1, 0]])
    for score_function in (leave_one_out, bdpl):
        np.testing.assert_array_equal(score_function(P, drawn, np.full(3, 7.0)), np.zeros_like(P))


def test_sample_follows_the_probabilities() -> None:
    p = np.array([[0.0, 0.25, 0.75, 0.0], [1.0, 0.0, 0.0, 0.0]])
    drawn = sample(p, np.random.default_rng(0).random((20_000, 2)))
    frequencies = np.array([np.bincount(drawn[:, row], minlength=4) for row in (0, 1)]) / 20_000
    np.testing.assert_allclose(frequencies, p, atol=0.015)
    assert frequencies[p == 0].sum() == 0


def test_sample_never_draws_past_the_last_category_with_mass() -> None:
    p = np.array([[1 / 3, 1 / 3, 1 / 3, 0.0], [0.1, 0.2, 0.7, 0.0]])
    assert sample(p, np.full((1, 2), np.nextafter(1.0, 0.0))).tolist() == [[2, 2]]


@pytest.mark.parametrize("estimator", [leave_one_out, bdpl])
def test_workers_together_get_what_each_gets_alone(estimator) -> None:
    generator = np.random.default_rng(3)
    p = generator.dirichlet(np.full(32, 0.3), size=(5, 16))
    drawn, losses = sample(p, generator.random((5, 8, 16))), 9 * generator.normal(size=(5, 8))
    together = estimator(p, drawn, losses)
    for worker in range(5):
        alone = estimator(p[worker : worker + 1], drawn[worker][None], losses[worker][None])
        np.testing.assert_array_equal(together[worker], alone[0])


def test_a_category_without_mass_is_never_drawn() -> None:
    edges = np.array([[0.0], [np.nextafter(1.0, 0.0)]])
    for row, only in (([0.0, 1.0, 0.0], 1), ([1.0, 0.0, 0.0], 0), ([0.0, 0.0, 1.0], 2)):
        assert sample(np.array([row]), edges).tolist() == [[only], [only]]


@pytest.mark.parametrize("name", ["loo", "bdpl"])
def test_samples_of_score_functions_stay_independent(name: str) -> None:
    """Coupled ones would bias the leave-one-out baseline."""
    uniform = np.random.default_rng(0).random((1, 8, 3))
    assert estimator(name, (1, 3, 4), (1, 2, 5)).couple(uniform) is uniform
