"""run.sbatch: both launchers, requeues, lost nodes."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.log.reader import Log
from tests.helpers import sets
from tests.slurm.cluster import Cluster, Job, wait_for
from tests.slurm.runs import SMALL, committed, run, whole

# Everybody takes part in every iteration: the same run whenever it is made.
ALIKE = [
    "algorithm.active_workers=3", "run.iterations=60", "delay.model=constant", "delay.mean=0.05",
]  # fmt: skip
EARLY = 10
"""Iterations after which something happens to a run."""


def until_committed(job: Job, path: Path, iterations: int) -> None:
    wait_for(lambda: committed(path) >= iterations, lambda: f"at work: {job.output}")


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of the run that the others must equal."""
    folder = tmp_path_factory.mktemp("undisturbed")
    two_nodes(cluster, folder, "mpiexec")
    return folder / "runs/synthetic.h5"


def two_nodes(cluster: Cluster, folder: Path, launcher: str) -> None:
    job = run(cluster, folder, *sets(*ALIKE), LAUNCHER=launcher)
    job.until_done()
    assert f"4 ranks by {launcher} on n1 (2) n2 (2)" in job.output
    assert "What was learnt" in job.output
    with Log(folder / "runs/synthetic.h5") as log:
        assert (log.workers, log.committed) == (3, 60)
    whole(folder / "runs/synthetic.h5")


def same(one: Path, other: Path) -> None:
    with Log(one) as first, Log(other) as second:
        for name in ("iteration/z", "iteration/active"):
            np.testing.assert_array_equal(first[name], second[name])


@pytest.fixture(scope="module", autouse=True)
def limited(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that hears of its time limit by itself, in a while: Slurm is not exact."""
    options = ("--nodelist=n3,n4", "--time=2", "--signal=B:USR1@75")
    return run(
        cluster, tmp_path_factory.mktemp("limited"),
        *sets(*ALIKE, "run.iterations=1000000", "delay.mean=1"),
        options=(*SMALL, *options),
    )  # fmt: skip


def test_two_nodes_with_two_tasks_each_by_mpiexec_and_srun(
    cluster: Cluster, tmp_path: Path, undisturbed: Path
) -> None:
    two_nodes(cluster, tmp_path, "srun")
    same(tmp_path / "runs/synthetic.h5", undisturbed)


@pytest.mark.parametrize("launcher", ["mpiexec", "srun"])
def test_a_requeued_run_becomes_what_it_would_have_been(
    cluster: Cluster, tmp_path: Path, undisturbed: Path, launcher: str
) -> None:
    log = tmp_path / "runs/synthetic.h5"
    job = run(cluster, tmp_path, *sets(*ALIKE), LAUNCHER=launcher)
    until_committed(job, log, EARLY)
    # What --signal=B:USR1@... has Slurm do.
    cluster.call("scancel", "--signal=USR1", "--batch", job.number)
    job.start_again()
    job.until_done()
    assert job.shown("Restarts") == "1"
    assert f"job {job.number} asks to be requeued" in job.output
    assert "resuming from iteration" in job.output
    whole(log)
    same(log, undisturbed)


def test_a_run_is_not_requeued_for_ever(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "runs/synthetic.h5"
    job = run(cluster, tmp_path, *sets(*ALIKE), MAX_RESTARTS="0")
    until_committed(job, log, EARLY)
    cluster.call("scancel", "--signal=USR1", "--batch", job.number)
    assert job.until("COMPLETED", "FAILED", "PENDING") == "FAILED"
    assert "not requeued after 0 restarts (MAX_RESTARTS)" in job.output
    with Log(log) as opened:
        assert opened.status == "interrupted"


def test_a_cancelled_job_does_not_come_back(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "runs/synthetic.h5"
    job = run(cluster, tmp_path, *sets(*ALIKE))
    until_committed(job, log, EARLY)
    cluster.call("scancel", job.number)
    job.until("CANCELLED")
    wait_for(lambda: not job.at_work, "ended")
    assert job.shown("JobState") == "CANCELLED"
    assert committed(log) >= EARLY


def test_a_run_goes_on_without_a_worker(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "runs/synthetic.h5"
    job = run(cluster, tmp_path, *sets(*ALIKE))
    until_committed(job, log, EARLY)
    cluster.kill(job, "OMPI_COMM_WORLD_RANK=3")
    job.until_done()
    assert job.shown("Restarts") == "0"
    assert re.search(r"worker 3 \(.+: .+\) is lost: its process died", job.output)
    whole(log)


def test_what_commits_nothing_is_not_requeued(cluster: Cluster, tmp_path: Path) -> None:
    job = run(cluster, tmp_path, MPIEXEC_OPTIONS="--nonsense")
    assert job.until("COMPLETED", "FAILED") == "FAILED"
    assert job.shown("Restarts") == "0"
    assert "not requeued, for this start has committed no iteration" in job.output


def test_a_wrong_configuration_is_said_once(cluster: Cluster, tmp_path: Path) -> None:
    job = run(cluster, tmp_path, "--set", "run.itertions=5")
    assert job.until("COMPLETED", "FAILED") == "FAILED"
    assert job.shown("ExitCode") == "2:0"
    assert job.output == (
        "asyndbt: synthetic: unknown key 'run.itertions'; did you mean 'iterations'?\n"
    )


@pytest.fixture
def lost(cluster: Cluster) -> Iterator[str]:
    """A node that will be lost, and be back for the other tests."""
    name = "n2"
    yield name
    cluster.call("slurmd", "-N", name)
    cluster.until_nodes("idle", name)


@pytest.mark.parametrize("launcher", ["mpiexec", "srun"])
def test_a_run_outlives_a_node(cluster: Cluster, tmp_path: Path, lost: str, launcher: str) -> None:
    """The launcher notices it long before Slurm does."""
    log = tmp_path / "runs/synthetic.h5"
    job = run(cluster, tmp_path, *sets(*ALIKE), LAUNCHER=launcher)
    until_committed(job, log, EARLY)
    cluster.lose(lost, job)
    wait_for(lambda: "asks to be requeued" in job.output, lambda: f"requeued: {job.output}")
    cluster.call("scontrol", "update", f"NodeName={lost}", "State=down", "Reason=lost")
    job.start_again()
    job.until_done()
    assert lost not in job.nodes
    whole(log)


def test_a_node_that_slurm_gives_up_requeues(
    cluster: Cluster, tmp_path: Path, undisturbed: Path
) -> None:
    log = tmp_path / "runs/synthetic.h5"
    job = run(cluster, tmp_path, *sets(*ALIKE))
    until_committed(job, log, EARLY)
    node = job.nodes[1]
    cluster.call("scontrol", "update", f"NodeName={node}", "State=down", "Reason=test")
    job.until("PENDING")
    # A node that is back at once may still be told to end the job of this number.
    cluster.call("scontrol", "update", f"NodeName={node}", "State=drain", "Reason=test")
    try:
        job.start_again()
        job.until_done()
    finally:
        cluster.call("scontrol", "update", f"NodeName={node}", "State=resume")
    assert node not in job.nodes
    whole(log)
    same(log, undisturbed)


def test_the_time_limit_requeues(cluster: Cluster, limited: Job) -> None:
    wait_for(
        lambda: limited.shown("Restarts") != "0", lambda: f"requeued: {limited.output}", seconds=200
    )
    assert "asks to be requeued" in limited.output
    cluster.call("scancel", limited.number)
    # The log itself may be at work again: two minutes are not long.
    assert re.search(r"interrupted, [1-9]\d* of at most 1000000 iterations", limited.output)
