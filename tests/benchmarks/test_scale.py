"""benchmarks/scale.py: when rank 0 is busy all the time, and what a server holds."""

import numpy as np
import pytest
import scale

from asyndbt_mpi.log.reader import Log


def costing(seconds: float) -> scale.Measured:
    return scale.Measured(0.75 * seconds, 1.0, 0.0, 0.0, 0.25 * seconds, 0.0, 0)


def test_rank_0_is_busy_where_an_iteration_takes_it_as_long_as_the_workers() -> None:
    # 4 R/R iterations in the seconds of an assignment, of R/1000 s each: busy at R = 250 s.
    found = {workers: costing(workers / 1000) for workers in (4, 16, 64, 256, 1024, 4096)}
    assert scale.busy_at(found, 1.0) == "250"
    assert scale.busy_at(found, 10.0) == "2,500"
    assert scale.busy_at(found, 100.0) == "> 4,096"
    assert scale.busy_at(found, 0.001) == "< 4"


def test_bytes_are_those_of_all_arrays_within_once() -> None:
    shared = np.zeros(1000)
    assert scale.size_of([shared, {"a": shared}, (np.zeros(500),)]) == pytest.approx(12000, abs=900)


def test_a_run_is_measured_per_iteration(tmp_path) -> None:
    of = scale.measured(4, "the paper's", tmp_path)
    with Log(tmp_path / "scale.h5") as log:
        used = int((log["report/iteration"] >= scale.WARMING_UP).sum())
    of_estimates = 2 * 3 * 4  # two in twenty iterations, of three rounds of four workers
    assert scale.ITERATIONS * of.reports == pytest.approx(used + of_estimates, abs=6)
    assert of.received > of.reports * 8 * scale.POSITIONS * scale.WORDS
    assert min(of.seconds, of.log_seconds, of.memory) > 0
