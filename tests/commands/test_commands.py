"""The commands as a user types them: exit codes and messages."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from asyndbt_mpi.log.reader import Log
from tests.helpers import (
    ASYNDBT,
    Result,
    asyndbt,
    asyndbt_alone,
    complaints,
    mpiexec,
    needs_mpiexec,
    sets,
    start,
    wait_for_iterations,
)


def mpi(ranks: int, *arguments: str, folder: Path) -> Result:
    return start(mpiexec(ranks, [*ASYNDBT, *arguments]), folder)


@needs_mpiexec
def test_run_verify_and_show(tmp_path: Path) -> None:
    result = mpi(4, "run", "synthetic", "--set", "run.evaluate_every=50", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "What was learnt" in result.stdout
    assert not {"\x1b", "\r"} & set(result.stderr), "it may be a file"
    assert result.stderr.startswith(
        "the log is runs/synthetic.h5; to watch it: asyndbt watch runs/synthetic.h5;"
        " to resume it: mpiexec -n 4 asyndbt run synthetic --set run.evaluate_every=50 --resume\n"
    )
    verified = asyndbt("verify", "runs/synthetic.h5", folder=tmp_path)
    assert verified.returncode == 0
    assert "every invariant holds" in verified.stdout
    shown = asyndbt("show", "runs/synthetic.h5", folder=tmp_path)
    assert shown.returncode == 0
    assert "3 workers, 2 active per iteration" in shown.stdout
    assert "defence: sums of all reports and psi, as in the paper: of 3 workers" in shown.stdout
    again = mpi(4, "run", "synthetic", folder=tmp_path)
    assert again.returncode == 2
    assert complaints(again) == [
        "asyndbt: runs/synthetic.h5 already exists; give another --output, --resume to continue it"
        ", or --overwrite to replace it"
    ]


@needs_mpiexec
def test_one_process_is_told_how_to_start_more(tmp_path: Path) -> None:
    result = asyndbt_alone("run", "synthetic", folder=tmp_path)
    assert result.returncode == 2
    assert "mpiexec -n 4 asyndbt run synthetic" in result.stderr
    more = asyndbt_alone("run", "synthetic", "--set", "algorithm.active_workers=5", folder=tmp_path)
    assert "mpiexec -n 6 asyndbt run synthetic" in more.stderr
    assert "Traceback" not in result.stderr


@needs_mpiexec
@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (
            "algorithm.max_dealy=3",
            "synthetic: unknown key 'algorithm.max_dealy'; did you mean 'max_delay'?",
        ),
        ("algorithm.active_workers=5", "algorithm.active_workers = 5: the run has only 2 workers"),
        ("run.iterations=0", "greater than or equal to 1"),
    ],
)
def test_a_bad_configuration_is_one_line_said_once(tmp_path: Path, setting: str, line: str) -> None:
    result = mpi(3, "run", "synthetic", "--set", setting, folder=tmp_path)
    assert result.returncode == 2
    (complaint,) = complaints(result)
    assert line in complaint
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.h5"))


@needs_mpiexec
def test_places_that_are_not_used_are_told_once_by_every_command(tmp_path: Path) -> None:
    given = "synthetic", "--set", "task.path=/nowhere", "--set", "run.iterations=3"
    told = "llm.backend = 'synthetic' does not use task.path"
    run = mpi(3, "run", *given, folder=tmp_path)
    assert (run.returncode, run.stderr.count(told)) == (0, 1)
    assert run.stderr.count("does not use") == 1
    for command, *options in (("simulate", "--overwrite"), ("estimate",)):
        result = asyndbt(command, *given, *options, folder=tmp_path)
        assert result.returncode == 0
        assert result.stderr.count(f"asyndbt: warning: {told}\n") == 1
    doctor = asyndbt_alone("doctor", *given, "--output", "other.h5", folder=tmp_path)
    assert f"warning  configuration: {told}; remove" in doctor.stdout


@needs_mpiexec
def test_a_worker_that_cannot_load_its_model_ends_the_job(tmp_path: Path) -> None:
    result = mpi(3, "run", "demo", "--set", "llm.model=/no/such/folder", folder=tmp_path)
    assert result.returncode == 3
    complaint = complaints(result)
    assert "worker" in complaint[0]
    assert "/no/such/folder" in complaint[0]
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.h5")), "an empty log would be in the way of the next try"


@needs_mpiexec
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_keeps_its_iterations(tmp_path: Path, number: int) -> None:
    path = tmp_path / "long.h5"
    words = ["run", "synthetic", "--output", str(path), "--set", "run.iterations=100000000"]
    process = subprocess.Popen(
        mpiexec(3, [*ASYNDBT, *words]),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_iterations(path, 50, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    verified = asyndbt("verify", str(path), folder=tmp_path)
    assert verified.returncode == 0, verified.stdout
    with Log(path) as log:
        assert log.status == "interrupted"
        assert log.committed >= 50


def test_show_and_verify_refuse_what_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "noise.h5").write_bytes(b"not hdf5")
    for command in ("show", "verify"):
        for name, reason in (("noise.h5", "not an HDF5 file"), ("absent.h5", "no such file")):
            result = asyndbt(command, name, folder=tmp_path)
            assert result.returncode == 2
            assert result.stderr.splitlines() == [f"asyndbt: {name}: {reason}"]


def test_an_unknown_command_or_option_is_bad_usage(tmp_path: Path) -> None:
    assert asyndbt("rnu", folder=tmp_path).returncode == 2
    assert asyndbt("run", "demo", "--no-such-option", folder=tmp_path).returncode == 2
    assert asyndbt("--version", folder=tmp_path).stdout.startswith("asyndbt, version ")


@pytest.mark.parametrize("output", ["a\nb.h5", "x" * 5000, "x" * 250 + ".h5", "-x.h5", ""])
def test_an_output_that_no_log_can_have(tmp_path: Path, output: str) -> None:
    for command in ("simulate", "status"):
        done = asyndbt(command, "synthetic", "--output", output, folder=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("asyndbt: ")
        assert done.stderr.count("\n") == 1
        assert len(done.stderr) < 500


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = asyndbt("simulate", "synthetic", "--output", "pipe", "--overwrite", folder=tmp_path)
    assert done.returncode == 2
    assert "is a pipe or a device; name a file" in done.stderr
    assert (tmp_path / "pipe").is_fifo()


def test_a_run_that_diverges_says_so(tmp_path: Path) -> None:
    words = ["synthetic", "--output", "a.h5", *sets("estimator.name=loo", "steps.rho=1.7e308")]
    done = asyndbt("simulate", *words, folder=tmp_path)
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("asyndbt: ")]
    assert "phi would not be finite" in said
    assert "Warning" not in done.stderr
    assert "interrupted" in asyndbt("status", *words, folder=tmp_path).stdout
