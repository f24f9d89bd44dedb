"""The lower level: its gradients by finite differences, and convergence to a known consensus."""

import numpy as np
import pytest

from asyndbt_mpi.algorithm.lower_level import (
    LowerLevel,
    LowerSteps,
    residual,
    residual_gradient,
    worker_step,
)

R, M, N = 3, 2, 4
RNG = np.random.default_rng(5)


def simplex_points(*shape: int) -> np.ndarray:
    return RNG.dirichlet(np.ones(shape[-1]), shape[:-1])


def start(robust_weight: float = 0.0, live: list[bool] | None = None) -> LowerLevel:
    steps = LowerSteps(z=0.05, rho=0.05, penalty=1.3, robust_weight=robust_weight)
    lower = LowerLevel.start(
        simplex_points(R, M, N), simplex_points(M, N), np.array(live or [True] * R), steps
    )
    lower.rho = RNG.normal(size=(R, M, N))
    return lower


def lagrangian(lower: LowerLevel) -> float:
    """(7) without the g_v, plus the robust term psi * ||p - z||_1."""
    gap = (lower.p - lower.z)[lower.live]
    steps = lower.steps
    return float(
        (lower.rho[lower.live] * gap).sum()
        + steps.penalty / 2 * (gap**2).sum()
        + steps.robust_weight * np.abs(gap).sum()
    )


def derivative(lower: LowerLevel, array: np.ndarray) -> np.ndarray:
    """Central differences of `lagrangian` in the entries of ``array``, part of ``lower``."""
    result = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + 1e-6
        above = lagrangian(lower)
        array[index] = kept - 1e-6
        below = lagrangian(lower)
        array[index] = kept
        result[index] = (above - below) / 2e-6
    return result


@pytest.mark.parametrize("robust_weight", [0.0, 0.4])
def test_a_force_is_the_derivative_of_the_lagrangian_in_p(robust_weight: float) -> None:
    """Also settles the sign of the robust term, which the published (8) has the other way (D1)."""
    lower = start(robust_weight)
    numerical = derivative(lower, lower.p)
    for worker in range(R):
        np.testing.assert_allclose(
            lower.dual_gradients(np.array([worker]))[0], numerical[worker], atol=1e-6
        )


@pytest.mark.parametrize("live", [[True, True, True], [True, False, True]])
def test_server_step_goes_down_the_lagrangian_in_z_then_up_in_rho(live: list[bool]) -> None:
    from asyndbt_mpi.algorithm.simplex import project

    lower = start(0.4, live)
    p, rho = lower.p.copy(), lower.rho.copy()
    expected_z = project(lower.z - lower.steps.z * derivative(lower, lower.z))
    lower.server_step()
    np.testing.assert_allclose(lower.z, expected_z, atol=1e-7)
    expected_rho = np.where(
        np.array(live)[:, None, None], rho + lower.steps.rho * (p - expected_z), rho
    )
    np.testing.assert_allclose(lower.rho, expected_rho, atol=1e-7)


@pytest.mark.parametrize("robust_weight", [0.0, 0.01])
def test_converges_to_the_known_consensus(robust_weight: float) -> None:
    """g_v(p) = |p - t_v|^2 / 2 has the mean of the targets t_v as its consensus solution."""
    targets = simplex_points(R, M, N)
    steps = LowerSteps(z=0.05, rho=0.3, penalty=1.0, robust_weight=robust_weight)
    lower = LowerLevel.start(
        np.full((R, M, N), 1 / N), np.full((M, N), 1 / N), np.ones(R, dtype=bool), steps
    )
    for _ in range(3000):
        dual_gradients = [*lower.dual_gradients(np.arange(R))]
        for worker in range(R):
            p = lower.p[worker]
            lower.p[worker] = worker_step(p, p - targets[worker], dual_gradients[worker], 0.1)
        lower.server_step()
    consensus = targets.mean(axis=0)
    np.testing.assert_allclose(lower.z, consensus, atol=5e-3)
    np.testing.assert_allclose(lower.p, np.broadcast_to(consensus, lower.p.shape), atol=5e-3)


def test_start_is_a_scratch_copy() -> None:
    p, z = simplex_points(R, M, N), simplex_points(M, N)
    kept_p, kept_z = p.copy(), z.copy()
    lower = LowerLevel.start(p, z, np.ones(R, dtype=bool), LowerSteps(0.1, 0.1, 1.0, 0.1))
    assert not lower.rho.any()
    lower.p[0] = worker_step(
        lower.p[0], RNG.normal(size=(M, N)), lower.dual_gradients(np.array([0]))[0], 0.1
    )
    lower.server_step()
    np.testing.assert_array_equal(p, kept_p)
    np.testing.assert_array_equal(z, kept_z)


def test_residual_by_hand() -> None:
    p, z = np.zeros((2, 1, 2)), np.zeros((1, 2))
    phi_p, phi_z = np.array([[[0.1, -0.2]], [[0.0, 0.3]]]), np.array([[0.5, 0.0]])
    assert residual(p, z, phi_p, phi_z, "l1") == pytest.approx([1.1])
    assert residual(p, z, phi_p, phi_z, "l2sq") == pytest.approx([0.01 + 0.04 + 0.09 + 0.25])


@pytest.mark.parametrize("distance", ["l1", "l2sq"])
def test_residual_gradient_by_finite_differences(distance) -> None:
    p, z = simplex_points(R, M, N), simplex_points(M, N)
    phi_p, phi_z = simplex_points(R, M, N), simplex_points(M, N)
    for x, phi in ((p, phi_p), (z, phi_z)):
        gradient = residual_gradient(x, phi, distance)
        for index in np.ndindex(x.shape):
            kept = x[index]
            x[index] = kept + 1e-7
            above = residual(p, z, phi_p, phi_z, distance).sum()
            x[index] = kept - 1e-7
            below = residual(p, z, phi_p, phi_z, distance).sum()
            x[index] = kept
            assert gradient[index] == pytest.approx((above - below) / 2e-7, abs=1e-6)
