"""How long an iteration takes when it ends with the S-th of R reports: the prediction.

The S workers that reported start anew at once; the other R - S go on with what they are doing.
So an iteration lasts the S-th smallest of the workers' *remaining* seconds, not of R fresh draws:
the latter, `naive`, is right for S = R and for exponential laws only.

`independent` finds the laws of the remaining seconds as a fixed point, in which workers are
independent of each other at the start of an iteration. Seen by worker v, while it computes,
iterations take independent times T_1, T_2, ...: the S-th smallest of the others' remaining
seconds. It lasts beyond a number of them, so with F_v(x) = P(fresh seconds > x) and
M(t) = sum over k of P(T_1 + ... + T_k <= t), the renewal function of T, its remaining seconds obey

    P(remaining > x)  is proportional to  F_v(x) + integral of F_v(t + x) dM(t).

It is exact for S = 1 (superposed renewal processes), S = R (the maximum) and exponential laws.
Otherwise workers are not quite independent, for those that started together stay together for a
while. Against simulations with R = 4, 8, 32 and S = 1, 2, R/2, R - 1, R it is off by at most
0.3 % (lognormal, sigma 1) and 1.3 % (Pareto, tail index 2); with one worker that is 10 times
slower 0.3 % and 1.9 % (the latter at R = 4, S = 2), with two 2.3 % (R = 32, S = 31). The worst
found is 2.3 %, also at R = 3, S = 2. The smaller the variation, the longer they stay together: at
R = 5, S = 3 it is off by 1.5 % for a lognormal law with sigma 0.5, by 5 % with 0.3 and by 15 %
with 0.1. So below `LEAST_VARIATION`, for laws that are known from a sample only, and for runs too
short to forget the common start, `predict` draws the schedule itself (`scheduled`). The start:
workers that begin with fresh draws each report (CV^2 - 1) / 2 more often than in the long run, CV
being the standard deviation over the mean (Cox, Renewal Theory, 1962, section 4.2).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import integrate, linalg, special, stats

TAIL_INDEX = 2.0
"""Of the Pareto law of delays: a finite mean, an infinite variance."""
LEAST_VARIATION = 0.5
"""Standard deviation over mean, from which on workers are taken to be independent."""
FEWEST_ASSIGNMENTS = 30
"""Per worker and unit of CV^2 (of 1 at least), from which on a run is long: the start then shifts
the mean by about 1 / (2 * 30) at most."""
INFINITE_VARIATION = 4.0
"""Stands for the CV^2 of laws with infinite variance. With tail index 2 the start counts for
log(assignments) / 4 only: from 4 * 30 on it was found to shift the mean by at most 1.2 %."""
EVEN_POINTS, QUANTILE_POINTS, REFINEMENT = 260, 60, 16
LONGEST_LOGIT = 22.0
"""Quantiles of the grid end at about 3e-10 and 1 - 3e-10."""
TOLERANCE, MOST_PASSES = 1e-5, 200
DRAWN_ITERATIONS, MOST_DRAWN_IN_A_ROW, BLOCK = 60_000, 2_000, 16
MOST_NUMBERS = 1_000_000
"""Drawn at a time, which bounds the memory where workers are many."""

Law: TypeAlias = Any
"""Seconds that an assignment takes: a frozen distribution of scipy.stats, or a sample (n,)."""


@dataclass(frozen=True)
class Group:
    """``count`` workers whose assignments take seconds of the same ``law``."""

    law: Law
    count: int


def lognormal(mean: float, sigma: float) -> Law:
    """mean * exp(sigma * N - sigma^2 / 2), N standard normal."""
    return stats.lognorm(sigma, scale=mean * math.exp(-(sigma**2) / 2))


def pareto(mean: float) -> Law:
    """Pareto law with tail index 2; its smallest value is half its mean."""
    return stats.pareto(TAIL_INDEX, scale=mean * (TAIL_INDEX - 1) / TAIL_INDEX)


def predict(groups: Sequence[Group], active: int, iterations: int) -> float:
    """Expected seconds of an iteration that ends with the ``active``-th report.

    Laws with a density and enough variation: in the long run, by `independent`. Else, and where
    ``iterations`` are few, their mean from a common start, by `scheduled`.
    """
    workers = sum(_counts(groups))
    if active == workers:
        return naive(groups, active)
    long = _long(groups, active)
    if iterations >= long and all(_varies(group.law) for group in groups):
        return independent(groups, active)
    if not all(_certain(group.law) for group in groups):
        iterations = min(iterations, max(long, MOST_DRAWN_IN_A_ROW))
    return scheduled(groups, active, iterations)


def naive(groups: Sequence[Group], active: int) -> float:
    """Expected ``active``-th smallest of fresh draws, one for every worker; seconds."""
    if all(_certain(group.law) for group in groups):
        seconds = np.repeat([group.law[0] for group in groups], _counts(groups))
        return float(np.sort(seconds)[active - 1])
    if any(isinstance(group.law, np.ndarray) for group in groups):
        generator, rows = _generator(), max(1, MOST_NUMBERS // sum(_counts(groups)))
        means = []
        for _ in range(math.ceil(DRAWN_ITERATIONS / rows)):
            drawn = np.partition(_draw(groups, rows, generator), active - 1, axis=1)
            means.append(drawn[:, active - 1].mean())
        return float(np.mean(means))
    x = _grid(groups)
    return _integral(fewer([group.law.cdf(x) for group in groups], _counts(groups), active), x)


def independent(groups: Sequence[Group], active: int) -> float:
    """Seconds per iteration in the long run, workers being independent; needs S < R.

    Iterates the law of the remaining seconds (see above) until the expectation settles.

    Raises
    ------
    ArithmeticError
        It does not, as may happen where delays vary very much.
    """
    counts = _counts(groups)
    x = _grid(groups)
    renewal = _Renewal(x, [group.law for group in groups])
    fresh = [group.law.sf(x) for group in groups]
    remaining = fresh.copy()
    seconds = math.inf
    for _ in range(MOST_PASSES):
        finished = [1 - survival for survival in remaining]
        previous, seconds = seconds, _integral(fewer(finished, counts, active), x)
        if abs(seconds - previous) <= TOLERANCE * seconds:
            return seconds
        for own, survival in enumerate(fresh):
            others = [count - (group == own) for group, count in enumerate(counts)]
            law_of_iteration = 1 - fewer(finished, others, active)
            lasting = survival + renewal.integral(law_of_iteration, own)
            # Half the step: a whole one swings without end where delays vary much.
            remaining[own] = (remaining[own] + lasting / lasting[0]) / 2
    raise ArithmeticError(
        f"the seconds of an iteration with S = {active}, R = {sum(counts)} do not settle within"
        f" {MOST_PASSES} passes; laws that vary less are needed"
    )


def fewer(finished: Sequence[np.ndarray], counts: Sequence[int], active: int) -> np.ndarray:
    """P(fewer than ``active`` workers have finished), (n,): a Poisson-binomial law.

    ``finished`` (n,) for each group is the probability that one of its workers has.
    """
    pairs = zip(finished, counts, strict=True)
    *small, (largest, most) = sorted(pairs, key=lambda pair: pair[1])
    total = np.ones((1, len(largest)))
    for probability, count in small:
        numbers = np.arange(min(count + 1, active))[:, None]
        # scipy.stats.binom.pmf overflows where the probability is tiny, its logarithm does not.
        total = _convolved(total, np.exp(stats.binom.logpmf(numbers, count, probability)), active)
    left = active - 1 - np.arange(len(total))[:, None]
    few = special.betaincc(left + 1, np.maximum(most - left, 1), largest)
    chance: np.ndarray = (total * np.where(left < most, few, 1.0)).sum(axis=0)
    return chance


def _convolved(first: np.ndarray, second: np.ndarray, size: int) -> np.ndarray:
    """Laws of the sums of two numbers, (at most ``size``, n); one column for each pair of laws."""
    shorter, longer = sorted((first, second), key=len)
    total = np.zeros((min(len(shorter) + len(longer) - 1, size), longer.shape[1]))
    for number, law in enumerate(shorter):
        total[number : number + len(longer)] += longer[: len(total) - number] * law
    return total


def scheduled(groups: Sequence[Group], active: int, iterations: int) -> float:
    """Mean seconds between ``iterations`` (2 at least) from a common start, by drawing each report.

    Laws without variation need one schedule, and there the result is no estimate. Reports that
    come at the same moment count in the order in which their assignments were given, then in
    that of the workers; those that come too late for an iteration count for the next one.
    """
    generator = _generator()
    schedules = 1
    if not all(_certain(group.law) for group in groups):
        most = max(1, MOST_NUMBERS // sum(_counts(groups)))
        schedules = min(math.ceil(DRAWN_ITERATIONS / iterations), most)
    draws = _draws(groups, schedules, generator)
    done = next(draws).copy()
    given = np.zeros(done.shape, dtype=int)
    first = now = np.zeros((schedules, 1))
    for iteration in range(iterations):
        used = np.lexsort((given, done))[:, :active]
        now = np.take_along_axis(done, used[:, -1:], axis=1)
        if iteration == 0:
            first = now
        fresh = np.take_along_axis(next(draws), used, axis=1)
        np.put_along_axis(done, used, now + fresh, axis=1)
        np.put_along_axis(given, used, iteration + 1, axis=1)
    return float((now - first).mean() / (iterations - 1))


def _long(groups: Sequence[Group], active: int) -> int:
    """Iterations from which on a run has forgotten its start."""
    variation = max(1.0, *(_squared_variation(group.law) for group in groups))
    return math.ceil(FEWEST_ASSIGNMENTS * variation * sum(_counts(groups)) / active)


def _squared_variation(law: Law) -> float:
    """CV^2: the variance over the squared mean."""
    if _certain(law):
        return 0.0
    squared = float(law.var() / law.mean() ** 2)
    return squared if math.isfinite(squared) else INFINITE_VARIATION


def _certain(law: Law) -> bool:
    return isinstance(law, np.ndarray) and bool(law.min() == law.max())


def _varies(law: Law) -> bool:
    return not isinstance(law, np.ndarray) and bool(law.std() >= LEAST_VARIATION * law.mean())


def _counts(groups: Sequence[Group]) -> list[int]:
    return [group.count for group in groups]


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)


def _draw(groups: Sequence[Group], rows: int, generator: np.random.Generator) -> np.ndarray:
    """Fresh seconds for every worker, (rows, R)."""
    blocks = []
    for group in groups:
        shape = (rows, group.count)
        if isinstance(group.law, np.ndarray):
            blocks.append(generator.choice(group.law, shape))
        else:
            blocks.append(group.law.rvs(shape, random_state=generator))
    return np.concatenate(blocks, axis=1)


def _draws(
    groups: Sequence[Group], rows: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """`_draw` again and again, many at a time."""
    block = min(BLOCK, max(1, MOST_NUMBERS // (rows * sum(_counts(groups)))))
    while True:
        yield from _draw(groups, block * rows, generator).reshape(block, rows, -1)


def _grid(groups: Sequence[Group]) -> np.ndarray:
    """Moments from 0 to beyond the longest delay, ascending, (n,).

    Points at quantiles follow the laws. The others lie even near 0, where iterations end that
    need few of many workers, and at equal ratios farther out, for the tails.
    """
    levels = special.expit(np.linspace(-LONGEST_LOGIT, LONGEST_LOGIT, QUANTILE_POINTS))
    quantiles = [np.append(group.law.isf(levels), group.law.support()[0]) for group in groups]
    longest = max(points.max() for points in quantiles)
    shortest = min(group.law.median() for group in groups) / (20 * sum(_counts(groups)))
    even = shortest * np.sinh(np.linspace(0, np.arcsinh(longest / shortest), EVEN_POINTS))
    return np.unique(np.concatenate([even, *quantiles]))


def _integral(survival: np.ndarray, x: np.ndarray) -> float:
    return float(np.trapezoid(survival, x))


class _Renewal:
    """Integrals against renewal functions M = Q + the integral of M(x - t) dQ(t), on a grid (n,).

    M is linear between the points, and the survival functions are integrated on a finer grid: a
    kink in one of them would otherwise cost accuracy where iterations are short.
    """

    def __init__(self, x: np.ndarray, laws: Sequence[Law]) -> None:
        size = len(x)
        earlier = np.maximum(x[:, None] - x, 0)  # below 0 nothing gets a weight
        left = np.clip(np.searchsorted(x, earlier, side="right") - 1, 0, size - 2)
        self._widths = np.diff(x)
        self._share = (earlier - x[left]) / self._widths[left]
        self._inside = np.tri(size)
        place = (np.arange(size)[:, None] * size + left).ravel()
        self._places = np.concatenate([place, place + 1])
        fine = np.interp(np.arange(0, size - 1, 1 / REFINEMENT), np.arange(size), x)
        later = x[:, None] + x
        self._areas = [
            np.diff(np.interp(later, fine, _running_integral(law.sf(fine), fine)), axis=0)
            for law in laws
        ]

    def integral(self, law_of_iteration: np.ndarray, group: int) -> np.ndarray:
        """Integral of F(t + x) dM(t), (n,), for Q (n,) and the survival function F of a group."""
        size = len(law_of_iteration)
        weight = _increments(law_of_iteration) * self._inside
        values = np.concatenate([weight * (1 - self._share), weight * self._share]).ravel()
        kernel = np.bincount(self._places, values, size * size).reshape(size, size)
        renewals = linalg.solve_triangular(np.eye(size) - kernel, law_of_iteration, lower=True)
        integral: np.ndarray = np.diff(renewals) / self._widths @ self._areas[group]
        return integral


def _running_integral(function: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(integrate.cumulative_trapezoid(function, x, initial=0))


def _increments(function: np.ndarray) -> np.ndarray:
    """What each point of the grid gets of the increments around it, half of each, (n,)."""
    halves = np.diff(function) / 2
    return np.append(halves, 0) + np.insert(halves, 0, 0)
