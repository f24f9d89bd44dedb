import heapq
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import special, stats

from asyndbt_mpi.analysis import orderstatistics as order


def simulated(draw: Callable[[int], float], workers: int, active: int, iterations: int) -> float:
    """Seconds per iteration of the server's queue, message by message."""
    arrivals = [(draw(worker), worker) for worker in range(workers)]
    heapq.heapify(arrivals)
    ends = []
    for _ in range(iterations):
        used = []
        while len(used) < active:  # whatever is left in the heap counts for the next iteration
            end, worker = heapq.heappop(arrivals)
            used.append(worker)
        for worker in used:
            heapq.heappush(arrivals, (end + draw(worker), worker))
        ends.append(end)
    half = iterations // 2  # the start is forgotten
    return (ends[-1] - ends[half]) / (iterations - 1 - half)


def drawn(laws: Sequence[object]) -> Callable[[int], float]:
    """Draws of each worker's law, from one stream each."""
    generator = np.random.default_rng(3)

    def stream(law: stats.rv_continuous) -> object:
        while True:
            yield from law.rvs(10_000, random_state=generator).tolist()

    streams = [stream(law) for law in laws]
    return lambda worker: next(streams[worker])


def lognormal(mean: float = 1.0) -> object:
    return order.lognormal(mean, 1.0)


@pytest.mark.parametrize(
    ("law", "workers", "active", "slow"),
    [
        (lognormal, 4, 2, 0),
        (lognormal, 8, 4, 0),
        (lognormal, 32, 16, 0),
        (lognormal, 4, 3, 1),
        (lognormal, 8, 2, 1),
        (order.pareto, 4, 2, 0),
        (order.pareto, 8, 4, 0),
        (order.pareto, 8, 2, 1),
        (order.pareto, 8, 6, 1),
    ],
)
def test_agrees_with_a_simulation(
    law: Callable[[float], object], workers: int, active: int, slow: int
) -> None:
    groups = [order.Group(law(1.0), workers - slow)]
    if slow:
        groups.append(order.Group(law(10.0), slow))
    laws = [group.law for group in groups for _ in range(group.count)]
    measured = simulated(drawn(laws), workers, active, 30_000)
    assert order.predict(groups, active, 10**6) == pytest.approx(measured, rel=0.025)


@pytest.mark.parametrize("law", [lognormal, order.pareto, lambda mean: stats.expon(scale=mean)])
@pytest.mark.parametrize(("workers", "slow"), [(2, 0), (4, 1), (32, 0), (32, 1), (100, 0)])
def test_is_exact_for_one_report(law: Callable[[float], object], workers: int, slow: int) -> None:
    """With S = 1 every worker goes at its own pace: the rates add up. Holds the grid to 0.5 %."""
    groups = [order.Group(law(1.0), workers - slow), order.Group(law(10.0), slow)][: 1 + slow]
    rate = workers - slow + slow / 10
    assert order.predict(groups, 1, 10**6) == pytest.approx(1 / rate, rel=0.005)


@pytest.mark.parametrize("workers", [1, 4, 32])
def test_is_the_maximum_for_all_reports(workers: int) -> None:
    groups = [order.Group(order.pareto(2.0), workers)]
    maximum = workers * special.beta(workers, 0.5)  # of draws of mean 2, smallest value 1
    assert order.predict(groups, workers, 10**6) == pytest.approx(maximum, rel=0.005)
    slow = [order.Group(lognormal(), 7), order.Group(lognormal(10.0), 1)]
    draws = np.column_stack(
        [
            lognormal().rvs((100_000, 7), random_state=1).max(axis=1),
            lognormal(10.0).rvs(100_000, random_state=2),
        ]
    )
    assert order.predict(slow, 8, 10**6) == pytest.approx(draws.max(axis=1).mean(), rel=0.02)


@pytest.mark.parametrize("active", [1, 3, 7, 8])
def test_exponential_laws_forget(active: int) -> None:
    """Their remaining times are as good as fresh: the naive order statistic, in closed form."""
    groups = [order.Group(stats.expon(), 8)]
    harmonic = sum(1 / number for number in range(9 - active, 9))
    assert order.naive(groups, active) == pytest.approx(harmonic, rel=0.002)
    assert order.predict(groups, active, 10**6) == pytest.approx(harmonic, rel=0.002)


def test_fresh_draws_would_mislead() -> None:
    groups = [order.Group(order.pareto(1.0), 32)]
    assert order.naive(groups, 1) > 10 * order.predict(groups, 1, 10**6)


@pytest.mark.parametrize(
    ("workers", "active", "per_delay"),
    [(4, 1, 4), (4, 2, 2), (4, 3, 1), (4, 4, 1), (5, 2, 2), (5, 3, 1), (7, 2, 3), (8, 3, 2)],
)
def test_constant_delays_move_in_lock_step(workers: int, active: int, per_delay: int) -> None:
    """R reports come at once, floor(R / S) iterations use them, the rest waits for the next."""
    constant = [order.Group(np.array([0.3]), workers)]
    seconds = order.predict(constant, active, 3000 * per_delay + 1)
    assert seconds == pytest.approx(0.3 / per_delay, rel=1e-3)
    assert seconds == pytest.approx(simulated(lambda _: 0.3, workers, active, 3000), rel=5e-3)


@pytest.mark.parametrize("active", [1, 2, 3, 4, 5, 6])
def test_constant_delays_with_a_slow_worker(active: int) -> None:
    groups = [order.Group(np.array([1.0]), 5), order.Group(np.array([7.5]), 1)]
    measured = simulated(lambda worker: 7.5 if worker == 5 else 1.0, 6, active, 6000)
    assert order.predict(groups, active, 6000) == pytest.approx(measured, rel=0.005)


@pytest.mark.parametrize(("workers", "active"), [(4, 2), (5, 3), (8, 4)])
def test_little_variation_keeps_workers_together(workers: int, active: int) -> None:
    law = order.lognormal(1.0, 0.15)
    groups = [order.Group(law, workers)]
    measured = simulated(drawn([law] * workers), workers, active, 20_000)
    assert order.predict(groups, active, 5000) == pytest.approx(measured, rel=0.02)
    assert abs(order.independent(groups, active) / measured - 1) > 0.05


def test_samples_are_drawn_from() -> None:
    generator = np.random.default_rng(0)
    samples = [generator.gamma(2.0, 1.0 + worker, 400) for worker in range(4)]
    groups = [order.Group(sample, 1) for sample in samples]
    draws = [iter(generator.choice(sample, 40_000)) for sample in samples]
    measured = simulated(lambda worker: float(next(draws[worker])), 4, 2, 10_000)
    assert order.predict(groups, 2, 2000) == pytest.approx(measured, rel=0.02)


def test_a_short_run_starts_with_everyone_fresh() -> None:
    """Under a heavy tail the first iterations are faster than the long run's."""
    groups = [order.Group(lognormal(), 32)]
    runs = [simulated_from_start(groups[0].law, 32, 1, 100, seed) for seed in range(300)]
    assert order.predict(groups, 1, 100) == pytest.approx(np.mean(runs), rel=0.03)
    assert order.predict(groups, 1, 100) < 0.96 * order.predict(groups, 1, 10**6)


def simulated_from_start(
    law: stats.rv_continuous, workers: int, active: int, iterations: int, seed: int
) -> float:
    draws = iter(law.rvs(workers + iterations * active, random_state=seed))
    done = [next(draws) for _ in range(workers)]
    ends = []
    for _ in range(iterations):
        used = np.argsort(done)[:active]
        ends.append(done[used[-1]])
        for worker in used:
            done[worker] = ends[-1] + next(draws)
    return (ends[-1] - ends[0]) / (iterations - 1)


def test_poisson_binomial() -> None:
    finished = [np.array([0.3]), np.array([0.9])]
    fewer = order.fewer(finished, [2, 1], 2)
    none, one = 0.7**2 * 0.1, 2 * 0.3 * 0.7 * 0.1 + 0.7**2 * 0.9
    assert math.isclose(fewer[0], none + one)


@pytest.mark.parametrize(("first", "second", "active"), [(2, 3, 2), (40, 7, 20), (7, 40, 47)])
def test_sum_of_two_binomials(first: int, second: int, active: int) -> None:
    probabilities = np.array([[0.0, 1e-300, 0.2, 1.0], [0.0, 0.6, 0.5, 1.0]])
    numbers = np.arange(first + second + 1)
    laws = [
        np.convolve(stats.binom.pmf(numbers, first, p), stats.binom.pmf(numbers, second, q))
        for p, q in probabilities.T
    ]
    expected = [law[:active].sum() for law in laws]
    assert order.fewer(list(probabilities), [first, second], active) == pytest.approx(expected)


@pytest.mark.parametrize("active", [1, 1000, 1999])
def test_two_thousand_workers(active: int) -> None:
    """Exponential laws in closed form, alone and beside a worker that hardly matters."""
    harmonic = sum(1 / number for number in range(2001 - active, 2001))
    for groups in (
        [order.Group(stats.expon(), 2000)],
        [order.Group(stats.expon(), 1999), order.Group(stats.expon(scale=1.001), 1)],
    ):
        assert order.naive(groups, active) == pytest.approx(harmonic, rel=0.005)
        assert order.predict(groups, active, 10**6) == pytest.approx(harmonic, rel=0.005)


def test_two_thousand_constant_delays_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(order, "_draw")
    groups = [order.Group(np.array([3.0, 3.0]), 1000), order.Group(np.array([1.0]), 1000)]
    assert [order.naive(groups, active) for active in (1, 1000, 1001, 2000)] == [1, 1, 3, 3]


@pytest.mark.parametrize(("sigma", "assignments"), [(1.0, 45), (2.0, 30), (2.0, 400)])
def test_the_more_delays_vary_the_longer_the_start_counts(sigma: float, assignments: int) -> None:
    law, iterations = order.lognormal(1.0, sigma), 8 * assignments
    runs = [simulated_from_start(law, 8, 1, iterations, seed) for seed in range(400)]
    groups = [order.Group(law, 8)]
    assert order.predict(groups, 1, iterations) == pytest.approx(np.mean(runs), rel=0.05)
    assert order.predict(groups, 1, 10**6) == pytest.approx(1 / 8, rel=0.005)


def test_a_heavy_tail_needs_no_endless_run() -> None:
    groups = [order.Group(order.pareto(1.0), 8)]
    assert order.predict(groups, 2, 480) == order.independent(groups, 2)
    assert order.predict(groups, 2, 479) != order.independent(groups, 2)


def test_what_does_not_settle_is_said() -> None:
    with pytest.raises(ArithmeticError, match="S = 16, R = 32 do not settle within 200 passes"):
        order.independent(
            [order.Group(order.lognormal(mean, 4.0), count) for mean, count in ((1, 31), (10, 1))],
            16,
        )
