import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from asyndbt_mpi.analysis import timing as script
from tests.helpers import Result, plot

Run = Callable[..., Path]
PARTS = ("compute", "communication", "waiting", "absent", "unreported", "logging", "rest")


def timing(*arguments: object) -> Result:
    return plot("timing", *arguments)


def rows(prefix: Path) -> list[dict[str, str]]:
    with open(f"{prefix}.csv", newline="") as file:
        return list(csv.DictReader(file))


def whole(row: dict[str, str]) -> float:
    """What the parts add up to, as a share of the duration."""
    parts = sum(float(row[part]) for part in PARTS) - float(row["excess"])
    return parts / float(row["duration"])


@pytest.mark.parametrize(
    "tables",
    [
        {"algorithm": {"active_workers": 2, "max_delay": 50, "plane_until": 0}},
        {},  # with estimates of phi
        {"algorithm": {"active_workers": 2, "max_delay": 5, "lower_participation": "quorum"}},
        {"run": {"iterations": 40, "evaluate_every": 3}},
        {"algorithm": {"active_workers": 5, "max_delay": 0}},
        {"delay": {"model": "constant", "mean": 0.1, "slow_workers": 1}},
    ],
)
def test_parts_add_up_to_the_run(virtual_run: Run, tmp_path: Path, tables: dict[str, Any]) -> None:
    run = virtual_run(5, **{"run": {"iterations": 40}, **tables})
    result = timing(run, "-o", tmp_path / "figure")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    table = rows(tmp_path / "figure")
    assert [int(row["worker"]) for row in table] == [1, 2, 3, 4, 5]
    for row in table:
        assert whole(row) == pytest.approx(1, rel=1e-9)
        # Under the virtual clock messages take no time, and every second is accounted for.
        assert float(row["communication"]) == pytest.approx(0, abs=1e-9)
        assert float(row["excess"]) == pytest.approx(0, abs=1e-9)
        assert float(row["compute"]) > 0
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_asynchronous_workers_hardly_wait(virtual_run: Run, tmp_path: Path) -> None:
    for active in (1, 4):
        virtual_run(
            4,
            f"{active}",
            run={"iterations": 100},
            algorithm={"active_workers": active, "max_delay": 100, "plane_until": 0},
        )
    result = timing(tmp_path, "-o", tmp_path / "figure")
    table = rows(tmp_path / "figure")
    waiting = [float(row["waiting"]) / float(row["duration"]) for row in table]
    assert max(waiting[:4]) < 1e-9
    assert min(waiting[4:]) > 0.3
    assert "1: 4 workers, 1 active, virtual clock" in result.stdout


def test_the_server_logs_outside_the_virtual_clock(virtual_run: Run, tmp_path: Path) -> None:
    run = virtual_run(run={"iterations": 20})
    with h5py.File(run, "r+") as file:
        file.attrs["transport"] = "mpi"
        logging = file.attrs["logging_seconds"]
    result = timing(run, "-o", tmp_path / "figure")
    server, *workers = rows(tmp_path / "figure")
    assert (server["worker"], len(workers)) == ("0", 3)
    assert float(server["logging"]) == logging
    assert whole(server) == pytest.approx(1)
    assert "server: logging" in result.stdout


def test_many_workers(virtual_run: Run, tmp_path: Path) -> None:
    run = virtual_run(45, run={"iterations": 20}, algorithm={"active_workers": 9, "max_delay": 90})
    assert timing(run, "-o", tmp_path / "figure").returncode == 0
    assert len(rows(tmp_path / "figure")) == 45


def test_refuses_too_much_and_nothing(virtual_run: Run, tmp_path: Path) -> None:
    run = virtual_run(run={"iterations": 5}, delay={"model": "none"})
    result = timing(run, "-o", tmp_path / "no")
    assert result.returncode == 2
    assert result.stderr.startswith(f"asyndbt: {run}: no time passes in its 5 committed iterations")
    for number in range(12):
        (tmp_path / f"{number}.h5").write_bytes(run.read_bytes())
    result = timing(tmp_path, "-o", tmp_path / "no")
    assert result.returncode == 2
    assert result.stderr == "asyndbt: 13 logs are more than 12 panels; give fewer\n"
    assert "One panel for each log" in timing("--help").stdout


def share(
    messages: list[tuple[float, float]],
    hello: tuple[float, ...] = (1.0,),
    reports: tuple[float, ...] = (),
    answers: tuple[float, ...] = (),
    excluded: tuple[float, ...] = (),
    duration: float = 20.0,
) -> Any:
    times, compute = np.array(messages, dtype=float).reshape(-1, 2).T
    moments = (np.array(values, dtype=float) for values in (hello, excluded, reports, answers))
    return script.of_worker(script.History(1, *moments, times, compute), duration)


def test_a_history_under_mpi() -> None:
    """Hello at 1; report at 5 after 3 s of work, used at 7 with 1 s of the lower level before.

    Validation of 2 s, then 4 s of work, report at 14; used at 15; then 5 of the 10 s until the
    report at 25 belong to the run, and 8 of these 10 s were work.
    """
    messages = [(1, 0), (5, 3), (6, 1), (9.5, 2), (14, 4), (25, 8)]
    found = share(messages, reports=(5, 14, 25), answers=(7, 15))
    assert found.absent == 1
    assert found.compute == pytest.approx(3 + 1 + 2 + 4 + 4)
    assert found.communication == pytest.approx(1 + 1 + 1)
    assert found.waiting == pytest.approx(1 + 1)
    assert found.excess == found.unreported == 0


def test_work_that_never_arrived() -> None:
    found = share([(1, 0), (5, 4)], reports=(5,), answers=(6,))
    assert (found.absent, found.compute, found.waiting, found.unreported) == (1, 4, 1, 14)


def test_an_excluded_worker() -> None:
    found = share([(1, 0), (5, 4), (12, 0)], reports=(5,), answers=(6,), excluded=(12,))
    assert (found.absent, found.compute, found.waiting, found.unreported) == (9, 4, 1, 6)


def test_a_worker_that_never_came() -> None:
    found = share([], hello=())
    assert found.absent == found.duration


def test_claims_beyond_the_clock_are_shown() -> None:
    found = share([(1, 0), (5, 6)], reports=(5,), answers=(20,))
    assert (found.compute, found.excess, found.communication) == (6, 2, 0)
    assert found.waiting + found.absent + found.compute - found.excess == 20
    timed = script.Timing("a.h5", "a", "seconds", [found])
    assert script.note(timed) == (
        "a.h5: worker 1 claims 2 s more than the 20 s of the run have room for"
    )
    server = script.of_server(30.0, 20.0)
    assert (server.logging, server.rest, server.excess) == (30, 0, 10)
