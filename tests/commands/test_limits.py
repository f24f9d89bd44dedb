"""The budget that `estimate` names is enough, and what a smaller one cuts is foretold."""

from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.commands.estimate import estimate
from asyndbt_mpi.commands.limits import amount, covering, enough, limits, set_aside, shortfalls
from asyndbt_mpi.commands.simulate import simulate_silently
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.messages import Split
from tests.commands import course
from tests.commands.course import MEMORIES, Course
from tests.commands.foretold import OPENAI, foretold, words
from tests.helpers import asyndbt, sets


def outcome(path: Path) -> tuple[int, int, list[float]]:
    """Iterations, evaluations in races, and losses of all evaluations."""
    with Log(path) as log:
        racing = int((log["evaluation/split"] == Split.RACE).sum())
        return log.committed, racing, log["evaluation/loss"].tolist()


def simulated(folder: Path, *settings: str) -> tuple[int, int, list[float]]:
    path = folder / "run.h5"
    simulate_silently(Job.of(Request("synthetic", settings, str(path), True, False), 3), 1)
    return outcome(path)


BASE = (
    "run.iterations=20", "run.evaluate_every=6", "task.test=20", "algorithm.max_delay=3",
    "delay.model=pareto", "delay.mean=1",
)  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("algorithm.active_workers=3",),
        ("algorithm.lower_gradient=black_box", "algorithm.plane_period=1"),
        ("algorithm.lower_gradient=black_box", "algorithm.plane_period=7", "run.race=0"),
        ("run.race=3", "task.test=0"),
        ("run.evaluate_every=0",),
    ],
)
def test_what_is_enough_covers_the_whole_run(tmp_path: Path, settings: tuple[str, ...]) -> None:
    settings = *BASE, *settings
    found = foretold("synthetic", *settings)
    (key,) = enough(found)
    assert key == "calls"
    calls = int(enough(found)[key])
    most = sum(part.most for part in found.parts)
    assert most <= calls <= 1.3 * most
    budget = f"budget.calls={calls}"
    assert simulated(tmp_path, *settings, budget) == simulated(tmp_path, *settings)
    covered = foretold("synthetic", *settings, budget)
    assert (shortfalls(covered), covering(covered)) == ([], "")


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("calibration", ["none", "content_free"])
def test_it_does_so_for_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str, calibration: str
) -> None:
    monkeypatch.setattr(course, "SPARE", 0)  # that a question takes besides its prompts
    remembers, *changes = MEMORIES[memory]
    changes.append(f"task.calibration={calibration}")
    free = Course(tmp_path / "free.h5", 1, remembers, *changes)
    found = estimate(free.config, free.materials, 1, words)
    budget = f"budget.calls={enough(found)['calls']:.0f}"
    Course(tmp_path / "bound.h5", 1, remembers, *changes, budget)
    assert outcome(tmp_path / "bound.h5") == outcome(tmp_path / "free.h5")


def test_races_that_a_budget_shortens_are_told(tmp_path: Path) -> None:
    cheap = "estimator.samples=2", "estimator.batch=1", "task.test=1", "run.iterations=10"
    settings = *BASE, *cheap, "algorithm.active_workers=3"
    iterations, racing, _ = simulated(tmp_path, *settings)
    told = set()
    for calls in np.linspace(
        2000, enough(foretold("synthetic", *settings))["calls"], 30, dtype=int
    ):
        budget = f"budget.calls={calls}"
        lines = shortfalls(foretold("synthetic", *settings, budget))
        said = lines[0] if lines else "nothing"
        if "does not cover one iteration" in said:
            continue
        made, raced, _ = simulated(tmp_path, *settings, budget)
        if "shorten the races" in said:
            assert made == iterations
            assert raced < racing
        elif "will end the run" in said:
            assert made < iterations
        else:
            assert (made, raced) == (iterations, racing)
        told.add(said.partition(" will ")[2][:7])
    assert told == {"", "shorten", "end the"}


def test_all_that_can_be_compared_is_named_where_a_limit_is_too_small() -> None:
    for budget in ("calls=500", "tokens=500", "cost=0.001", "seconds=1"):
        found = foretold("reviews", *OPENAI, f"budget.{budget}", seconds_per_call=0.1)
        line = covering(found)
        for key, limit in enough(found).items():
            assert f"budget.{key} = {amount(limit)}" in line
            assert limit == pytest.approx(float(f"{limit:.3g}"))
        assert set(enough(found)) == {"calls", "tokens", "cost", "seconds"}
        for key, limit in enough(found).items():
            allowed = limits(
                foretold("reviews", *OPENAI, f"budget.{key}={_as_toml(key, limit)}",
                         seconds_per_call=0.1)
            )  # fmt: skip
            assert [each.iterations >= found.config.run.iterations for each in allowed] == [True]
    assert covering(foretold("reviews", *OPENAI)) == ""


def _as_toml(key: str, limit: float) -> str:
    return f"{limit:.0f}" if key in ("calls", "tokens") else f"{limit:.12f}"


def test_what_is_set_aside_is_told_part_by_part() -> None:
    found = foretold("reviews", "run.race=5", "budget.calls=10000")
    (limit,) = limits(found)
    first, why = set_aside(found)
    for value in (limit.first, limit.reserve.races, limit.reserve.tests):
        assert f" {amount(value)} for " in first
    assert "every test as the dearest" in why
    assert set_aside(foretold("reviews", "run.race=5")) == []


def test_the_table_is_that_of_the_whole_run_whatever_the_budget() -> None:
    whole = foretold("reviews").rows()
    for budget in (100, 3000, 5000):
        assert foretold("reviews", f"budget.calls={budget}").rows() == whole


def test_the_command_says_what_would_be_enough(tmp_path: Path) -> None:
    small = sets("llm.input_price=1", "budget.calls=700")
    result = asyndbt("estimate", "reviews", *small, folder=tmp_path)
    short, line = result.stderr.splitlines()
    assert short.startswith("asyndbt: warning: budget.calls = 700 does not cover")
    assert line.startswith("asyndbt: enough for the whole run, each by itself: budget.calls = ")
    assert "budget.tokens = " in line
    assert "budget.cost = " in line
