"""`asyndbt doctor` as a user starts it, with misconfigurations planted; and `run`, where it says
the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asyndbt_mpi.log.storage.lock import LogLock
from tests.helpers import (
    ASYNDBT,
    Result,
    asyndbt_alone,
    complaints,
    mpiexec,
    needs_mpiexec,
    start,
)

RANK = Path(__file__).with_name("rank.py")
OF_STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}


@pytest.fixture(autouse=True)
def _no_gpus_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def alone(*arguments: str, folder: Path, **environment: str) -> Result:
    return asyndbt_alone(*arguments, folder=folder, **environment)


def ranks(
    *arguments: str, folder: Path, options: tuple[str, ...] = (), **environment: str
) -> Result:
    command = mpiexec(3, [*ASYNDBT, *arguments], *options)
    return start(command, folder, **environment)


def lines(result: Result) -> dict[str, str]:
    """The report's lines by subject, each with its level; a subject has several if need be."""
    found: dict[str, str] = {}
    for line in result.stdout.replace("\r", "").splitlines():
        level, rest = line[:9].strip(), line[9:]
        subject, _, text = rest.partition(": ")
        assert level in ("ok", "warning", "problem"), line
        found[subject] = found.get(subject, "") + f"{level} {text}\n"
    assert found, result.stderr
    return found


@needs_mpiexec
@pytest.mark.llm
def test_a_healthy_job(tmp_path: Path) -> None:
    result = ranks("doctor", folder=tmp_path, options=("--with-ft", "ulfm"))
    assert result.returncode == 0, result.stdout + result.stderr
    found = lines(result)
    assert "3 ranks, started by Open MPI's mpiexec" in found["MPI"]
    assert found["ULFM"].startswith("ok on")
    assert "3 ranks on 1 node" in found["cores"]
    for subject in ("versions", "output", "HDF5 locking", "shared folder", "answers"):
        assert found[subject].startswith("ok"), found
    for subject in ("model", "data"):
        assert found[subject].startswith("ok"), found
    assert list(tmp_path.iterdir()) == []


@needs_mpiexec
def test_everything_wrong_at_once(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    result = ranks(
        "doctor", "demo", "--set", "llm.model=/no/such/model", "--set", "task.path=/no/such/data",
        "--set", "algorithm.active_workers=1", folder=tmp_path, CUDA_VISIBLE_DEVICES="0",
    )  # fmt: skip
    assert result.returncode == 1
    found = lines(result)
    assert found["MPI"].startswith("ok")
    assert found["ULFM"].startswith("warning off")
    assert "mpiexec --with-ft ulfm" in found["ULFM"]
    assert found["output"].startswith("problem")
    assert "runs is not a folder" in found["output"]
    assert found["model"].startswith("problem model '/no/such/model'")
    assert found["model"].count("\n") == 1, "both workers' are one line"
    assert found["data"].startswith("problem task.path = '/no/such/data'")
    if not torch.cuda.is_available():
        assert found["GPUs"].startswith("problem promised to ranks 1, 2 (CUDA_VISIBLE_DEVICES=0)")
    assert "Traceback" not in result.stderr


@needs_mpiexec
def test_a_rank_that_fails_one_on_another_node_and_a_log_being_written(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    held = LogLock(tmp_path / "here" / "x.h5")
    before = set((tmp_path / "here").iterdir())
    words = ["doctor", "synthetic", "-o", "x.h5"]
    # Answers are kept beside the log only for a language model; a server is never reached here.
    words += ["--set", "llm.backend=openai", "--set", "llm.base_url=http://127.0.0.1:9/v1"]
    words += ["--set", "task.template=X", "--set", 'task.labels=["a", "b"]']
    command = mpiexec(3, [sys.executable, str(RANK), *words])
    result = start(command, tmp_path / "here", OTHER_FOLDER=str(tmp_path / "there"))
    assert set((tmp_path / "here").iterdir()) == before
    held.release()
    assert result.returncode == 1, result.stderr
    found = lines(result)
    assert "OSError: no cores to be seen" in found["cores"]
    assert "problem rank 1 on" in found["cores"]
    assert found["shared folder"].startswith("warning rank 2 on")
    assert "cannot connect to 127.0.0.1:9" in found["model"]
    assert "problem another process is writing x.h5" in found["output"]


@needs_mpiexec
def test_a_bad_configuration_is_said_once(tmp_path: Path) -> None:
    result = ranks("doctor", "demo", "--set", "llm.modle=x", folder=tmp_path)
    assert result.returncode == 2
    complaints = [line for line in result.stderr.splitlines() if line.startswith("asyndbt:")]
    assert complaints == ["asyndbt: demo: unknown key 'llm.modle'; did you mean 'model'?"]
    assert "MPI" not in result.stdout


@needs_mpiexec
@pytest.mark.parametrize(
    ("environment", "launcher", "fitting"),
    [
        (OF_STEP | {"PMI_SIZE": "4", "PMI_RANK": "0"}, "srun --mpi=pmi2", "srun --mpi=pmix"),
        (
            {"PMI_SIZE": "4", "PMI_RANK": "0", "MPI_LOCALNRANKS": "4"},
            "the mpiexec of MPICH or Intel MPI",
            "the mpiexec that came with this Open MPI",
        ),
    ],
)
def test_every_rank_sees_size_1(
    tmp_path: Path, environment: dict[str, str], launcher: str, fitting: str
) -> None:
    others = environment | {"SLURM_PROCID": "2", "PMI_RANK": "2"}
    silent = subprocess.Popen(
        [*ASYNDBT, "run", "synthetic"], cwd=tmp_path, env=os.environ | others, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    environment = environment | {"SLURM_PROCID": "0"}
    asked = alone("doctor", "synthetic", folder=tmp_path, **environment)
    assert asked.returncode == 1
    (line,) = asked.stdout.splitlines()
    assert line.startswith(f"problem  MPI: {launcher} started 4 processes")
    assert fitting in line
    ran = alone("run", "synthetic", folder=tmp_path, **environment)
    assert ran.returncode == 2
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("asyndbt:")]
    assert line.startswith(f"asyndbt: {launcher} started 4 processes")
    assert fitting in line
    assert "suspicious" not in ran.stderr
    out, err = silent.communicate(timeout=60)
    assert (silent.returncode, out) == (2, "")
    assert "asyndbt" not in err


@pytest.mark.parametrize(
    ("arguments", "workers"),
    [
        ((), 3),
        (("--set", "algorithm.active_workers=5"), 5),
        (("--set", "algorithm.min_workers=4"), 4),
        (("--workers", "2"), 2),
    ],
)
def test_a_single_process_checks_the_run_of_several(
    tmp_path: Path, arguments: tuple[str, ...], workers: int
) -> None:
    result = alone("doctor", "synthetic", *arguments, folder=tmp_path)
    found = lines(result)
    assert found["data"] == f"ok complete, for {workers} workers\n"
    assert f"of {workers} workers" in found["defence"]
    assert f"mpiexec -n {workers + 1} asyndbt doctor synthetic" in found["MPI"]


def test_data_for_too_few_workers_are_found_without_mpiexec(tmp_path: Path) -> None:
    result = alone("doctor", "reviews", "--workers", "40", folder=tmp_path)
    assert result.returncode == 1
    assert lines(result)["data"].startswith("problem ")


@needs_mpiexec
def test_another_number_of_workers_than_was_launched_is_refused(tmp_path: Path) -> None:
    result = ranks("doctor", "synthetic", "--workers", "4", folder=tmp_path)
    assert result.returncode == 2
    assert complaints(result) == [
        "asyndbt: --workers 4: 2 were launched, beside the server; leave it out, or launch 5 ranks"
    ]


def test_no_mpi_library_is_a_finding(tmp_path: Path) -> None:
    broken = tmp_path / "mpi4py"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('cannot load MPI library')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = alone("doctor", "synthetic", folder=tmp_path, PYTHONPATH=path)
    assert result.returncode == 1, result.stderr
    found = lines(result)
    assert found["MPI"].startswith("problem no library can be loaded (cannot load MPI library)")
    assert found["output"].startswith("ok")
    assert "Traceback" not in result.stderr
