"""The delays' laws, their independence, and traces."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import stats

from asyndbt_mpi.assemble import delays_of_workers
from asyndbt_mpi.config import ConfigurationError, load
from asyndbt_mpi.inputs.sections import Delay
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.transport.delay import Delays

Run = Callable[..., Path]


def draws(model: str, worker: int, workers: int = 4, **settings: float) -> np.ndarray:
    delay = Delay(model=model, mean=2.0, **settings)
    delays = Delays(delay, 0, worker, workers)
    return np.array([delays.draw() for _ in range(4000)])


def test_delays_follow_their_laws() -> None:
    assert (draws("constant", 1) == 2.0).all()
    assert (draws("none", 1) == 0.0).all()
    lognormal = stats.lognorm(s=0.5, scale=2.0 * np.exp(-(0.5**2) / 2))
    assert stats.kstest(draws("lognormal", 1, sigma=0.5), lognormal.cdf).pvalue > 0.01
    pareto = stats.pareto(2.0, scale=1.0)
    assert stats.kstest(draws("pareto", 1), pareto.cdf).pvalue > 0.01
    assert lognormal.mean() == pytest.approx(2.0)
    assert pareto.mean() == pytest.approx(2.0)


def test_the_last_workers_are_the_slow_ones() -> None:
    means = [draws("lognormal", v, slow_workers=1, slow_factor=20).mean() for v in (1, 2, 3, 4)]
    assert max(means[:3]) < 2.5
    assert means[3] == pytest.approx(40.0, rel=0.1)


@pytest.mark.parametrize("model", ["lognormal", "pareto"])
def test_workers_have_streams_of_their_own(model: str) -> None:
    one, other = np.log(draws(model, 1)), np.log(draws(model, 2))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.05


def test_a_trace_gives_each_worker_its_own_seconds_again(virtual_run: Run) -> None:
    path = virtual_run(
        workers=2,
        run={"iterations": 60},
        algorithm={"active_workers": 1},
        delay={"model": "lognormal", "mean": 3.0, "slow_workers": 1, "slow_factor": 50.0},
    )
    with Log(path) as log:
        worker, seconds = log["report/worker"], log["report/compute_seconds"]
    # Five workers take the two of the trace in turn; the last is three times slower here.
    settings = ("delay.model=trace", f"delay.trace={path}", "delay.slow_workers=1",
                "delay.slow_factor=3.0", "algorithm.active_workers=1")  # fmt: skip
    delays = delays_of_workers(load("synthetic", settings), 5)
    drawn = {v: np.array([delays[v].draw() for _ in range(300)]) for v in delays}
    for v, source in ((1, 1), (2, 2), (3, 1), (4, 2)):
        assert set(drawn[v]) <= set(seconds[worker == source])
    assert set(drawn[5] / 3.0) <= set((3.0 * seconds[worker == 1]) / 3.0)
    assert drawn[1].tolist() != drawn[3].tolist()
    assert len(set(drawn[1])) > 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("delay.model=trace",), "needs the key trace"),
        (("delay.trace=x.h5",), "trace needs model 'trace'"),
        (("delay.model=trace", "delay.trace=x.h5", "delay.mean=1"), "a trace has its own"),
        (("delay.model=trace", "delay.trace=absent.h5"), "delay.trace: absent.h5: no such file"),
    ],
)
def test_a_trace_that_cannot_be(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        delays_of_workers(load("synthetic", settings), 3)


def test_a_trace_without_seconds_is_refused(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 5}, delay={"model": "none"})
    settings = ("delay.model=trace", f"delay.trace={path}")
    with pytest.raises(ConfigurationError, match="reports are missing or damaged"):
        delays_of_workers(load("synthetic", settings), 3)
    with h5py.File(path, "r+") as file:
        file["report/compute_seconds"][:] = np.nan
    with pytest.raises(ConfigurationError, match="missing or damaged"):
        delays_of_workers(load("synthetic", settings), 3)


def test_a_trace_is_not_overwritten_by_the_run_that_draws_from_it(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 5}, delay={"model": "constant", "mean": 1.0})
    before = path.read_bytes()
    settings = ("delay.model=trace", f"delay.trace={path}")
    with pytest.raises(ConfigurationError, match="is the log that will be written"):
        Job.of(Request("synthetic", settings, str(path), overwrite=True, debug=False), 3)
    assert path.read_bytes() == before
