"""The synthetic black box against enumeration of every prompt, and finite differences."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.protocol.blackbox import ExactQuery, Query
from asyndbt_mpi.protocol.messages import WITHOUT, Shapes, Split
from asyndbt_mpi.task.synthetic import ROWS, Synthetic

WORKERS = [1, 2, 5]
SIZES = [Shapes(3, 2, 2, 3), Shapes(1, 3, 2, 2), Shapes(2, 3, 3, 2), Shapes(4, 2, 1, 1)]
ALL_ROWS = np.arange(ROWS[Split.TRAIN])
EVERYONE = np.arange(len(WORKERS))


def black_box(shapes: Shapes, heterogeneity: float = 0.4) -> Synthetic:
    return Synthetic(3, shapes, WORKERS, heterogeneity)


def prompts(shapes: Shapes) -> tuple[np.ndarray, np.ndarray]:
    """Words and demonstrations of every prompt there is."""
    words = list(itertools.product(range(shapes.words), repeat=shapes.positions))
    shown = list(itertools.product(range(shapes.pool), repeat=shapes.classes))
    both = list(itertools.product(words, shown))
    return np.array([w for w, _ in both]), np.array([k for _, k in both])


def losses(box: Synthetic, shapes: Shapes) -> np.ndarray:
    """Losses (W, prompts) by the interface of a language model, less the queries' difficulty."""
    words, shown = prompts(shapes)
    answers = box.answer([Query(v, Split.TRAIN, ALL_ROWS, words, shown) for v in WORKERS])
    difficulty = box.difficulty[Split.TRAIN][:, ALL_ROWS].mean(axis=1)
    return np.array([answer.losses for answer in answers]) - difficulty[:, None]


def point(shapes: Shapes, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.full(shapes.words, 0.7), (len(WORKERS), shapes.positions))
    q = generator.dirichlet(np.full(shapes.pool, 0.7), (len(WORKERS), shapes.classes))
    return p, q


def enumerated(box: Synthetic, shapes: Shapes, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Expected loss (W,) as the sum over every prompt of its probability times its loss."""
    words, shown = prompts(shapes)
    of_words = p[:, np.arange(shapes.positions), words].prod(axis=2)
    of_shown = q[:, np.arange(shapes.classes), shown].prod(axis=2)
    return (of_words * of_shown * losses(box, shapes)).sum(axis=1)


@pytest.mark.parametrize("shapes", SIZES)
@pytest.mark.parametrize("heterogeneity", [0.0, 0.4, 1.0])
def test_the_expected_loss_is_that_of_every_prompt(shapes: Shapes, heterogeneity: float) -> None:
    box = black_box(shapes, heterogeneity)
    p, q = point(shapes, 1)
    expected = enumerated(box, shapes, p, q)
    np.testing.assert_allclose(box.expected_loss(p, q, EVERYONE), expected, atol=1e-12)


@pytest.mark.parametrize("shapes", SIZES)
def test_the_gradient_is_that_of_every_prompt(shapes: Shapes) -> None:
    """Linear in each row: moving any mass from its first entry to another gives a derivative."""
    box = black_box(shapes)
    p, q = point(shapes, 2)
    gradients = box.gradient(p, q, EVERYONE)
    start = enumerated(box, shapes, p, q)
    for x, gradient in zip((p, q), gradients, strict=True):
        for row, entry in np.ndindex(x.shape[1:]):
            x[:, row, entry] += 0.5
            x[:, row, 0] -= 0.5
            derivative = (enumerated(box, shapes, p, q) - start) / 0.5
            x[:, row, 0] += 0.5
            x[:, row, entry] -= 0.5
            expected = gradient[:, row, entry] - gradient[:, row, 0]
            np.testing.assert_allclose(derivative, expected, atol=1e-12)


@pytest.mark.parametrize("shapes", SIZES)
def test_the_optimum_is_the_best_of_every_prompt(shapes: Shapes) -> None:
    box = black_box(shapes)
    words, shown = prompts(shapes)
    everything = losses(box, shapes)
    for worker in EVERYONE:
        best = box.optimum(EVERYONE[worker : worker + 1])
        assert best.loss == pytest.approx(everything[worker].min(), abs=1e-12)
        place = everything[worker].argmin()
        assert best.words.tolist() == words[place].tolist()
        assert best.demonstrations[0].tolist() == shown[place].tolist()


@pytest.mark.parametrize("shapes", SIZES)
def test_the_common_optimum_is_the_best_of_shared_words(shapes: Shapes) -> None:
    box = black_box(shapes, 1.0)
    words, _ = prompts(shapes)
    everything = losses(box, shapes)
    mean = {
        tuple(each): everything[:, (words == each).all(axis=1)].min(axis=1).mean()
        for each in np.unique(words, axis=0)
    }
    best = box.optimum(EVERYONE)
    assert best.loss == pytest.approx(min(mean.values()), abs=1e-12)
    assert mean[tuple(best.words)] == min(mean.values())


@given(st.integers(0, 10_000))
def test_no_point_is_below_the_optimum(seed: int) -> None:
    shapes = Shapes(6, 5, 3, 4)
    box = black_box(shapes)
    p, q = point(shapes, seed)
    least = [box.optimum(EVERYONE[v : v + 1]).loss for v in EVERYONE]
    assert (box.expected_loss(p, q, EVERYONE) >= np.array(least) - 1e-12).all()


def test_an_exact_query_is_answered_in_closed_form() -> None:
    shapes = SIZES[0]
    box = black_box(shapes)
    p, q = point(shapes, 3)
    answers = box.answer([ExactQuery(v, p[i], q[i]) for i, v in enumerate(WORKERS)])
    gradients = box.gradient(p, q, EVERYONE)
    np.testing.assert_allclose(
        [answer.losses[0] for answer in answers], enumerated(box, shapes, p, q), atol=1e-12
    )
    for row, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.p_gradient, gradients[0][row])
        np.testing.assert_array_equal(answer.q_gradient, gradients[1][row])
        assert (answer.calls, answer.prompt_tokens) == (1, 5)


def test_a_worker_alone_is_the_worker_among_others() -> None:
    shapes = Shapes(7, 11, 3, 5)
    among, alone = black_box(shapes), Synthetic(3, shapes, [5], 0.4)
    p, q = point(shapes, 4)
    one = np.array([0])
    np.testing.assert_array_equal(
        among.expected_loss(p, q, EVERYONE)[2:], alone.expected_loss(p[2:], q[2:], one)
    )
    for of_all, own in zip(
        among.gradient(p, q, EVERYONE), alone.gradient(p[2:], q[2:], one), strict=True
    ):
        np.testing.assert_array_equal(of_all[2:], own)


def test_heterogeneity_is_what_workers_do_not_share() -> None:
    shapes = SIZES[0]
    same, own = (losses(black_box(shapes, h), shapes) for h in (0.0, 1.0))
    np.testing.assert_allclose(same[0], same[1], atol=1e-12)
    assert abs(np.corrcoef(own[0], own[1])[0, 1]) < 0.9
    assert np.abs(own[0] - own[1]).max() > 0.5


def test_parts_that_a_prompt_is_without_cost_nothing() -> None:
    shapes = SIZES[0]
    box = black_box(shapes)
    none = np.full((1, 3), WITHOUT), np.full((1, 2), WITHOUT)
    words, shown = np.array([[0, 1, 1]]), np.array([[2, 0]])
    rows = np.array([0])

    def loss(words: np.ndarray, shown: np.ndarray) -> float:
        [answer] = box.answer([Query(2, Split.TEST, rows, words, shown)])
        return float(answer.losses[0] - box.difficulty[Split.TEST][1, 0])

    assert loss(*none) == pytest.approx(0, abs=1e-12)
    of_words = box.unary[1, [0, 1, 2], words[0]].sum() + box.pairs[[0, 1], [0, 1], [1, 1]].sum()
    assert loss(words, none[1]) == pytest.approx(of_words)
    of_shown = box.demonstrations[1, [0, 1], shown[0]].sum()
    assert loss(none[0], shown) == pytest.approx(of_shown)
    of_both = box.cross[[0, 1], words[0, :2], shown[0]].sum()
    assert loss(words, shown) == pytest.approx(of_words + of_shown + of_both)


@given(st.integers(0, 1000), st.floats(0, 1))
def test_losses_are_bounded(seed: int, heterogeneity: float) -> None:
    shapes = Shapes(3, 2, 2, 2)
    box = Synthetic(seed, shapes, WORKERS, heterogeneity)
    assert np.abs(losses(box, shapes)).max() <= 3 + 2 * 0.3 + 2 + 2 * 0.3


def test_queries_of_several_splits_are_answered_together() -> None:
    shapes = SIZES[0]
    box = black_box(shapes)
    words, shown, rows = np.array([[0, 1, 1]]), np.array([[2, 0]]), np.array([3, 7])
    queries = [Query(v, split, rows, words, shown) for v in WORKERS for split in Split]
    together = [answer.losses[0] for answer in box.answer(queries)]
    alone = [box.answer([query])[0].losses[0] for query in queries]
    assert together == alone
    assert len(set(together)) == len(queries)
