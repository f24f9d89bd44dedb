"""Methods compared over tasks and seeds: means, ranks, and what of them is more than chance.

The test and the critical difference are those of Friedman and Nemenyi, as in Demšar, Statistical
Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006).
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from asyndbt_mpi.baselines.result import Result
from asyndbt_mpi.view import intervals
from asyndbt_mpi.view.outcomes import score

DIGITS = 9
"""Of accuracies in per cent that count as different."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A method on a task under one seed: means over workers; ``accuracy`` in per cent."""

    method: str
    task: str
    seed: int
    accuracy: float
    loss: float
    calls: int
    tokens: int

    @classmethod
    def of(cls, result: Result, task: str) -> "Cell":
        """What a result comes to."""
        found = [score(*each) for each in result.scores().values()]
        spent = result.tuning
        return cls(
            result.method,
            task,
            result.seed,
            100 * float(np.mean([each.right.mean() for each in found])),
            float(np.mean([each.losses.mean() for each in found])),
            spent.calls,
            spent.prompt_tokens + spent.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Ranks:
    """Mean ranks (K,) of K methods over N tasks, 1 for the best; ties share their mean.

    ``p_value`` is Friedman's. Two methods whose mean ranks differ by less than
    ``critical_difference`` (Nemenyi, 5 %) are not told apart.
    """

    mean: np.ndarray
    p_value: float
    critical_difference: float


def ranks(accuracies: np.ndarray) -> Ranks:
    """Of mean accuracies (N, K).

    Raises
    ------
    ValueError
        There are fewer than three methods or two tasks.
    """
    tasks, methods = accuracies.shape
    if methods < 3 or tasks < 2:
        raise ValueError(f"{methods} methods on {tasks} tasks: ranks need 3 and 2")
    # Means over workers and seeds that are equal may differ by rounding.
    rounded = accuracies.round(DIGITS)
    of_tasks = stats.rankdata(-rounded, axis=1)
    p_value = float(stats.friedmanchisquare(*rounded.T).pvalue)
    quantile = stats.studentized_range.ppf(intervals.CONFIDENCE, methods, np.inf) / np.sqrt(2)
    difference = quantile * np.sqrt(methods * (methods + 1) / (6 * tasks))
    return Ranks(of_tasks.mean(axis=0), p_value, float(difference))


class Table:
    """Cells by method and task, in the order in which these were asked for."""

    def __init__(self, cells: Iterable[Cell], methods: Sequence[str], tasks: Sequence[str]) -> None:
        self.cells = list(cells)
        self.methods, self.tasks = (
            [each for each in names if any(each in (c.method, c.task) for c in self.cells)]
            for names in (methods, tasks)
        )
        self.seeds = len({cell.seed for cell in self.cells})

    def values(self, what: str, method: str, task: str) -> list[float]:
        """A number of each seed, in order of seeds."""
        chosen = [cell for cell in self.cells if (cell.method, cell.task) == (method, task)]
        return [float(getattr(c, what)) for c in sorted(chosen, key=lambda cell: cell.seed)]

    def accuracies(self) -> np.ndarray:
        """Means over seeds (N, K); NaN where no cell is finished."""
        found: np.ndarray = np.array([
            [
                np.mean(values) if (values := self.values("accuracy", method, task)) else np.nan
                for method in self.methods
            ]
            for task in self.tasks
        ])  # fmt: skip
        return found

    def means(self, names: Mapping[str, str], of_ranks: Ranks | None = None) -> Iterator[str]:
        """Mean accuracies and standard deviations; ``names`` are other names of methods."""
        over = f"over {self.seeds} seeds" if self.seeds > 1 else "one seed"
        yield f"Test accuracy in per cent: mean ± standard deviation, {over}."
        yield ""
        yield from _head(["method", *self.tasks, *(["mean rank"] if of_ranks else [])])
        for place, method in enumerate(self.methods):
            cells = [self._spread(method, task) for task in self.tasks]
            rank = [f"{of_ranks.mean[place]:.2f}"] if of_ranks else []
            yield _row([names.get(method, method), *cells, *rank])
        yield ""

    def halves(self) -> Iterator[str]:
        """Half of the interval of each mean; nothing for a single seed."""
        if self.seeds == 1:
            return
        yield "Half of the 95 % interval of these means (Student's t over seeds), in points:"
        yield ""
        yield from _head(["method", *self.tasks])
        for method in self.methods:
            found = (self.values("accuracy", method, task) for task in self.tasks)
            yield _row([method, *map(_half, found)])
        yield ""

    def differences(self, base: str, names: Mapping[str, str]) -> Iterator[str]:
        """Accuracies less those of the method ``base`` under the same seeds, with intervals."""
        yield (
            f"Less {names.get(base, base)} under the same seed, in points, with half of the 95 %"
            " interval (Student's t over seeds):"
        )
        yield ""
        yield from _head(["method", *self.tasks])
        for method in self.methods:
            if method != base:
                cells = [self._difference(method, base, task) for task in self.tasks]
                yield _row([names.get(method, method), *cells])
        yield ""

    def costs(self) -> Iterator[str]:
        """Calls and tokens."""
        yield "Calls (tokens) paid for before the tests, by all workers, mean over seeds:"
        yield ""
        yield from _head(["method", *self.tasks])
        for method in self.methods:
            yield _row([method, *(self._costs(method, task) for task in self.tasks)])

    def _spread(self, method: str, task: str) -> str:
        values = self.values("accuracy", method, task)
        if not values:
            return ""
        few = "" if len(values) == self.seeds else f" [{len(values)}]"
        deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        return f"{np.mean(values):.1f}{deviation}{few}"

    def _difference(self, method: str, base: str, task: str) -> str:
        ours, theirs = (
            {c.seed: c.accuracy for c in self.cells if (c.method, c.task) == (each, task)}
            for each in (method, base)
        )
        paired = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
        return f"{np.mean(paired):+.1f}{_half(paired, ' ± ')}" if paired else ""

    def _costs(self, method: str, task: str) -> str:
        calls, tokens = (self.values(what, method, task) for what in ("calls", "tokens"))
        return f"{np.mean(calls):,.0f} ({np.mean(tokens):,.0f})" if calls else ""

    def csv(self) -> str:
        """Every cell, one line each."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["task", "method", "seed", "accuracy", "loss", "calls", "tokens"])
        for cell in self.cells:
            numbers = f"{cell.accuracy:.4f}", f"{cell.loss:.6f}", cell.calls, cell.tokens
            writer.writerow([cell.task, cell.method, cell.seed, *numbers])
        return text.getvalue()


PARTS = {
    "manual": "plain",
    "words_only": "words only",
    "demonstrations_only": "demonstrations only",
    "cendbt": "both",
}
"""What table 4 calls its methods."""


def table3(table: Table) -> Iterator[str]:
    """Every method: accuracies, ranks, intervals and costs, in lines."""
    accuracies = table.accuracies()
    whole = len(table.methods) > 2 and len(table.tasks) > 1 and not np.isnan(accuracies).any()
    found = ranks(accuracies) if whole else None
    yield from table.means({}, found)
    if found:
        yield (
            f"Friedman test of equal ranks over {len(table.tasks)} tasks: p ="
            f" {found.p_value:.2g}; critical difference of mean ranks (Nemenyi, 5 %):"
            f" {found.critical_difference:.2f}."
        )
        yield ""
    yield from table.halves()
    yield from table.costs()


def table4(table: Table) -> Iterator[str]:
    """What each part of a tuned prompt is worth, in lines."""
    yield from table.means(PARTS)
    yield from table.differences("manual", PARTS)


def _half(values: Sequence[float], before: str = "") -> str:
    """Of the interval of the mean; nothing where there is none."""
    if len(values) < 2:
        return ""
    found = intervals.mean(np.array(values))
    return f"{before}{found.high - found.value:.1f}"


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _row(names)
    yield "| --- " * len(names) + "|"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
