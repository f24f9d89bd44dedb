"""Robust means: what n workers report becomes one vector, of which up to f may be lies.

Each rule takes ``x`` (n, d), one vote for each worker, and f < n / 2. n times its result takes the
place of a sum over workers: in (9), in the step of z and in what workers learn of words from each
other, and of the mean of the losses shown. Where nobody may lie, f = 0, it is the mean.

Sources: coordinate-wise median and trimmed mean (Yin et al., ICML 2018); geometric median (Pillutla
et al., IEEE TSP 2022); Krum and multi-Krum (Blanchard et al., NeurIPS 2017); centred clipping
(Karimireddy et al., ICML 2021); bucketing (Karimireddy et al., ICLR 2022); nearest-neighbour
mixing (Allouah et al., AISTATS 2023).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.algorithm.kernels import means_within, squared_distances
from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.types import FloatArray

CLIPPINGS = 3
"""Rounds of centred clipping."""

WEISZFELD = 100
"""Most steps of Weiszfeld's algorithm."""

OUTLYING = 3.0
"""Times the median worker's: larger effects of words, or distances from phi, are not believed."""

LEAST = 1e-150
"""Distance that counts as none: its inverse times the largest report is finite."""


def median(x: FloatArray, f: int) -> FloatArray:
    """Of each coordinate; of an even number the mean of the two in the middle."""
    middle: FloatArray = np.median(x, axis=0)
    return middle


def trimmed_mean(x: FloatArray, f: int) -> FloatArray:
    """Mean of each coordinate without its f largest and its f smallest."""
    kept: FloatArray = np.sort(x, axis=0)[f : len(x) - f].mean(axis=0)
    return kept


def geometric_median(x: FloatArray, f: int) -> FloatArray:
    """argmin_y sum_v ||x_v - y||, by Weiszfeld's algorithm from the median.

    Distances count as no less than a millionth of their median, which smooths the objective at
    the reports themselves; fewer than half cannot choose it.
    """
    y = median(x, f)
    least = max(1e-6 * float(np.median(_distances(x, y))), LEAST)
    for _ in range(WEISZFELD):
        weights = 1.0 / np.maximum(_distances(x, y), least)
        before, y = y, weights @ x / weights.sum()
        if np.linalg.norm(y - before) <= least:
            break
    return y


def krum(x: FloatArray, f: int) -> FloatArray:
    """The report with the least mean squared distance to its n - f - 1 nearest others.

    (The source has n - f - 2 of them, byzfl as many as here.)
    """
    best: FloatArray = x[np.argmin(_krum_scores(x, f))]
    return best


def multi_krum(x: FloatArray, f: int) -> FloatArray:
    """Mean of the n - f reports that are nearest to their n - f - 1 nearest."""
    chosen = np.argsort(_krum_scores(x, f), kind="stable")[: len(x) - f]
    mean: FloatArray = x[np.sort(chosen)].mean(axis=0)
    return mean


def centered_clipping(x: FloatArray, f: int) -> FloatArray:
    """y + mean of (x_v - y) shortened to the radius, `CLIPPINGS` times, from the median.

    The radius is the median distance from y, so that fewer than half cannot choose it. (The
    source starts from the last aggregate, with a radius to be tuned.)
    """
    y = median(x, f)
    for _ in range(CLIPPINGS):
        distances = _distances(x, y)
        radius = np.median(distances)
        shortened = np.minimum(1.0, radius / np.maximum(distances, LEAST))
        y = y + ((x - y) * shortened[:, None]).mean(axis=0)
    return y


def nearest_neighbour_mixing(x: FloatArray, f: int) -> FloatArray:
    """Each report replaced by the mean of the n - f nearest to it, itself included; (n, d)."""
    count = len(x) - f
    distances = squared_distances(x)
    reach = np.partition(distances, count - 1, axis=1)[:, count - 1].copy()
    return means_within(x, distances, reach, count)


def bucketing(x: FloatArray, f: int, generator: np.random.Generator) -> FloatArray:
    """Means (buckets, d) over buckets of s reports, drawn at random; the last may be smaller.

    s is the largest size with which fewer than half of the buckets can hold one of f liars.
    """
    size = bucket_size(len(x), f)
    shuffled = x[generator.permutation(len(x))]
    starts = np.arange(0, len(x), size)
    lengths = np.minimum(size, len(x) - starts)[:, None]
    means: FloatArray = np.add.reduceat(shuffled, starts, axis=0) / lengths
    return means


def bucket_size(n: int, f: int) -> int:
    """The largest s with 2 f < ceil(n / s); all in one if f is 0."""
    return max(s for s in range(1, n + 1) if 2 * f < math.ceil(n / s))


RULES: dict[str, Callable[[FloatArray, int], FloatArray]] = {
    "median": median,
    "trimmed_mean": trimmed_mean,
    "geometric_median": geometric_median,
    "krum": krum,
    "multi_krum": multi_krum,
    "centered_clipping": centered_clipping,
}
"""By the name of `defence.aggregator`; "rsa" is none of them: it is the mean."""


@dataclass(frozen=True, slots=True)
class Aggregation:
    """The rule by which the reports of a run's workers become one.

    Parameters
    ----------
    aggregator : one of `RULES`; anything else is the mean
    liars : how many of the run's workers may lie
    seed : keys the buckets
    """

    aggregator: str = "rsa"
    preaggregator: str = "none"
    liars: int = 0
    seed: int = 0

    @property
    def is_mean(self) -> bool:
        """Nothing is done to reports but to add them up."""
        return not self.liars

    def mean(self, reports: FloatArray, number: int = 0) -> FloatArray:
        """One (...) of the ``reports`` (n, ...) of n > 0 workers; ``number`` keys the buckets.

        Any of the run's liars may be among them, but fewer than half of them are. Where no report
        has numbers, as the accuracies of a function, the result has none either.
        """
        f = min(self.liars, (len(reports) - 1) // 2)
        if not f or np.isnan(reports).all():
            plain: FloatArray = reports.mean(axis=0)
            return plain
        x = reports.reshape(len(reports), -1)
        if self.preaggregator == "nnm":
            x = nearest_neighbour_mixing(x, f)
        elif self.preaggregator == "bucketing":
            x = bucketing(x, f, stream(self.seed, 0, number, Purpose.BUCKETS))
        rule = RULES.get(self.aggregator)
        one: FloatArray = rule(x, f) if rule else x.mean(axis=0)
        return one.reshape(reports.shape[1:])


PLAIN = Aggregation()
"""Sums and means: the paper's (9), of which the term psi is the whole defence."""


def outlying(sizes: FloatArray) -> float:
    """What is too large beside ``sizes`` (n,): `OUTLYING` times the median; 0 if there are none.

    Of an even number the lower one in the middle: then even half of those that are judged may lie.
    """
    return OUTLYING * float(np.sort(sizes)[(len(sizes) - 1) // 2]) if len(sizes) else 0.0


def _distances(x: FloatArray, y: FloatArray) -> FloatArray:
    distances: FloatArray = np.sqrt(((x - y) ** 2).sum(axis=-1))
    return distances


def _krum_scores(x: FloatArray, f: int) -> FloatArray:
    """Mean squared distance of each report to its n - f - 1 nearest others; (n,)."""
    among = np.sort(squared_distances(x), axis=1)[:, 1 : len(x) - f]
    scores: FloatArray = among.mean(axis=1)
    return scores
