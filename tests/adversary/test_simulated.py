"""Whole runs in which some workers are malicious, under the virtual clock."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from asyndbt_mpi.commands.replay import replay
from asyndbt_mpi.config import ConfigurationError, load
from asyndbt_mpi.inputs.trust import Attack
from asyndbt_mpi.jobs.codes import BAD_USAGE
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.records import EventKind
from tests.helpers import asyndbt, complaints, sets

SHORT = (
    *("run.iterations=24", "run.evaluate_every=12", "run.race=2", "prompt.fragment_length=3"),
    *("algorithm.active_workers=2", "algorithm.plane_period=4", "algorithm.tolerance=0"),
    *("delay.model=lognormal", "delay.mean=1"),
)
KINDS = [("exact", "black_box"), ("additive", "black_box"), ("additive", "model")]
MALICIOUS = [4, 5]
STEPS = EventKind.REPORT, EventKind.LOWER_REPORT


def simulated(path: Path, attack: str, *settings: str, options: tuple[str, ...] = ()) -> Path:
    named = f"adversary.attack={attack}", f"adversary.workers={MALICIOUS}"
    done = asyndbt(
        *("simulate", "synthetic", "--workers", "5", "--output", str(path), *options),
        *sets(*SHORT, *named, *settings), folder=path.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize(("estimator", "gradient"), KINDS)
@pytest.mark.parametrize("attack", sorted({*get_args(Attack)} - {"bad_demonstrations"}))
def test_a_run_under_attack(tmp_path: Path, attack: str, estimator: str, gradient: str) -> None:
    settings = f"estimator.name={estimator}", f"algorithm.lower_gradient={gradient}"
    path = simulated(tmp_path / "run.h5", attack, *settings)
    assert verify(path).violations == []
    with Log(path) as log:
        assert (log.status, log.committed) == ("finished", 24)
        left = log["event/kind"] == EventKind.EXCLUDED
        excluded = sorted(log["event/worker"][left].tolist())
        assert excluded == (MALICIOUS if attack in ("nan", "malformed") else [])
        assert not (log["event/kind"] == EventKind.LOST).any()
        reported = set(log["report/worker"].tolist())
        assert reported == set(range(1, 6)) - set(excluded)
    assert replay(path).difference is None


def test_who_has_all_dropped_falls_silent(tmp_path: Path) -> None:
    """Nobody asks it again, so the others go on when it is lost, as under MPI."""
    path = simulated(tmp_path / "run.h5", "malformed", "defence.strikes=100")
    with Log(path) as log:
        kinds, workers = log["event/kind"], log["event/worker"]
        for kind in (EventKind.DROPPED, EventKind.LOST):
            assert sorted(set(workers[kinds == kind].tolist())) == MALICIOUS
        assert (log.status, log.committed) == ("finished", 24)
    assert verify(path).violations == []
    assert replay(path).difference is None


@pytest.mark.parametrize(("estimator", "gradient"), KINDS)
def test_the_same_seed_gives_the_same_iterates(
    tmp_path: Path, estimator: str, gradient: str
) -> None:
    settings = f"estimator.name={estimator}", f"algorithm.lower_gradient={gradient}"
    paths = [simulated(tmp_path / f"{i}.h5", "gaussian", *settings) for i in range(2)]
    with Log(paths[0]) as one, Log(paths[1]) as other:
        for name in ("iteration/z", "report/p", "iteration/time"):
            np.testing.assert_array_equal(one[name], other[name])


def test_without_members_nothing_changes(tmp_path: Path) -> None:
    one = simulated(tmp_path / "one.h5", "alie", "adversary.workers=0")
    other = simulated(tmp_path / "other.h5", "flood", "adversary.workers=[]")
    with Log(one) as honest, Log(other) as too:
        np.testing.assert_array_equal(honest["iteration/z"], too["iteration/z"])


def test_a_flood_sits_in_nearly_every_active_set(tmp_path: Path) -> None:
    with Log(simulated(tmp_path / "run.h5", "flood")) as log:
        active = log["iteration/active"].mean(axis=0)
        seconds = log["report/compute_seconds"]
        malicious = np.isin(log["report/worker"], MALICIOUS)
        assert (seconds[malicious] == 0).all()
        assert (seconds[~malicious] > 0).all()
        asked = [e.costs.calls for e in events(log) if e.kind in STEPS and e.worker in MALICIOUS]
        assert set(asked) == {0}
    assert active[3:].min() > 0.9
    assert active[:3].max() < 0.5


def test_the_log_says_who_was_malicious(tmp_path: Path) -> None:
    path = simulated(tmp_path / "run.h5", "ipm")
    said = asyndbt("show", str(path), folder=tmp_path).stdout
    assert "malicious workers: 4, 5 (ipm)" in said
    rule = (
        '"mean": the trimmed mean after nearest-neighbour mixing, as up to 1 of 5 workers may lie.'
    )
    assert rule in " ".join(said.split())


@pytest.mark.parametrize("attack", ["alie", "flood", "nan", "malformed"])
@pytest.mark.parametrize("gradient", ["black_box", "model"])
def test_a_simulation_is_resumed(tmp_path: Path, attack: str, gradient: str) -> None:
    setting = f"algorithm.lower_gradient={gradient}"
    path = simulated(tmp_path / "run.h5", attack, setting)
    more = setting, "run.iterations=36"
    simulated(path, attack, *more, options=("--resume",))
    whole = simulated(tmp_path / "whole.h5", attack, *more)
    assert replay(path).difference is None
    with Log(path) as log, Log(whole) as expected:
        np.testing.assert_array_equal(log["iteration/z"], expected["iteration/z"])


def test_the_half_of_slow_poison_stays(tmp_path: Path) -> None:
    path = simulated(tmp_path / "run.h5", "slow_poison")
    before = path.read_bytes()
    arguments = "simulate", "synthetic", "--workers", "5", "--output", str(path), "--resume"
    attack = "adversary.workers=[4,5]", "adversary.attack=slow_poison", "run.iterations=36"
    done = asyndbt(*arguments, *sets(*SHORT, *attack), folder=tmp_path)
    assert done.returncode == BAD_USAGE
    [line] = complaints(done)
    assert "must stay 24" in line
    assert path.read_bytes() == before


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["adversary.workers=4"], "adversary.workers = 4: the run has only 3 workers"),
        (["adversary.workers=[1,7]"], "adversary.workers = [1, 7]: the run has only 3 workers"),
        (["adversary.workers=[0]"], "adversary.workers"),
        (["adversary.workers=-1"], "adversary.workers"),
        (["adversary.attack=lie"], "adversary.attack"),
        (["adversary.strength=-1"], "adversary.strength"),
        (
            ["adversary.workers=1", "adversary.attack=bad_demonstrations"],
            "'synthetic' has no demonstrations whose labels could be wrong",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path: Path, settings: list[str], said: str) -> None:
    arguments = "simulate", "synthetic", "--workers", "3", "--output", "run.h5"
    done = asyndbt(*arguments, *sets(*settings), folder=tmp_path)
    assert done.returncode == BAD_USAGE
    [line] = complaints(done)
    assert said in line
    assert not (tmp_path / "run.h5").exists()


def test_the_malicious_are_the_last_or_those_that_are_named() -> None:
    def of(written: str) -> list[int]:
        return sorted(load("synthetic", [f"adversary.workers={written}"]).adversary.of(6))

    assert (of("0"), of("2"), of("6"), of("[3, 1, 3]")) == ([], [5, 6], [1, 2, 3, 4, 5, 6], [1, 3])


def test_as_many_workers_are_usual_as_there_are_malicious_ones() -> None:
    assert load("synthetic", ["adversary.workers=[2,7]"]).usual_workers == 7


def test_a_bare_nan_is_a_name() -> None:
    assert load("synthetic", ["adversary.attack=nan"]).adversary.attack == "nan"
    with pytest.raises(ConfigurationError, match=r"adversary\.attack"):
        load("synthetic", ["adversary.attack=inf"])
