"""Statistics of scaling.py: the points of a line, the laws fitted to it, and Theorem 2's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import printable

Law = Literal["power", "exponential"]

LEAST_VALUES = 3
"""Through two values of x every law fits."""

LEAST_SEEDS = 5
"""An exponent from fewer is a matter of luck, and so is its interval."""

CONFIDENCE = 0.95

TELLING = 2.0
"""A smaller difference in AIC says nothing (Burnham and Anderson, 2002, section 2.6)."""

SHARE = 0.9
"""An epsilon suits if so many of the runs reach it."""

LEAST_SPAN = 8.0
"""Epsilons are chosen from this range at least, so three of them by factors of 2."""

THEOREM_2 = {
    "S": "falls as R - S shrinks; no power law",
    "R": "tends to 2 as R >> S",
    "tau": "tends to 4 for long tau",
    "epsilon": "at least -2",
}
"""By x, the exponent of the bound on T(epsilon), which counts iterations. With c, c1, c2, c3, d
and k constant, T is O(max{c / eps^2, (c1 (c2 + c3 (R - S)) (d + k tau (tau - 1)) / eps
+ sqrt(T1 + 2))^2}); Ma et al., Scientific Reports 16:9381 (2026), Theorem 2. Of R and tau these
are limits: in between, the bound's local exponent may be larger."""

SYNCHRONOUS = "no explicit dependence"
"""`THEOREM_2` over S or R where S = R: the bound has R - S only."""


class Point(NamedTuple):
    """Runs of one value of x: median and 10-90 % band of a cost, and how many have arrived."""

    value: float
    median: float
    q10: float
    q90: float
    reached: int
    runs: int


@dataclass(frozen=True, slots=True)
class Fit:
    """A law fitted to runs.

    Attributes
    ----------
    slope, low, high : b of x^b or exp(b x), and its 95 % interval, NaN for runs of one seed and
        where `missing` is not 0: the fit is biased then, and an interval would not cover
    runs : how many were fitted
    missing : how many did not reach epsilon and were left out
    aic : Akaike's criterion of log y with Gaussian errors, for comparison with the other law's
    """

    slope: float
    low: float
    high: float
    runs: int
    missing: int
    aic: float


@dataclass(frozen=True, slots=True)
class Line:
    """n runs, or arrivals of runs at several epsilons, that differ in x and seed alone.

    Attributes
    ----------
    x : "S", "R", "tau" or "epsilon"
    combination : names and values that set this line apart from others
    epsilon : to be reached; None if it is x
    values, seeds, synchronous : arrays (n,): x, the seed, and whether S = R
    costs : by quantity, array (n,): what it took; NaN if epsilon was not reached
    """

    x: str
    combination: tuple[tuple[str, Any], ...]
    epsilon: float | None
    values: np.ndarray
    seeds: np.ndarray
    synchronous: np.ndarray
    costs: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        """Such as "R = 8, tau = 5"; empty if nothing but epsilon sets it apart."""
        return ", ".join(f"{name} = {value}" for name, value in self.combination)

    def points(self, quantity: str) -> list[Point]:
        """Along x, each of its values once."""
        points = []
        for value in np.unique(self.values):
            costs = self.costs[quantity][self.values == value]
            median, low, high = quantiles(costs, (0.5, 0.1, 0.9)).tolist()
            reached = int(np.isfinite(costs).sum())
            points.append(Point(value.item(), median, low, high, reached, len(costs)))
        return points

    def point_rows(self, quantity: str) -> list[dict[str, Any]]:
        """`points` for a table."""
        return [
            {
                "x": self.x,
                "epsilon": point.value if self.epsilon is None else self.epsilon,
                "line": self.name,
                "quantity": quantity,
                **point._asdict(),
            }
            for point in self.points(quantity)
        ]

    def fit(self, quantity: str, law: Law) -> Fit | None:
        """One law fitted to one quantity; see `fit`."""
        return fit(law, self.values, self.costs[quantity], self.seeds)

    @property
    def enough_seeds(self) -> bool:
        """Whether a fit means anything."""
        return len(np.unique(self.seeds)) >= LEAST_SEEDS

    def bound(self) -> str:
        """What Theorem 2 says of the exponent."""
        same = self.x in ("S", "R") and self.synchronous.all()
        return SYNCHRONOUS if same else THEOREM_2[self.x]

    def short(self, missing: int) -> str:
        """How many of how many runs, or of their arrivals at all epsilons, are missing."""
        what = "runs" if self.epsilon is not None else "arrivals"
        return f"{missing} of {len(self.values)} {what}"

    def remark(self, found: Fit | None, power: Fit | None, law: Law) -> str:
        """What a reader of a fit has to know."""
        if found is None:
            return f"no fit: fewer than {LEAST_VALUES} values of {self.x}"
        parts = []
        if found.missing:
            what = "did not reach it" if self.epsilon is not None else "are missing"
            parts.append(f"biased: {self.short(found.missing)} {what}")
        if law == "exponential" and power:
            parts.append(verdict(found.aic - power.aic))
        elif not found.missing and math.isnan(found.low):
            parts.append("no interval: too few seeds")
        if not self.enough_seeds:
            seeds = len(np.unique(self.seeds))
            parts.append(
                f"means nothing: {seeds} seed{'s' if seeds > 1 else ''}, {LEAST_SEEDS} are needed"
            )
        return "; ".join(parts)

    def fit_row(self, quantity: str, law: Law) -> dict[str, Any]:
        """`fit` for a table, in words and numbers."""
        found, power = self.fit(quantity, law), self.fit(quantity, "power")
        bound = self.bound() if (law, quantity) == ("power", "iterations") else ""
        other = found.aic - power.aic if law == "exponential" and found and power else math.nan
        return {
            "x": self.x,
            "epsilon": "all" if self.epsilon is None else self.epsilon,
            "line": self.name,
            "quantity": quantity,
            "law": f"{self.x}^b" if law == "power" else f"exp(b {self.x})",
            "b": found.slope if found else math.nan,
            "low": found.low if found else math.nan,
            "high": found.high if found else math.nan,
            "theorem_2": bound,
            "runs": found.runs if found else 0,
            "not_reached": int(np.isnan(self.costs[quantity]).sum()),
            "aic_difference": other,
            "remark": self.remark(found, power, law),
        }


def quantiles(values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Quantiles of ``values`` (n,) at ``levels``; NaN is a run that never arrives: infinite."""
    huge = np.finfo(float).max / 4  # numpy interpolates, and infinity times 0 would be NaN
    found = np.quantile(np.where(np.isnan(values), huge, values), levels)
    return np.where(found > np.sqrt(huge), np.inf, found)


def fit(law: Law, x: np.ndarray, y: np.ndarray, seeds: np.ndarray) -> Fit | None:
    """Least squares of log y on log x ("power") or on x ("exponential").

    Runs of one seed share their task and their luck. The interval therefore is the jackknife's
    that leaves out a seed at a time, CV3 of MacKinnon, Nielsen and Webb (Journal of Econometrics
    232, 2023).

    Parameters
    ----------
    x, y, seeds : arrays (n,), of every run; those whose y is NaN or 0 are left out, and those
        whose x is 0, which has no logarithm

    Returns
    -------
    None if fewer than `LEAST_VALUES` values of x are left.
    """
    missing = int(np.isnan(y).sum())
    known = (y > 0) & (x > 0)
    if len(np.unique(x[known])) < LEAST_VALUES:
        return None
    x, y, seeds = (np.log(x[known]) if law == "power" else x[known]), np.log(y[known]), seeds[known]
    line = stats.linregress(x, y)
    residuals = y - line.intercept - line.slope * x
    with np.errstate(divide="ignore"):  # a law may fit exactly
        aic = len(y) * np.log(np.mean(residuals**2)) + 2 * 3  # slope, intercept, variance
    slope = float(line.slope)
    reach = math.nan if missing else _half_interval(x, y, seeds, slope)
    return Fit(slope, slope - reach, slope + reach, len(y), missing, float(aic))


def _half_interval(x: np.ndarray, y: np.ndarray, seeds: np.ndarray, slope: float) -> float:
    """Half the width of the confidence interval of ``slope``; NaN if there are too few seeds."""
    without = [seeds != seed for seed in np.unique(seeds)]
    if len(without) < 2 or any(len(np.unique(x[rest])) < 2 for rest in without):
        return math.nan
    slopes = np.array([stats.linregress(x[rest], y[rest]).slope for rest in without])
    degrees = len(slopes) - 1
    error = np.sqrt(degrees / len(slopes) * np.sum((slopes - slope) ** 2))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees) * error)


def verdict(difference: float) -> str:
    """What the AIC of the exponential law less that of the power law says."""
    if not abs(difference) >= TELLING:
        return "neither law describes the data better"
    better = "better" if difference < 0 else "worse"
    return f"describes the data {better} than the power law"


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of the same keys, aligned; what is not known is a dash."""
    table = [list(rows[0])]
    for row in rows:
        cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
        table.append(["-" if cell in ("nan", "") else cell for cell in cells])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(printable("  ".join(padded).rstrip()))


def extent(iterations: np.ndarray) -> str:
    """Which ``iterations`` (Q,) are known, in words."""
    if not len(iterations):
        return "none"
    gap = np.diff(iterations).max(initial=1)
    return f"{iterations[0]} to {iterations[-1]}, {gap} apart at most"


def choose_epsilons(norms: Sequence[np.ndarray], number: int) -> list[float]:
    """From the least that `SHARE` of the runs reach, in geometric steps towards the start.

    Parameters
    ----------
    norms : for every run, array (Q,): ||grad G^t||^2 over its iterations

    Raises
    ------
    ConfigurationError
        The least is not above 0, as an estimate may be, or too few runs have norms at all.
    """
    minima = sorted(np.min(norm, initial=np.inf) for norm in norms)
    least = minima[math.ceil(SHARE * len(minima)) - 1]
    if not 0 < least < np.inf:
        raise ConfigurationError(
            f"no epsilon can be chosen: {SHARE:.0%} of the runs reach ||grad G||^2 = {least:g};"
            " give --epsilon, above 0"
        )
    start = np.median([norm[0] for norm in norms if len(norm)])
    step = max(start / least, LEAST_SPAN) ** (1 / number)
    upwards = Context(prec=2, rounding=ROUND_CEILING)
    exact = [least * step**n for n in reversed(range(number))]
    return [float(upwards.create_decimal(repr(float(epsilon)))) for epsilon in exact]
