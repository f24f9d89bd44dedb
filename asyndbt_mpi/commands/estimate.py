"""`asyndbt estimate`: what a run would ask of the language model, before anything is started.

Counted are prompts that are asked for.  Fewer are paid for: equal ones are asked once, and a run
that stops early asks less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from asyndbt_mpi.assemble import Materials, hellos
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.inputs.sections import Budget
from asyndbt_mpi.llm.base import LABEL_TOKENS, NoModel
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.blackbox import calibration_of
from asyndbt_mpi.protocol.estimation import rounds_asked
from asyndbt_mpi.protocol.final_tests import own_tests, scorers
from asyndbt_mpi.protocol.messages import Candidate, CostBounds, Split
from asyndbt_mpi.protocol.noise import most_answers
from asyndbt_mpi.protocol.race import Rounds, size
from asyndbt_mpi.protocol.spending import Spending, price
from asyndbt_mpi.task.calibration import references
from asyndbt_mpi.task.lengths import Lengths
from asyndbt_mpi.task.longest import TokenCounter
from asyndbt_mpi.task.partition import rows_of
from asyndbt_mpi.task.synthetic import ROWS
from asyndbt_mpi.view.privacy import guarantee

COMPLETION_TOKENS = {"transformers": 0, "openai": 1}
"""That a call writes: a model on this machine none, a server the one that it scores."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one purpose of a run asks for: ``calls``, but ``most`` if workers come late.

    ``tokens_of_call`` are those of a prompt, on the mean, and what is written for it.
    """

    name: str
    calls: float
    most: float
    tokens_of_call: float = 0.0

    @property
    def tokens(self) -> float:
        """Tokens of all ``calls``."""
        return self.calls * self.tokens_of_call


@dataclass(frozen=True, slots=True)
class Estimate:
    """All parts of a run of R ``workers`` if no budget ends it; races and tests come last.

    ``cost_bounds`` of each worker are upper bounds of what an answer costs; ``seconds_per_call``
    are of one worker, if they are known.
    """

    config: Config
    workers: int
    parts: tuple[Part, ...]
    cost_bounds: tuple[CostBounds, ...]
    seconds_per_call: float | None = None

    @property
    def calls(self) -> float:
        """Of all parts."""
        return self.calls_of(self.parts)

    @property
    def tokens(self) -> float | None:
        """Of all parts, prompts and what is written; None for a task without texts."""
        return self.tokens_of(self.parts)

    @property
    def cost(self) -> float | None:
        """Of all parts, by the prices of [llm]; None if there are none."""
        return self.cost_of(self.parts)

    @property
    def seconds(self) -> float | None:
        """Of the run, if workers share the calls and never wait for each other.

        At least what a server's requests per minute allow; None if nothing is known.
        """
        return self.seconds_of(self.parts)

    def rows(self) -> list[tuple[str, float, float, float | None, float | None]]:
        """Name, calls, most, tokens and cost of every part, and of all together."""
        table = [
            (part.name, part.calls, part.most, self.tokens_of([part]), self.cost_of([part]))
            for part in self.parts
        ]
        most = sum(part.most for part in self.parts)
        return [*table, ("together", self.calls, most, self.tokens, self.cost)]

    def calls_of(self, parts: Sequence[Part]) -> float:
        """The calls of some ``parts``."""
        return sum(part.calls for part in parts)

    def tokens_of(self, parts: Sequence[Part]) -> float | None:
        """Their tokens; see `tokens`."""
        if self.config.llm.backend == "synthetic":
            return None
        return sum(part.tokens for part in parts)

    def cost_of(self, parts: Sequence[Part]) -> float | None:
        """Their price; see `cost`."""
        llm = self.config.llm
        if llm.backend == "synthetic" or not (llm.input_price or llm.output_price):
            return None
        written = COMPLETION_TOKENS[llm.backend] * self.calls_of(parts)
        read = sum(part.tokens for part in parts) - written
        return price(llm, read, written)

    def seconds_of(self, parts: Sequence[Part]) -> float | None:
        """The time that they take; see `seconds`."""
        calls = self.calls_of(parts)
        per_minute = self.config.llm.requests_per_minute
        known = []
        if self.seconds_per_call is not None:
            known.append(calls * self.seconds_per_call / self.workers)
        if per_minute and self.config.llm.backend == "openai":
            known.append(60 * calls / per_minute)
        return max(known, default=None)


def estimate(
    config: Config,
    materials: Materials,
    workers: int,
    count: TokenCounter,
    seconds_per_call: float | None = None,
) -> Estimate:
    """What a run of ``config`` on R ``workers`` would ask for without its [budget]."""
    data = materials.data
    rows = [ROWS] * workers
    if data:
        rows = [{split: len(rows_of(held, split)) for split in Split} for held in data.values()]
    tokens = dict.fromkeys(Split, 0.0)
    if data and materials.template:
        written = COMPLETION_TOKENS[config.llm.backend]
        lengths = Lengths(config, materials.template, materials.vocabulary, data, count)
        tokens = {split: written + lengths.mean(split) for split in Split}
    said = hellos(config, materials, workers, _Counted(count)).values()
    needed = tuple(hello.cost_bounds for hello in said)
    spending = joined(unlimited(config), needed)
    races = [spending.rounds(worker, workers) for worker in range(1, workers + 1)]
    parts_of_run = parts(config, rows, tokens, races)
    return Estimate(config, workers, parts_of_run, needed, seconds_per_call)


def unlimited(config: Config) -> Config:
    """``config`` without a budget."""
    return config.model_copy(update={"budget": Budget()})


def joined(config: Config, cost_bounds: Sequence[CostBounds]) -> Spending:
    """The account of a run at its start, with all workers there."""
    spending = Spending(config, len(cost_bounds))
    for worker, of_worker in enumerate(cost_bounds, start=1):
        spending.join(worker, of_worker)
    return spending


class _Counted(NoModel):
    """Stands for a model on this machine; each prompt is a call."""

    def __init__(self, count: TokenCounter) -> None:
        self._count = count

    def longest(self, text: str) -> int:
        """See `LanguageModel`."""
        return self._count([text])[0] + LABEL_TOKENS


def parts(
    config: Config,
    rows: Sequence[dict[Split, int]],
    tokens: dict[Split, float],
    rounds_of_races: Sequence[Rounds],
) -> tuple[Part, ...]:
    """What is asked for of workers (R) with so many ``rows``, at ``tokens`` for a call."""
    algorithm, run, workers = config.algorithm, config.run, len(rows)
    of_step = [_of_step(config, held) for held in rows]
    mean, everyone = sum(of_step) / workers, sum(of_step)
    active = min(algorithm.active_workers, workers)
    # Busy workers take no part in an estimate under "quorum".
    participants = workers if algorithm.lower_participation == "all" else active
    rounds = rounds_asked(algorithm) * (
        min(run.iterations, algorithm.plane_until) // algorithm.plane_period
    )
    # A worker is asked when it is answered: not before iteration 0, nor after the last.
    validations = (run.iterations - 1) // run.evaluate_every if run.evaluate_every else 0
    validating = validations * sum(
        _of_evaluation(config, Split.VALIDATION, Candidate.TUNED, held) for held in rows
    )
    races = [_of_race(config, *each) for each in zip(rows, rounds_of_races, strict=True)]
    new, most = map(sum, zip(*races, strict=True))
    testing = 0
    if run.evaluate_every and config.task.test:
        tests = [(candidate, held) for held in rows for candidate in own_tests(config)]
        tests += [(Candidate.UNTUNED, rows[0])] * scorers(config, workers)
        testing = sum(_of_evaluation(config, Split.TEST, *each) for each in tests)
    return (
        Part(
            "upper steps", reports(config, workers) * mean, run.iterations * everyone,
            tokens[Split.TRAIN],
        ),
        Part(
            "estimates of phi", rounds * participants * mean, rounds * everyone,
            tokens[Split.TRAIN],
        ),
        Part("validation", validating, validating, tokens[Split.VALIDATION]),
        Part("races at the end", new, most, tokens[Split.RACE]),
        Part("tests at the end", testing, testing, tokens[Split.TEST]),
    )  # fmt: skip


def reports(config: Config, workers: int) -> int:
    """Upper steps of a run: S for each iteration, and R - S that are under way at its end.

    An iteration that waits for a late worker, or for an estimate of phi, may use more than S: it
    is the least, where T R are the most.
    """
    active = min(config.algorithm.active_workers, workers)
    return config.run.iterations * active + workers - active


def _of_step(config: Config, rows: dict[Split, int]) -> int:
    """Prompts of one step, of either level: I samples, each on a batch of rows."""
    if config.estimator.name == "exact":
        return 1
    batch = min(config.estimator.batch, rows[Split.TRAIN])
    return config.estimator.samples * (batch + _references(config, Split.TRAIN, rows))


def _of_race(config: Config, rows: dict[Split, int], rounds: Rounds) -> tuple[int, int]:
    """Prompts of a race in which as many as possible stay; and with those that come again."""
    scored = rows[Split.RACE]
    prompts = scored + _references(config, Split.RACE, rows)
    bounds = CostBounds(race=prompts, race_rows=1 if config.llm.is_function else scored)
    return size(rounds, bounds, config.llm.cache > 0), size(rounds, bounds, has_cache=False)


def _of_evaluation(
    config: Config, split: Split, candidate: Candidate, rows: dict[Split, int]
) -> int:
    """Prompts of one evaluation on ``split``."""
    return rows[split] + _references(config, split, rows, candidate)


def _references(
    config: Config, split: Split, rows: dict[Split, int], candidate: Candidate = Candidate.TUNED
) -> int:
    """Prompts that calibration adds to those on the rows of ``split``."""
    calibration = calibration_of(candidate, split, config.task.calibration)
    return len(references(calibration, split, range(rows[Split.TRAIN])))


def measured_seconds_per_call(log: Log, config: Config) -> float:
    """What a call took a worker of ``log``: the median over its workers of each one's median.

    Raises
    ------
    ConfigurationError
        It is of another model than ``config``.
    LogError
        Its seconds are virtual, or nothing was paid for.
    """
    for key in ("backend", "model"):
        wanted, was = getattr(config.llm, key), getattr(log.config.llm, key)
        if was != wanted:
            raise ConfigurationError(
                f"--like: {log.path} is of llm.{key} = {was!r}, not {wanted!r}: its calls take"
                " other times"
            )
    if log.transport == "virtual":
        raise LogError(f"{log.path}: its seconds are virtual; --like needs a log of asyndbt run")
    worker, calls, seconds = (
        log[f"event/{name}"] for name in ("worker", "llm_calls", "compute_seconds")
    )
    paid = (calls > 0) & np.isfinite(seconds)
    if not paid.any():
        raise LogError(f"{log.path}: no call was paid for, so there is no speed to go by")
    each = seconds[paid] / calls[paid]
    of_workers = [np.median(each[worker[paid] == number]) for number in np.unique(worker[paid])]
    return float(np.median(of_workers))


def remarks(found: Estimate, counted_by: str, like: Path | None) -> list[str]:
    """What the figures rest on, and what follows from them, in lines."""
    llm = found.config.llm
    lines = ["Repeated prompts cost nothing, but are counted here."]
    if found.tokens is not None:
        shared = "; what prompts share counts for each of them" * (llm.backend == "transformers")
        lines.append(f"Tokens are counted by {counted_by}, on prompts drawn at random{shared}.")
    if found.seconds_per_call is not None and like is not None:
        seconds = found.calls * found.seconds_per_call / found.workers
        lines.append(
            f"{_duration(seconds)} at {found.seconds_per_call:.3g} s a call, the median in"
            f" {like}, if {found.workers} workers share the calls; start-up and waiting for"
            " each other are not in it."
        )
    if llm.requests_per_minute and llm.backend == "openai":
        seconds = 60 * found.calls / llm.requests_per_minute
        lines.append(
            f"At least {_duration(seconds)}, for llm.requests_per_minute ="
            f" {llm.requests_per_minute:g}."
        )
    if llm.backend == "openai":
        lines.append(
            "One request a prompt is counted: unusable answers, time-outs, each worker's first"
            " request and further tokens of a label come on top."
        )
    if found.config.privacy.noise:
        most = max(most_answers(found.config, bounds) for bounds in found.cost_bounds)
        lines.append(f"At most {guarantee(found.config, most)}.")
    return lines


def _duration(seconds: float) -> str:
    return f"{timedelta(seconds=round(seconds))} h" if seconds >= 60 else f"{seconds:.1f} s"
