import csv
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import tomli_w

from tests.helpers import Result, plot

Run = Callable[..., Path]


def stragglers(*arguments: object) -> Result:
    return plot("stragglers", *arguments)


def rows(prefix: Path) -> list[dict[str, str]]:
    with open(f"{prefix}.csv", newline="") as file:
        return list(csv.DictReader(file))


def algorithm(active: int, **keys: Any) -> dict[str, Any]:
    return {"active_workers": active, "max_delay": 1000, "plane_until": 0, **keys}


def test_constant_delays_are_predicted_to_the_digit(virtual_run: Run, tmp_path: Path) -> None:
    slow = {"model": "constant", "mean": 0.3, "slow_workers": 1, "slow_factor": 3.0}
    for delay, number in ((slow, 1), ({"model": "constant", "mean": 0.3}, 0)):
        for active in (1, 2, 4, 5):
            virtual_run(
                5,
                f"{number}-{active}",
                run={"iterations": 83},
                delay=delay,
                algorithm=algorithm(active),
            )
    result = stragglers(tmp_path, "-o", tmp_path / "figure")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    table = rows(tmp_path / "figure")
    assert len(table) == 8
    for row in table:
        assert float(row["deviation"]) == pytest.approx(0, abs=1e-9), row
        assert row["delay_bound_reached"] == "False"
    lock_step = [row for row in table if row["slow_workers"] == "0"]
    # S > R / 2: one iteration for each delay, as with S = R. None saves seconds per report.
    assert [round(float(row["shorter"]), 2) for row in lock_step] == [0.8, 0.5, 0.0, 0.0]
    assert [float(row["saved"]) for row in lock_step] == pytest.approx(
        [0, -0.25, -0.25, 0], abs=0.03
    )
    # A longer time is told as such, not as a negative share saved.
    assert result.stdout.count("the same 1.25 times as long\n") == 1
    assert re.search(r"-[\d.]+ % less", result.stdout) is None
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("model", ["lognormal", "pareto"])
def test_random_delays_are_predicted(virtual_run: Run, tmp_path: Path, model: str) -> None:
    for active in (2, 4):
        virtual_run(
            4,
            f"{active}",
            run={"iterations": 1000},
            delay={"model": model, "mean": 2.0},
            algorithm=algorithm(active),
            log={"iterates": 1000},
        )
    result = stragglers(tmp_path, "-o", tmp_path / "figure")
    asynchronous, synchronous = rows(tmp_path / "figure")
    assert abs(float(asynchronous["deviation"])) < 0.05
    assert abs(float(synchronous["deviation"])) < 0.05
    assert float(synchronous["saved"]) == 0
    assert float(asynchronous["shorter"]) > 0.6
    ratio = float(asynchronous["seconds_per_iteration"]) / 2
    ratio /= float(synchronous["seconds_per_iteration"]) / 4
    assert float(asynchronous["saved"]) == pytest.approx(1 - ratio)
    assert float(asynchronous["saved"]) > 0.2
    assert float(synchronous["predicted"]) == pytest.approx(float(synchronous["naive"]))
    assert f"{model}, mean 2 s" in result.stdout


def test_outside_the_virtual_clock_reports_tell(virtual_run: Run, tmp_path: Path) -> None:
    """As if the seconds of a run under MPI had been measured: no law, but samples."""
    run = virtual_run(4, run={"iterations": 500}, algorithm=algorithm(2), log={"iterates": 1000})
    with h5py.File(run, "r+") as file:
        file.attrs["transport"] = "mpi"
        file["report/compute_seconds"][:] *= 2
    result = stragglers(run, "-o", tmp_path / "figure")
    assert result.returncode == 0, result.stderr
    (row,) = rows(tmp_path / "figure")
    assert float(row["deviation"]) == pytest.approx(-0.5, abs=0.03)
    assert row["saved"] == row["shorter"] == "nan"


def test_says_what_no_prediction_covers(virtual_run: Run, tmp_path: Path) -> None:
    run = virtual_run(3, "estimates", run={"iterations": 30})
    result = stragglers(run, "-o", tmp_path / "figure")
    assert result.returncode == 0, result.stderr
    (estimates,) = rows(tmp_path / "figure")
    assert estimates["predicted"] == estimates["deviation"] == "nan"
    assert float(estimates["seconds_per_iteration"]) > 0
    assert "algorithm.plane_until = 0 is needed" in result.stderr

    run = virtual_run(3, "late", run={"iterations": 60}, algorithm=algorithm(1, max_delay=3))
    result = stragglers(run, "-o", tmp_path / "figure")
    (late,) = rows(tmp_path / "figure")
    assert late["delay_bound_reached"] == "True"
    assert "late.h5: a worker's delay reached algorithm.max_delay" in result.stderr


def test_validation_is_not_predicted_either(virtual_run: Run, tmp_path: Path) -> None:
    run = virtual_run(3, run={"iterations": 20, "evaluate_every": 5}, algorithm=algorithm(2))
    result = stragglers(run, "-o", tmp_path / "figure")
    assert "run.evaluate_every = 0 is needed" in result.stderr


def test_refuses_what_it_cannot_measure(virtual_run: Run, tmp_path: Path) -> None:
    for name, tables in (
        ("short", {"run": {"iterations": 1}}),
        ("timeless", {"run": {"iterations": 9}, "delay": {"model": "none"}}),
    ):
        run = virtual_run(3, name, **tables)
        result = stragglers(run, "-o", tmp_path / "no")
        assert result.returncode == 2
        assert result.stderr.startswith(f"asyndbt: {run}: no time passes between the ")
        assert result.stderr.count("\n") == 1
    result = stragglers(tmp_path / "absent-*.h5", "-o", tmp_path / "no")
    assert result.returncode == 2
    assert "no log there" in result.stderr
    assert "asyndbt plot stragglers 'runs/delay-*.h5'" in stragglers("--help").stdout


def test_runs_that_may_differ_have_panels_of_their_own(virtual_run: Run, tmp_path: Path) -> None:
    """Traces above all: they have neither mean nor sigma."""
    traces = ["a/trace.h5", "b/trace.h5"]
    for number, trace in enumerate(traces):
        run = virtual_run(
            3,
            f"run{number}",
            run={"iterations": 30 + number, "seed": number},
            algorithm=algorithm(2 + number, max_delay=50 + number),
            log={"iterates": 1 + number},
        )
        with h5py.File(run, "r+") as file:  # as if the delays had been those of a trace
            config = tomllib.loads(str(file.attrs["config"]))
            config["delay"] |= {"model": "trace", "trace": trace, "mean": 0.0}
            file.attrs["config"] = tomli_w.dumps(config)
    result = stragglers(tmp_path, "-o", tmp_path / "figure")
    assert result.returncode == 0, result.stderr
    assert [row["trace"] for row in rows(tmp_path / "figure")] == traces
    assert result.stdout.count("seconds per iteration, and against S = R") == 2
    assert "trace b/trace.h5; 3 workers" in result.stdout


def test_refuses_runs_that_differ_otherwise(virtual_run: Run, tmp_path: Path) -> None:
    first = virtual_run(3, "a", run={"iterations": 9}, algorithm=algorithm(2))
    second = virtual_run(3, "b", run={"iterations": 9}, algorithm=algorithm(2, penalty=2.0))
    result = stragglers(second, first, "-o", tmp_path / "no")
    assert result.returncode == 2
    assert result.stderr == (
        f"asyndbt: {second}: algorithm.penalty = 2.0, but {first} has 1.0;"
        " only seed, S, tau, iterations, [delay] and [log] may differ\n"
    )
