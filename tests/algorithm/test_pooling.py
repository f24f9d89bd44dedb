"""What workers learn from each other, against hand-worked cases and least squares."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.algorithm import pooling
from asyndbt_mpi.algorithm.additive import EXPLORED, TEMPERATURE, Additive
from asyndbt_mpi.algorithm.aggregation import OUTLYING
from asyndbt_mpi.algorithm.filtering import posterior
from asyndbt_mpi.algorithm.lower_level import LowerLevel, LowerSteps
from asyndbt_mpi.algorithm.pooling import CORRECTED, SPREADS, Pool

M, N, U, V, SAMPLES = 2, 4, 1, 3, 6
PRIOR = 2.0
UNKNOWN = 0.0, 0.0


def combine(own: tuple[float, float], others: tuple[float, float]) -> np.ndarray:
    """An effect and its variance, (2, G), by each of the spreads."""
    each = [posterior(*own, *others, spread * PRIOR, PRIOR) for spread in SPREADS.tolist()]
    return np.transpose(each)


def test_what_nobody_knows_is_the_prior() -> None:
    means, variances = combine(UNKNOWN, UNKNOWN)
    np.testing.assert_array_equal(means, np.zeros(len(SPREADS)))
    np.testing.assert_array_equal(variances, np.full(len(SPREADS), PRIOR))


def test_a_prior_by_hand() -> None:
    # The others: precision 3.5 and information 8 give 8 / (3.5 + 0.5) = 2 with variance 1 / 4.
    means, variances = combine(UNKNOWN, (3.5, 8.0))
    np.testing.assert_allclose(means, [2.0, 2.0, 0.0])
    np.testing.assert_allclose(variances, [0.1 * 2 + 0.25, 0.3 * 2 + 0.25, 2.0])


def test_effects_by_hand() -> None:
    own = 1.0, -1.0  # one sample that said -1
    effects, variances = combine(own, (3.5, 8.0))
    np.testing.assert_allclose(variances, [1 / (1 + 1 / 0.45), 1 / (1 + 1 / 0.85), 1 / 1.5])
    np.testing.assert_allclose(effects, variances * [-1 + 2 / 0.45, -1 + 2 / 0.85, -1])


def test_workers_that_do_not_differ_learn_as_one() -> None:
    """With tau = 0 the effects are those of ridge regression on everybody's samples."""
    generator = np.random.default_rng(0)
    samples = [generator.normal(1.0, 1.0, size) for size in (3, 5, 2)]
    known = [(float(len(each)), float(each.sum())) for each in samples]
    others = known[1][0] + known[2][0], known[1][1] + known[2][1]
    common = 1 / (others[0] + 1 / PRIOR)
    precision = known[0][0] + 1 / common
    effect = (known[0][1] + others[1] * common / common) / precision
    everything = np.concatenate(samples)
    assert effect == pytest.approx(everything.sum() / (len(everything) + 1 / PRIOR))
    assert combine(UNKNOWN, others)[0][0] == pytest.approx(others[1] * common)


def test_trust_is_the_likelihood() -> None:
    weights = pooling.trust(np.array([[0.0, np.log(2.0), np.log(4.0)]]))
    np.testing.assert_allclose(weights, [[4 / 7, 2 / 7, 1 / 7]])
    np.testing.assert_allclose(pooling.trust(np.array([[900.0, 0.0, 900.0]])), [[0, 1, 0]])


def test_corrected_gradients_add_up_to_the_newest_effects() -> None:
    generator = np.random.default_rng(1)
    told, total = np.zeros(3), np.zeros(3)
    for step in range(CORRECTED + 1):
        effects = generator.normal(size=3)
        total += pooling.corrected(effects, told, step)
        told = effects
    np.testing.assert_allclose(total, (CORRECTED + 1) * told)


reports = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(0, 2**32 - 1)),
    min_size=1, max_size=12,
)  # fmt: skip


@given(reports)
def test_the_pool_is_the_sum_of_the_newest(reports: list[tuple[int, int, int]]) -> None:
    pool, afresh = (Pool((4, M, N), PRIOR, SAMPLES) for _ in range(2))
    newest: dict[int, tuple[np.ndarray, ...] | None] = {}
    for worker, steps, seed in reports:
        generator = np.random.default_rng(seed)
        if seed % 5 == 0:
            pool.forget(worker)
            newest[worker] = None
            continue
        precision = generator.uniform(0, 2 * SAMPLES * steps, (1, M, N))
        information = generator.normal(0, 50, (1, M, N))
        trust = generator.dirichlet(np.ones(len(SPREADS)))[None]
        report = np.array([steps]), precision, information, trust
        pool.take(np.array([worker]), *report)
        newest[worker] = report
        assert (pool.precision[worker] <= SAMPLES * steps).all()
    for worker in range(4):
        rest = [other for other in range(4) if other != worker]
        precision, information = pool.others(np.array([worker]))
        np.testing.assert_allclose(precision[0], pool.precision[rest].sum(0), atol=1e-9)
        np.testing.assert_allclose(information[0], pool.information[rest].sum(0), atol=1e-9)
    known = pool.effects[pool.known]
    expected = known.mean(axis=0) if len(known) else np.zeros((M, N))
    np.testing.assert_allclose(pool.step(), expected, atol=1e-9)
    for worker, last in newest.items():
        if last is None:
            afresh.forget(worker)
        else:
            afresh.take(np.array([worker]), *last)
    np.testing.assert_allclose(pool.precision, afresh.precision)
    np.testing.assert_allclose(pool.information, afresh.information)
    for each in (pool, afresh):
        each.forget(0)  # brings everybody's effects up to date
    np.testing.assert_allclose(pool.effects, afresh.effects, atol=1e-9)


@pytest.mark.parametrize("trust", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.1, 0.4)])
def test_the_pool_believes_others_as_far_as_the_worker_does(trust: tuple[float, ...]) -> None:
    """The first word is that of `test_effects_by_hand`; the second keeps both from being cut."""
    pool, nobody = Pool((2, 1, 2), PRIOR, SAMPLES), np.zeros((1, len(SPREADS)))
    one, step = np.array([1]), np.array([1])
    pool.take(np.array([0]), step, np.array([[[3.5, 1.0]]]), np.array([[[8.0, 3.0]]]), nobody)
    own = np.array([[[1.0, 1.0]]]), np.array([[[-1.0, 3.0]]])
    pool.take(one, step, *own, np.array([trust]))
    of_each = [(-1 + 2 / 0.45) / (1 + 1 / 0.45), (-1 + 2 / 0.85) / (1 + 1 / 0.85), -1 / 1.5]
    assert pool.effects[1, 0, 0] == pytest.approx(np.dot(trust, of_each))
    pool.take(one, step, *own, nobody)
    assert pool.effects[1, 0, 0] == pytest.approx(np.mean(of_each)), "no trust at all is even"


def test_the_pools_gradients_add_up_to_what_it_now_says() -> None:
    pool, generator, total = Pool((2, M, N), PRIOR, SAMPLES), np.random.default_rng(2), 0.0
    trust = np.full((1, len(SPREADS)), 1 / 3)
    for step in range(1, CORRECTED + 1):
        report = generator.uniform(0, 3, (1, M, N)), generator.normal(size=(1, M, N)), trust
        pool.take(np.array([step % 2]), np.array([step]), *report)
        total = total + pool.step()
    np.testing.assert_allclose(total, CORRECTED * pool.effects.mean(axis=0), atol=1e-10)


@pytest.mark.parametrize("lie", [1e6, -1e6, 1e100])
def test_one_liar_moves_the_others_and_z_by_a_bounded_amount(lie: float) -> None:
    pool = Pool((3, M, N), PRIOR, SAMPLES)
    shape, trust = (1, M, N), np.full((1, len(SPREADS)), 1 / 3)
    honest = np.full(shape, 10.0), np.full(shape, 5.0)
    for worker in (0, 1):
        pool.take(np.array([worker]), np.array([4]), *honest, trust)
    before = np.abs(pool.effects[:2]).max()
    pool.take(np.array([2]), np.array([4]), np.full(shape, 1e12), np.full(shape, lie), trust)
    bound = OUTLYING * 5.0 / 10.5  # of what the median worker says
    precision, information = (each[0, 0, 0] for each in pool.others(np.array([0])))
    assert np.abs(combine(UNKNOWN, (precision, information))[0]).max() <= bound + 1e-9
    assert np.abs(pool.step()).max() <= (2 * before + bound) / 3 + 1e-9
    pool.forget(2)
    np.testing.assert_allclose(pool.others(np.array([0]))[0], honest[0], rtol=1e-9)


@pytest.mark.parametrize("lie", [1e6, 1e115])
@pytest.mark.parametrize("workers", [2, 4])
def test_a_liar_that_reports_first_leaves_no_trace(lie: float, workers: int) -> None:
    pool, without = (Pool((workers, M, N), PRIOR, SAMPLES) for _ in range(2))
    shape, trust, steps = (1, M, N), np.full((1, len(SPREADS)), 1 / 3), np.array([4])
    lies = np.full(shape, lie)
    pool.take(np.array([0]), steps, np.full(shape, 1e12), lies, trust)
    assert not pool.step().any()  # nobody confirms it
    for worker in range(1, workers):
        honest = np.full(shape, 10.0), np.full(shape, 5.0 + worker)
        for each in (pool, without):
            each.take(np.array([worker]), steps, *honest, trust)
    pool.forget(0)
    without.forget(0)
    one = np.array([1])
    for found, due in zip(pool.others(one), without.others(one), strict=True):
        np.testing.assert_array_equal(found, due)
    np.testing.assert_array_equal(pool.effects, without.effects)


def test_many_losses_do_not_silence_the_others() -> None:
    pool = Pool((5, M, N), PRIOR, SAMPLES)
    shape, trust = (1, M, N), np.full((1, len(SPREADS)), 1 / 3)
    for worker in range(5):
        honest = np.full(shape, 10.0), np.full(shape, 5.0)
        pool.take(np.array([worker]), np.array([4]), *honest, trust)
    for worker in range(4):
        pool.forget(worker)
    np.testing.assert_allclose(pool.information[4], 5.0)


def draw(generator: np.random.Generator, effects: np.ndarray, shown: np.ndarray) -> tuple:
    words = generator.integers(0, N, (1, SAMPLES, M))
    demonstrations = generator.integers(0, V, (1, SAMPLES, U))
    losses = effects[np.arange(M), words].sum(-1) + shown[np.arange(U), demonstrations].sum(-1)
    return words, demonstrations, losses + generator.normal(0, 0.3, (1, SAMPLES))


def learn(own: np.ndarray, others: np.ndarray, steps: int, seed: int) -> tuple[Additive, float]:
    """A worker whose effects are ``own`` hears for so many steps from 20 that have ``others``."""
    generator = np.random.default_rng(seed)
    model, one = Additive((1, M, N), (1, U, V)), np.array([0])
    shown, error = generator.normal(size=(U, V)), 0.0
    p, q = np.full((1, M, N), 1 / N), np.full((1, U, V), 1 / V)
    for step in range(steps):
        precision = np.full((1, M, N), 20.0 * (step + 1))
        model.hear(one, precision, precision * others)
        model.upper(one, p, q, *draw(generator, own, shown))
        known = model._known(one)[0][0, : M * N].reshape(M, N)
        centred = known - own - (known - own).mean(axis=1, keepdims=True)
        error += float(np.abs(centred).mean()) / steps
    return model, error


def centred_effects(seed: int) -> np.ndarray:
    effects = np.random.default_rng(seed).normal(size=(M, N))
    return effects - effects.mean(axis=1, keepdims=True)


def test_who_is_like_the_others_learns_faster() -> None:
    own, nothing = centred_effects(3), np.zeros((M, N))
    model, together = learn(own, own, 4, seed=0)
    alone = Additive((1, M, N), (1, U, V))
    generator, error = np.random.default_rng(0), 0.0
    shown = generator.normal(size=(U, V))
    for _ in range(4):
        alone.upper(
            np.array([0]), np.full((1, M, N), 1 / N), np.full((1, U, V), 1 / V),
            *draw(generator, own, shown),
        )  # fmt: skip
        difference = alone.effects[0, : M * N].reshape(M, N) - own
        error += float(np.abs(difference - difference.mean(axis=1, keepdims=True)).mean()) / 4
    assert together < 0.7 * error
    assert nothing.any() == 0
    assert pooling.trust(model.scores)[0, 0] > pooling.trust(model.scores)[0, -1]


def test_bad_advice_does_not_last() -> None:
    own = centred_effects(4)
    model, _ = learn(own, -3 * own, 12, seed=1)
    assert pooling.trust(model.scores)[0, -1] > 0.99
    known = model._known(np.array([0]))[0][0, : M * N].reshape(M, N)
    np.testing.assert_allclose(known - known.mean(axis=1, keepdims=True), own, atol=0.35)


def test_a_precision_counts_samples() -> None:
    generator = np.random.default_rng(5)
    model = Additive((1, M, N), (1, U, V))
    for step in range(1, 9):
        model.upper(
            np.array([0]), np.full((1, M, N), 1 / N), np.full((1, U, V), 1 / V),
            *draw(generator, centred_effects(6), np.zeros((U, V))),
        )  # fmt: skip
        precision, _, trust = model.knowledge(np.array([0]))
        assert (precision >= 0).all()
        assert (precision <= SAMPLES * step).all(), "what the server allows"
        assert trust.sum() == pytest.approx(1.0)


def test_exploration_draws_what_may_be_best() -> None:
    model = Additive((1, M, N), (1, U, V))
    model.effects[0] = [*np.tile([0.0, -1.0, 0.0, 0.0], M).tolist(), -9.0, 0.0, 0.0]
    model.variances[0], model.scale[0] = 1e-8, 1.0
    samples = 4000
    words = np.full((1, samples, M), 3)
    shown = np.full((1, samples, U), 2)
    allowed = np.array([[[False, True, True]]])
    model.explore(np.array([0]), allowed, words, shown, [np.random.default_rng(0)])
    assert set(np.unique(words)) == {1, 3}, "the best of the model, or what was drawn from p"
    assert (words == 1).mean() == pytest.approx(EXPLORED, abs=0.03)
    assert 0 not in shown, "a demonstration that the worker does not have"


@pytest.mark.parametrize("scale", [1.0, 9.0])
@pytest.mark.parametrize("variances", [(1.0, 1.0), (1e-6, 2.0)])
def test_exploration_draws_by_the_chance_to_be_best(
    variances: tuple[float, float], scale: float
) -> None:
    model = Additive((1, 1, 2), (1, 1, 2))
    model.effects[0], model.scale[0] = [0.0, 1.0] * 2, scale
    model.variances[0] = variances * 2
    words, shown = (np.zeros((1, 8000, 1), dtype=int) for _ in range(2))
    allowed = np.ones((1, 1, 2), dtype=bool)
    model.explore(np.array([0]), allowed, words, shown, [np.random.default_rng(1)])
    # The second is best if its effect, 1 on average, comes out below that of the first.
    difference = NormalDist(1.0, TEMPERATURE * np.sqrt(scale * sum(variances)))
    for drawn in (words, shown):
        assert drawn.mean() == pytest.approx(EXPLORED * difference.cdf(0.0), abs=0.02)


def test_exploration_is_as_certain_as_all_that_is_known() -> None:
    """The others' 1 has the variance 0.1 * 2.5 + 1 / (39.6 + 0.4) by the first spread."""
    model = Additive((1, 1, 2), (1, 1, 2))
    model.hear(np.array([0]), np.full((1, 1, 2), 39.6), np.array([[[0.0, 40.0]]]))
    model.scores[0], model.scale[0] = [0.0, 999.0, 999.0], 9.0
    words, shown = (np.zeros((1, 8000, 1), dtype=int) for _ in range(2))
    allowed = np.ones((1, 1, 2), dtype=bool)
    model.explore(np.array([0]), allowed, words, shown, [np.random.default_rng(1)])
    difference = NormalDist(1.0, TEMPERATURE * np.sqrt(9.0 * 2 * 0.275))
    assert words.mean() == pytest.approx(EXPLORED * difference.cdf(0.0), abs=0.02)


def lower_level(p: np.ndarray, psi: float = 0.0) -> LowerLevel:
    live = np.ones(len(p), dtype=bool)
    return LowerLevel.start(p, p.mean(axis=0), live, LowerSteps(9.0, 9.0, 0.5, psi))


def test_one_round_of_a_model_by_hand() -> None:
    p = np.array([[[0.5, 0.5]], [[0.3, 0.7]]])
    gradients = np.array([[[0.1, -0.1]], [[0.0, 0.2]]])
    lower = lower_level(p)
    lower.solve(gradients, 1)
    # (8) with eta = 1 / mu = 2: p - 2 (A + mu (p - z)) = z - 2 A, z = (0.4, 0.6).
    np.testing.assert_allclose(lower.p, [[[0.2, 0.8]], [[0.6, 0.4]]])
    # (9) with eta = 1 / (mu R): the mean of p, as rho is 0; then (10) with eta = mu.
    np.testing.assert_allclose(lower.z, [[0.4, 0.6]])
    np.testing.assert_allclose(lower.rho, 0.5 * (lower.p - lower.z))


@pytest.mark.parametrize("seed", range(5))
def test_rounds_of_a_model_end_at_the_best_shared_words(seed: int) -> None:
    """(4) for linear g: the vertex at which sum_v A_v is least, found by enumeration."""
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(N), (5, M))
    gradients = generator.normal(size=(5, M, N))
    lower = lower_level(p)
    lower.solve(gradients, 600)
    best = np.eye(N)[gradients.sum(axis=0).argmin(axis=1)]
    np.testing.assert_allclose(lower.z, best, atol=1e-6)
    np.testing.assert_allclose(lower.p, np.repeat(best[None], 5, axis=0), atol=1e-6)


def test_who_is_not_live_stays_where_it_is() -> None:
    p = np.random.default_rng(7).dirichlet(np.ones(N), (3, M))
    lower = lower_level(p)
    lower.live[1] = False
    lower.solve(np.ones((3, M, N)) * np.arange(N), 5)
    np.testing.assert_array_equal(lower.p[1], p[1])
    assert not np.array_equal(lower.p[0], p[0])
