"""Races on rows within a budget: finished if planned, cut only where the next prompt could not be
paid for, and what verify and replay make of them."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.assemble import workers_without_model
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.messages import Split
from asyndbt_mpi.protocol.race import most_calls
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.transport.replay import Recorded, Replay
from tests.commands.course import MEMORIES, SPARE, Course

NOT_CHECKED = "how many prompts the budget had room for in each race"


@given(
    st.integers(900, 2000),
    st.sampled_from([1, 3]),
    st.sampled_from([*MEMORIES]),
    st.sampled_from(["none", "content_free"]),
    st.sampled_from([2, 5, 8]),
)
@settings(max_examples=30, deadline=None)
def test_a_race_goes_on_until_the_next_prompt_cannot_be_paid_for(
    tmp_path_factory: pytest.TempPathFactory, budget, calls, memory, calibration, race
) -> None:
    path = tmp_path_factory.mktemp("race") / "run.h5"
    remembers, *changes = MEMORIES[memory]
    budget *= calls
    changes += [f"budget.calls={budget}", f"task.calibration={calibration}", f"run.race={race}"]
    course = Course(path, calls, remembers, *changes)
    assert course.server.spending.spent.calls <= budget
    if memory != "lost":
        assert not course.cut(), "what is planned is finished"
    for request in course.cut().values():
        bounds = course.server.spending.cost_bounds(1)
        assert most_calls(bounds, request.halvings) > course.left(path)
    found = verify(path)
    assert (found.violations, found.notes) == ([], [NOT_CHECKED])


@pytest.mark.parametrize("budget", [1400, 1800])
def test_a_race_that_costs_more_than_it_should_is_cut(tmp_path: Path, budget: int) -> None:
    """The cache forgot all; the last prompt could have been paid for if it had not."""
    path = tmp_path / "run.h5"
    course = Course(path, 1, False, f"budget.calls={budget}")
    with Log(path) as log:
        rows = np.bincount(log.answered, minlength=log.count("evaluation"))
        raced = log["evaluation/split"] == Split.RACE
        assert rows[raced].tolist() == [16] * 8 + [20] * 4 + [80]
    assert [request.halvings for request in course.cut().values()] == [0]
    assert course.left(path) < 80 + SPARE
    assert verify(path).violations == []


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("budget", [4000, 8000, 16_000])
def test_races_of_several_workers_are_repeated_exactly(
    tmp_path: Path, memory: str, budget: int
) -> None:
    """By the log alone, in which there is no model."""
    remembers, *changes = MEMORIES[memory]
    path = tmp_path / "run.h5"
    course = Course(path, 3, remembers, f"budget.calls={budget}", *changes, workers=3)
    assert course.server.spending.spent.calls <= budget
    assert memory == "lost" or not course.cut()
    again = Server(course.config, course.materials.shapes, 3, course.server.iteration)
    workers, box = workers_without_model(course.config, course.materials, [1, 2, 3])
    with Log(path) as log:
        Replay(again, workers, Recorded(events(log), box)).run(events(log), lambda _: None)
    assert again.spending.spent == course.server.spending.spent
    assert {v: asdict(each) for v, each in again.spending._by_worker.items()} == {
        v: asdict(each) for v, each in course.server.spending._by_worker.items()
    }
    for worker, race in course.server._races.items():
        assert all(map(np.array_equal, race.winner, again._races[worker].winner))
