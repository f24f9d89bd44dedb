import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

SCRIPT = Path(__file__).parents[2] / "analysis" / "stragglers.py"
Run = Callable[..., Path]


def stragglers(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


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
    # S > R / 2: one iteration for each delay, as with S = R.
    assert [round(float(row["saved"]), 2) for row in lock_step] == [0.8, 0.5, 0.0, 0.0]
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
    assert float(asynchronous["saved"]) > 0.6
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
    assert row["saved"] == "nan"


def test_says_what_no_prediction_covers(virtual_run: Run, tmp_path: Path) -> None:
    virtual_run(3, "estimates", run={"iterations": 30})
    virtual_run(3, "late", run={"iterations": 60}, algorithm=algorithm(1, max_delay=3))
    result = stragglers(tmp_path, "-o", tmp_path / "figure")
    assert result.returncode == 0, result.stderr
    estimates, late = rows(tmp_path / "figure")
    assert estimates["predicted"] == estimates["deviation"] == "nan"
    assert float(estimates["seconds_per_iteration"]) > 0
    assert late["delay_bound_reached"] == "True"
    assert "algorithm.plane_until = 0 is needed" in result.stderr
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
        assert result.stderr.startswith(f"stragglers: {run}: no time passes between the ")
        assert result.stderr.count("\n") == 1
    result = stragglers(tmp_path / "absent-*.h5", "-o", tmp_path / "no")
    assert result.returncode == 2
    assert "no log there" in result.stderr
    assert "Example: python analysis/stragglers.py" in stragglers("--help").stdout
