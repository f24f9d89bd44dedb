import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from asyndbt_mpi.algorithm.stationarity import of_duals, on_simplex, squared_norm


def test_inside_the_simplex_it_is_the_gradient_less_its_mean() -> None:
    """While no entry reaches zero, the projection only takes the mean off."""
    x = np.full((2, 4), 0.25)
    gradient = np.array([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 0.0]])
    expected = gradient - gradient.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(on_simplex(x, gradient, 0.01), expected, atol=1e-12)


def test_at_a_corner_by_hand() -> None:
    corner = np.array([[1.0, 0.0, 0.0]])
    # Outwards: nothing moves. Inwards by step 0.1: from (1, 0, 0) to (0.9, 0.1, 0).
    assert on_simplex(corner, np.array([[-5.0, 0.0, 1.0]]), 0.1).tolist() == [[0.0, 0.0, 0.0]]
    inwards = on_simplex(corner, np.array([[2.0, 0.0, 9.0]]), 0.1)
    np.testing.assert_allclose(inwards, [[1.0, -1.0, 0.0]])


@given(st.integers(0, 1000), st.sampled_from([0.001, 0.05, 1.0]))
def test_it_vanishes_at_the_minimum_of_a_convex_function_and_nowhere_else(
    seed: int, step_size: float
) -> None:
    generator = np.random.default_rng(seed)
    target = generator.normal(size=4)
    solved = minimize(
        lambda x: ((x - target) ** 2).sum(),
        np.full(4, 0.25),
        jac=lambda x: 2 * (x - target),
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        tol=1e-12,
    )
    x = solved.x[None]
    np.testing.assert_allclose(on_simplex(x, 2 * (x - target), step_size), 0, atol=2e-3)
    elsewhere = generator.dirichlet(np.ones(4))[None]
    mapping = on_simplex(elsewhere, 2 * (elsewhere - target), step_size)
    assert squared_norm(mapping, mapping) > 1e-6


def test_forbidden_entries_take_no_part() -> None:
    x, allowed = np.array([[0.5, 0.5, 0.0]]), np.array([[True, True, False]])
    mapping = on_simplex(x, np.array([[1.0, -1.0, -100.0]]), 0.1, allowed)
    np.testing.assert_allclose(mapping, [[1.0, -1.0, 0.0]])


def test_duals_by_hand() -> None:
    dual = np.array([[0.0, 0.0, 2.0, 1.0, 1.0]])
    values = np.array([[3.0, -3.0, 1.0, -0.5, 7.0]])
    active = np.array([[True, True, True, True, False]])
    # Up from 0; held at 0; held at the bound of 2; down; not have that position.
    expected = [[-3.0, 0.0, 0.0, 0.5, 0.0]]
    np.testing.assert_allclose(of_duals(dual, values, active, 0.1, 2.0), expected)


def test_two_noisy_mappings_estimate_without_bias() -> None:
    generator = np.random.default_rng(0)
    x, gradient = np.full((3, 5), 0.2), generator.normal(size=(3, 5))
    exact = on_simplex(x, gradient, 0.01)

    def noisy() -> np.ndarray:
        return on_simplex(x, gradient + generator.normal(size=(3, 5)), 0.01)

    products = [squared_norm(noisy(), noisy()) for _ in range(4000)]
    squares = [squared_norm(one, one) for one in (noisy() for _ in range(4000))]
    assert np.mean(products) == pytest.approx(squared_norm(exact, exact), rel=0.05)
    assert np.mean(squares) > 1.5 * squared_norm(exact, exact)
