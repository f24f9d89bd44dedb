"""How far a mean over test rows can be trusted: accuracies, differences, 95 % intervals.

The rows are a sample of all the rows there might be. Workers that answer the same rows add no
rows: a row counts once, with the mean of what the workers made of it. Counting it once for each
worker would make every interval too narrow.

Where workers may lie, what stands for their mean is the rule of the run's `[defence]`, on each
worker's mean over the rows. Intervals and p-values are of the rows alone: by how much liars have
moved that mean, within the spread of the honest, is in none of them.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np

from asyndbt_mpi.algorithm.aggregation import PLAIN, Aggregation
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray

CONFIDENCE = 0.95
QUANTILE = 1.959963984540054
"""Of the normal distribution, at (1 + `CONFIDENCE`) / 2."""
RESAMPLES = 5000
BLOCK = 1 << 20
"""Rows drawn at once."""
ROUNDING = 1e-12
"""By as much a mean may differ from one of the same answers in another order."""


class Interval(NamedTuple):
    """A mean, and the ends of its interval."""

    value: float
    low: float
    high: float


def accuracy(right: BoolArray, aggregation: Aggregation = PLAIN) -> Interval:
    """Share of ``right`` (W, B), the answers of W workers to the same B rows, after Wilson.

    The W B answers are worth as many independent ones as would give the variance that is seen
    between rows: B for a single worker, or if all workers answer alike, and W B at most (Dean and
    Pagano, Journal of Survey Statistics and Methodology 3, 2015). Where workers may lie, by the
    ``aggregation``, they are worth B, for by answers unlike the others' liars would narrow the
    interval.

    Raises
    ------
    ValueError
        There is no answer.
    """
    _check(right)
    workers, rows = right.shape
    mean, variance = float(right.mean()), float(right.mean(axis=0).var())
    count = float(rows)
    if not aggregation.is_mean:
        mean = float(aggregation.mean(right.mean(axis=1)))
    elif 0 < mean < 1:
        most = float(workers * rows)
        count = min(most, rows * mean * (1 - mean) / variance) if variance > 0 else most
    centre = mean + QUANTILE**2 / (2 * count)
    half = QUANTILE * math.sqrt(mean * (1 - mean) / count + QUANTILE**2 / (4 * count**2))
    scale = 1 + QUANTILE**2 / count
    low, high = (centre - half) / scale, (centre + half) / scale
    # Without this, rounding could push an end over the mean, or over 0 or 1.
    return Interval(mean, max(min(low, mean), 0.0), min(max(high, mean), 1.0))


def difference(
    first: FloatArray | BoolArray,
    second: FloatArray | BoolArray,
    aggregation: Aggregation = PLAIN,
) -> Interval:
    """Mean of ``first`` less that of ``second``, (W, B) each, paired over the B rows.

    Columns are the same rows in both. Both have the same workers, or one has a single one that
    answered for all. The interval is that of the percentile bootstrap over rows, always from the
    same draws; the ``aggregation`` takes what each worker makes of all of them for its report.

    Raises
    ------
    ValueError
        There is no answer, or the rows or workers differ.
    """
    if aggregation.is_mean:
        of_rows = _differences(first, second)
        value = float(of_rows.mean())
        means = np.concatenate([of_rows[drawn].mean(axis=1) for drawn in _draws(len(of_rows))])
    else:
        of_workers = _of_workers(first, second)
        rows = of_workers.shape[1]
        weights = chain([np.ones((1, rows))], map(_counts, _draws(rows)))
        aggregated = _aggregated(of_workers, weights, aggregation)
        value, means = float(aggregated[0]), aggregated[1:]
    tail = (1 - CONFIDENCE) / 2
    places = np.array([tail, 1 - tail]) * (RESAMPLES - 1)
    # Not by np.quantile, which takes longer to load what it needs than to find them.
    low, high = np.interp(places, np.arange(RESAMPLES), np.sort(means)).tolist()
    return Interval(value, low, high)


def _draws(rows: int) -> Iterable[IntArray]:
    """Numbers of the rows in each resample, (n, ``rows``), in blocks of at most `BLOCK`."""
    block = max(1, BLOCK // rows)
    if block >= RESAMPLES:
        return [_all_draws(rows, RESAMPLES)]
    generator = np.random.Generator(np.random.Philox(key=0))
    return (
        generator.integers(rows, size=(min(block, RESAMPLES - start), rows))
        for start in range(0, RESAMPLES, block)
    )


def _counts(drawn: IntArray) -> FloatArray:
    """How often each of the B rows is in each resample of ``drawn`` (n, B); (n, B)."""
    count, rows = drawn.shape
    places = drawn + rows * np.arange(count)[:, None]
    return np.bincount(places.ravel(), minlength=count * rows).reshape(count, rows).astype(float)


def _aggregated(
    of_workers: FloatArray, weights: Iterable[FloatArray], aggregation: Aggregation
) -> FloatArray:
    """One mean for each of the ``weights`` (n, B) of rows, over ``of_workers`` (W, B); all n."""
    means = [of_workers @ each.T for each in weights]
    one: FloatArray = aggregation.mean(np.concatenate(means, axis=1) / of_workers.shape[1])
    return one


@lru_cache(maxsize=1)
def _all_draws(rows: int, resamples: int) -> IntArray:
    """Kept, because a run has dozens of differences on the same rows."""
    generator = np.random.Generator(np.random.Philox(key=0))
    return generator.integers(rows, size=(resamples, rows))


def mean(values: FloatArray) -> Interval:
    """Mean of ``values`` (n,), one for each seed, with Student's interval; ends NaN for one seed.

    Raises
    ------
    ValueError
        There is no value.
    """
    from scipy import stats

    if not len(values):
        raise ValueError("no values: at least one is needed")
    centre, half = float(values.mean()), math.nan
    if len(values) > 1:
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
        half = quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(centre, centre - half, centre + half)


def sign_test(first: BoolArray, second: BoolArray, aggregation: Aggregation = PLAIN) -> float:
    """Two-sided p-value of the hypothesis that two prompts are equally good on every row.

    Then each row's difference, arrays as in `difference`, might as well have the other sign. Of
    all choices of signs, the share that gives at least as large a mean difference; with one worker
    this is McNemar's exact test. Right to 1e-12. Where workers may lie, by the ``aggregation``, it
    is the share of `RESAMPLES` choices, always the same, and these signs.

    Raises
    ------
    ValueError
        There is no answer, or the rows or workers differ.
    """
    if not aggregation.is_mean:
        of_workers = _of_workers(first, second)
        values = abs(_aggregated(of_workers, _signs(of_workers.shape[1]), aggregation))
        return float((values >= values[0] - ROUNDING).mean())
    workers = max(len(first), len(second))
    units = np.rint(workers * _differences(first, second)).astype(int)
    total = int(abs(units).sum())
    # The probabilities of the sum of the differences that come out positive, 0 to total, from their
    # Fourier transform: of a difference s it is (1 + exp(-i w s)) / 2 = exp(-i w s/2) cos(w s/2).
    count = total + 1
    frequency = np.arange(count // 2 + 1)
    transform = np.exp(-1j * np.pi * (frequency * total % (2 * count)) / count)
    for size, rows in enumerate(np.bincount(abs(units))[1:].tolist(), start=1):
        transform *= np.cos(np.pi * frequency * size / count) ** rows
    probabilities = np.fft.irfft(transform, count)
    as_large = abs(2 * np.arange(count) - total) >= abs(units.sum())
    return min(1.0, max(0.0, float(probabilities[as_large].sum())))


def _signs(rows: int) -> Iterator[FloatArray]:
    """The differences' own signs (1, B), then others (n, B), in blocks of at most `BLOCK`."""
    yield np.ones((1, rows))
    block = max(1, BLOCK // rows)
    generator = np.random.Generator(np.random.Philox(key=1))
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start), rows
        yield np.where(generator.integers(2, size=size) == 0, -1.0, 1.0)


def _of_workers(first: FloatArray | BoolArray, second: FloatArray | BoolArray) -> FloatArray:
    """``first`` less ``second``, by worker and row, (W, B)."""
    _check_pair(first, second)
    less: FloatArray = first.astype(float) - second.astype(float)
    return less


def _differences(first: FloatArray | BoolArray, second: FloatArray | BoolArray) -> FloatArray:
    """By row (B,), the mean over workers of ``first`` less that of ``second``."""
    _check_pair(first, second)
    differences: FloatArray = first.mean(axis=0) - second.mean(axis=0)
    return differences


def _check_pair(first: FloatArray | BoolArray, second: FloatArray | BoolArray) -> None:
    _check(first)
    _check(second)
    if first.shape[1] != second.shape[1] or len({1, len(first), len(second)}) > 2:
        raise ValueError(f"answers of shapes {first.shape} and {second.shape} cannot be paired")


def _check(answers: FloatArray | BoolArray) -> None:
    if answers.ndim != 2 or not answers.size:
        raise ValueError(f"answers of shape {answers.shape}: (W, B) with W, B > 0 would be right")
