"""No race can have had other prompts, another course or another winner than its log says."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.config import load
from asyndbt_mpi.log.checks import races
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.messages import Candidate, Split
from asyndbt_mpi.protocol.race import Entrant, Race, first_rows, rounds
from asyndbt_mpi.protocol.records import SPLIT_OF
from tests.log.edits import Edit, violations

WORKER = 2


@pytest.fixture
def path(demo_run: Path, tmp_path: Path) -> Path:
    """A run of three workers with a language model, of one's own."""
    return Path(shutil.copy(demo_run, tmp_path / "copy.h5"))


def rows_of(file: h5py.File, split: Split) -> list[int]:
    """Rows of /evaluation of `WORKER` in the order of the log."""
    column = file["evaluation/split"][:], file["evaluation/worker"][:]
    return np.flatnonzero((column[0] == split) & (column[1] == WORKER)).tolist()


def by_round(file: h5py.File) -> list[list[int]]:
    """The rows of its race, by how many rows of data each is of."""
    rows = np.array(rows_of(file, Split.RACE))
    answers = np.bincount(file["answer/evaluation"][:], minlength=rows.max() + 1)[rows]
    return [rows[answers == each].tolist() for each in dict.fromkeys(answers.tolist())]


def committed(file: h5py.File, group: str, change: int) -> None:
    rows = file.attrs["committed_rows"]
    rows[group] += change
    file.attrs["committed_rows"] = rows


def take(file: h5py.File, group: str, rows: np.ndarray) -> None:
    """Have the group these of its rows, in this order."""
    before = len(next(iter(file[group].values())))
    for dataset in file[group].values():
        values = dataset[:][rows]
        dataset.resize(len(rows), axis=0)
        dataset[:] = values
    committed(file, group, len(rows) - before)


def reordered(file: h5py.File, order: list[int]) -> None:
    """Rows of /evaluation in another order, some left out or repeated, with all that is theirs."""
    answered = file["answer/evaluation"][:]
    of_workers = np.flatnonzero(np.isin(file["event/kind"][:], list(SPLIT_OF)))
    own = np.flatnonzero(file["evaluation/worker"][:] > 0)
    answers = [np.flatnonzero(answered == row) for row in order]
    numbers = np.repeat(np.arange(len(order)), [len(each) for each in answers])
    event = dict(zip(own.tolist(), of_workers.tolist(), strict=True))
    others = np.setdiff1d(np.arange(len(file["event/kind"])), of_workers)
    events = [event[row] for row in order if row in event]
    places = sorted(events)
    merged = sorted([(place, row) for place, row in zip(places, events, strict=True)]
                    + [(row, row) for row in others.tolist()])  # fmt: skip
    take(file, "event", np.array([row for _, row in merged]))
    take(file, "answer", np.concatenate(answers))
    file["answer/evaluation"][:] = numbers
    take(file, "evaluation", np.array(order))


def all_rows(file: h5py.File) -> list[int]:
    return list(range(len(file["evaluation/worker"])))


def another_prompt(file: h5py.File) -> None:
    row = rows_of(file, Split.RACE)[0]
    words = file["evaluation/words"][row]
    words[0] = (words[0] + 1) % 3
    file["evaluation/words"][row] = words


def another_kind(file: h5py.File) -> None:
    kinds = file["evaluation/candidate"]
    model = next(r for r in rows_of(file, Split.RACE) if kinds[r] == Candidate.MODEL)
    kinds[model] = Candidate.TUNED


def another_order(file: h5py.File) -> None:
    order, (first, second, *_) = all_rows(file), rows_of(file, Split.RACE)
    order[first], order[second] = second, first
    reordered(file, order)


def a_missing_row(file: h5py.File) -> None:
    order = all_rows(file)
    order.remove(rows_of(file, Split.RACE)[-1])
    reordered(file, order)


def a_row_too_many(file: h5py.File) -> None:
    last = rows_of(file, Split.RACE)[-1]
    order = all_rows(file)
    reordered(file, [*order[: last + 1], *order[last:]])


def without_last_answers(file: h5py.File, rows: list[int]) -> None:
    answered = file["answer/evaluation"][:]
    gone = [int(np.flatnonzero(answered == row)[-1]) for row in rows]
    take(file, "answer", np.setdiff1d(np.arange(len(answered)), gone))


def a_row_less_of_one(file: h5py.File) -> None:
    without_last_answers(file, by_round(file)[0][1:2])


def a_row_less_of_a_round(file: h5py.File) -> None:
    """With the means that follow, so that only the number tells."""
    rows = by_round(file)[0]
    without_last_answers(file, rows)
    answered, events = file["answer/evaluation"][:], np.isin(file["event/kind"][:], list(SPLIT_OF))
    for row in rows:
        of = answered == row
        event = np.flatnonzero(events)[row]
        loss = file["answer/loss"][:][of].mean()
        file["evaluation/loss"][row] = file["event/losses"][event, 0] = loss


def another_winner(file: h5py.File) -> None:
    """One that was put out at once is tested."""
    kinds = file["evaluation/candidate"][:]
    tuned = next(r for r in rows_of(file, Split.TEST) if kinds[r] == Candidate.TUNED)
    untuned = next(r for r in rows_of(file, Split.RACE) if kinds[r] == Candidate.UNTUNED)
    for part in ("words", "demonstrations"):
        assert not np.array_equal(*(file[f"evaluation/{part}"][r] for r in (tuned, untuned)))
        file[f"evaluation/{part}"][tuned] = file[f"evaluation/{part}"][untuned]


OTHER_ROWS = r"/evaluation row \d+: a prompt of the race was scored on \d+ rows, its round is"

TAMPERED: dict[str, tuple[Edit, str]] = {
    "prompt": (another_prompt, r"/evaluation row \d+ should be of the next prompt in the race"),
    "kind": (another_kind, r"/evaluation row \d+ should be of the next prompt in the race: model"),
    "order": (another_order, r"/evaluation row \d+ should be of the next prompt in the race"),
    "missing": (a_missing_row, f"/evaluation lacks a part of the race of worker {WORKER}"),
    "too many": (a_row_too_many, r"/evaluation row \d+ is of a race that was over"),
    "rows of one": (a_row_less_of_one, OTHER_ROWS),
    "rows of a round": (a_row_less_of_a_round, OTHER_ROWS),
    "winner": (another_winner, r"/evaluation/words row \d+ .* but the tuned prompt has"),
}


def test_an_honest_race_is_whole(path: Path) -> None:
    found = verify(path)
    assert (found.violations, found.notes) == ([], [])
    with h5py.File(path, "r") as file:
        assert len(by_round(file)) > 1
        assert len(rows_of(file, Split.RACE)) > 8


@pytest.mark.parametrize("row", [-1, 2**56])
def test_an_answer_to_no_evaluation_takes_no_memory(path: Path, row: int) -> None:
    with h5py.File(path, "r+") as file:
        file["answer/evaluation"][-1] = row
    with Log(path) as log:
        assert log.winners.keys() == {1, 2, 3}
    assert any("is out of range or of order" in each for each in verify(path).violations)


@pytest.mark.parametrize("what", TAMPERED)
def test_a_race_that_was_tampered_with_is_found(path: Path, what: str) -> None:
    edit, pattern = TAMPERED[what]
    found = violations(path, edit)
    assert any(re.match(pattern, line) for line in found), found


@pytest.mark.parametrize("tests", [0, 20])
def test_a_part_of_a_race_is_missed_where_nothing_is_tested_too(
    virtual_run: Callable[..., Path], tests: int
) -> None:
    path = virtual_run(run={"iterations": 8, "evaluate_every": 2}, task={"test": tests})
    assert verify(path).violations == []
    found = violations(path, a_missing_row)
    assert f"/evaluation lacks a part of the race of worker {WORKER}" in found


@pytest.mark.parametrize("race", [0, 2, 3, 5, 9])
@pytest.mark.parametrize("estimator", ["additive", "loo"])
def test_honest_races_of_other_kinds_are_whole(
    virtual_run: Callable[..., Path], race: int, estimator: str
) -> None:
    path = virtual_run(
        run={"iterations": 12, "evaluate_every": 3, "race": race}, estimator={"name": estimator}
    )
    assert verify(path).violations == []
    with Log(path) as log:
        assert bool(log.winners) == bool(race)


def test_the_winners_are_those_that_were_tested(path: Path) -> None:
    with Log(path) as log:
        tests = (log["evaluation/split"] == Split.TEST) & (
            log["evaluation/candidate"] == Candidate.TUNED
        )
        assert len(log.winners) == tests.sum() == 3
        for row in np.flatnonzero(tests):
            won = log.winners[int(log["evaluation/worker"][row])]
            np.testing.assert_array_equal(won.words, log["evaluation/words"][row])
            np.testing.assert_array_equal(won.demonstrations, log["evaluation/demonstrations"][row])


@given(
    st.integers(2, 20), st.integers(2, 40), st.integers(2, 40), st.integers(1, 300),
    st.integers(0, 4), st.integers(0, 60), st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_race_a_budget_allowed_is_found_by_its_scores(
    entrants, most, room, rows, halved, cut, seed
) -> None:
    """Wherever it was cut, with the same winner; and with another prompt anywhere it is not."""
    room, entrants = min(room, most), min(entrants, most)
    losses = np.random.default_rng(seed).normal(size=(entrants, rows))

    def prompt(number: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array([number]), np.array([0])

    def racing(plan: list[tuple[int, int]]) -> Race:
        each = [Entrant(Candidate.TUNED, prompt(number)) for number in range(entrants)]
        return Race(each[: plan[0][0]], plan, rows)

    race, scored, numbers = racing(rounds(room, rows, halved)), {}, []
    while (request := race.next(0)) and len(scored) < cut:
        numbers.append(int(request.words[0]))
        scored[len(scored)] = losses[numbers[-1], : first_rows(rows, request.halvings)]
        race.take(prompt(numbers[-1]), scored[len(scored) - 1])
    config = load("reviews", [f"run.race={most}", "run.evaluate_every=1", "budget.calls=1"])
    plans = races.plans(config, rows, entrants, [len(each) for each in scored.values()])
    column = {
        "candidate": np.full(len(scored), Candidate.TUNED),
        "words": np.array(numbers)[:, None], "demonstrations": np.zeros((len(scored), 1), int),
    }  # fmt: skip
    fitting = [
        each for each in map(racing, plans) if not [*races.differences(each, column, scored)]
    ]
    assert fitting
    assert {int(each.winner[0][0]) for each in fitting} == {int(race.winner[0][0])}
    for place in range(len(scored)):
        column["words"][place] += 1
        assert all([*races.differences(each, column, scored)] for each in map(racing, plans))
        column["words"][place] -= 1
