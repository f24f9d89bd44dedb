"""Methods compared over tasks and seeds: means, ranks, and what of them is more than chance.

The test and the critical difference are those of Friedman and Nemenyi, as in Demšar, Statistical
Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006).
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from asyndbt_mpi.baselines.result import Result
from asyndbt_mpi.view.outcomes import score

CONFIDENCE = 0.95


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
class Spread:
    """Mean and standard deviation over n seeds, and half of the mean's interval by Student's t."""

    mean: float
    deviation: float
    half: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value there is neither deviation nor interval: NaN."""
        n, deviation = len(values), np.nan
        if n > 1:
            deviation = float(np.std(values, ddof=1))
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) if n > 1 else np.nan
        return cls(float(np.mean(values)), deviation, float(quantile * deviation / np.sqrt(n)), n)


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
    of_tasks = stats.rankdata(-accuracies, axis=1)
    p_value = float(stats.friedmanchisquare(*accuracies.T).pvalue)
    quantile = stats.studentized_range.ppf(CONFIDENCE, methods, np.inf) / np.sqrt(2)
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

    def markdown(self) -> Iterator[str]:
        """Accuracies, ranks and costs, in lines."""
        seeds = len({cell.seed for cell in self.cells})
        accuracies = self.accuracies()
        whole = len(self.methods) > 2 and len(self.tasks) > 1 and not np.isnan(accuracies).any()
        found = ranks(accuracies) if whole else None
        over = f"over {seeds} seeds" if seeds > 1 else "one seed"
        yield f"Test accuracy in per cent: mean ± standard deviation, {over}."
        yield ""
        yield from _head(["method", *self.tasks, "mean rank"])
        for place, method in enumerate(self.methods):
            cells = [self._spread("accuracy", method, task, seeds) for task in self.tasks]
            yield _row([method, *cells, f"{found.mean[place]:.2f}" if found else ""])
        yield ""
        if found:
            yield (
                f"Friedman test of equal ranks over {len(self.tasks)} tasks: p ="
                f" {found.p_value:.2g}; critical difference of mean ranks (Nemenyi, 5 %):"
                f" {found.critical_difference:.2f}."
            )
            yield ""
        yield "Half of the 95 % interval of these means (Student's t over seeds), in points:"
        yield ""
        yield from _head(["method", *self.tasks])
        for method in self.methods:
            halves = [Spread.of(self.values("accuracy", method, t) or [np.nan]).half
                      for t in self.tasks]  # fmt: skip
            yield _row([method, *("" if np.isnan(half) else f"{half:.1f}" for half in halves)])
        yield ""
        yield "Calls (tokens) paid for before the tests, by all workers, mean over seeds:"
        yield ""
        yield from _head(["method", *self.tasks])
        for method in self.methods:
            yield _row([method, *(self._costs(method, task) for task in self.tasks)])

    def _spread(self, what: str, method: str, task: str, seeds: int) -> str:
        values = self.values(what, method, task)
        if not values:
            return ""
        found = Spread.of(values)
        few = "" if found.n == seeds else f" [{found.n}]"
        deviation = "" if np.isnan(found.deviation) else f" ± {found.deviation:.1f}"
        return f"{found.mean:.1f}{deviation}{few}"

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


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _row(names)
    yield "| --- " * len(names) + "|"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
