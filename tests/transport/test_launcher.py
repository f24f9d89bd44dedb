"""What the environment says about who started a process; taken from real ones."""

import pytest

from asyndbt_mpi.transport import launcher
from asyndbt_mpi.transport.launcher import (
    Launcher,
    Misfit,
    aborts,
    launched,
    misfit,
    wait_for_spokesman,
)

IN_BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4"}
# mpiexec starts a daemon on every node by srun, and the daemon the ranks.
OF_DAEMON = IN_BATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
OF_STEP = IN_BATCH | {"SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
OF_OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "PMIX_RANK": "2"}
OF_HYDRA = {"HYDI_CONTROL_FD": "7", "MPI_LOCALNRANKS": "2", "PMI_SIZE": "4", "PMI_RANK": "3"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launcher()),
        (IN_BATCH, Launcher()),
        (OF_OPEN_MPI, Launcher("open mpi", 4, 2)),
        (OF_DAEMON | OF_OPEN_MPI, Launcher("open mpi", 4, 2)),
        (OF_OPEN_MPI | {"OMPI_VERSION": "5.0.11"}, Launcher("open mpi", 4, 2, version="5.0.11")),
        (OF_HYDRA, Launcher("hydra", 4, 3)),
        (OF_DAEMON | OF_HYDRA, Launcher("hydra", 4, 3)),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, Launcher("hydra", 4, 3)),
        (OF_STEP, Launcher("srun", 4, 3, "none")),
        (OF_STEP | {"SLURM_MPI_TYPE": "cray_shasta"}, Launcher("srun", 4, 3, "cray_shasta")),
        (OF_STEP | {"PMI_SIZE": "4", "PMI_RANK": "3", "PMI_FD": "9"}, Launcher("srun", 4, 3, "pmi2")),
        (OF_STEP | {"PMIX_RANK": "3"}, Launcher("srun", 4, 3, "pmix")),
        ({"OMPI_COMM_WORLD_SIZE": "many"}, Launcher("open mpi", 1, 0)),
    ],
)  # fmt: skip
def test_the_launcher_is_told_by_the_environment(
    environment: dict[str, str], expected: Launcher
) -> None:
    assert launched(environment) == expected


@pytest.mark.parametrize(
    ("kind", "interface", "library", "hint"),
    [
        ("srun", "pmi2", "Open MPI 5.0.11", "srun --mpi=pmix, or with the mpiexec"),
        ("srun", "none", "Open MPI 5.0.11", "srun --mpi=pmix, or with the mpiexec"),
        ("srun", "pmix", "Open MPI 5.0.11", "start it with the mpiexec that came with this Open MPI"),
        ("hydra", "", "Open MPI 5.0.11", "start it with the mpiexec that came with this Open MPI"),
        ("open mpi", "", "Open MPI 4.1.4", "start it with the mpiexec that came with this Open MPI"),
        ("open mpi", "", "MPICH 5.0.2", "the mpiexec that came with this MPICH, or with srun --mpi=pmi2"),
        ("srun", "none", "MPICH 5.0.2", "inside the batch script, or with srun --mpi=pmi2"),
        ("srun", "none", "Cray MPICH 8.1.29", "start it with srun --mpi=cray_shasta"),
        ("srun", "pmix", "Intel MPI 2021.15.0", "srun --mpi=pmi2 and I_MPI_PMI_LIBRARY"),
        ("srun", "pmi2", "MPICH 5.0.2", "mpiexec that came with this MPICH inside the batch script"),
    ],
)  # fmt: skip
def test_who_does_not_fit_is_told_who_does(
    kind: launcher.Kind, interface: str, library: str, hint: str
) -> None:
    found = misfit(Launcher(kind, 4, 0, interface), library, 1)
    assert found is not None
    assert "started 4 processes" in found[0]
    assert library in found[0]
    assert hint in found[1]


def test_who_fits_or_is_meant_to_be_alone_is_told_nothing() -> None:
    assert misfit(Launcher("open mpi", 4, 0), "Open MPI 5.0.11", 4) is None
    assert misfit(Launcher(), "Open MPI 5.0.11", 1) is None
    assert misfit(Launcher("srun", 1, 0, "pmi2"), "Open MPI 5.0.11", 1) is None


def test_a_library_that_would_end_the_process_is_not_started() -> None:
    assert aborts(OF_OPEN_MPI, "MPICH 5.0.2")
    assert not aborts(OF_OPEN_MPI, "Open MPI 5.0.11")
    assert not aborts(OF_OPEN_MPI | {"MPIR_CVAR_PMI_VERSION": "x"}, "MPICH 5.0.2")
    assert not aborts(OF_HYDRA, "MPICH 5.0.2")
    assert not aborts({}, "MPICH 5.0.2")
    said = str(Misfit(launched(OF_OPEN_MPI), "MPICH 5.0.2"))
    assert "Open MPI's mpiexec started 4 processes" in said
    assert "start it with the mpiexec that came with this MPICH" in said


def test_only_the_first_speaks_and_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(launcher.time, "sleep", waits.append)
    assert [wait_for_spokesman(Launcher("srun", 3, rank, "none")) for rank in range(3)] == [
        True,
        False,
        False,
    ]
    assert waits == [launcher.SECONDS_FOR_THE_FIRST] * 2
