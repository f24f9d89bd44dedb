"""How launch.sh places and starts the ranks of a job."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.slurm.cluster import Cluster

# Says which rank of how many it is, on which node, and which GPUs it sees.
RANK = """
import os
from mpi4py import MPI
from asyndbt_mpi.transport.mpi import WORLD
from asyndbt_mpi.transport.together import Together
words = [MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size, os.environ["SLURMD_NODENAME"],
         *Together(WORLD).node_share(), os.environ.get("CUDA_VISIBLE_DEVICES")]
print("rank", *words, flush=True)
"""
SCRIPT = """#!/bin/bash
LAUNCHER=${LAUNCHER:-mpiexec}
source slurm/env.sh
source slurm/launch.sh
place
launch "$hosts" python rank.py
"""


def ranks(cluster: Cluster, folder: Path, *options: str, **variables: str) -> list[list[str]]:
    """What every rank said, in order."""
    (folder / "rank.py").write_text(RANK)
    (folder / "job").write_text(SCRIPT)
    job = cluster.submit(folder, *options, "job", **variables)
    job.until_done()
    print(job.output)
    lines = [line.split()[1:] for line in job.output.splitlines() if line.startswith("rank ")]
    return sorted(lines)


# Open MPI under srun starts no more tasks on a machine than it has cores: here, perhaps two.
@pytest.mark.parametrize("launcher", ["mpiexec", "srun"])
def test_one_worker_for_each_gpu_and_the_server_on_the_first_node(
    cluster: Cluster, tmp_path: Path, launcher: str
) -> None:
    found = ranks(cluster, tmp_path, "--nodes=3", "--ntasks-per-node=2", "--gpus-per-node=1",
                  LAUNCHER=launcher)  # fmt: skip
    assert [line[1:4] for line in found] == [
        ["4", node, "0"] for node in ("n1", "n1", "n2", "n3")
    ]  # fmt: skip


def test_every_worker_of_a_node_has_a_gpu_of_its_own(cluster: Cluster, tmp_path: Path) -> None:
    found = ranks(cluster, tmp_path, "--nodes=2", "--ntasks-per-node=3", "--gpus-per-node=2")
    assert [line[1:4] for line in found] == [
        ["5", "n1", "0"],
        ["5", "n1", "0"],
        ["5", "n1", "1"],
        ["5", "n2", "0"],
        ["5", "n2", "1"],
    ]
    assert {line[5] for line in found} == {"0,1"}


@pytest.mark.parametrize("launcher", ["mpiexec", "srun"])
def test_without_gpus_every_task_is_a_rank(cluster: Cluster, tmp_path: Path, launcher: str) -> None:
    found = ranks(cluster, tmp_path, "--nodes=2", "--ntasks-per-node=2", LAUNCHER=launcher)
    assert [line[1:4] for line in found] == [
        ["4", "n1", "0"],
        ["4", "n1", "0"],
        ["4", "n2", "0"],
        ["4", "n2", "1"],
    ]


def test_several_workers_share_a_gpu_if_asked(cluster: Cluster, tmp_path: Path) -> None:
    found = ranks(cluster, tmp_path, "--nodes=1", "--ntasks-per-node=3", "--gpus-per-node=1",
                  WORKERS_PER_GPU="2")  # fmt: skip
    assert [line[1] for line in found] == ["3", "3", "3"]


REFUSED = [
    (["--ntasks-per-node=2", "--gpus-per-node=2"], {},
     "n1 has 2 tasks, but its workers and the server need 3: ask for --ntasks-per-node=3"),
    (["--nodes=2", "--ntasks-per-node=2"], {"WORKERS_PER_NODE": "3"}, "--ntasks-per-node=4"),
    (["--nodes=2", "--ntasks-per-node=2", "--gpus=3"], {}, "--gpus-per-node: the server needs none"),
    (["--ntasks-per-node=2", "--gpus-per-task=1"], {}, "--gpus-per-node: the server needs none"),
    (["--ntasks-per-node=2"], {"LAUNCHER": "mpirun"}, "LAUNCHER=mpirun: give mpiexec or srun"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "variables", "line"), REFUSED)
def test_what_cannot_be_placed_is_refused(
    cluster: Cluster, tmp_path: Path, options: list[str], variables: dict[str, str], line: str
) -> None:
    (tmp_path / "job").write_text(SCRIPT)
    job = cluster.submit(tmp_path, *options, "job", **variables)
    assert job.until("FAILED", "COMPLETED") == "FAILED"
    assert job.shown("ExitCode") == "2:0"
    assert line in job.output


@pytest.mark.parametrize(
    ("short", "counts"),
    [("3", [3]), ("2(x3),1", [2, 2, 2, 1]), ("1,5(x2)", [1, 5, 5]), ("2(x", None), ("", None)],
)
def test_slurms_short_form_of_tasks(short: str, counts: list[int] | None) -> None:
    code = f"source {ROOT}/slurm/launch.sh; tasks_of_nodes"
    environment = {"SLURM_JOB_ID": "1", "SLURM_TASKS_PER_NODE": short, "PATH": os.environ["PATH"]}
    result = subprocess.run(
        ["bash", "-euc", code], env=environment, capture_output=True, text=True, timeout=10,
        check=False,
    )  # fmt: skip
    if counts is None and short:
        assert result.returncode == 2
        assert "is not understood" in result.stderr
    else:
        assert [int(line) for line in result.stdout.split()] == (counts or [])
