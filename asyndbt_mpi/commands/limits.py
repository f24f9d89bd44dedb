"""What a [budget] allows of an estimated run, and which one would cover all of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10

from asyndbt_mpi.commands.estimate import Estimate, Part, joined, reports, unlimited
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.estimation import rounds_asked

AT_THE_END = 2
"""Parts of a run after its iterations: races and tests."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """What the server sets aside before it hands anything out (see `protocol.spending`).

    Upper bounds, for the ``races`` and ``tests`` at the end, the ``steps`` of all workers, and an
    ``estimate`` of phi where one is due.
    """

    races: float
    tests: float
    steps: float
    estimate: float

    @property
    def end(self) -> float:
        """For what comes after the iterations."""
        return self.races + self.tests


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of [budget] and what the run needs of it, in the same unit.

    Set aside are the parts of ``reserve``, an estimate of phi every ``period`` iterations ``until``
    one; without a limit ``all_races`` would be. ``iteration`` is the mean that is spent.
    """

    key: str
    limit: float
    reserve: Reserve
    all_races: float
    iteration: float
    period: int
    until: int

    @property
    def first(self) -> float:
        """Of the steps of the first iteration, and of its estimate of phi if it has one."""
        return self.reserve.steps + self.reserve.estimate * (self.period == 1 and self.until > 0)

    @property
    def covers_one(self) -> bool:
        """Whether there can be an iteration at all."""
        return self.limit >= self.reserve.end + self.first

    @property
    def iterations(self) -> int:
        """How many iterations it allows, about."""
        if not self.covers_one:
            return 0
        left = self.limit - self.reserve.end - self.reserve.steps
        # The first one that cannot be afforded: any, and one with an estimate of phi.
        plain = int(left / self.iteration) + 1
        dear = max(0, int((left - self.reserve.estimate) // self.iteration) + 1)
        due = -(-(dear + 1) // self.period) * self.period - 1
        return min(plain, due) if due < self.until else plain

    def for_races(self, iterations: int) -> float:
        """What is left for the races after so many ``iterations``, about."""
        return self.limit - self.reserve.tests - self.iteration * iterations


def limits(found: Estimate) -> list[Limit]:
    """Those of [budget] that are set and can be compared with something."""
    algorithm = found.config.algorithm
    made = []
    for key, measure in _measures(found).items():
        limit, spent = getattr(found.config.budget, key), measure(found.parts[:-AT_THE_END])
        if limit and spent is not None:
            made.append(
                Limit(
                    f"budget.{key}", limit, _reserve(found, found.config, key),
                    _reserve(found, unlimited(found.config), key).races,
                    spent / found.config.run.iterations, algorithm.plane_period,
                    algorithm.plane_until,
                )
            )  # fmt: skip
    return made


def enough(found: Estimate) -> dict[str, float]:
    """By key of [budget], a limit that covers the whole run, even if workers come late.

    Rounded up to three digits; only keys that can be compared with something.
    """
    *parts, races, _ = (replace(part, calls=part.most) for part in found.parts)
    limits_by_key = {}
    for key, measure in _measures(found).items():
        spent = measure(parts)
        if spent is not None:
            reserve = _reserve(found, unlimited(found.config), key)
            in_flight = reserve.steps + reserve.estimate
            # Races take more than is set aside if the cache has lost what they ask again.
            most = max(reserve.races, measure([races]) or 0.0) if key != "seconds" else 0.0
            limits_by_key[key] = _rounded_up(spent + in_flight + most + reserve.tests)
    return limits_by_key


Measure = Callable[[Sequence[Part]], float | None]


def _measures(found: Estimate) -> dict[str, Measure]:
    return {
        "calls": found.calls_of,
        "tokens": found.tokens_of,
        "cost": found.cost_of,
        "seconds": found.seconds_of,
    }


def _reserve(found: Estimate, config: Config, key: str) -> Reserve:
    """In the unit of ``key``.

    Of seconds nothing is set aside; but an iteration takes as many as its reports.
    """
    if key == "seconds":
        upper = found.parts[0]
        active = min(config.algorithm.active_workers, found.workers)
        share = active / reports(config, found.workers)
        seconds = found.seconds_of([replace(upper, calls=upper.calls * share)])
        return Reserve(0.0, 0.0, seconds or 0.0, 0.0)
    spending = joined(config, found.cost_bounds)
    calls = sum(each.assignment for each in found.cost_bounds)
    tests, end = spending.most_spent(0, "race")[key], spending.most_spent(0)[key]
    steps = spending.most_spent(calls)[key] - end
    return Reserve(end - tests, tests, steps, steps * rounds_asked(config.algorithm))


def set_aside(found: Estimate) -> list[str]:
    """What of each limit is set aside, in lines, and why it can differ from the parts."""
    covered = [each for each in limits(found) if each.covers_one and each.key != "budget.seconds"]
    lines = [
        f"Of {each.key} = {amount(each.limit)} are set aside: {_parts(each)}." for each in covered
    ]
    if any(each.reserve.end for each in covered):
        lines.append(
            "That is the most that they can cost, and can exceed the table: every prompt counts as"
            " the longest, every test as the dearest, the last prompt of a race as if none of its"
            " rows were known. For races it is at most a quarter of what the tests leave."
        )
    return lines


def shortfalls(found: Estimate) -> list[str]:
    """Limits that end the run early or shorten its races, or cannot be compared with anything."""
    compared = limits(found)
    lines = [short for each in compared if (short := _shortfall(each, found.config.run.iterations))]
    for key, limit in found.config.budget.model_dump().items():
        if limit and f"budget.{key}" not in [each.key for each in compared]:
            hint = "; --like gives it a speed" if key == "seconds" else ""
            lines.append(f"budget.{key} = {amount(limit)} cannot be compared with anything{hint}")
    return lines


def _shortfall(limit: Limit, iterations: int) -> str:
    """What the ``limit`` does not cover; "" if it covers all."""
    written = f"{limit.key} = {amount(limit.limit)}"
    of_time = limit.key == "budget.seconds"
    if not limit.covers_one:
        needed = f"{amount(limit.first)} for its reports"
        if not of_time:
            needed = f"{_parts(limit)} are set aside first, the most that they can cost"
        return f"{written} does not cover one iteration: {needed}"
    if limit.iterations < iterations:
        ended = f"about {limit.iterations:,} of {iterations:,} iterations"
        return f"{written} will end the run after {ended}"
    left = limit.for_races(iterations)
    if not of_time and left < limit.all_races:
        return (
            f"{written} will shorten the races at the end: about {amount(left)} are left for them,"
            f" {amount(limit.all_races)} would be needed"
        )
    return ""


def _parts(limit: Limit) -> str:
    reserve = limit.reserve
    return (
        f"{amount(limit.first)} for a step of every worker, {amount(reserve.races)} for the races"
        f" and {amount(reserve.tests)} for the tests at the end"
    )


def covering(found: Estimate) -> str:
    """Which budget would cover the whole run, in one line; "" if the run's own does."""
    if not any(_shortfall(each, found.config.run.iterations) for each in limits(found)):
        return ""
    written = ", ".join(f"budget.{key} = {amount(most)}" for key, most in enough(found).items())
    requests = ", if each prompt is one request" * (found.config.llm.backend == "openai")
    return f"enough for the whole run, each by itself{requests}: {written}"


def _rounded_up(value: float) -> float:
    """To three digits."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (floor(log10(value)) - 2)
    return ceil(value / unit) * unit


def amount(value: float) -> str:
    """For people: with three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
