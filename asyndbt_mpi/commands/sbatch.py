"""`asyndbt sbatch`: a run checked on the login node, then submitted with run.sbatch.

Options on sbatch's command line win over those of the script; the environment carries the rest.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.inputs.files import check_line, shown
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.jobs.resume import check_settings, check_workers
from asyndbt_mpi.log.reader import Log

SHIPPED = Path(__file__).parents[1] / "slurm"
NEEDED = ("run.sbatch", "env.sh", "launch.sh")
TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?", re.ASCII)
LONGEST_TIME = 20
MOST_MINUTES = 2**32 - 3
"""Slurm counts in 32 bits, and the two largest numbers mean something else."""
LEAD_MINUTES = 4
"""The signal of run.sbatch comes two minutes before the limit, or up to one more."""
OWN_OPTIONS = {
    "nodes": "-N", "time": "-t", "gpus-per-node": "", "cpus-per-task": "-c", "partition": "-p",
    "account": "-A", "job-name": "-J", "ntasks-per-node": "",
}  # fmt: skip
"""What is checked, or worked out, and its short form."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A call of sbatch: its ``command``, and ``variables`` for its environment and the job's."""

    command: tuple[str, ...]
    variables: dict[str, str]

    def __str__(self) -> str:
        """As a line for a shell."""
        set_ = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return " ".join([*set_, shlex.join(self.command)])


def check(source: str, assignments: Sequence[str], output: str | None, workers: int) -> Config:
    """The configuration of a run, after all that can be checked before it waits in a queue.

    Raises
    ------
    ConfigurationError
        What is wrong with it, with the data, or with a log that is there already.
    """
    request = Request(source, tuple(assignments), output, False, False, resume=True)
    job = Job.checked(request, workers)
    if job.path.exists():
        with Log(job.path) as log:
            check_workers(log, workers)
            check_settings(log, job.config)
    return job.config


def check_time(time: str) -> None:
    """Refuse a limit before which Slurm leaves no time to a job.

    Raises
    ------
    ConfigurationError
        It is too short, or not as Slurm writes times.
    """
    parts = TIME.fullmatch(time)
    if parts is None or len(time) > LONGEST_TIME:
        raise ConfigurationError(f"--time {shown(time)}: give HH:MM:SS, D-HH:MM:SS or minutes")
    days, first, second = (int(part or 0) for part in parts.groups()[:3])
    # Two numbers are minutes and seconds, but hours and minutes behind days.
    hours_first = parts[1] is not None or parts[4] is not None
    minutes = 60 * first + second if hours_first else first
    minutes += 24 * 60 * days
    if minutes > MOST_MINUTES:
        raise ConfigurationError(f"--time {time}: Slurm counts no more than {MOST_MINUTES} minutes")
    if minutes <= LEAD_MINUTES:
        raise ConfigurationError(
            f"--time {time}: give more than {LEAD_MINUTES} minutes: Slurm tells the job to stop"
            " two or three before its limit"
        )


def scripts() -> Path:
    """The folder of the scripts: the user's own, below the current one, or what was installed."""
    own = Path("slurm").absolute()
    return own if all((own / name).is_file() for name in NEEDED) else SHIPPED


def submission(
    folder: Path,
    options: Mapping[str, str],
    further: Sequence[str],
    launcher: str,
    workers_per_node: int,
    arguments: Sequence[str],
) -> Submission:
    """The call of sbatch for `asyndbt run` with ``arguments``, by run.sbatch in ``folder``.

    ``options`` are sbatch's by name, ``further`` more of them as words.

    Raises
    ------
    ConfigurationError
        One of the words cannot be given to sbatch, or would mean something else to it.
    """
    _check(options, further, (*arguments, str(folder)))
    variables = {
        "LAUNCHER": launcher,
        "WORKERS_PER_NODE": str(workers_per_node),
        "ASYNDBT_SLURM": str(folder),
    }
    if sys.prefix != sys.base_prefix and not os.environ.get("ASYNDBT_VENV"):
        variables["ASYNDBT_VENV"] = sys.prefix  # the virtual environment of this very command
    own = [f"--{name}={value}" for name, value in options.items()]
    # Whatever SBATCH_EXPORT says, the job needs the variables.
    command = ["sbatch", "--export=ALL", *own, *further, str(folder / "run.sbatch"), *arguments]
    return Submission(tuple(command), variables)


def _check(options: Mapping[str, str], further: Sequence[str], others: Sequence[str]) -> None:
    """What stands behind the dashes must be options, and none that was checked before them.

    Nothing may hold what cannot be seen, nor be taken for an option where it is none.
    """
    for word in (*options.values(), *further, *others):
        try:
            check_line(word)
        except ValueError as error:
            raise ConfigurationError(f"{shown(word)}: {error}, for sbatch") from error
    for name, value in options.items():
        if not value.strip():
            raise ConfigurationError(f"--{name} is empty: give a name, or leave it out")
    if others[0].startswith("-"):
        raise ConfigurationError(f"{shown(others[0])}: put ./ before it")
    for word in further:
        name = word.partition("=")[0].removeprefix("--")
        if not word.startswith("-") or not name.strip("-"):
            raise ConfigurationError(f"{shown(word)}: sbatch has no such option; they begin with -")
        if word.startswith("--") and "export".startswith(name):
            raise ConfigurationError(
                f"{shown(word)}: the job gets all variables: set them before asyndbt sbatch"
            )
        for own, short in OWN_OPTIONS.items():
            # sbatch takes the beginning of a name for it, and letters without a space.
            if (word.startswith("--") and own.startswith(name)) or (
                short and word.startswith(short)
            ):
                raise ConfigurationError(f"{shown(word)}: give --{own} before the two dashes")


def submit(wanted: Submission) -> str:
    """Call sbatch; what that answers.

    Raises
    ------
    ConfigurationError
        There is no sbatch, or it refuses the job.
    """
    try:
        answer = subprocess.run(
            wanted.command, env=os.environ | wanted.variables, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ConfigurationError(
            "there is no sbatch here: submit from a login node, or print its line: --dry-run"
        ) from error
    if answer.returncode:
        said = [line for line in answer.stderr.splitlines() if line.strip()]
        raise ConfigurationError(f"not submitted: {said[0] if said else 'sbatch says nothing'}")
    return answer.stdout.strip()
