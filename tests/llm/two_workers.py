"""A short run of `asyndbt` with two workers and a tiny random model, over MPI.

    mpiexec -n 3 python -m tests.llm.two_workers FOLDER run demo ...

Each rank leaves a file in FOLDER if it has loaded torch.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "run.iterations": "3",
    "run.evaluate_every": "0",
    "task.test": "20",
    "algorithm.active_workers": "2",
    "llm.threads": "1",
}


def launcher() -> str | None:
    """The mpiexec of this Python's environment, else of the system."""
    return shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def run(folder: Path, model: Path, *arguments: str) -> tuple[Path, set[int], str]:
    """Run; the log, which ranks have loaded torch, and what the ranks said."""
    mpiexec = launcher()
    assert mpiexec is not None
    log = folder / "run.h5"
    settings = {**SETTINGS, "llm.model": str(model)}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [
            mpiexec, "-n", "3", sys.executable, "-m", "tests.llm.two_workers", str(folder),
            "run", "demo", *sets, *arguments, "--output", str(log),
        ],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, timeout=240,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = {int(file.suffix[1:]) for file in folder.glob("torch.*")}
    return log, ranks, done.stderr


if __name__ == "__main__":
    from mpi4py import MPI  # here, since it starts MPI

    from asyndbt_mpi import cli

    place = Path(sys.argv.pop(1))
    try:
        cli.main()
    finally:
        if "torch" in sys.modules:
            (place / f"torch.{MPI.COMM_WORLD.Get_rank()}").touch()
