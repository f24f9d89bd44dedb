"""`asyndbt sweep`: grids, going on with a half-done folder, and what it refuses."""

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner

from asyndbt_mpi.cli import cli
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.storage.lock import take
from asyndbt_mpi.log.verify import verify

QUICK = (
    *("--set", "run.iterations=12"),
    *("--set", "delay.model=lognormal"),
    *("--set", "delay.mean=1"),
    *("--workers", "4"),
)


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs' processes begin with what is imported here: to start Python takes longer than a run."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: fork)


def sweep(folder: Path, *arguments: str, source: str = "synthetic") -> tuple[int, str]:
    """Exit code, and what went wrong or was printed."""
    result = CliRunner().invoke(
        cli, ["sweep", source, "-o", str(folder), *QUICK, *arguments], standalone_mode=False
    )
    if result.exception is not None:
        return 2, str(result.exception)
    return int(result.return_value), result.output


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.h5"))


def test_a_grid_of_settings_and_seeds(tmp_path: Path) -> None:
    grid = ("--vary", "algorithm.active_workers=1,2", "--vary", "workers=2,5", "--seeds", "2")
    assert sweep(tmp_path, *grid)[0] == 0
    assert names(tmp_path) == [
        f"active_workers={s},workers={r},seed={seed}.h5"
        for s in (1, 2)
        for r in (2, 5)
        for seed in (0, 1)
    ]
    with Log(tmp_path / "active_workers=2,workers=5,seed=1.h5") as log:
        assert (log.active_workers, log.workers, log.seed) == (2, 5, 1)
        assert (log.status, log.transport, log.committed) == ("finished", "virtual", 12)
        assert log.stationarity is not None
        assert log.stationarity.kind == "exact"
    assert verify(tmp_path / "active_workers=1,workers=2,seed=0.h5").violations == []


def test_a_run_of_a_sweep_is_that_of_simulate(tmp_path: Path) -> None:
    assert sweep(tmp_path / "sweep", "--set", "run.seed=7")[0] == 0
    alone = tmp_path / "alone.h5"
    arguments = ["simulate", "synthetic", "-o", str(alone), *QUICK, "--set", "run.seed=7"]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    with Log(tmp_path / "sweep" / "seed=7.h5") as one, Log(alone) as other:
        for path in ("iteration/z", "iteration/time", "report/p", "event/worker"):
            assert (one[path] == other[path]).all()


def test_it_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    assert sweep(tmp_path, "--seeds", "3")[0] == 0
    kept = tmp_path / "seed=0.h5"
    made = kept.stat().st_mtime_ns
    (tmp_path / "seed=1.h5").unlink()
    (tmp_path / "seed=2.h5").rename(tmp_path / "seed=2.h5.part-99999")  # as if killed while at it
    assert sweep(tmp_path, "--seeds", "3")[0] == 0
    assert names(tmp_path) == ["seed=0.h5", "seed=1.h5", "seed=2.h5"]
    assert not list(tmp_path.glob("*.part*"))
    assert kept.stat().st_mtime_ns == made


def test_logs_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    assert sweep(tmp_path)[0] == 0
    code, message = sweep(tmp_path, "--set", "steps.p=0.2")
    assert code == 2
    assert message == (
        f"{tmp_path / 'seed=0.h5'} was made with steps.p = 1.0, not 0.2;"
        " choose another folder, or the same settings"
    )
    assert "workers = 4, not 5" in sweep(tmp_path, "--workers", "5")[1]


def test_a_log_that_is_not_finished_is_not_taken_for_done(tmp_path: Path) -> None:
    assert sweep(tmp_path)[0] == 0
    with h5py.File(tmp_path / "seed=0.h5", "r+") as file:
        file.attrs["status"] = "interrupted"
    assert sweep(tmp_path) == (
        2, f"{tmp_path / 'seed=0.h5'} is interrupted; remove it, or wait for it"
    )  # fmt: skip


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, reason in {
        "file": "File exists",
        "file/folder": "Not a directory",
        "x" * 300: "bytes",
        "a\nb": "control character",
    }.items():
        code, message = sweep(tmp_path / folder)
        assert code == 2
        assert "\n" not in message.strip()
        assert str(tmp_path) in message
        assert reason in message


def children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_after_a_kill_its_processes_end_and_the_next_sweep_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "asyndbt_mpi", "sweep", "synthetic", "-o", str(tmp_path)]
    command += [*QUICK, "--seeds", "3", "--set", "run.iterations=500"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as killed:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*.part-*")):
            assert time.monotonic() < deadline, "the sweep never began a run"
            time.sleep(0.05)
        processes = children(killed.pid)
        killed.kill()
    assert processes
    while any(alive(process) for process in processes):
        assert time.monotonic() < deadline, "processes of a killed sweep live on"
        time.sleep(0.05)
    assert sweep(tmp_path, "--seeds", "3", "--set", "run.iterations=500")[0] == 0
    assert names(tmp_path) == ["seed=0.h5", "seed=1.h5", "seed=2.h5"]
    assert not list(tmp_path.glob("*.part*"))


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    lock = take(tmp_path / ".lock")
    assert lock is not None
    assert sweep(tmp_path) == (2, f"another sweep is running in {tmp_path}")
    lock.release()
    assert sweep(tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vary", "algorithm.active_workers"], "expected section.key=value"),
        (["--vary", "algorithm.active_workers=1,,2"], "expected section.key=value"),
        (["--vary", "algorithm.active_workers=1,1"], "two of the values are the same"),
        (["--vary", "steps.p=0.1,0.10"], "two of the values are the same"),
        (["--vary", "run.name=a/b,a-b"], "give the same name"),
        (["--vary", "active_workers=1,2"], "expected section.key=value"),
        (["--vary", "algorithm.active_worker=1,2"], "did you mean 'active_workers'?"),
        (["--vary", "algorithm.active_workers=1,9"], "the run has only 4 workers"),
        (["--vary", "workers=0,2"], "'0' is not a number of workers"),
        (["--vary", "run.seed =1,2"], "use --seeds"),
        (["--vary", "steps.p=1,2", "--vary", "steps.p=3"], "a key is given twice"),
        (["--vary", f"run.name={'a' * 98},{'b' * 98}", "--vary", f"task.name={'c' * 60}"], "bytes"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, said = sweep(tmp_path, *arguments)
    assert code == 2
    assert message in said
    assert names(tmp_path) == []


def test_a_run_that_fails_is_named_and_the_others_are_made(tmp_path: Path) -> None:
    code, said = sweep(
        tmp_path, "--vary", "steps.rho=0.05,1.7e308", "--set", "algorithm.plane_period=2",
        "--set", "algorithm.lower_gradient=black_box",
    )  # fmt: skip
    assert code == 1
    assert "rho=1.7e308,seed=0.h5: " in said
    assert "phi would not be finite" in said
    assert names(tmp_path) == ["rho=0.05,seed=0.h5"]
    assert not list(tmp_path.glob("*.part*"))


def test_only_what_a_sweep_has_left_is_deleted(tmp_path: Path) -> None:
    dear = ["seed=0.h5.part-1", "thesis.part-7", "seed=0.h5.part-one", "other=1.h5.part-1.lock"]
    for name in dear:
        (tmp_path / name).write_text("dear to somebody")
    left = [".seed=0.h5.part-12.lock", f".seed=0.h5.part-12.{'0' * 32}.new"]
    for name in left:
        (tmp_path / name).touch()
    assert sweep(tmp_path)[0] == 0
    assert not any((tmp_path / name).exists() for name in left)
    assert all((tmp_path / name).read_text() == "dear to somebody" for name in dear)
