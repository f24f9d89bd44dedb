"""The additive model against dense least squares, and what a stack of workers needs of it."""

import numpy as np
import pytest

from asyndbt_mpi.algorithm.additive import BELIEVED, DRIFT, OUTLIER, SAMPLED, Additive
from asyndbt_mpi.algorithm.estimator import sample
from asyndbt_mpi.algorithm.pooling import CORRECTED

M, N, U, V, SAMPLES = 3, 4, 2, 5, 6
ONE = np.array([0])


def draw(seed: int, workers: int = 1, samples: int = SAMPLES) -> tuple[np.ndarray, ...]:
    """Words, demonstrations and losses that mean nothing."""
    generator = np.random.default_rng(seed)
    return (
        generator.integers(0, N, (workers, samples, M)),
        generator.integers(0, V, (workers, samples, U)),
        generator.normal(size=(workers, samples)),
    )


def model(workers: int = 1) -> Additive:
    return Additive((workers, M, N), (workers, U, V))


def upper(of: Additive, members: np.ndarray, *drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, q = np.full((len(members), M, N), 1 / N), np.full((len(members), U, V), 1 / V)
    return of.upper(members, p, q, *drawn)


def lower(of: Additive, members: np.ndarray, *drawn: np.ndarray) -> np.ndarray:
    return of.lower(members, np.full((len(members), M, N), 1 / N), *drawn)


def test_the_first_assignment_is_ridge_regression() -> None:
    words, demonstrations, losses = draw(0)
    design = np.concatenate(
        (
            np.eye(N)[words[0]].reshape(SAMPLES, -1),
            np.eye(V)[demonstrations[0]].reshape(SAMPLES, -1),
        ),
        axis=1,
    )
    design -= design.mean(axis=0)
    additive = model()
    posterior = np.linalg.inv(design.T @ design + np.eye(M * N + U * V) / additive.prior)
    p_gradient, q_gradient = upper(additive, ONE, words, demonstrations, losses)
    expected = (1 - DRIFT) * posterior @ design.T @ losses[0]
    np.testing.assert_allclose(p_gradient[0].ravel(), expected[: M * N], atol=1e-12)
    np.testing.assert_allclose(q_gradient[0].ravel(), expected[M * N :], atol=1e-12)
    kept = additive.prior - (1 - DRIFT) * (additive.prior - np.diag(posterior))
    np.testing.assert_allclose(additive.variances[0], kept, atol=1e-12)


def test_finds_the_effects_of_an_additive_loss() -> None:
    generator = np.random.default_rng(1)
    of_words, of_shown = generator.normal(size=(M, N)), generator.normal(size=(U, V))
    additive = model()
    for seed in range(150):
        words, shown, _ = draw(seed)
        losses = of_words[np.arange(M), words].sum(-1) + of_shown[np.arange(U), shown].sum(-1)
        lower(additive, ONE, words, shown, losses + generator.normal())  # the batch's difficulty
    precision, information, _ = additive.knowledge(ONE)
    found = information[0] / precision[0]
    centred = found - found.mean(axis=1, keepdims=True)
    # The covariance between effects, which is left out, costs some of the accuracy.
    np.testing.assert_allclose(centred, of_words - of_words.mean(1, keepdims=True), atol=0.08)


def test_gradients_add_up_to_what_the_model_now_says() -> None:
    additive, total = model(), np.zeros((1, M, N))
    for step in range(1, CORRECTED + 1):
        p_gradient, _ = upper(additive, ONE, *draw(step))
        total += p_gradient
        lower(additive, ONE, *draw(100 + step))  # what it learns in between counts next time
    said = additive.told[:, : M * N].reshape(1, M, N)
    np.testing.assert_allclose(total, CORRECTED * said, atol=1e-10)


def test_equal_losses_give_no_gradient() -> None:
    words, demonstrations, losses = draw(2)
    for gradient in upper(model(), ONE, words, demonstrations, np.full_like(losses, 7.0)):
        np.testing.assert_allclose(gradient, 0.0, atol=1e-14)


def test_a_lower_step_learns_nothing_of_demonstrations() -> None:
    words, demonstrations, losses = draw(3)
    additive = model()
    lower(additive, ONE, words, np.repeat(demonstrations[:, :1], SAMPLES, axis=1), losses)
    np.testing.assert_allclose(additive.effects[0, M * N :], 0.0, atol=1e-14)
    np.testing.assert_allclose(additive.variances[0, M * N :], additive.prior)


@pytest.mark.parametrize("samples", [2, 8])
def test_an_absurd_loss_is_cut(samples: int) -> None:
    additive = model()
    for seed in range(20):
        upper(additive, ONE, *draw(seed, samples=samples))
    before = additive.effects.copy()
    words, demonstrations, losses = draw(20, samples=samples)
    losses[0, 0] = 1e12
    upper(additive, ONE, words, demonstrations, losses)
    assert np.abs(additive.effects - before).max() < 10


@pytest.mark.parametrize("absurd", [1e3, 1e12])
def test_an_absurd_loss_in_the_first_assignment_is_cut(absurd: float) -> None:
    spoilt, usual = model(), model()
    words, demonstrations, losses = draw(0)
    upper(usual, ONE, words, demonstrations, losses)
    losses = losses.copy()
    losses[0, 0] += absurd
    upper(spoilt, ONE, words, demonstrations, losses)
    assert spoilt.scale < 10 * usual.scale
    assert np.abs(spoilt.effects - usual.effects).max() < 10


def test_a_residual_counts_up_to_its_bound_and_no_further() -> None:
    words, demonstrations, _ = draw(0)

    def learnt(largest: float) -> np.ndarray:
        additive = model()
        additive.scale[0] = 9.0
        upper(additive, ONE, words, demonstrations, np.array([[0.0] * 5 + [largest]]))
        return additive.effects

    bound = OUTLIER * 3.0
    np.testing.assert_allclose(learnt(1e9), learnt(1.01 * bound), rtol=1e-6)
    np.testing.assert_allclose(learnt(bound), 2 * learnt(0.5 * bound))


def test_the_scale_is_the_variance_of_the_noise_and_follows_it_slowly() -> None:
    additive, (words, shown, noise) = model(), draw(0, samples=400)
    upper(additive, ONE, words, shown, 2.0 * noise)
    assert additive.scale[0, 0] == pytest.approx(4.0, rel=0.15)
    additive.scale[0] = 4.0
    upper(additive, ONE, *draw(1, samples=400))
    assert additive.scale[0, 0] == pytest.approx(3.7, rel=0.03), "a tenth of the way to 1"


def test_differences_that_are_rounding_set_no_scale() -> None:
    additive = model()
    words, demonstrations, losses = draw(0)
    upper(additive, ONE, words, demonstrations, 0.7 + 1e-16 * losses)
    assert additive.scale == 0
    upper(additive, ONE, words, demonstrations, losses)
    assert additive.scale > 0


def test_what_is_forgotten_is_no_longer_told() -> None:
    """Else everybody's prior mean would come back to them once for each of the others."""
    additive = model()
    for seed in range(20):
        upper(additive, ONE, *draw(seed))
    words, demonstrations, _ = draw(20)
    equal = np.ones((1, 4))
    for _ in range(2000):  # one prompt, which tells nothing
        upper(additive, ONE, words[:, :1].repeat(4, 1), demonstrations[:, :1].repeat(4, 1), equal)
    precision, information, _ = additive.knowledge(ONE)
    assert precision.max() < 1e-6
    assert np.abs(information).max() < 1e-6


@pytest.mark.parametrize("differences", [[1e-16, 0, 0, 0, 0, 0], [1e-3, 2e-3, 0, 1e-3, 0, -1e-3]])
def test_samples_that_agree_do_not_make_others_outliers(differences: list[float]) -> None:
    additive = model()
    for seed in range(20):
        upper(additive, ONE, *draw(seed))
    usual = additive.scale.copy()
    words, demonstrations, _ = draw(20)
    words[:], demonstrations[:] = words[:, :1], demonstrations[:, :1]
    losses = 0.1 + np.array([differences])
    for _ in range(300):
        upper(additive, ONE, words, demonstrations, losses)
    np.testing.assert_array_equal(additive.scale, usual)
    upper(additive, ONE, *draw(21))
    assert additive.scale != usual  # it goes on learning from others


def test_predictions_are_scored_by_hand() -> None:
    """The others say that the second word costs 6 / (1.6 + 0.4) = 3, which the last spread ignores."""
    of = Additive((1, 1, 2), (1, 1, 2))
    assert 1 / of.prior == 0.4
    of.hear(ONE, np.array([[[0.0, 1.6]]]), np.array([[[0.0, 6.0]]]))
    of.effects[0] = [0.0, 0.0, 0.0, 5.0]
    of.scale[0], of.scores[0] = 2.0, [1.0, 2.0, 3.0]
    words, shown = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 0, 1, 0])
    rest = np.array([0.0, 1.0, 0.0, 3.0, 23.0])  # without the demonstrations' effects
    losses = 100.0 + 5.0 * shown + rest
    of.upper(
        ONE, np.full((1, 1, 2), 0.5), np.full((1, 1, 2), 0.5),
        words[None, :, None], shown[None, :, None], losses[None],
    )  # fmt: skip
    # Errors from their median: 0, 1, 0, 0, 20 and -1, 0, -1, 2, 22; a square counts as at most 32.
    surprise = np.array([1.0 + 32.0, 1.0 + 32.0, 1.0 + 1.0 + 4.0 + 32.0]) / (2 * 2.0)
    np.testing.assert_allclose(of.scores[0], (1 - DRIFT) * np.array([1.0, 2.0, 3.0]) + surprise)


def test_gradients_contain_what_the_others_know() -> None:
    """By two of the three spreads the second word costs 6 / (1.6 + 0.4) = 3."""
    of, half = Additive((1, 1, 2), (1, 1, 2)), np.full((1, 1, 2), 0.5)
    of.hear(ONE, np.array([[[0.0, 1.6]]]), np.array([[[0.0, 6.0]]]))
    nothing = np.zeros((1, 4, 1), dtype=int), np.zeros((1, 4, 1), dtype=int), np.zeros((1, 4))
    np.testing.assert_allclose(of.lower(ONE, half, *nothing), [[[0.0, 2.0]]])
    np.testing.assert_allclose(of.upper(ONE, half, half, *nothing)[0], [[[0.0, 2.0]]])


def test_workers_together_get_what_each_gets_alone() -> None:
    workers = 5
    stack, alone = model(workers), [model() for _ in range(workers)]
    for seed, members in enumerate(([0, 1, 2, 3, 4], [2], [1, 3], [0, 1, 3], [2, 3, 4])):
        drawn = draw(seed, len(members), samples=8)
        together = upper(stack, np.array(members), *drawn)
        below = lower(stack, np.array(members), *drawn)
        for row, worker in enumerate(members):
            own = [each[row : row + 1] for each in drawn]
            expected = upper(alone[worker], ONE, *own)
            for gradient, of_one in zip(together, expected, strict=True):
                np.testing.assert_array_equal(gradient[row], of_one[0])
            np.testing.assert_array_equal(below[row], lower(alone[worker], ONE, *own)[0])


def test_what_has_no_mass_is_never_drawn_nor_judged() -> None:
    additive, generator = model(), np.random.default_rng(4)
    q = np.array([[[0.2] * 5, [1 / 3] * 3 + [0, 0]]])
    for seed in range(30):
        words, _, losses = draw(seed)
        shown = sample(q, additive.couple(generator.random((1, SAMPLES, U))))
        _, q_gradient = additive.upper(ONE, np.full((1, M, N), 1 / N), q, words, shown, losses)
        np.testing.assert_array_equal(q_gradient[0, 1, 3:], 0.0)


# ---------------------------------------------------------------- the best prompts


EVERYTHING = np.ones((U, V), dtype=bool)


def value(of: Additive, prompt: tuple[int, ...], residual: float) -> float:
    """What the model and its own sample say of a prompt."""
    first = [*(N * np.arange(M)), *(M * N + V * np.arange(U))]
    effects = [of.effects[0, start + place] for start, place in zip(first, prompt, strict=True)]
    return float(sum(effects)) + BELIEVED * residual


def test_behind_the_best_by_its_parts_come_the_best_that_were_sampled() -> None:
    of, drawn = model(), draw(3)
    upper(of, ONE, *drawn)
    prompts = [tuple(each) for each in np.concatenate(drawn[:2], axis=-1)[0].tolist()]
    predicted = np.array([value(of, prompt, 0.0) for prompt in prompts])
    residuals = (drawn[2][0] - predicted) - np.median(drawn[2][0] - predicted)
    values = {p: value(of, p, r) for p, r in zip(prompts, residuals, strict=True)}
    best = tuple(np.concatenate(of.best(0, EVERYTHING, 0)).tolist())
    expected = sorted(set(values) - {best}, key=lambda prompt: values[prompt])
    found = [
        tuple(np.concatenate(of.best(0, EVERYTHING, rank + 1)).tolist())
        for rank in range(len(expected))
    ]
    assert found == expected
    last = of.best(0, EVERYTHING, len(expected) + 1)
    assert tuple(np.concatenate(last).tolist()) == best, "as there is no other"


@pytest.mark.parametrize(("share", "order"), [(0.9, [1, 2]), (1.1, [2, 1])])
def test_a_part_of_a_sampled_prompts_residual_is_believed(share: float, order: list[int]) -> None:
    of, allowed = Additive((1, 1, 3), (1, 1, 1)), np.ones((1, 1), dtype=bool)
    of.effects[0] = [-1.0, -0.6, 0.0, 0.0]
    of.sampled[0, :2], of.residuals[0, 0] = [[2, 0], [1, 0]], -0.6 * share / BELIEVED
    found = [of.best(0, allowed, rank)[0].item() for rank in range(3)]
    assert found == [0, *order]


def test_one_prompt_that_did_well_beyond_its_parts_is_remembered() -> None:
    of, lucky = model(), (1, 2, 3, 1, 4)
    for seed in range(20):
        words, shown, losses = draw(seed)
        words[0, 0], shown[0, 0] = lucky[:M], lucky[M:]
        losses[0, 0] -= 6.0
        for row, (of_row, others) in enumerate(zip(words[0, 1:], shown[0, 1:], strict=True)):
            # Its parts do as badly elsewhere as they do well together.
            shared = sum(of_row == lucky[:M]) + sum(others == lucky[M:])
            losses[0, row + 1] += 3.0 * shared
        lower(of, ONE, words, shown, losses)
    words, shown = of.best(0, EVERYTHING, 1)
    assert (*words.tolist(), *shown.tolist()) == lucky


def test_of_a_prompt_that_comes_again_the_newest_residual_counts() -> None:
    of, (words, shown, losses) = model(), draw(3)
    prompts = [tuple(each) for each in np.concatenate((words, shown), axis=-1)[0].tolist()]
    for newest in (losses, -losses):
        upper(of, ONE, words, shown, newest)
        found = {
            tuple(prompt.astype(int).tolist()): residual
            for prompt, residual in zip(of.sampled[0], of.residuals[0], strict=True)
            if (prompt >= 0).all()
        }
        residuals = newest[0] - [value(of, prompt, 0.0) for prompt in prompts]
        residuals -= np.median(residuals)
        assert found == pytest.approx(dict(zip(prompts, residuals.tolist(), strict=True)))


def test_an_absurd_sample_makes_no_other_prompt_look_good() -> None:
    of, (words, shown, losses) = model(), draw(3)
    losses[0, 0] = 1e6
    upper(of, ONE, words, shown, losses)
    absurd = np.concatenate((words, shown), axis=-1)[0, 0]
    others = (of.sampled[0] >= 0).all(axis=-1) & (of.sampled[0] != absurd).any(axis=-1)
    assert others.sum() == SAMPLES - 1
    assert np.abs(of.residuals[0, others]).max() < 10


def test_a_prompt_is_remembered_once() -> None:
    of = model()
    for seed in range(10):
        words, shown, losses = draw(seed)
        words[0, :2], shown[0, :2] = 0, 0
        upper(of, ONE, words, shown, losses)
        known = of.sampled[0][(of.sampled[0] >= 0).all(axis=-1)]
        assert len(np.unique(known, axis=0)) == len(known) <= SAMPLED
        assert all(np.isfinite(array).all() for array in of.state), "as messages need it"
    assert len(known) == SAMPLED


def test_the_best_prompt_shows_what_the_worker_has() -> None:
    of = model()
    upper(of, ONE, *draw(0))
    allowed = np.array([[True] * 5, [False, True, False, True, False]])
    words_of = of.effects[0, : M * N].reshape(M, N)
    shown_of = np.where(allowed, of.effects[0, M * N :].reshape(U, V), np.inf)
    words, shown = of.best(0, allowed, 0)
    np.testing.assert_array_equal(words, words_of.argmin(axis=1))
    np.testing.assert_array_equal(shown, shown_of.argmin(axis=1))


def test_what_others_know_counts_and_is_part_of_the_state() -> None:
    of, resumed = model(), model()
    upper(of, ONE, *draw(0))
    allowed = np.ones((U, V), dtype=bool)
    alone = of.best(0, allowed, 0)[0]
    information = np.zeros((1, M, N))
    information[0, np.arange(M), (alone + 1) % N] = -1e6
    of.hear(ONE, np.full((1, M, N), 1e3), information)
    told = of.best(0, allowed, 0)[0]
    np.testing.assert_array_equal(told, (alone + 1) % N)
    for array, known in zip(resumed.state, of.state, strict=True):
        array[:] = known
    np.testing.assert_array_equal(resumed.best(0, allowed, 0)[0], told)
