"""The attacks of benchmarks/membership.py find what can be found, and nothing where there is not."""

import membership
import numpy as np
import pytest
from scipy import stats

RNG = np.random.default_rng(4)


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    members, others = np.array([3.0, 1.0]), np.array([2.0, 1.0, 0.0])
    assert membership.auc(members, others) == pytest.approx((3 + 1 + 0.5) / 6)
    many, more = RNG.normal(0.3, 1, 50), RNG.normal(0, 1, 70)
    u = stats.mannwhitneyu(many, more).statistic
    assert membership.auc(many, more) == pytest.approx(u / (50 * 70))


def test_the_nearest_known_loss_counts() -> None:
    known = np.array([0.5, 2.0])
    found = membership.nearest(np.array([0.5, 1.0, 3.0]), known)
    np.testing.assert_allclose(found, [0.0, -0.5, -1.0])
    assert membership.nearest(np.array([0.5, 1.0]), np.zeros(0)).tolist() == [0.0, 0.0]


def test_means_over_known_batches_are_solved_for_single_rows() -> None:
    losses = RNG.gamma(2.0, 0.4, 20)
    batches = [RNG.permutation(20)[:10] for _ in range(200)]
    trend = np.linspace(1.0, 0.0, 200) ** 2
    means = np.array([losses[batch].mean() for batch in batches]) + trend
    found = membership.solved(means, batches, 20)
    # All batches have as many rows: only differences between rows can be known.
    np.testing.assert_allclose(found - found.mean(), losses - losses.mean(), atol=0.02)
    noisy = membership.solved(means + RNG.normal(0, 20, 200), batches, 20)
    assert np.abs(noisy - noisy.mean() - losses + losses.mean()).mean() > 1


@pytest.mark.long
def test_rows_are_found_in_a_log_and_not_in_a_private_one() -> None:
    model = membership.Words()
    found = {
        setting: membership.run(membership.Cell("words", setting, 8, seed=1), model)
        for setting in ("as it is", "log.private")
    }
    assert found["as it is"]["rows"] > 0.65
    assert found["log.private"]["rows"] < 0.6
    for each in found.values():
        assert 0.2 < each["means"] < 0.8
        assert 0 <= each["accuracy"] <= 1


@pytest.mark.long
def test_means_give_rows_away_where_prompts_do_not_matter_unless_there_is_noise() -> None:
    model = membership.DeafWords()
    found = {
        setting: membership.run(membership.Cell("deaf", setting, 64, seed=0), model)["means"]
        for setting in ("log.private", "noise 8")
    }
    assert found["log.private"] > 0.75
    assert found["noise 8"] < 0.65


def test_an_interval_is_students() -> None:
    assert membership.interval(np.array([0.4, 0.6]), 2) == "0.50 ± 1.27"
