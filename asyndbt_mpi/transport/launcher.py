"""What started this process, as one of how many, and on which node, found out without MPI.

If launcher and MPI library do not match, they do not find each other: every process then believes
that it is alone.
"""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["open mpi", "hydra", "srun", "none"]

OF_MPICH = ("MPICH", "Intel MPI", "MVAPICH", "Cray MPICH")
"""Libraries whose processes find each other through PMI."""

SECONDS_FOR_THE_FIRST = 5.0
"""Seconds that the others wait: launchers end all processes when one has failed."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """What started ``size`` processes, this one as number ``rank``.

    ``interface`` is how srun's processes find each other: "pmix", "pmi2" or "none"; ``version`` is
    that of Open MPI's mpiexec.
    """

    kind: Kind = "none"
    size: int = 1
    rank: int = 0
    interface: str = ""
    version: str = ""

    @property
    def name(self) -> str:
        """The launcher's name for users."""
        return {
            "open mpi": "Open MPI's mpiexec",
            "hydra": "the mpiexec of MPICH or Intel MPI",
            "srun": f"srun --mpi={self.interface}",
            "none": "no launcher",
        }[self.kind]


def launched(environment: Mapping[str, str]) -> Launcher:
    """The launcher closest to this process.

    Under Slurm an mpiexec starts its daemons through srun, whose variables the processes inherit. A
    batch script also has variables of Slurm, but none of a step.
    """

    def number(name: str, default: int) -> int:
        written = environment.get(name, "")
        return int(written) if written.isdecimal() else default

    if "OMPI_COMM_WORLD_SIZE" in environment:
        size, rank = number("OMPI_COMM_WORLD_SIZE", 1), number("OMPI_COMM_WORLD_RANK", 0)
        return Launcher("open mpi", size, rank, version=environment.get("OMPI_VERSION", ""))
    in_step = {"SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"} <= environment.keys()
    # srun --mpi=pmi2 sets PMI_SIZE, too; the others are Hydra's own.
    of_hydra = {"HYDI_CONTROL_FD", "MPI_LOCALNRANKS"} & environment.keys()
    if "PMI_SIZE" in environment and (of_hydra or not in_step):
        return Launcher("hydra", number("PMI_SIZE", 1), number("PMI_RANK", 0))
    if in_step:
        size, rank = number("SLURM_STEP_NUM_TASKS", 1), number("SLURM_PROCID", 0)
        return Launcher("srun", size, rank, _interface(environment))
    return Launcher()


def _interface(environment: Mapping[str, str]) -> str:
    if "PMIX_RANK" in environment or "PMIX_NAMESPACE" in environment:
        return "pmix"
    if "PMI_RANK" in environment or "PMI_FD" in environment:
        return "pmi2"
    return environment.get("SLURM_MPI_TYPE") or "none"


def node_name() -> str:
    """Identifies this node, the same for all processes on it.

    It is the boot id of the kernel, because MPI's own notion and host names are wrong in containers
    and under some launchers. Several Slurm nodes can be one machine.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    name = boot.read_text().strip() if boot.exists() else socket.gethostname()
    return f"{name} {os.environ.get('SLURM_NODEID', '')}"


def misfit(launcher: Launcher, library: str, size: int) -> tuple[str, str] | None:
    """What is wrong, and how to fix it, if the launcher's processes do not find each other.

    ``library`` names the MPI library with its version, in whose world there are ``size`` ranks.
    """
    if size > 1 or launcher.size == 1:
        return None
    wrong = (
        f"{launcher.name} started {launcher.size} processes, but each of them is alone:"
        f" mpi4py loaded {library}, which this launcher cannot start"
    )
    return wrong, f"{_fitting(launcher, library)} (or have mpi4py load the launcher's own library)"


class Misfit(RuntimeError):
    """The MPI ``library`` would abort this process instead of letting it run alone."""

    def __init__(self, launcher: Launcher, library: str) -> None:
        super().__init__("; ".join(misfit(launcher, library, size=1) or ()))
        self.library = library


def aborts(environment: Mapping[str, str], library: str) -> bool:
    """Whether the ``library`` would end a process started this way, without an error.

    MPICH 5 does under Open MPI's mpiexec, unless it is told which interface to use.
    """
    launcher = launched(environment)
    told = "MPIR_CVAR_PMI_VERSION" in environment
    return (
        _name(library) in OF_MPICH
        and launcher.kind == "open mpi"
        and launcher.size > 1
        and not told
    )


def _name(library: str) -> str:
    """Without the version."""
    return library.rstrip(".0123456789 ")


def _fitting(launcher: Launcher, library: str) -> str:
    """The launchers that can start the ``library``."""
    name = _name(library)
    own = f"the mpiexec that came with this {name}"
    within = " inside the batch script" if launcher.kind == "srun" else ""
    if name == "Open MPI" and launcher.kind == "srun" and launcher.interface != "pmix":
        return f"start it with srun --mpi=pmix, or with {own}{within}"
    if name == "Cray MPICH" and launcher.interface != "cray_shasta":
        return "start it with srun --mpi=cray_shasta"
    if name in OF_MPICH and launcher.interface != "pmi2":
        beside = " and I_MPI_PMI_LIBRARY" if name == "Intel MPI" else ""
        return f"start it with {own}{within}, or with srun --mpi=pmi2{beside}"
    return f"start it with {own}{within}"


def wait_for_spokesman(launcher: Launcher) -> bool:
    """Whether this is the one process, of those that are alone, that reports it; others wait."""
    if launcher.rank == 0:
        return True
    time.sleep(SECONDS_FOR_THE_FIRST)
    return False
