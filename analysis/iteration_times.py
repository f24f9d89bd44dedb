"""Seconds per iteration of a log, measured and predicted, for stragglers.py."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from asyndbt_mpi.analysis import files
from asyndbt_mpi.analysis.orderstatistics import Group, Law, lognormal, naive, pareto, predict
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import Log

FREE = {
    *("run.seed", "run.name", "run.output", "run.iterations"),
    *("algorithm.active_workers", "algorithm.max_delay", "delay"),
}
"""Keys and tables in which the runs may differ, besides [log]."""
MAY_DIFFER = "seed, S, tau, iterations, [delay] and [log]"


@dataclass(frozen=True)
class Setting:
    """What runs in the same panel have in common; None for what the delay model does not use."""

    delay_model: str
    trace: str | None
    mean: float
    sigma: float | None
    slow_workers: int
    slow_factor: float | None
    workers: int
    transport: str
    uncovered: str
    """Why there is no prediction, and what would be right; empty if there is one."""


@dataclass(frozen=True)
class Run:
    """A log's part in the figure; times in seconds per iteration, nan where there is none."""

    file: str
    compared: dict[str, object]
    setting: Setting
    active_workers: int
    max_delay: int
    seed: int
    iterations: int
    seconds: float
    predicted: float
    naive: float
    delay_bound_reached: bool


LAWS: dict[str, Callable[[float, float | None], Law]] = {
    "constant": lambda mean, _: np.array([mean]),
    "lognormal": lambda mean, sigma: lognormal(mean, sigma or 0.0),
    "pareto": lambda mean, _: pareto(mean),
}


def read(path: Path) -> Run:
    """Measure one log and predict it.

    Raises
    ------
    LogError
        The file is no log.
    ConfigurationError
        It holds no two iterations with time between them.
    """
    with Log(path) as log:
        times = log["iteration/time"]
        if len(times) < 2 or times[-1] == times[0]:
            raise ConfigurationError(
                f"{path}: no time passes between the {len(times)} committed iterations; at least"
                " 2 are needed, and under the virtual clock a delay.model"
            )
        setting = setting_of(log)
        active = min(log.active_workers, log.workers)
        if setting.uncovered:
            predicted = bound = math.nan
        elif setting.transport == "virtual" and setting.delay_model in LAWS:
            predicted, bound = of_delay_model(setting, active, log.committed)
        else:
            predicted, bound = expected(measured_laws(log), active, log.committed)
        return Run(
            file=str(path),
            compared=files.compared(log, FREE),
            setting=setting,
            active_workers=active,
            max_delay=log.max_delay,
            seed=log.seed,
            iterations=log.committed,
            seconds=float(times[-1] - times[0]) / (log.committed - 1),
            predicted=predicted,
            naive=bound,
            delay_bound_reached=active < log.workers
            and bool(log["iteration/delay"].max() >= log.max_delay),
        )


def setting_of(log: Log) -> Setting:
    """The panel that a log belongs to."""
    delay = log.config.delay
    return Setting(
        delay_model=delay.model,
        trace=delay.trace or None,
        mean=delay.mean,
        sigma=delay.sigma if delay.model == "lognormal" else None,
        slow_workers=min(delay.slow_workers, log.workers),
        slow_factor=delay.slow_factor if delay.slow_workers else None,
        workers=log.workers,
        transport=log.transport,
        uncovered=uncovered(log),
    )


def uncovered(log: Log) -> str:
    """`Setting.uncovered` of a log."""
    kinds = h5py.check_enum_dtype(log.type_and_row("event/kind")[0])
    if len(log["lower/iteration"]):
        return "estimates of phi are barriers; algorithm.plane_until = 0 is needed"
    if log.config.run.evaluate_every:
        return "validation takes the workers' time; run.evaluate_every = 0 is needed"
    if (log["event/kind"] == kinds["excluded"]).any():
        return "workers were excluded; a run that keeps them all is needed"
    return ""


@cache
def of_delay_model(setting: Setting, active: int, iterations: int) -> tuple[float, float]:
    """`expected` where the delay model's law is all there is."""
    slow = setting.slow_workers
    pairs = ((1.0, setting.workers - slow), (setting.slow_factor or 1.0, slow))
    law = LAWS[setting.delay_model]
    groups = [
        Group(law(factor * setting.mean, setting.sigma), count) for factor, count in pairs if count
    ]
    return expected(groups, active, iterations)


def measured_laws(log: Log) -> list[Group]:
    """Each worker's seconds as its used reports tell; endless where there is none."""
    workers, seconds = log["report/worker"], log["report/compute_seconds"]
    samples = (seconds[workers == worker] for worker in range(1, log.workers + 1))
    return [Group(sample if len(sample) else np.array([np.inf]), 1) for sample in samples]


def expected(groups: Sequence[Group], active: int, iterations: int) -> tuple[float, float]:
    """Predicted seconds per iteration, and the naive ones."""
    return predict(groups, active, iterations), naive(groups, active)
