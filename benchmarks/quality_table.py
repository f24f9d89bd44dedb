"""The tables of the benchmark of quality, in Markdown, from the cells that are finished."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from quality_cells import Cell
from scipy import stats

OWN = "own"

BASELINE = "search-calibrated"

CONFIDENCE = 0.95

Line: TypeAlias = tuple[str, str]
"""A line of a table: a method, and the kind of its prompts."""

KINDS = {OWN: "", "consensus": ", words of the consensus", "mean": ", words of the mean of p"}


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of paired differences, half the width of its 95 % interval by Student's t, and n."""

    mean: float
    half: float
    n: int


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """``first`` less ``second``, by seed; None if no seed has both. One pair has no interval."""
    both = sorted(first.keys() & second.keys())
    if not both:
        return None
    differences = np.array([first[seed] - second[seed] for seed in both])
    n, half = len(both), np.nan
    if n > 1:
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
        half = float(quantile * differences.std(ddof=1) / np.sqrt(n))
    return Difference(float(differences.mean()), half, n)


class Results:
    """Cells by line and task.

    Attributes
    ----------
    accuracy, loss, spent : by (line, task), and then by seed; accuracies in per cent
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.accuracy: dict[tuple[Line, str], dict[int, float]] = {}
        self.loss: dict[tuple[Line, str], dict[int, float]] = {}
        self.spent: dict[tuple[Line, str], dict[int, float]] = {}
        for cell in cells:
            key = cell.key
            for kind in cell.accuracy:
                place = (key.method, kind), key.task
                self.accuracy.setdefault(place, {})[key.seed] = 100 * cell.accuracy[kind]
                self.loss.setdefault(place, {})[key.seed] = cell.loss[kind]
            self.spent.setdefault(((key.method, OWN), key.task), {})[key.seed] = cell.spent

    def lines(self, methods: Sequence[str]) -> list[Line]:
        """Those that have a result, in the order of ``methods``."""
        there = {line for line, _ in self.accuracy}
        each = ((method, kind) for method in methods for kind in KINDS)
        return [line for line in each if line in there]

    def over_tasks(
        self, values: Mapping[tuple[Line, str], Mapping[int, float]], line: Line, tasks: list[str]
    ) -> dict[int, float]:
        """By seed the mean over ``tasks``; only of seeds that have them all."""
        of_tasks = [values.get((line, task), {}) for task in tasks]
        seeds = set.intersection(*(set(each) for each in of_tasks))
        return {seed: float(np.mean([each[seed] for each in of_tasks])) for seed in seeds}


def tables(cells: Sequence[Cell], methods: Sequence[str], tasks: Sequence[str]) -> Iterator[str]:
    """Lines of Markdown: means, differences to the best random prompt, and calls."""
    results = Results(cells)
    shown = [task for task in tasks if any(task == place[1] for place in results.accuracy)]
    seeds = sorted({cell.key.seed for cell in cells})
    if not shown:
        yield "No cell is finished."
        return
    lines = results.lines(methods)
    yield f"Seeds {', '.join(map(str, seeds))}. [n] where fewer than {len(seeds)} are finished."
    yield ""
    yield "Test accuracy in per cent (loss), mean over seeds:"
    yield ""
    yield from _head("method", [*shown, "mean of tasks"])
    for line in lines:
        means = [
            _mean(results.accuracy.get((line, t), {}), results.loss.get((line, t), {}), seeds)
            for t in shown
        ]
        accuracy, loss = (
            results.over_tasks(values, line, shown) for values in (results.accuracy, results.loss)
        )
        yield _row(line, [*means, _mean(accuracy, loss, seeds)])
    if any(line == (BASELINE, OWN) for line in lines):
        yield ""
        yield f"Less `{BASELINE}`: points of accuracy (loss) ± half of the 95 % interval:"
        yield ""
        yield from _head("method", [*shown, "mean of tasks"])
        for line in lines:
            if line != (BASELINE, OWN):
                each = [_differences(results, line, [task], seeds) for task in shown]
                yield _row(line, [*each, _differences(results, line, shown, seeds)])
    yield ""
    yield "Calls paid for by all workers, tests not counted, mean over seeds:"
    yield ""
    yield from _head("method", shown)
    for line in lines:
        if line[1] == OWN:
            spent = [results.spent.get((line, task), {}) for task in shown]
            yield _row(line, [f"{np.mean(list(s.values())):,.0f}" if s else "" for s in spent])


def _head(first: str, names: Sequence[str]) -> Iterator[str]:
    yield f"| {first} | {' | '.join(names)} |"
    yield "| --- " * (len(names) + 1) + "|"


def _row(line: Line, values: Sequence[str]) -> str:
    method, kind = line
    return f"| {method}{KINDS[kind]} | {' | '.join(values)} |"


def _mean(accuracy: Mapping[int, float], loss: Mapping[int, float], seeds: Sequence[int]) -> str:
    if not accuracy:
        return ""
    mean = np.mean(list(accuracy.values())), np.mean(list(loss.values()))
    return f"{mean[0]:.1f} ({mean[1]:.3f})" + _n(len(accuracy), seeds)


def _differences(results: Results, line: Line, tasks: list[str], seeds: Sequence[int]) -> str:
    found = []
    for values in (results.accuracy, results.loss):
        of_line, of_baseline = (
            results.over_tasks(values, each, tasks) for each in (line, (BASELINE, OWN))
        )
        found.append(paired(of_line, of_baseline))
    accuracy, loss = found
    if accuracy is None or loss is None:
        return ""
    n = _n(accuracy.n, seeds)
    if accuracy.n == 1:
        return f"{accuracy.mean:+.1f} ({loss.mean:+.3f}){n}"
    return f"{accuracy.mean:+.1f} ± {accuracy.half:.1f} ({loss.mean:+.3f} ± {loss.half:.3f}){n}"


def _n(n: int, seeds: Sequence[int]) -> str:
    return f" [{n}]" if n < len(seeds) else ""
