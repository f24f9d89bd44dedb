"""`asyndbt sbatch`: a run checked on the login node, then a batch script for it."""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from asyndbt_mpi.config import ConfigurationError

SHIPPED = Path(__file__).parent / "slurm"
NEEDED = ("run.sbatch", "env.sh", "launch.sh")
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


def scripts() -> Path:
    """The folder of the scripts: the user's own, below the current one, or what was installed."""
    own = Path("slurm").absolute()
    return own if all((own / name).is_file() for name in NEEDED) else SHIPPED


def fill(folder: Path, asked: Asked) -> str:
    """The text of run.sbatch in ``folder``, with what was asked for in its places.

    Raises
    ------
    ConfigurationError
        The script has no such place any more.
    """
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
