import numpy as np
import pytest

from asyndbt_mpi.algorithm.optimizer import OPTIMIZERS, Adam, Mirror, Sgd
from asyndbt_mpi.algorithm.simplex import distance_to_simplex

X = np.array([[0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3]])
G = np.array([[1.0, -1.0, 0.5], [0.0, 2.0, -2.0]])


def test_sgd_by_hand() -> None:
    np.testing.assert_allclose(
        Sgd(0.1, X.shape).step(X, np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])),
        [[0.1, 0.4, 0.5], X[1]],
    )


def test_adam_first_step_has_the_step_size_in_every_entry() -> None:
    moved = Adam(0.01, X.shape).step(X, np.array([[5.0, -3.0, 0.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(moved, [[0.19, 0.31, 0.5], X[1]], atol=1e-8)


def test_adam_second_step_by_hand() -> None:
    adam = Adam(0.01, (1, 2))
    g1, g2 = np.array([[1.0, -1.0]]), np.array([[0.5, -0.5]])
    x = adam.step(np.array([[0.5, 0.5]]), g1)
    mean = (0.9 * 0.1 * g1 + 0.1 * g2) / (1 - 0.9**2)
    variance = (0.999 * 0.001 * g1**2 + 0.001 * g2**2) / (1 - 0.999**2)
    expected = x - 0.01 * mean / (np.sqrt(variance) + 1e-8)
    np.testing.assert_allclose(adam.step(x, g2), expected, atol=1e-12)


def test_mirror_multiplies_by_exponentials() -> None:
    weights = X * np.exp(-0.5 * G)
    expected = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Mirror(0.5, X.shape).step(X, G), expected)


def test_mirror_survives_a_huge_gradient() -> None:
    moved = Mirror(1.0, X.shape).step(X, np.array([[1e6, 0.0, -1e6], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(moved, [[0, 0, 1], X[1]], atol=1e-11)


def test_mirror_brings_back_what_was_worst_for_long() -> None:
    mirror, x = Mirror(1.0, X.shape), X.copy()
    for _ in range(1000):
        x = mirror.step(x, np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    for _ in range(40):
        x = mirror.step(x, np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    assert x[0, 0] > 0.99


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_stay_on_the_simplex_and_off_forbidden_entries(name: str) -> None:
    allowed = np.array([[True, True, False], [True, True, True]])
    x = np.array([[0.4, 0.6, 0.0], [0.1, 0.1, 0.8]])
    optimizer = OPTIMIZERS[name](0.3, x.shape, allowed)
    generator = np.random.default_rng(1)
    for _ in range(50):
        x = optimizer.step(x, generator.normal(size=x.shape))
        assert distance_to_simplex(x) < 1e-12
        assert x[0, 2] == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_finds_the_best_vertex_of_a_linear_loss(name: str) -> None:
    optimizer = OPTIMIZERS[name](0.05, X.shape)
    x = X
    for _ in range(400):
        x = optimizer.step(x, G)
    assert x.argmax(axis=1).tolist() == [1, 2]
    assert (x.max(axis=1) > 0.99).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_members_of_a_stack_move_as_each_would_alone(name: str) -> None:
    generator = np.random.default_rng(2)
    x = generator.dirichlet(np.ones(7), size=(4, 3))
    stack, alone = OPTIMIZERS[name](0.1, x.shape), [OPTIMIZERS[name](0.1, (1, 3, 7)) for _ in x]
    for members in ([0, 1, 2, 3], [2], [1, 3], [0, 1, 3], [2, 3]):
        gradient = generator.normal(size=(len(members), 3, 7))
        expected = [alone[v].step(x[[v]], gradient[[i]])[0] for i, v in enumerate(members)]
        x[members] = stack.step(x[members], gradient, np.array(members))
        np.testing.assert_array_equal(x[members], expected)


@pytest.mark.parametrize("slope", [1e200, np.inf, np.nan])
def test_adam_does_not_stop_silently_where_the_square_of_a_slope_is_infinite(slope: float) -> None:
    adam = Adam(0.01, (3, 2, 2))
    gradient = np.ones((2, 2, 2))
    adam.step(np.full((2, 2, 2), 0.5), gradient, np.array([2, 0]))
    gradient[1, 1, 0] = slope
    with pytest.raises(FloatingPointError, match="not finite"):
        adam.step(np.full((2, 2, 2), 0.5), gradient, np.array([2, 0]))
