"""Malicious workers as ranks of their own, in whole runs under mpiexec."""

from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.commands.replay import replay
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.records import EventKind
from tests.helpers import ASYNDBT, complaints, mpiexec, needs_mpiexec, sets, start

pytestmark = [needs_mpiexec, pytest.mark.timeout(200)]

SHORT = (
    *("run.iterations=30", "run.evaluate_every=15", "run.race=2", "algorithm.plane_period=5"),
    *("algorithm.active_workers=2", "algorithm.tolerance=0", "adversary.workers=1"),
)


def run(folder: Path, attack: str, gradient: str, *settings: str) -> Path:
    path = folder / "run.h5"
    named = f"adversary.attack={attack}", f"algorithm.lower_gradient={gradient}"
    command = [*ASYNDBT, "run", "synthetic", *sets(*SHORT, *named, *settings)]
    done = start(mpiexec(4, [*command, "--output", str(path)]), folder)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize(
    ("attack", "gradient", "again"),
    [
        ("alie", "black_box", False),  # the log does not say what it had seen
        ("sign_flip", "model", True),
        ("nan", "model", True),
    ],
)
def test_a_run_under_attack(tmp_path: Path, attack: str, gradient: str, again: bool) -> None:
    path = run(tmp_path, attack, gradient)
    assert verify(path).violations == []
    with Log(path) as log:
        assert (log.status, log.committed) == ("finished", 30)
        excluded = log["event/worker"][log["event/kind"] == EventKind.EXCLUDED].tolist()
        assert excluded == ([3] if attack == "nan" else [])
        assert not (log["event/kind"] == EventKind.LOST).any()
    assert (replay(path).difference is None) == again


def test_a_flood_waits_for_nothing(tmp_path: Path) -> None:
    delays = "delay.model=constant", "delay.mean=0.2"
    path = run(tmp_path, "flood", "model", *delays)
    assert verify(path).violations == []
    assert replay(path).difference is None
    with Log(path) as log:
        assert (log.status, log.committed) == ("finished", 30)
        active = log["iteration/active"].mean(axis=0)
        seconds, worker = log["report/compute_seconds"], log["report/worker"]
        assert np.median(seconds[worker == 3]) < 0.1
        assert seconds[worker != 3].min() >= 0.2
    assert active[2] > active[:2].max()


def test_a_run_whose_malicious_ranks_do_not_exist_is_refused(tmp_path: Path) -> None:
    command = [*ASYNDBT, "run", "synthetic", *sets("adversary.workers=3")]
    done = start(mpiexec(3, command), tmp_path)
    assert done.returncode == 2
    [line] = complaints(done)
    assert "adversary.workers = 3: the run has only 2 workers" in line
