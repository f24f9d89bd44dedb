"""A short run of `asyndbt` with two workers and a tiny random model, over MPI.

    mpiexec -n 3 python -m tests.llm.two_workers FOLDER run reviews ...

Each rank leaves a file in FOLDER if it has loaded torch.
"""

import sys
from pathlib import Path

from tests.helpers import ROOT, mpiexec, sets, start

SETTINGS = {
    "run.iterations": "3",
    "run.evaluate_every": "0",
    "task.test": "20",
    "algorithm.active_workers": "2",
    "llm.threads": "1",
}


def run(folder: Path, model: Path, *arguments: str) -> tuple[Path, set[int], str]:
    """Run; the log, which ranks have loaded torch, and what the ranks said."""
    log = folder / "run.h5"
    settings = [f"{key}={value}" for key, value in {**SETTINGS, "llm.model": str(model)}.items()]
    command = [sys.executable, "-m", "tests.llm.two_workers", str(folder), "run", "reviews"]
    words = [*sets(*settings), *arguments, "--output", str(log)]
    done = start(mpiexec(3, [*command, *words]), ROOT)
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
