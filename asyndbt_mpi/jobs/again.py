"""The command lines that a run tells its user: to watch it, and to resume it."""

import shlex
from pathlib import Path

from asyndbt_mpi.jobs.job import Request
from asyndbt_mpi.transport.launcher import Launcher


def announcement(log: Path, again: str) -> str:
    """Where a run that starts has its log, and how to watch it and to resume it; one line.

    One that cannot be resumed has no command for that, "".
    """
    watching = shlex.join(["asyndbt", "watch", str(log)])
    resuming = f"; to resume it: {again}" if again else ""
    return f"the log is {log}; to watch it: {watching}{resuming}"


def run_command(request: Request, workers: int, launcher: Launcher, tolerant: bool) -> str:
    """Resumes a run under MPI; ``tolerant`` of a worker's death, if it was started like that.

    Options of the launcher are not known to the ranks.
    """
    started = ["srun"] if launcher.kind == "srun" else ["mpiexec"]
    if launcher.interface:
        started.append(f"--mpi={launcher.interface}")
    if tolerant:
        started += ["--with-ft", "ulfm"]
    return shlex.join([*started, "-n", str(workers + 1), "asyndbt", "run", *_settings(request)])


def simulate_command(request: Request, workers: int) -> str:
    """Resumes a simulated run."""
    return shlex.join(["asyndbt", "simulate", "--workers", str(workers), *_settings(request)])


def _settings(request: Request) -> list[str]:
    sets = [part for assignment in request.assignments for part in ("--set", assignment)]
    output = ["--output", request.output] if request.output else []
    return [request.source, *sets, *output, "--resume"]
