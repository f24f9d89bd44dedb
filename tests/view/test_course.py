"""What `asyndbt watch` reads of a log that grows, and its picture."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.messages import Costs
from asyndbt_mpi.protocol.records import Event, EventKind, Record
from asyndbt_mpi.view.course import ABSENT, Course, WorkerState
from asyndbt_mpi.view.watching import LEVELS, Picture, sparkline
from tests.log.simulated_run import SHAPES, VOCABULARY, WORKERS, Absence, Run, configuration

LIMITS = {"calls": 100_000, "tokens": 10**7, "seconds": 500.0}
CONFIG = configuration(run={"iterations": 40, "seed": 7, "evaluate_every": 4}, budget=LIMITS)


def records() -> list[Record]:
    return list(Run(CONFIG, absences=(Absence(3, 10, 20),)).records(40))


def write(path: Path, parts: list[list[Record]], look: Callable[[], None], status: str) -> None:
    """Write a log of the ``parts``, one batch each, and ``look`` at it after each."""
    start = np.full((SHAPES.positions, SHAPES.words), 1 / SHAPES.words)
    with Writer(path, CONFIG, SHAPES, WORKERS, VOCABULARY, "mpi", start) as writer:
        for part in parts:
            writer.write_all(part)
            writer.flush()
            look()
        writer.close(status)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 7, 50])
def test_what_is_read_bit_by_bit_is_what_is_there(tmp_path: Path, size: int) -> None:
    path = tmp_path / "run.h5"
    courses: list[Course] = []

    def look() -> None:
        with Log(path) as log:
            if courses:
                courses[0].read(log)
            else:
                courses.append(Course.of(log))
            whole = Course.of(log)
        assert courses[0].workers == whole.workers
        assert courses[0].limits() == whole.limits()
        assert courses[0].closing_answers() == whole.closing_answers()
        for column, rows in whole.columns.items():
            np.testing.assert_array_equal(courses[0].columns[column], rows)

    given_records = records()
    parts = [given_records[n : n + size] for n in range(0, len(given_records), size)]
    write(path, parts, look, "finished")
    look()


def test_it_is_what_the_log_says(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    write(path, [records()], lambda: None, "finished")
    with Log(path) as log:
        course = Course.of(log)
        assert (course.status, course.committed) == ("finished", log.committed)
        calls, kinds, senders = (log[f"event/{n}"] for n in ("llm_calls", "kind", "worker"))
        for number, worker in enumerate(course.workers, start=1):
            own = senders == number
            assert worker.calls == calls[own].sum()
            last = np.flatnonzero(log["report/worker"] == number)[-1]
            assert worker.loss == log["report/loss"][last]
            assert worker.iteration == log["report/iteration"][last] + 1
            heard = own & ~np.isin(kinds, [EventKind.LOST, EventKind.EXCLUDED])
            assert worker.heard == log["event/time"][heard].max()
            assert worker.late == log["iteration/delay"][-1, number - 1]
        spent = {limit.name: (limit.done, limit.total) for limit in course.limits()}
        assert spent["iterations"] == (log.committed, 40)
        assert spent["calls"] == (calls.sum(), LIMITS["calls"])
        tokens = log["event/prompt_tokens"].sum() + log["event/completion_tokens"].sum()
        assert spent["tokens"] == (tokens, LIMITS["tokens"])
        name, validated = course.validated()
        own = (log["evaluation/split"] == 1) & (log["evaluation/worker"] > 0)
        assert name == "accuracy"
        for iteration, mean in zip(
            np.unique(log["evaluation/iteration"][own]), validated, strict=True
        ):
            of_iteration = own & (log["evaluation/iteration"] == iteration)
            assert mean == pytest.approx(log["evaluation/accuracy"][of_iteration].mean())


def test_states_of_workers(tmp_path: Path) -> None:
    course: list[Course] = []
    seen: list[list[str]] = []
    kinds = EventKind.HELLO, EventKind.LOST, EventKind.RETURNED, EventKind.HELLO, EventKind.EXCLUDED
    events = [Event(kind, 2, -1, 0, 1.0 + n, text="of a host") for n, kind in enumerate(kinds)]
    path = tmp_path / "run.h5"

    def look() -> None:
        with Log(path) as log:
            course.append(Course.of(log))
        seen.append([worker.state for worker in course[-1].workers])

    write(path, [[event] for event in events], look, "interrupted")
    assert [states[1] for states in seen] == ["here", "lost", "back", "here", "excluded"]
    assert {states[0] for states in seen} == {ABSENT}
    assert course[-1].workers[1].heard == 4.0, "an exclusion is no sign of life"


def test_the_closing_answers_are_those_of_the_last_end(tmp_path: Path) -> None:
    kinds = [EventKind.CLOSING, EventKind.RACE, EventKind.RACE, EventKind.TEST]
    path = tmp_path / "run.h5"
    write(
        path, [[Event(kind, 1, 0, 0, 1.0, Costs(1, 1)) for kind in kinds]], lambda: None, "finished"
    )
    with Log(path) as log:
        course = Course.of(log)
    assert course.closing
    raced, tested, most = course.closing_answers()
    assert (raced, tested) == (2, 1)
    assert most > 1


# ---------------------------------------------------------------- the picture


def course_of(tmp_path: Path, workers: int) -> Course:
    path = tmp_path / "run.h5"
    write(path, [records()[:60]], lambda: None, "interrupted")
    with Log(path) as log:
        course = Course.of(log)
    course.status = "running"
    course.workers = [
        WorkerState("lost" if n == 7 else "here", n, 1.0, 10**7, 0.5) for n in range(1, workers + 1)
    ]
    course.descriptions = ["[/b]\x1b[2J of a host"] * workers
    return course


def lines(picture: Picture, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(picture)
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [50, 80, 160])
@pytest.mark.parametrize("height", [24, 60])
@pytest.mark.parametrize("workers", [4, 200])
def test_the_picture_fits_the_window(tmp_path: Path, width: int, height: int, workers: int) -> None:
    shown = lines(Picture(course_of(tmp_path, workers), "running", 4000.0), width, height)
    assert len(shown) <= height
    assert all(len(line.rstrip()) <= width for line in shown)
    text = "\n".join(shown)
    assert "\x1b" not in text
    for limit in ("iterations", "calls", "tokens", "seconds"):
        assert sum(line.startswith(limit) for line in shown) == 1
    assert "…" not in text or width >= 100, "only descriptions are cut"
    assert ("     7  lost" in text) == (workers > 4)
    assert any(line.startswith("training loss") for line in shown)
    rows = sum("  here " in line or "  lost " in line for line in shown)
    others = [line for line in shown if line.startswith("and ")]
    assert others == ([] if rows == workers else [f"and {workers - rows} more"])


def test_all_workers_of_an_ended_run_are_shown(tmp_path: Path) -> None:
    picture = Picture(course_of(tmp_path, 200), "finished", 0.0, whole=True)
    assert sum("  here " in line for line in lines(picture, 80, 24)) == 199


def test_a_run_that_has_ended_has_no_time_left(tmp_path: Path) -> None:
    course = course_of(tmp_path, 4)
    assert any(" left" in line for line in lines(Picture(course, "running", 0.0), 80, 24))
    ended = replace(course, status="interrupted")
    assert not any(" left" in line for line in lines(Picture(ended, "interrupted", 9e9), 80, 24))
    assert not any("nothing written" in line for line in lines(Picture(ended, "i", 9e9), 80, 24))


finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1), st.integers(1, 80))
def test_a_sparkline_goes_from_least_to_greatest(values: list[float], cells: int) -> None:
    line = sparkline(np.array(values), cells)
    assert len(line) == min(len(values), cells)
    assert set(line) <= set(LEVELS)
    assert LEVELS[0] in line
    if len(line) == len(values) and max(values) > min(values):
        assert line[int(np.argmax(values))] == LEVELS[-1]
        assert line[int(np.argmin(values))] == LEVELS[0]


@given(st.lists(finite, min_size=1), st.integers(1, 80))
def test_a_sparkline_of_what_rises_rises(values: list[float], cells: int) -> None:
    line = sparkline(np.sort(np.array(values)), cells)
    assert list(line) == sorted(line, key=LEVELS.index)
