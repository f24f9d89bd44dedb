"""What the runs of scaling.py took to reach epsilon, read from their logs.

A run reaches epsilon in the first iteration t after which ||grad G^t||^2 <= epsilon; what it took
is counted up to and including t. Answers that are on their way by then, at most R - S, do not
count: this favours small S by that many queries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asyndbt_mpi.analysis import files
from asyndbt_mpi.analysis.fits import extent
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import Log

QUANTITIES = {
    "iterations": "iterations",
    "llm_calls": "LLM queries",
    "prompt_tokens": "prompt tokens",
    "seconds": "seconds",
}
COLUMNS = {"S": "active_workers", "R": "workers", "tau": "max_delay"}

FREE = {
    *("run.seed", "run.name", "run.output"),
    *("algorithm.active_workers", "algorithm.max_delay", "delay.model"),
}
"""Keys in which runs that are compared may differ, besides those of [log]."""
MAY_DIFFER = "S, R, tau, the seed and delay.model"


@dataclass(frozen=True, slots=True)
class Run:
    """What scaling needs of a log that knows its stationarity after Q of its iterations.

    Attributes
    ----------
    setting : values of S, R, tau and delay (the delay model)
    compared : by name, everything that must be the same in all runs
    squared_norm : array (Q,), ||grad G^t||^2
    costs : by quantity, array (Q,): what it took to get so far
    """

    path: Path
    seed: int
    kind: str
    clock: str
    setting: dict[str, Any]
    compared: dict[str, object]
    squared_norm: np.ndarray
    costs: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Arrival:
    """When ``run`` reached ``epsilon``: its costs by then, NaN if it never did."""

    run: Run
    epsilon: float
    costs: dict[str, float]

    def value(self, variable: str) -> Any:
        """Of S, R, tau, epsilon or delay."""
        return self.epsilon if variable == "epsilon" else self.run.setting[variable]

    def row(self) -> dict[str, object]:
        """Row of PREFIX.csv."""
        return {
            "path": self.run.path.name,
            **{column: self.run.setting[name] for name, column in COLUMNS.items()},
            "seed": self.run.seed,
            "delay_model": self.run.setting["delay"],
            "epsilon": self.epsilon,
            **self.costs,
            "kind": self.run.kind,
        }


def read(path: Path, per_worker: bool) -> Run:
    """The columns of a log that matter here; the squared norm divided by R if ``per_worker``.

    Raises
    ------
    ConfigurationError
        It has no stationarity, or one that is not a number.
    """
    with Log(path) as log:
        found = log.stationarity
        if found is None:
            raise ConfigurationError(
                f"{path}: has no stationarity; add it with: asyndbt stationarity {path}"
            )
        unknown = found.iteration[np.isnan(found.squared_norm)]
        if len(unknown):
            raise ConfigurationError(
                f"{path}: ||grad G||^2 is not a number after iteration {unknown[0]}; work it out"
                f" anew: asyndbt stationarity {path}"
            )
        setting = {name: getattr(log, column) for name, column in COLUMNS.items()}
        clock = "virtual seconds" if log.transport == "virtual" else "seconds"
        costs = {
            "iterations": found.iteration + 1,
            "llm_calls": cumulative(log, "llm_calls", found.iteration),
            "prompt_tokens": cumulative(log, "prompt_tokens", found.iteration),
            "seconds": log["iteration/time"][found.iteration],
        }
        return Run(
            path,
            log.seed,
            found.kind,
            clock,
            setting | {"delay": log.config.delay.model},
            files.compared(log, FREE)
            | {
                "clock": clock,
                "kind of stationarity": found.kind,
                "iterations with stationarity": extent(found.iteration),
            },
            found.squared_norm / (log.workers if per_worker else 1),
            costs,
        )


def cumulative(log: Log, column: str, iterations: np.ndarray) -> np.ndarray:
    """Sums of a column of /report and /lower up to and including each of ``iterations`` (Q,)."""
    total = np.zeros(len(iterations), int)
    for group in ("report", "lower"):
        sums = np.cumsum(np.insert(log[f"{group}/{column}"], 0, 0))
        total += sums[np.searchsorted(log[f"{group}/iteration"], iterations, side="right")]
    return total


def check_different(runs: Sequence[Run]) -> None:
    """Refuse two runs of the same setting and seed with a ConfigurationError: one would do."""
    seen: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        other = seen.setdefault((run.seed, *run.setting.values()), run)
        if other is not run:
            what = ", ".join(f"{name} = {value}" for name, value in run.setting.items())
            raise ConfigurationError(
                f"{other.path} and {run.path}: both have seed {run.seed} and {what}; give one"
            )


def arrive(run: Run, epsilon: float) -> Arrival:
    """When ``run`` is first at ``epsilon``; costs never fall, so the first are the least."""
    there = run.squared_norm <= epsilon
    costs = {
        quantity: cost[there].min().item() if there.any() else math.nan
        for quantity, cost in run.costs.items()
    }
    return Arrival(run, epsilon, costs)
