import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize

from asyndbt_mpi.algorithm.simplex import distance_to_simplex, project

rows = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 5), st.integers(1, 8)),
    elements=st.floats(-100, 100, allow_nan=False),
)


def by_quadratic_program(row: np.ndarray) -> np.ndarray:
    n = len(row)
    solution = minimize(
        lambda y: 0.5 * np.sum((y - row) ** 2),
        np.full(n, 1 / n),
        jac=lambda y: y - row,
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda y: y.sum() - 1, "jac": lambda y: np.ones(n)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solution.success
    return solution.x


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_a_quadratic_program(seed: int) -> None:
    x = np.random.default_rng(seed).normal(scale=[[0.1], [1.0], [3.0]], size=(3, 6))
    expected = np.array([by_quadratic_program(row) for row in x])
    np.testing.assert_allclose(project(x), expected, atol=1e-7)


def test_adds_mass_where_there_is_too_little() -> None:
    np.testing.assert_allclose(project(np.array([[0.1, 0.2, 0.1]])), [[0.3, 0.4, 0.3]])
    np.testing.assert_allclose(project(np.array([[-5.0, -5.0]])), [[0.5, 0.5]])


def test_removes_mass_where_there_is_too_much() -> None:
    np.testing.assert_allclose(project(np.array([[0.9, 0.8, -1.0]])), [[0.55, 0.45, 0.0]])


@given(rows)
def test_result_is_on_the_simplex_and_optimal(x: np.ndarray) -> None:
    y = project(x)
    assert distance_to_simplex(y) < 1e-9
    # Variational inequality: (x - y) . (vertex - y) <= 0 for every vertex of the simplex.
    gap = x - y
    assert ((gap.max(axis=1) - (gap * y).sum(axis=1)) < 1e-9 * (1 + np.abs(x).max())).all()


huge = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 3), st.integers(1, 6)),
    elements=st.floats(allow_nan=False, allow_infinity=False),
)


@given(huge)
def test_numbers_of_any_size_come_out_on_the_simplex(x: np.ndarray) -> None:
    y = project(x)
    assert distance_to_simplex(y) < 1e-12
    # The greatest entry never gets less than another.
    rows = np.arange(len(x))
    assert (y[rows, x.argmax(axis=1)] == y.max(axis=1)).all()


def test_huge_numbers_by_hand() -> None:
    x = np.array([[1e17, 0.0, 1.0], [1e16, 1e16, 0.0], [1e308, -1e308, 0.0]])
    np.testing.assert_array_equal(project(x), [[1, 0, 0], [0.5, 0.5, 0], [1, 0, 0]])


@given(rows)
def test_leaves_points_of_the_simplex_where_they_are(x: np.ndarray) -> None:
    y = project(x)
    np.testing.assert_allclose(project(y), y, atol=1e-12)


def test_entries_that_are_not_allowed_carry_no_mass() -> None:
    x = np.array([[5.0, 0.2, 0.4], [0.0, 0.0, 9.0]])
    allowed = np.array([[False, True, True], [True, True, False]])
    y = project(x, allowed)
    np.testing.assert_allclose(y, [[0.0, 0.4, 0.6], [0.5, 0.5, 0.0]])


def test_distance_to_simplex_measures_both_violations() -> None:
    assert distance_to_simplex(np.array([[0.5, 0.5]])) == 0
    assert distance_to_simplex(np.array([[1.2, -0.2]])) == pytest.approx(0.2)
    assert distance_to_simplex(np.array([[0.5, 0.8]])) == pytest.approx(0.3)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.sampled_from([1.0, 0.1, 1 / 3]))
def test_entries_that_lie_on_the_threshold_come_to_an_end(numbers: list[int], unit: float) -> None:
    """With many equal entries rounding can put one on either side of it, pass after pass."""
    x = np.array([numbers]) * unit
    y = project(x)
    assert distance_to_simplex(y) < 1e-12
    # The optimality conditions: one threshold for all entries with mass, none above it without.
    threshold = (x - y)[y > 0]
    np.testing.assert_allclose(threshold, threshold[0], atol=1e-12)
    assert (x[y == 0] <= threshold[0] + 1e-12).all()
