"""asyndbt sbatch, asyndbt doctor and a wrong launcher, on a real Slurm."""

import sys
from pathlib import Path

import pytest

from asyndbt_mpi.log.reader import Log
from tests.slurm.cluster import Cluster, Job
from tests.slurm.runs import SMALL, run

ASYNDBT = [sys.executable, "-m", "asyndbt_mpi"]


def submitted(cluster: Cluster, folder: Path, launcher: str, **variables: str) -> None:
    said = cluster.call(
        *ASYNDBT, "sbatch", "synthetic", "--set", "run.name=one two", "--output", "one two.h5",
        "--nodes", "2", "--workers-per-node", "1", "--cpus-per-task", "1", "--time", "5",
        "--launcher", launcher, "--", "--signal=B:USR1@60", folder=folder, **variables,
    )  # fmt: skip
    assert said.startswith("Submitted batch job ")
    job = Job(cluster, folder, said.split()[-1])
    job.until_done()
    assert f"3 ranks by {launcher} on n1 (2) n2 (1)" in job.output
    with Log(folder / "one two.h5") as log:
        assert (log.workers, log.status) == (2, "finished")


def test_asyndbt_sbatch_submits(cluster: Cluster, tmp_path: Path) -> None:
    submitted(cluster, tmp_path, "mpiexec")


def test_asyndbt_sbatch_submits_a_run_in_containers(cluster: Cluster, tmp_path: Path) -> None:
    """Apptainer's place is taken by a script that does as it is told."""
    tool = tmp_path / "apptainer"
    tool.write_text('#!/bin/bash\n[ "$1 $2" = "exec image.sif" ] || exit 9\nexec "${@:3}"\n')
    tool.chmod(0o755)
    submitted(cluster, tmp_path, "srun", CONTAINER=f"{tool} exec image.sif")


def test_srun_with_the_wrong_interface_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    job = run(cluster, tmp_path, LAUNCHER="srun", SRUN_MPI="pmi2")
    assert job.until("FAILED", "COMPLETED") == "FAILED"
    lines = [line for line in job.output.splitlines() if line.startswith("asyndbt:")]
    assert len(lines) == 1
    assert "each of them is alone" in lines[0]
    assert "srun --mpi=pmix" in lines[0]
    assert job.shown("ExitCode") == "2:0"


@pytest.mark.parametrize(
    ("variables", "lines"),
    [
        ({"LAUNCHER": "mpiexec"}, ["MPI: Open MPI 5", "4 ranks", "ULFM: on", "2 nodes"]),
        ({"LAUNCHER": "srun"}, ["MPI: Open MPI 5", "4 ranks", "srun --mpi=pmix", "2 nodes"]),
        ({"LAUNCHER": "srun", "SRUN_MPI": "pmi2"}, ["problem  MPI: srun --mpi=pmi2 started 4"]),
    ],
    ids=["mpiexec", "srun", "pmi2"],
)
def test_the_doctor_on_two_nodes(
    cluster: Cluster, tmp_path: Path, variables: dict[str, str], lines: list[str]
) -> None:
    job = cluster.submit(tmp_path, *SMALL, "slurm/doctor.sbatch", "synthetic", **variables)
    job.until("COMPLETED", "FAILED")
    print(job.output)
    for line in lines:
        assert line in job.output
    assert (job.shown("JobState") == "COMPLETED") == ("pmi2" not in variables.values())
