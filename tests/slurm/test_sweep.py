"""sweep.sbatch and chain.sh: arrays whose elements come back where they were, and their figures."""

import subprocess
from pathlib import Path

import pytest

from asyndbt_mpi.log.reader import Log
from tests.helpers import ROOT
from tests.slurm.cluster import Cluster, Job, wait_for
from tests.slurm.runs import committed, whole

ELEMENT = ("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1")
SWEEP = """
# what is varied
steps.p=0.01 run.seed=0

steps.p=0.01 run.seed=1
"""


def elements(cluster: Cluster, folder: Path, array: str) -> list[Job]:
    return [Job(cluster, folder, f"{array}_{number}") for number in (1, 2)]


def test_an_array_with_a_gpu_for_each_element(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "sweep.txt").write_text(SWEEP)
    (tmp_path / "slow.toml").write_text(
        '[llm]\nbackend = "synthetic"\n[algorithm]\nactive_workers = 1\n'
        '[run]\niterations = 60\n[delay]\nmodel = "constant"\nmean = 0.15\n'
    )
    logs = [tmp_path / f"runs/p=0.01,seed={seed}.h5" for seed in (0, 1)]
    # Both on one node, where each has a GPU of its own.
    line = ["--array=1-2", "--nodelist=n1", *ELEMENT, "--gpus-per-node=1"]
    words = ["slurm/sweep.sbatch", "slow.toml", "sweep.txt", "runs"]
    first = cluster.submit(tmp_path, *line, *words, STATIONARITY="yes")
    both = elements(cluster, tmp_path, first.number)
    for log in logs:
        wait_for(lambda log=log: committed(log) >= 5, f"{log.name} at work")
    gpus = [job.output.partition("GPUs of a node: ")[2].split()[0] for job in both]
    assert sorted(gpus) == ["0", "1"]
    # The last element, which Slurm gives the array's own number, hears of its time limit and comes
    # back; the other is cancelled.
    cluster.call("scancel", "--signal=USR1", "--batch", both[1].number)
    cluster.call("scancel", both[0].number)
    both[1].start_again()
    both[1].until_done()
    assert both[1].shown("Restarts") == "1"
    assert both[0].shown("JobState") == "CANCELLED"
    assert 5 <= committed(logs[0]) < 60
    assert committed(logs[1]) == 60
    # The same line goes on with what is half done.
    second = cluster.submit(tmp_path, *line, *words, STATIONARITY="yes")
    for job, does in zip(
        elements(cluster, tmp_path, second.number),
        ("resuming from iteration", "finished, 60 of at most 60 iterations"),
        strict=True,
    ):
        job.until_done()
        assert does in job.output
    for log in logs:
        whole(log)
        with Log(log) as opened:
            assert opened.stationarity is not None
    # Done, the same line does nothing.
    before = [log.read_bytes() for log in logs]
    third = cluster.submit(tmp_path, *line, *words)
    for job in elements(cluster, tmp_path, third.number):
        job.until_done()
    assert [log.read_bytes() for log in logs] == before


def test_a_line_that_is_not_there(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "sweep.txt").write_text(SWEEP)
    job = cluster.submit(tmp_path, "--array=3", *ELEMENT, "slurm/sweep.sbatch", "synthetic",
                         "sweep.txt", "runs")  # fmt: skip
    element = Job(cluster, tmp_path, f"{job.number}_3")
    assert element.until("FAILED", "COMPLETED") == "FAILED"
    assert "sweep.txt has no line 3" in element.output


def test_a_chain_ends_in_figures(cluster: Cluster, tmp_path: Path) -> None:
    """S = 1, 2, 3 of three workers, on a synthetic task; then the plots."""
    (tmp_path / "sweep.txt").write_text(
        "".join(f"algorithm.active_workers={active}\n" for active in (1, 2, 3))
    )
    (tmp_path / "exact.toml").write_text(
        '[llm]\nbackend = "synthetic"\n[run]\niterations = 60\n[estimator]\nname = "exact"\n'
        '[steps]\noptimizer = "sgd"\n[delay]\nmodel = "lognormal"\nmean = 0.02\n'
    )
    said = cluster.call(
        str(ROOT / "slurm/chain.sh"), "exact.toml", "sweep.txt", "runs",
        "--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", folder=tmp_path,
        STATIONARITY="yes",
    )  # fmt: skip
    assert "3 elements" in said
    plots = Job(cluster, tmp_path, said.split()[-1])
    assert plots.shown("JobState") == "PENDING"
    plots.until_done(seconds=180)
    figures = {file.name for file in (tmp_path / "runs").glob("*.png")}
    assert figures == {"scaling.png", "stragglers.png"}
    assert (tmp_path / "runs/scaling.csv").read_text().count("\n") > 3


def test_figures_are_not_drawn_of_a_sweep_that_failed(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "sweep.txt").write_text("algorithm.active_workers=9\n")
    said = cluster.call(
        str(ROOT / "slurm/chain.sh"), "synthetic", "sweep.txt", "runs", *ELEMENT, folder=tmp_path
    )
    plots = Job(cluster, tmp_path, said.split()[-1])
    assert plots.until("CANCELLED", "COMPLETED", "FAILED") == "CANCELLED"


def test_the_chain_needs_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "sweep.txt").write_text("# nothing\n")
    words = [str(ROOT / "slurm/chain.sh"), "synthetic", str(tmp_path / "sweep.txt"), "runs"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    assert result.returncode == 2
    assert "has no line of settings" in result.stderr


@pytest.mark.parametrize("script", ["run.sbatch", "sweep.sbatch", "plots.sbatch"])
def test_the_scripts_say_where_their_parts_are_missed(
    cluster: Cluster, tmp_path: Path, script: str
) -> None:
    job = Job(cluster, tmp_path, cluster.call(
        "sbatch", "--parsable", "--ntasks-per-node=2", "--cpus-per-task=1",
        str(ROOT / "slurm" / script), "a", "b", "c", folder=tmp_path,
    ))  # fmt: skip
    assert job.until("FAILED", "COMPLETED") == "FAILED"
    assert "submit where slurm/ is" in job.output
    assert "ASYNDBT_SLURM" in job.output
