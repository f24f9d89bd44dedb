"""No rank starves: workers that are equally fast report equally often, where one report is enough.

Simulated ones within 20 %. Over MPI the operating system decides who runs, here of many more ranks
than cores: none has less than half of the others' turns, or twice as many.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.log.reader import Log
from tests.helpers import ASYNDBT, asyndbt, mpiexec, needs_mpiexec, sets, start

EACH = 100
"""Reports of a worker."""
PATIENCE = 240.0


def settings(workers: int) -> list[str]:
    """S = 1, and nobody is waited for: neither by the bound on the delay nor by an estimate."""
    return sets(
        "algorithm.active_workers=1", "algorithm.max_delay=1000000", "algorithm.plane_until=0",
        f"run.iterations={workers * EACH}", "log.iterates=1000",
        "estimator.name=loo", "steps.optimizer=adam",
    )  # fmt: skip


def over_mpi(workers: int, output: Path) -> None:
    command = [*ASYNDBT, "run", "synthetic", "--output", str(output), *settings(workers)]
    done = start(mpiexec(workers + 1, command), output.parent, PATIENCE)
    assert done.returncode == 0, done.stderr


def simulated(workers: int, output: Path) -> None:
    delays = sets("delay.model=lognormal", "delay.mean=1", "delay.sigma=0.5")
    command = "simulate", "synthetic", "--workers", str(workers), "--output", str(output)
    done = asyndbt(*command, *settings(workers), *delays, folder=output.parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("run", "workers", "spread"),
    [
        (simulated, 16, 1.2),
        (simulated, 64, 1.2),
        pytest.param(over_mpi, 16, 2.0, marks=[needs_mpiexec, pytest.mark.long]),
    ],
)
def test_workers_that_are_equally_fast_report_equally_often(
    run: Callable[[int, Path], None], workers: int, spread: float, tmp_path: Path
) -> None:
    output = tmp_path / "run.h5"
    run(workers, output)
    with Log(output) as log:
        reports = log["report/worker"]
    # Who starts later has not starved: what counts is what follows when all are there.
    _, first = np.unique(reports, return_index=True)
    assert len(first) == workers
    counts = np.bincount(reports[first.max() :], minlength=workers + 1)[1:]
    mean = counts.mean()
    assert mean > EACH / 2, "ranks started too late for the rest to tell"
    assert mean / spread <= counts.min() <= counts.max() <= spread * mean, counts.tolist()
