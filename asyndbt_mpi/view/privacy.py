"""The guarantee that `[privacy]` gives for so many noisy answers, by a maintained accountant."""

from math import sqrt

import numpy as np

from asyndbt_mpi.config import Config
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import SPLIT_OF, EventKind

ANSWERS = (EventKind.REPORT, EventKind.LOWER_REPORT, *SPLIT_OF)
"""Events that tell of an answer of a worker's black box."""
MISSING_AFTER = (EventKind.LOST, EventKind.DROPPED, EventKind.EXCLUDED)
"""Events of a worker before which it may have given answers that are not in the log."""
IN_FLIGHT = 3
"""The most that a worker is asked for at once: a step, a validation, a round of an estimate."""
MISSING = "epsilon is not known without dp-accounting: pip install 'asyndbt-mpi[privacy]'"
MEANINGFUL = 100.0
"""An epsilon above which nobody is protected."""


def releases(log: Log) -> int:
    """The most noisy answers that a worker of ``log`` has given, in the log or not.

    What was on its way when a worker was lost, dropped or excluded is not in the log, nor is it
    when a run was stopped from one moment to the next.
    """
    kinds, workers = log["event/kind"], log["event/worker"]
    told = np.isin(kinds, ANSWERS)
    missed = IN_FLIGHT * np.isin(kinds, MISSING_AFTER)
    at_work = log.status != "finished" or log.config.budget.seconds > 0
    of_each = np.bincount(workers, told + missed, minlength=log.workers + 1)[1:]
    return int(of_each.max()) + IN_FLIGHT * at_work


def guarantee(config: Config, count: int) -> str:
    """What ``count`` noisy answers of a worker tell of its data at the most; one line."""
    privacy = config.privacy
    so_many = f"{count:,} noisy answers of a worker (privacy.noise = {privacy.noise:g})"
    try:
        found = epsilon(privacy.noise, count, privacy.delta)
    except ImportError:
        return f"{so_many}: {MISSING}"
    if found > MEANINGFUL:
        return (
            f"{so_many} have no guarantee that means anything: epsilon is over {MEANINGFUL:g} at"
            f" delta = {privacy.delta:g}"
        )
    return (
        f"{so_many} are ({found:.3g}, {privacy.delta:g})-differentially private with respect to all"
        " of its data; costs and times are not covered"
    )


def epsilon(noise: float, count: int, delta: float) -> float:
    """Epsilon of ``count`` Gaussian mechanisms of multiplier ``noise`` at ``delta``.

    Together they are one of multiplier ``noise`` / sqrt(``count``), whose epsilon is known exactly
    (Balle and Wang, 2018, theorem 8). A composition by privacy loss distributions takes minutes
    where there is little noise.

    Raises
    ------
    ImportError
        dp-accounting is not installed.
    """
    if not count:
        return 0.0
    # Here, because it is optional, and takes seconds.
    from dp_accounting import get_epsilon_gaussian

    with np.errstate(divide="ignore"):  # of a delta that is rounded to 0
        return float(get_epsilon_gaussian(noise / sqrt(count), delta))
