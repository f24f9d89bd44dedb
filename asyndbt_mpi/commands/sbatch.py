"""`asyndbt sbatch`: a run checked on the login node, then a batch script for it."""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
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
"""What is checked, or filled in, and its short form."""
OPTION = re.compile(r"^##?SBATCH .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asked of Slurm.

    ``options`` are sbatch's by name, ``further`` more of them as words; ``arguments`` those of
    `asyndbt run`.
    """

    options: dict[str, str]
    further: tuple[str, ...]
    launcher: str
    workers_per_node: int
    arguments: tuple[str, ...]


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


def fill(folder: Path, asked: Asked) -> str:
    """The text of run.sbatch in ``folder``, with what was asked for in its places.

    Raises
    ------
    ConfigurationError
        What was asked for has no place in a script, or the script has no such place any more.
    """
    _check(asked, folder)
    text = (folder / "run.sbatch").read_text()
    for name, value in asked.options.items():
        line = f"#SBATCH --{name}={shlex.quote(value)}"
        text = _put(text, rf"^##?SBATCH --{name}=.*$", line, folder)
    if asked.further:
        last = list(OPTION.finditer(text))[-1].end()
        lines = "".join(f"\n#SBATCH {shlex.quote(word)}" for word in asked.further)
        text = text[:last] + lines + text[last:]
    words = " ".join(map(shlex.quote, asked.arguments))
    settings = {
        r"^LAUNCHER=.*$": f"LAUNCHER={asked.launcher}",
        r"^# WORKERS_PER_NODE=.*$": f"WORKERS_PER_NODE={asked.workers_per_node}",
        r"^ASYNDBT_SLURM=.*$": f"ASYNDBT_SLURM={shlex.quote(str(folder))}{_environment()}",
        r"^ARGUMENTS=.*$": f"ARGUMENTS=({words})",
    }
    for pattern, line in settings.items():
        text = _put(text, pattern, line, folder)
    return text


def _check(asked: Asked, folder: Path) -> None:
    """What stands behind the dashes must be options, and none that was checked before them.

    Nothing may hold a line break, which would begin a line of the script, nor be taken for an
    option where it is none.
    """
    for word in (*asked.options.values(), *asked.further, *asked.arguments, str(folder)):
        try:
            check_line(word)
        except ValueError as error:
            raise ConfigurationError(f"{shown(word)}: {error}, in a batch script") from error
    for name, value in asked.options.items():
        if not value.strip():
            raise ConfigurationError(f"--{name} is empty: give a name, or leave it out")
    if asked.arguments[0].startswith("-"):
        raise ConfigurationError(f"{shown(asked.arguments[0])}: put ./ before it")
    for word in asked.further:
        name = word.partition("=")[0].removeprefix("--")
        if not word.startswith("-"):
            raise ConfigurationError(f"{shown(word)}: sbatch has no such option; they begin with -")
        for own, short in OWN_OPTIONS.items():
            # sbatch takes the beginning of a name for it, and letters without a space.
            if (word.startswith("--") and name and own.startswith(name)) or (
                short and word.startswith(short)
            ):
                raise ConfigurationError(f"{shown(word)}: give --{own} before the two dashes")


def _put(text: str, pattern: str, line: str, folder: Path) -> str:
    filled, found = re.subn(pattern, lambda _: line, text, count=1, flags=re.MULTILINE)
    if not found:
        place = pattern.strip("^$").removesuffix(".*").replace("##?", "#")
        raise ConfigurationError(f"{folder / 'run.sbatch'}: has no line {place}... to fill in")
    return filled


def _environment() -> str:
    """A line for env.sh: the virtual environment that this very command runs in, if it does."""
    if sys.prefix == sys.base_prefix:
        return ""
    return f"\nASYNDBT_VENV=${{ASYNDBT_VENV:-{shlex.quote(sys.prefix)}}}"


def submit(script: str) -> str:
    """Give ``script`` to sbatch; what that answers.

    Raises
    ------
    ConfigurationError
        There is no sbatch, or it refuses the job.
    """
    try:
        answer = subprocess.run(
            ["sbatch"], input=script, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ConfigurationError(
            "there is no sbatch here: submit from a login node, or print the script: --dry-run"
        ) from error
    if answer.returncode:
        said = [line for line in answer.stderr.splitlines() if line.strip()]
        raise ConfigurationError(f"not submitted: {said[0] if said else 'sbatch says nothing'}")
    return answer.stdout.strip()
