import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.algorithm.lower_level import residual
from asyndbt_mpi.algorithm.polyhedron import Polyhedron, cut
from asyndbt_mpi.algorithm.updates import DualSteps, ascend_duals, update_duals

R, M, N = 2, 3, 4


def points(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return generator.dirichlet(np.ones(N), (R, M)), generator.dirichlet(np.ones(N), M)


def plane_value(a, b, c, p, z) -> np.ndarray:
    return np.einsum("vij,vij->i", a, p) + np.einsum("ij,ij->i", b, z) + c


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.sampled_from(["l1", "l2sq"]), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
@settings(max_examples=200)
def test_a_cut_never_removes_a_feasible_point(seed, distance, tolerance, closeness) -> None:
    """Whatever point has h <= epsilon is on the right side of every plane, also 0 < h (D2)."""
    generator = np.random.default_rng(seed)
    (p, z), (phi_p, phi_z) = points(generator), points(generator)
    h = residual(p, z, phi_p, phi_z, distance)
    positions, a, b, c = cut(p, z, phi_p, phi_z, h, tolerance, distance)
    other_p, other_z = points(generator)
    other_p = closeness * phi_p + (1 - closeness) * other_p
    other_z = closeness * phi_z + (1 - closeness) * other_z
    feasible = residual(other_p, other_z, phi_p, phi_z, distance) <= tolerance
    values = plane_value(a, b, c, other_p, other_z)
    assert (values[positions & feasible] <= 1e-12).all()


@given(seeds, st.sampled_from(["l1", "l2sq"]))
def test_a_cut_removes_the_current_point_by_h_minus_epsilon(seed, distance) -> None:
    generator = np.random.default_rng(seed)
    (p, z), (phi_p, phi_z) = points(generator), points(generator)
    h = residual(p, z, phi_p, phi_z, distance)
    tolerance = float(np.median(h))
    positions, a, b, c = cut(p, z, phi_p, phi_z, h, tolerance, distance)
    assert positions.tolist() == (h > tolerance).tolist()
    values = plane_value(a, b, c, p, z)
    np.testing.assert_allclose(values[positions], (h - tolerance)[positions], atol=1e-12)
    assert not values[~positions].any()
    assert a.dtype == (np.int8 if distance == "l1" else np.float64)


def of_slot(polyhedron: Polyhedron, slot: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return polyhedron.a[:, :, slot], polyhedron.b[:, slot], polyhedron.c[slot]


def polyhedron_with_planes(count: int, capacity: int = 5, distance="l1"):
    generator = np.random.default_rng(3)
    p, z = points(generator)
    polyhedron = Polyhedron(R, M, N, capacity, distance)
    for iteration in range(count):
        phi_p, phi_z = points(generator)
        h = residual(p, z, phi_p, phi_z, distance)
        polyhedron.add(p, z, phi_p, phi_z, h, 0.1, iteration)
    polyhedron.dual = np.where(polyhedron.active, generator.random(polyhedron.dual.shape), 0.0)
    return polyhedron, p, z, generator


@pytest.mark.parametrize("distance", ["l1", "l2sq"])
def test_gradients_of_the_lagrangian_by_finite_differences(distance) -> None:
    """(23), (25), (26): derivatives of sum lambda (a.p + b.z + c) - c1/2 lambda^2."""
    polyhedron, p, z, _ = polyhedron_with_planes(3, distance=distance)
    steps = DualSteps(step_size=1e-3, bound=1e9, regularisation="constant", floor=0.7)

    def lagrangian() -> float:
        values = [
            polyhedron.dual[s] @ plane_value(*of_slot(polyhedron, s), p, z)
            - steps.floor / 2 * (polyhedron.dual[s] ** 2).sum()
            for s in polyhedron.slots
        ]
        return float(sum(values))

    def derivative(x: np.ndarray, index: tuple[int, ...]) -> float:
        kept = x[index]
        x[index] = kept + 1e-6
        above = lagrangian()
        x[index] = kept - 1e-6
        below = lagrangian()
        x[index] = kept
        return (above - below) / 2e-6

    for worker in range(R):
        dual_gradient = polyhedron.dual_gradients(np.array([worker]))[0]
        for index in np.ndindex(M, N):
            assert dual_gradient[index] == pytest.approx(derivative(p, (worker, *index)), abs=1e-6)
    gradient = polyhedron.consensus_gradient()
    for index in np.ndindex(M, N):
        assert gradient[index] == pytest.approx(derivative(z, index), abs=1e-6)
    before = polyhedron.dual.copy()
    ascended = ascend_duals(before, polyhedron.values(z), polyhedron.active, steps, 0)
    for slot in polyhedron.slots:
        for position in np.flatnonzero(polyhedron.active[slot]):
            expected = derivative(polyhedron.dual, (slot, position))
            moved = (ascended[slot, position] - before[slot, position]) / steps.step_size
            assert moved == pytest.approx(expected, abs=1e-5)


def test_values_follow_the_moves_of_p() -> None:
    polyhedron, p, z, generator = polyhedron_with_planes(4)
    for _ in range(10):
        worker = int(generator.integers(R))
        new = generator.dirichlet(np.ones(N), M)
        polyhedron.move_workers(np.array([worker]), (new - p[worker])[None])
        p[worker] = new
    for slot in polyhedron.slots:
        expected = plane_value(*of_slot(polyhedron, slot), p, z)
        np.testing.assert_allclose(polyhedron.values(z)[slot], expected, atol=1e-12)


def test_duals_stay_within_their_bound_and_start_at_zero() -> None:
    polyhedron, _, z, _ = polyhedron_with_planes(2)
    polyhedron.dual[:] = 0.0
    steps = DualSteps(step_size=100.0, bound=0.5, regularisation="constant", floor=0.01)
    before = update_duals(polyhedron, z, steps, 0)
    assert not before.any()
    assert polyhedron.dual.max() == 0.5
    assert polyhedron.dual.min() >= 0
    assert not polyhedron.dual[~polyhedron.active].any()


def test_regulariser_schedules() -> None:
    decay = DualSteps(step_size=0.1, bound=1.0, regularisation="decay", floor=0.5)
    assert decay.regulariser(0) == pytest.approx(10.0)
    assert decay.regulariser(15) == pytest.approx(5.0)
    assert decay.regulariser(10**9) == 0.5
    constant = DualSteps(step_size=0.1, bound=1.0, regularisation="constant", floor=0.5)
    assert constant.regulariser(0) == constant.regulariser(10**9) == 0.5


def test_drops_only_what_was_slack_before_and_after() -> None:
    polyhedron, *_ = polyhedron_with_planes(3)
    slot = polyhedron.slots[1]
    identifier = polyhedron.identifier[slot]
    polyhedron.dual[polyhedron.active] = 1.0
    before = polyhedron.dual.copy()
    polyhedron.dual[slot, 0], before[slot, 0] = 0.001, 0.001
    polyhedron.dual[slot, 1], before[slot, 1] = 0.001, 0.9  # has just come down
    polyhedron.dual[slot, 2], before[slot, 2] = 0.9, 0.001  # is on its way up
    drops = polyhedron.drop_slack(before, 0.01)
    assert [(drop.identifier, drop.position) for drop in drops] == [(identifier, 0)]
    assert polyhedron.active[slot].tolist() == [False, True, True]
    assert not polyhedron.a[:, 0, slot].any()
    assert polyhedron.dual[slot, 0] == 0


def test_a_plane_without_positions_frees_its_slot() -> None:
    polyhedron, p, z, generator = polyhedron_with_planes(3)
    assert len(polyhedron) == 3
    polyhedron.dual[polyhedron.slots[0]] = 0.0
    polyhedron.drop_slack(np.zeros_like(polyhedron.dual), 0.001)
    assert len(polyhedron) == 2
    phi_p, phi_z = points(generator)
    h = residual(p, z, phi_p, phi_z, "l1")
    plane, dropped = polyhedron.add(p, z, phi_p, phi_z, h, 0.0, 9)
    assert plane is not None
    assert plane.identifier == 3
    assert not dropped
    assert len(polyhedron) == 3


def test_at_capacity_the_smallest_duals_go_first() -> None:
    polyhedron, p, z, generator = polyhedron_with_planes(3, capacity=3)
    polyhedron.dual[:] = np.where(polyhedron.active, [[0.5], [0.1], [0.9]], 0.0)
    phi_p, phi_z = points(generator)
    h = residual(p, z, phi_p, phi_z, "l1")
    plane, dropped = polyhedron.add(p, z, phi_p, phi_z, h, 0.0, 9)
    assert plane is not None
    assert {drop.identifier for drop in dropped} == {1}
    assert sorted(polyhedron.identifier) == [0, 2, 3]
    assert not polyhedron.dual[polyhedron.identifier == 3].any()


def test_no_plane_where_everything_is_feasible() -> None:
    polyhedron, p, z, _ = polyhedron_with_planes(1)
    plane, dropped = polyhedron.add(p, z, p.copy(), z.copy(), np.zeros(M), 0.0, 5)
    assert plane is None
    assert not dropped
    assert len(polyhedron) == 1
