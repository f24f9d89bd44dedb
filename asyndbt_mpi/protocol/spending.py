"""A budget for the whole job, checked before anything is handed out that could overdraw it.

What an answer will cost is known only when it is there, so the most that it can cost is set
aside until then. What a lost worker was at counts as spent: nobody will ever know.
"""

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from itertools import starmap
from math import inf
from typing import Literal, TypeAlias

from asyndbt_mpi.config import Config
from asyndbt_mpi.inputs.sections import Llm
from asyndbt_mpi.protocol.final_tests import number_of_tests
from asyndbt_mpi.protocol.messages import CostBounds, Costs, MalformedMessage
from asyndbt_mpi.protocol.race import Rounds, most_calls, plan, reserve

AnswerKind: TypeAlias = Literal["assignment", "validation", "test", "race"]
"""What an answer is for; a field of `CostBounds`."""

SHARE_OF_RACES = 0.25
"""Of a budget, less the tests at the end, that is set aside for races at most."""


@dataclass(slots=True)
class _Worker:
    """The most that a worker can cost, and what each answer is for that it owes.

    Set aside for its race are ``race`` calls. With what is owed goes how often its rows are halved.
    """

    cost_bounds: CostBounds
    race: int
    owed: list[tuple[AnswerKind, int]]

    def most_calls(self, kind: AnswerKind, halvings: int) -> int:
        """Of one answer."""
        if kind == "race":
            return most_calls(self.cost_bounds, halvings)
        calls: int = getattr(self.cost_bounds, kind)
        return calls

    @property
    def reserved(self) -> int:
        """Calls."""
        return sum(starmap(self.most_calls, self.owed))


def price(llm: Llm, prompt_tokens: float, completion_tokens: float) -> float:
    """What so many tokens cost; the prices are those of a million."""
    return (prompt_tokens * llm.input_price + completion_tokens * llm.output_price) / 1e6


class Spending:
    """What a run has spent and may still spend.

    Attributes
    ----------
    spent : Costs
        Calls and tokens of every answer so far.
    replaying : bool
        The answers are those of a run that is gone through again, judged when they came.
    """

    def __init__(
        self, config: Config, workers: int, most: Mapping[int, CostBounds] | None = None
    ) -> None:
        self.most = most or {}
        self.budget = config.budget
        self.llm = config.llm
        self.workers = workers
        self.spent = Costs()
        self.replaying = False
        self._tests = number_of_tests(config, workers)
        self._tests_in_all = self._tests
        self._most_racing = config.run.races
        self._has_cache = config.llm.cache > 0
        self._by_worker: dict[int, _Worker] = {}
        self._written_off = 0

    def check_cost_bounds(self, worker: int, cost_bounds: CostBounds) -> None:
        """Refuse a ``worker`` that claims more than it can need: nothing would be left to others.

        Raises
        ------
        MalformedMessage
        """
        for name, most in asdict(self.most.get(worker, cost_bounds)).items():
            claimed = getattr(cost_bounds, name)
            if claimed > most and not self.replaying:
                what = name if "_" in name else f"calls for its {name}"
                raise MalformedMessage(
                    f"worker {worker} says that it may need {claimed} {what}: {most} at most"
                )
        if cost_bounds.race_rows > cost_bounds.race:
            raise MalformedMessage(
                f"worker {worker} says that {cost_bounds.race_rows} rows of its race need"
                f" {cost_bounds.race} calls: a call each at least"
            )

    def check(self, worker: int, kind: AnswerKind, costs: Costs) -> None:
        """Refuse an answer of ``worker`` that is not its next, or costs more than was set aside.

        Tokens may be twice as many, for servers count them in their own ways.

        Raises
        ------
        MalformedMessage
        """
        held = self._by_worker.get(worker)
        if held is None or not held.owed:
            return  # it was asked for nothing, which is refused elsewhere
        due, halvings = held.owed[0]
        if due != kind:
            raise MalformedMessage(
                f"worker {worker} was asked for its {due} before the {kind} it answers"
            )
        if self.replaying or worker not in self.most:
            return
        cost_bounds, calls = held.cost_bounds, held.most_calls(kind, halvings)
        for name, most in (
            ("calls", calls),
            ("prompts", calls),  # a cache may know some, but each could have been a call
            ("prompt_tokens", 2 * calls * cost_bounds.prompt_tokens),
            ("completion_tokens", 2 * calls * cost_bounds.completion_tokens),
        ):
            spent = getattr(costs, name)
            if spent > most:
                raise MalformedMessage(
                    f"worker {worker} says that an answer cost {spent} {name}: {most} at most"
                )

    def join(self, worker: int, cost_bounds: CostBounds) -> None:
        """Take the bounds of ``worker``, at each of its hellos; `check_cost_bounds` passed them."""
        most = self.most.get(worker, cost_bounds)
        # What is gone through again may have been said when nobody looked at it.
        cost_bounds = CostBounds(*map(min, astuple(cost_bounds), astuple(most)))
        owed = self._by_worker[worker].owed if worker in self._by_worker else []
        share = SHARE_OF_RACES * self._affordable(cost_bounds) / self.workers
        race = reserve(self._plan(cost_bounds, share), cost_bounds, self._has_cache)
        self._by_worker[worker] = _Worker(cost_bounds, race, owed)

    def cost_bounds(self, worker: int) -> CostBounds:
        """What ``worker``, which has joined, can cost."""
        return self._by_worker[worker].cost_bounds

    def hand_out(self, worker: int, kind: AnswerKind, halvings: int = 0) -> None:
        """Set aside what an answer of ``worker`` can cost, in a race on rows halved so often."""
        self._by_worker[worker].owed.append((kind, halvings))
        self._tests -= kind == "test"

    def answered(self, worker: int, costs: Costs) -> None:
        """The answer that ``worker`` was asked for first has come."""
        self._by_worker[worker].owed.pop(0)
        self.count(costs)

    def count(self, costs: Costs) -> None:
        """So much was spent."""
        self.spent.calls += costs.calls
        self.spent.prompt_tokens += costs.prompt_tokens
        self.spent.completion_tokens += costs.completion_tokens

    def lose(self, worker: int) -> None:
        """No answer of ``worker`` will come any more."""
        lost = self._by_worker.pop(worker, None)
        if lost is not None:
            self.write_off(lost.reserved)

    @property
    def reserved(self) -> int:
        """Calls for all answers that are owed."""
        return sum(each.reserved for each in self._by_worker.values())

    def write_off(self, calls: int) -> None:
        """So many calls may have been paid for without an answer that is known of."""
        self._written_off += calls

    def overdrawn(self, calls: int, time: float, stage: AnswerKind = "assignment") -> str | None:
        """The first limit that ``calls`` more could break at ``time``; None if there is none.

        What comes after the ``stage`` of the run is set aside; see `most_spent`.
        """
        budget = self.budget
        if budget.seconds and time >= budget.seconds:
            return f"budget.seconds = {budget.seconds:g}"
        if not self.budget.limits_calls:
            return None
        for name, most in self.most_spent(calls, stage).items():
            limit = getattr(budget, name)
            if limit and most > limit:
                shown = f"{limit:g}" if isinstance(limit, float) else limit
                return f"budget.{name} = {shown}"
        return None

    def most_spent(self, calls: int, stage: AnswerKind = "assignment") -> dict[str, float]:
        """Upper bounds of what is spent after ``calls`` more, by name of the budget's limits.

        With all that is reserved, and what comes after the ``stage``: after a "test" nothing, after
        a "race" the tests, else the races, too.
        """
        everyone = self._by_worker.values()
        bounds = [each.cost_bounds for each in everyone]
        calls += self.reserved + self._written_off
        if stage != "test":
            calls += self._tests * max((each.test for each in bounds), default=0)
        if stage not in ("test", "race"):
            calls += self.workers * max((each.race for each in everyone), default=0)
        # What is not known yet costs as much as the longest prompt of all.
        prompt = self.spent.prompt_tokens
        prompt += calls * max((each.prompt_tokens for each in bounds), default=0)
        completion = self.spent.completion_tokens
        completion += calls * max((each.completion_tokens for each in bounds), default=0)
        return {
            "calls": self.spent.calls + calls,
            "tokens": prompt + completion,
            "cost": price(self.llm, prompt, completion),
        }

    def rounds(self, worker: int, joined: int) -> Rounds:
        """Those of the race of ``worker``, where so many have an equal part of what is left."""
        left = inf
        spent, with_one = self.most_spent(0, "race"), self.most_spent(1, "race")
        for name, most in spent.items():
            if getattr(self.budget, name) and with_one[name] > most:
                left = min(left, (getattr(self.budget, name) - most) / (with_one[name] - most))
        return self._plan(self._by_worker[worker].cost_bounds, left / joined)

    def _plan(self, cost_bounds: CostBounds, share: float) -> Rounds:
        return plan(self._most_racing, cost_bounds, self._has_cache, share)

    def _affordable(self, cost_bounds: CostBounds) -> float:
        """Calls that the budget pays for besides the tests, if all are as dear as can be."""
        budget, tokens = self.budget, (cost_bounds.prompt_tokens, cost_bounds.completion_tokens)
        each = {"calls": 1.0, "tokens": sum(tokens), "cost": price(self.llm, *tokens)}
        limits = (
            getattr(budget, name) / of_call
            for name, of_call in each.items()
            if getattr(budget, name) and of_call
        )
        calls = min(limits, default=inf)
        return max(0.0, calls - self._tests_in_all * cost_bounds.test)
