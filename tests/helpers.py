"""What many tests need: the commands, in this process, in their own and under mpiexec."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner

from asyndbt_mpi.cli import main
from asyndbt_mpi.log.reader import Log

ROOT = Path(__file__).parents[1]
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
needs_mpiexec = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec here")
# What a machine with few cores, or a test run as root, needs of Open MPI.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
ASYNDBT = [sys.executable, "-m", "asyndbt_mpi"]
SECONDS = 120

Result = subprocess.CompletedProcess[str]


def asyndbt(*arguments: str, folder: Path) -> Result:
    """A command as a user types it, in this process; not for `run` and `doctor`, which start MPI."""
    return _call(main, ["asyndbt", *arguments], folder)


def plot(figure: str, *arguments: object, folder: Path = ROOT) -> Result:
    """`asyndbt plot`, in this process."""
    return asyndbt("plot", figure, *map(str, arguments), folder=folder)


def _call(program: Callable[[], object], words: list[str], folder: Path) -> Result:
    code: str | int | None = None
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", words),
        # What a program sets for its process.
        warnings.catch_warnings(),
        np.errstate(),
        CliRunner().isolation() as (out, err, _),
    ):
        try:
            program()
        except SystemExit as exit:
            code = exit.code
        sys.stdout.flush()
        sys.stderr.flush()
    assert code is None or isinstance(code, int)
    return Result(words, code or 0, out.getvalue().decode(), err.getvalue().decode())


def start(command: list[str], folder: Path, seconds: float = SECONDS, **environment: str) -> Result:
    """Run a command to its end in a process of its own."""
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True,
        timeout=seconds,
    )  # fmt: skip


def asyndbt_alone(
    *arguments: str, folder: Path, seconds: float = SECONDS, **environment: str
) -> Result:
    """A command in a process of its own."""
    return start([*ASYNDBT, *arguments], folder, seconds, **environment)


def mpiexec(ranks: int, command: list[str], *options: str) -> list[str]:
    """The command line that starts so many ranks of a command."""
    assert MPIEXEC is not None
    return [MPIEXEC, *options, "-n", str(ranks), *command]


def complaints(result: Result) -> list[str]:
    """The lines in which the program itself complains."""
    lines = (result.stderr + result.stdout).replace("\r", "\n").splitlines()
    return [line for line in lines if line.startswith("asyndbt:")]


def sets(*assignments: str) -> list[str]:
    """`--set` before each."""
    return [word for each in assignments for word in ("--set", each)]


def wait_for_iterations(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the log at ``path`` has so many; the ``process`` must go on."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if path.exists():
            try:
                with Log(path) as log:
                    if log.committed >= count:
                        return
            except ValueError:
                pass  # caught in the middle of being created
        time.sleep(0.05)
    raise AssertionError("no iterations in time")
