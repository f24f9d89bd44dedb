"""Runs of the synthetic task on a cluster, and their logs."""

from pathlib import Path

from asyndbt_mpi.commands.replay import replay
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from tests.slurm.cluster import Cluster, Job

SMALL = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1")


def run(
    cluster: Cluster, folder: Path, *words: str, options: tuple[str, ...] = SMALL, **variables: str
) -> Job:
    return cluster.submit(folder, *options, "slurm/run.sbatch", "synthetic", *words, **variables)


def committed(path: Path) -> int:
    if not path.exists():
        return 0
    with Log(path) as log:
        return log.committed


def whole(path: Path) -> None:
    assert not verify(path).violations
    assert replay(path).difference is None
    with Log(path) as log:
        assert log.status == "finished"
