"""Robust means, by hand, by their properties, and beside byzfl."""

import importlib
import importlib.util
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from asyndbt_mpi.algorithm import aggregation
from asyndbt_mpi.algorithm.aggregation import RULES, Aggregation, bucket_size

REPORTS = arrays.arrays(
    float,
    st.tuples(st.integers(1, 9), st.integers(1, 5)),
    elements=st.floats(-100, 100, allow_subnormal=False),
)


def byzfl(module: str) -> types.ModuleType:
    """A module of byzfl's, without its benchmarks, which need torchvision and more."""
    if "byzfl" not in sys.modules:
        found = importlib.util.find_spec("byzfl")
        if found is None:
            pytest.skip("byzfl is not installed: pip install --no-deps byzfl==0.0.11")
        package = types.ModuleType("byzfl")
        package.__path__ = list(found.submodule_search_locations or [])
        sys.modules["byzfl"] = package
    return importlib.import_module(f"byzfl.aggregators.{module}")


def random_reports(seed: int) -> tuple[np.ndarray, int]:
    generator = np.random.default_rng(seed)
    n, d = int(generator.integers(3, 25)), int(generator.integers(1, 40))
    f = int(generator.integers(0, (n - 1) // 2 + 1))
    x = generator.normal(size=(n, d))
    x[:f] += generator.choice([1.0, 10.0, 1e4])
    return x, f


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("median", "Median"),
        ("trimmed_mean", "TrMean"),
        ("krum", "Krum"),
        ("multi_krum", "MultiKrum"),
    ],
)
def test_rules_agree_with_byzfl(name, theirs, seed):
    x, f = random_reports(seed)
    rule = getattr(byzfl("aggregators"), theirs)
    expected = rule()(x) if theirs == "Median" else rule(f)(x)
    np.testing.assert_allclose(RULES[name](x, f), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(50))
def test_geometric_median_agrees_with_byzfls_when_that_has_converged(seed):
    x, f = random_reports(seed)
    expected = byzfl("aggregators").GeometricMedian(nu=1e-6, T=5000)(x)
    found = RULES["geometric_median"](x, f)

    def objective(y):
        return np.linalg.norm(x - y, axis=1).sum()

    assert objective(found) <= objective(expected) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(50))
def test_centred_clipping_is_byzfls_from_the_median_with_the_median_distance(seed):
    x, f = random_reports(seed)
    y = np.median(x, axis=0)
    for _ in range(aggregation.CLIPPINGS):
        rule = byzfl("aggregators").CenteredClipping(
            L=1, tau=float(np.median(np.linalg.norm(x - y, axis=1)))
        )
        rule.m = y
        y = rule(x)
    np.testing.assert_allclose(RULES["centered_clipping"](x, f), y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(50))
def test_nearest_neighbour_mixing_agrees_with_byzfl(seed):
    x, f = random_reports(seed)
    found = aggregation.nearest_neighbour_mixing(x, f)
    np.testing.assert_allclose(found, byzfl("preaggregators").NNM(f)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(50))
def test_of_equally_near_ones_the_first_are_mixed(seed):
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 3, size=(int(generator.integers(1, 30)), 3)).astype(float)
    f = int(generator.integers(0, (len(x) - 1) // 2 + 1))
    squared = ((x[:, None] - x[None]) ** 2).sum(axis=-1)
    nearest = np.argsort(squared, axis=1, kind="stable")[:, : len(x) - f]
    found = aggregation.nearest_neighbour_mixing(x, f)
    np.testing.assert_allclose(found, x[nearest].mean(axis=1))


@pytest.mark.parametrize("seed", range(50))
def test_bucketing_agrees_with_byzfl(seed, monkeypatch):
    x, f = random_reports(seed)
    theirs = byzfl("preaggregators").Bucketing(bucket_size(len(x), f))
    order = np.random.default_rng(seed).permutation(len(x))
    monkeypatch.setattr(np.random, "permutation", lambda vectors: vectors[order])
    expected = theirs(x)
    found = aggregation.bucketing(x, f, np.random.default_rng(seed))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_rules_by_hand():
    x = np.array([[0.0], [1.0], [2.0], [4.0], [100.0]])
    assert RULES["median"](x, 1) == 2
    assert RULES["trimmed_mean"](x, 1) == pytest.approx(7 / 3)
    assert RULES["geometric_median"](x, 1) == pytest.approx(2, abs=1e-3)
    # Three nearest others: of 1 they are at 1, 1 and 3, of 2 at 1, 2 and 2.
    assert RULES["krum"](x, 1) == 2
    assert RULES["multi_krum"](x, 1) == pytest.approx(7 / 4)
    mixed = aggregation.nearest_neighbour_mixing(x, 1)
    assert mixed[0] == pytest.approx(7 / 4)
    assert mixed[4] == pytest.approx(107 / 4)


@pytest.mark.parametrize(("n", "f", "size"), [(10, 0, 10), (10, 1, 4), (10, 3, 1), (7, 1, 3)])
def test_a_bucket_is_as_large_as_the_liars_allow(n, f, size):
    assert bucket_size(n, f) == size
    assert 2 * f < -(-n // size)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("before", ["none", "nnm", "bucketing"])
@given(x=REPORTS, shift=st.floats(-10, 10))
def test_every_rule_moves_with_the_reports_and_stays_among_them(name, before, x, shift):
    rule = Aggregation(name, before, liars=3)
    y = rule.mean(x)
    assert (x.min(axis=0) - 1e-6 <= y).all()
    assert (y <= x.max(axis=0) + 1e-6).all()
    np.testing.assert_allclose(rule.mean(np.repeat(x[:1], len(x), axis=0)), x[0], atol=1e-6)
    if name in ("median", "trimmed_mean"):
        np.testing.assert_allclose(RULES[name](x + shift, 0), RULES[name](x, 0) + shift, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("before", ["none", "nnm"])
@pytest.mark.parametrize("lie", [-1e3, 1e3, 1e100])
def test_three_of_ten_cannot_move_it_far(name, before, lie):
    honest = np.random.default_rng(0).normal(size=(7, 6))
    x = np.concatenate([honest, np.full((3, 6), lie)])
    y = Aggregation(name, before, liars=3).mean(x)
    spread = np.linalg.norm(honest - honest.mean(axis=0), axis=1).max()
    assert np.linalg.norm(y - honest.mean(axis=0)) <= 2 * spread


def test_the_mean_is_moved_wherever_one_liar_likes():
    x = np.concatenate([np.zeros((9, 2)), np.full((1, 2), 1e3)])
    assert (Aggregation("rsa").mean(x) == 100).all()


@pytest.mark.parametrize("name", ["rsa", *RULES])
@pytest.mark.parametrize("before", ["none", "nnm", "bucketing"])
@pytest.mark.parametrize("liars", [0, 3])
def test_where_nobody_can_lie_every_rule_is_the_mean_to_the_bit(name, before, liars):
    """Of no liars, and of so few reports that the liars could be half of them."""
    x = np.random.default_rng(1).normal(size=(2 if liars else 9, 3, 5))
    np.testing.assert_array_equal(Aggregation(name, before, liars).mean(x), x.mean(axis=0))


def test_the_liars_do_not_become_fewer_while_others_have_not_reported():
    """Three of seven: a trimmed mean for 0.3 x 7 = 2 would leave one of them."""
    x = np.array([[0.0], [1.0], [2.0], [3.0], [1e3], [1e3], [1e3]])
    assert Aggregation("trimmed_mean", liars=3).mean(x) == 3
    assert Aggregation("trimmed_mean", liars=2).mean(x) > 300


def test_buckets_are_keyed():
    x = np.arange(20.0)[:, None] ** 2
    rule = Aggregation("median", "bucketing", liars=2, seed=3)
    assert rule.mean(x, 5) == rule.mean(x, 5)
    assert len({float(rule.mean(x, number)[0]) for number in range(10)}) > 1
