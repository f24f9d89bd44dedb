"""No number that a run is judged by can be another than its events say."""

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.messages import Candidate, Split
from asyndbt_mpi.protocol.records import SPLIT_OF
from tests.log.edits import violations

pytestmark = pytest.mark.long

Run = Callable[..., Path]


@pytest.fixture
def path(virtual_run: Run) -> Path:
    """A run with validation, tests and estimates."""
    return virtual_run(
        run={"iterations": 24, "evaluate_every": 4},
        algorithm={
            "active_workers": 2,
            "max_delay": 5,
            "plane_period": 6,
            "tolerance": 0.01,
            "lower_gradient": "black_box",
        },
    )


def test_an_honest_run_is_whole(path: Path) -> None:
    found = verify(path)
    assert found.violations == []
    with h5py.File(path, "r") as file:
        candidates = file["evaluation/candidate"][file["evaluation/split"][:] == Split.TEST]
        assert len(candidates) == 3 * 3 + 2
        assert len(file["lower/iteration"]) == 4


@pytest.mark.parametrize("iterates", [1, 5])
@pytest.mark.parametrize("participation", ["all", "quorum"])
@pytest.mark.parametrize("optimizer", ["sgd", "mirror"])
def test_honest_runs_of_other_kinds_are_whole(
    virtual_run: Run, iterates: int, participation: str, optimizer: str
) -> None:
    path = virtual_run(
        workers=5,
        run={"iterations": 30, "evaluate_every": 3},
        steps={"optimizer": optimizer},
        algorithm={
            "active_workers": 2, "max_delay": 8, "plane_period": 6,
            "lower_participation": participation,
        },
        log={"iterates": iterates},
    )  # fmt: skip
    assert verify(path).violations == []


def row_of(
    file: h5py.File, split: Split, candidate: Candidate | None = None, consensus: bool = False
) -> int:
    """The last such row of /evaluation, of a worker or of the consensus."""
    column = {name: file[f"evaluation/{name}"][:] for name in ("split", "candidate", "worker")}
    fits = (column["split"] == split) & ((column["worker"] == 0) == consensus)
    if candidate is not None:
        fits &= column["candidate"] == candidate
    return int(np.flatnonzero(fits)[-1])


def assert_named(path: Path, column: str, row: int, change: Callable[[object], object]) -> None:
    """A changed number is named, with its row, and both values."""
    values = []

    def edit(file: h5py.File) -> None:
        values.append(file[column][row])
        file[column][row] = change(file[column][row])
        values.append(file[column][row])

    found = violations(path, edit)
    was, became = (str(v.tolist()) for v in values)
    pattern = rf"^/{column} row {row}\D"
    lines = [line for line in found if re.search(pattern, line)]
    assert lines, (pattern, found)
    assert any(became in line and was in line for line in lines), (was, became, lines)


def by_one(value: object) -> object:
    return value + 1  # type: ignore[operator]


def by_little(value: object) -> object:
    return value * (1 - 1e-7) if value else 1e-7  # type: ignore[operator]


def another_index(value: object) -> object:
    changed = np.array(value)
    changed[0] = (changed[0] + 1) % 3
    return changed


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("loss", by_little),
        ("prompts", by_one),
        ("llm_calls", by_one),
        ("prompt_tokens", by_one),
        ("compute_seconds", by_little),
        ("sent_time", by_little),
    ],
)
def test_reports_are_what_arrived(
    path: Path, column: str, change: Callable[[object], object]
) -> None:
    for row in (0, 17, -1):
        with h5py.File(path, "r") as file:
            number = range(len(file["report/loss"]))[row]
        assert_named(path, f"report/{column}", number, change)


def test_nothing_is_used_before_it_arrives(path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["report/used_time"][9] -= 1e-6

    found = violations(path, edit)
    assert any(re.match("/report/used_time row 9 is .*, before the report arrived", line)
               for line in found), found  # fmt: skip


@pytest.mark.parametrize("column", ["llm_calls", "prompt_tokens"])
def test_estimates_cost_what_their_reports_did(path: Path, column: str) -> None:
    assert_named(path, f"lower/{column}", 2, by_one)


def test_demonstrations_of_estimates_are_those_drawn(path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["lower/k"][2, 1] = (file["lower/k"][2, 1] + 1) % 3

    found = violations(path, edit)
    assert any(re.match("/lower/k row 2, worker 2: .* the seed give", line) for line in found), (
        found
    )


def test_who_took_part_in_an_estimate(path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["lower/k"][2, 1] = -1

    assert "/lower/k row 2: worker 2 has no k, but its events say that it took part" in violations(
        path, edit
    )


@pytest.mark.parametrize("split", [Split.VALIDATION, Split.RACE, Split.TEST])
@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("iteration", by_one),
        ("worker", lambda value: value % 3 + 1),
        ("accuracy", by_little),
        ("loss", by_little),
        ("llm_calls", by_one),
        ("prompt_tokens", by_one),
        ("time", by_little),
    ],
)
def test_evaluations_are_what_arrived(
    path: Path, split: Split, column: str, change: Callable[[object], object]
) -> None:
    if column == "accuracy":  # which the synthetic black box does not know
        with h5py.File(path, "r+") as file:
            file["event/accuracy"][np.isin(file["event/kind"][:], list(SPLIT_OF))] = 0.5
            file["evaluation/accuracy"][:] = 0.5
    with h5py.File(path, "r") as file:
        row = row_of(file, split)
    assert_named(path, f"evaluation/{column}", row, change)


def test_splits_are_those_of_the_events(path: Path) -> None:
    with h5py.File(path, "r") as file:
        row = row_of(file, Split.TEST)
    assert_named(path, "evaluation/split", row, lambda _: Split.VALIDATION)


@pytest.mark.parametrize(
    ("split", "candidate"),
    [
        (Split.VALIDATION, Candidate.TUNED),
        (Split.TEST, Candidate.TUNED),
        (Split.TEST, Candidate.UNTUNED),
        (Split.TEST, Candidate.RANDOM),
        (Split.TEST, Candidate.CONSENSUS),
    ],
)
@pytest.mark.parametrize("column", ["words", "demonstrations"])
def test_prompts_are_those_due(path: Path, split: Split, candidate: Candidate, column: str) -> None:
    with h5py.File(path, "r") as file:
        row = row_of(file, split, candidate)
    assert_named(path, f"evaluation/{column}", row, another_index)


@pytest.mark.parametrize("split", [Split.VALIDATION, Split.TEST])
def test_candidates_are_those_due(path: Path, split: Split) -> None:
    with h5py.File(path, "r") as file:
        row = row_of(file, split, Candidate.TUNED)

    def edit(file: h5py.File) -> None:
        file["evaluation/candidate"][row] = Candidate.RANDOM

    found = violations(path, edit)
    pattern = rf"/evaluation/candidate row {row} is random, .* tuned"
    assert any(re.match(pattern, line) for line in found), found


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("iteration", by_one),
        ("accuracy", lambda _: 0.75),
        ("loss", by_little),
        ("llm_calls", by_one),
        ("prompt_tokens", by_one),
        ("split", lambda _: Split.VALIDATION),
        ("candidate", lambda _: Candidate.TUNED),
        ("words", another_index),
        ("demonstrations", another_index),
    ],
)
def test_the_consensus_has_the_workers_means(
    path: Path, column: str, change: Callable[[object], object]
) -> None:
    with h5py.File(path, "r") as file:
        row = row_of(file, Split.TEST, consensus=True)
    assert_named(path, f"evaluation/{column}", row, change)


def remove(file: h5py.File, group: str, row: int) -> None:
    for dataset in file[group].values():
        kept = np.delete(dataset[:], row, axis=0)
        dataset.resize(len(kept), axis=0)
        dataset[:] = kept
    rows = file.attrs["committed_rows"]
    rows[group] -= 1
    file.attrs["committed_rows"] = rows


@pytest.mark.parametrize(
    ("candidate", "pattern"),
    [
        (Candidate.CONSENSUS, r"/evaluation has 2 tests of worker \d; there should be 3"),
        (Candidate.UNTUNED, "/evaluation has no test of the untuned prompt"),
    ],
)
def test_no_test_is_missing(path: Path, candidate: Candidate, pattern: str) -> None:
    def edit(file: h5py.File) -> None:
        row = row_of(file, Split.TEST, candidate)
        scored = np.isin(file["event/kind"][:], list(SPLIT_OF))
        remove(file, "evaluation", row)
        remove(file, "event", int(np.flatnonzero(scored)[row]))

    found = violations(path, edit)
    assert any(re.match(pattern, line) for line in found), found


def test_no_evaluation_is_missing_or_made_up(path: Path) -> None:
    found = violations(path, lambda file: remove(file, "evaluation", 0))
    assert any(re.match(r"/evaluation has \d+ answers of workers, but /event has \d+", line)
               for line in found), found  # fmt: skip


def test_the_consensus_is_logged_once(path: Path) -> None:
    found = violations(
        path, lambda file: remove(file, "evaluation", row_of(file, Split.TEST, consensus=True))
    )
    assert (
        "/evaluation has 0 rows of worker 0, for the consensus, but 3 workers have tested it"
        in (found)
    )


def test_what_log_iterates_left_out_is_said(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 24, "evaluate_every": 4}, log={"iterates": 7})
    notes = " ".join(verify(path).notes)
    assert re.search(
        r"\d+ validated prompts that were scored, because log.iterates left out", notes
    )
