"""Of the texts of workers, nothing leaves them: every byte of whole runs is searched."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import EventKind
from tests.helpers import ROOT, mpiexec, needs_mpiexec, sets
from tests.llm.tiny import SMALL, byte_level_tokenizer, save
from tests.privacy.marks import Search, write_rows

pytestmark = [needs_mpiexec, pytest.mark.long, pytest.mark.timeout(580)]

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
    *("estimator.samples=3", "estimator.batch=4", "llm.threads=1"),
    'task.labels=[" bad", " good"]',
    'task.template="[[{fragment}\\n]]Text: {text}\\nIs it:"',
)


@dataclass(frozen=True)
class Place:
    """Where the runs are, and what is searched for there; what is ``known`` is no leak."""

    folder: Path
    search: Search
    known: set[Path]

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
            *sets(f"llm.model={self.folder / 'model'}", *settings),
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
        }
        assert len(leaks) >= 2 + 3 * (WORKERS + 1)
        return {place: what for place, what in {**leaks, "elsewhere": written}.items() if what}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    marks = write_rows(tmp_path / "rows.jsonl")
    save(tmp_path / "model", LlamaConfig(**SMALL))
    tokenizer = byte_level_tokenizer()
    tokens = [tokenizer(mark, add_special_tokens=False)["input_ids"] for mark in marks]
    return Place(tmp_path, Search(marks, tokens), {tmp_path / "rows.jsonl", tmp_path / "model"})


@pytest.mark.parametrize(
    "settings",
    [
        ("algorithm.lower_gradient=black_box", "estimator.name=loo", "task.calibration=none"),
        ("algorithm.lower_gradient=model", "task.calibration=batch"),
        ("log.private=true", "privacy.noise=8", "task.test=0"),
    ],
)
def test_nothing_leaves(place: Place, settings: tuple[str, ...]) -> None:
    done = place.run("", *settings)
    assert done.returncode == 0, done.stderr.decode()
    assert place.found(done) == {}
    with Log(place.folder / "world" / "run.h5") as log:
        kinds, worker = log["event/kind"], log["event/worker"]
        assert log.status == "finished"
        assert {EventKind.RACE, EventKind.EVALUATION} <= set(kinds.tolist())
        assert (EventKind.TEST in kinds) == (not log.config.log.private)
    homes = list((place.folder / "world" / "run.h5.home").glob("worker-*.jsonl"))
    assert len(homes) == WORKERS * ("log.private=true" in settings)
    # All messages were recorded, and the answers of the model were kept.
    for rank in range(1, WORKERS + 1):
        calls = Counter((place.records / f"calls.{rank}").read_text().split())
        assert calls["Isend"] >= np.isin(kinds[worker == rank], [*EventKind]).sum()
        assert (place.records / f"sent.{rank}").stat().st_size > 1000
    answers = list((place.folder / "world" / "run.h5.cache").rglob("*.answers"))
    assert len(answers) == WORKERS


def test_what_is_planted_is_found(place: Place) -> None:
    texts = "send_text warn_of_text write_file write_temporary write_elsewhere"
    done = place.run(f"{texts} send_tokens show_tokens", "run.evaluate_every=0", "task.test=0")
    found = place.found(done)
    for rank in range(1, WORKERS + 1):
        sent = found[f"records/sent.{rank}"]
        assert {what.split()[0] == "tokens" for what in sent} == {True, False}
    assert {what.split()[0] == "tokens" for what in found["stderr"]} == {True, False}
    assert any(name.startswith("records/removed.") for name in found)
    assert {"world/run.h5", "world/notes.txt", "elsewhere"} <= set(found)
    assert found["elsewhere"] == {str(place.folder / "elsewhere.txt")}


def test_an_error_quotes_nothing(place: Place) -> None:
    done = place.run("fail")
    assert place.found(done) == {}
    assert done.returncode == 3
    assert "Traceback" in done.stderr.decode()
    for rank, kind in ((1, "ValueError in in_a_library"), (2, "LookupError in in_the_template")):
        said = (place.records / f"sent.{rank}").read_bytes().decode("latin1")
        assert f"{kind} (rank.py, line" in said
