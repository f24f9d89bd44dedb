"""Where a run with marked texts is made, and where all that leaves its workers is searched."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT, mpiexec, sets
from tests.privacy.marks import Search

WORKERS = 2
FOREIGN = "/dev/null", "/dev/shm"
"""Where everybody writes."""
CODE = str(ROOT / "asyndbt_mpi" / "algorithm" / "__pycache__")
"""Where numba keeps the kernels."""
SETTINGS = (
    *("run.iterations=6", "run.evaluate_every=2", "run.race=4", "run.worker_timeout=500"),
    *("algorithm.active_workers=2", "algorithm.plane_period=2", "algorithm.tolerance=0"),
    *("prompt.fragment_length=2", "prompt.vocabulary_size=4", "prompt.pool=3"),
    *("task.train_per_class=4", "task.validation_per_class=4", "task.test=6"),
    *("estimator.samples=3", "estimator.batch=4"),
    'task.labels=[" bad", " good"]',
    'task.template="[[{fragment}\\n]]Text: {text}\\nIs it:"',
)


@dataclass(frozen=True)
class Place:
    """Where a run is, and what is searched for there.

    ``model`` are the settings of its language model. Files that are ``known``, and connections to
    a ``server``, if the model is behind one, are no leak.
    """

    folder: Path
    search: Search
    model: tuple[str, ...]
    known: set[Path]
    server: tuple[str, int] | None = None

    @property
    def records(self) -> Path:
        """What was recorded of the run."""
        return self.folder / "records"

    def run(self, plant: str, *settings: str) -> subprocess.CompletedProcess[bytes]:
        """A whole run, with --debug, all of whose files are in ``folder / "world"``."""
        world = self.folder / "world"
        for path in (self.records, world / "tmp", world / "home"):
            path.mkdir(parents=True)
        here = {"HOME": world / "home", "TMPDIR": world / "tmp", "XDG_CACHE_HOME": world / "home"}
        command = [
            *(sys.executable, "-m", "tests.privacy.rank", str(self.records), "run", "reviews"),
            *sets(*SETTINGS, f"task.path={self.folder / 'rows.jsonl'}"),
            *sets(*self.model, *settings),
            *("--output", "run.h5", "--debug"),
        ]
        path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
        return subprocess.run(
            mpiexec(WORKERS + 1, command),
            cwd=world,
            env=os.environ | {name: str(path) for name, path in here.items()}
            | {"PYTHONPATH": path, "PLANT": plant, "PRTE_MCA_prte_local_tmpdir_base": "/tmp"},
            capture_output=True,
            timeout=550,
        )  # fmt: skip

    def found(self, done: subprocess.CompletedProcess[bytes]) -> dict[str, set[str]]:
        """By place, what is where it must not be; and what was written outside of the world."""
        leaks = {"stdout": self.search.found(done.stdout)}
        leaks["stderr"] = self.search.found(done.stderr)
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and not self.known & {path, *path.parents}:
                leaks[str(path.relative_to(self.folder))] = self.search.found(path.read_bytes())
        written = {
            line
            for file in self.records.glob("written.*")
            for line in file.read_text().splitlines()
            if not line.startswith((*map(str, (self.folder / "world", self.records)), *FOREIGN))
            and not line.startswith(CODE)
            and not (line.startswith("socket.connect") and line.endswith(f", {self.server})"))
        }
        assert len(leaks) >= 2 + 3 * (WORKERS + 1)
        return {place: what for place, what in {**leaks, "elsewhere": written}.items() if what}
