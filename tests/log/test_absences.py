"""Verification of runs whose workers are lost and come back."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from asyndbt_mpi.log.events import attendance
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.records import EventKind
from tests.log.edits import Edit, assert_only, put, violations
from tests.log.simulated_run import Absence, configuration, write_log

pytestmark = pytest.mark.long

ABSENCES = {
    "with an assignment": (Absence(3, 10, 20),),
    "with a report": (Absence(3, 10, 20, reported=True),),
    "while phi was estimated": (Absence(3, 11, 19, estimating=True),),
    "before its first hello": (Absence(3, 0, 5),),
    "for less than an iteration": (Absence(3, 10, 10), Absence(1, 10, 10, reported=True)),
    "twice": (Absence(3, 5, 9, reported=True), Absence(3, 12, 30)),
    "twice without a report": (Absence(3, 5, 6), Absence(3, 6, 7)),
    "several": (Absence(1, 5, 15), Absence(3, 6, 12), Absence(4, 8, 20)),
    "for good": (Absence(3, 10, 1000),),
    "and excluded": (Absence(2, 10, 1000),),
}


@pytest.mark.parametrize("absences", ABSENCES.values(), ids=ABSENCES)
@pytest.mark.parametrize(("active_workers", "max_delay"), [(1, 3), (2, 3), (4, 3), (2, 0)])
def test_an_honest_log_is_whole(
    tmp_path: Path, absences: tuple[Absence, ...], active_workers: int, max_delay: int
) -> None:
    config = configuration(
        algorithm={"active_workers": active_workers, "max_delay": max_delay, "max_planes": 20}
    )
    write_log(tmp_path / "run.h5", config, absences=absences)
    assert verify(tmp_path / "run.h5").violations == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_log(
        tmp_path / "run.h5", configuration(log={"iterates": 6}), absences=(Absence(3, 10, 20),)
    )
    return tmp_path / "run.h5"


def test_who_attends(path: Path) -> None:
    with Log(path) as log:
        found = attendance(log)
    live = np.ones((40, 4), dtype=bool)
    live[10:20, 2] = False
    live[30:, 1] = False
    np.testing.assert_array_equal(found.live, live)
    assert found.returns == [(20, 2)]


def of_kind(kind: EventKind, worker: int, other: EventKind) -> Edit:
    def edit(file: h5py.File) -> None:
        which = (file["event/kind"][:] == kind) & (file["event/worker"][:] == worker)
        file["event/kind"][np.flatnonzero(which)[-1]] = other

    return edit


def used_report(file: h5py.File, after: int) -> int:
    """The row of worker 3's first report that was used after an iteration."""
    rows = np.flatnonzero((file["report/worker"][:] == 3) & (file["report/iteration"][:] >= after))
    return int(rows[0])


def with_a_report_from_before(file: h5py.File) -> None:
    file["report/read_iteration"][used_report(file, 20)] = 9


def with_the_number_that_was_lost(file: h5py.File) -> None:
    file["report/seq"][used_report(file, 20)] -= 1


@pytest.mark.parametrize(
    ("edit", "patterns"),
    [
        (
            of_kind(EventKind.RETURNED, 3, EventKind.LOST),
            [
                r"^/event row \d+: worker 3 says hello, but it was lost",
                r"^iteration \d+, worker 3: delay \d+ is logged",
                r"^/event row \d+: .*",
            ],
        ),
        (
            of_kind(EventKind.LOST, 3, EventKind.RETURNED),
            [r"^/event row \d+: worker 3 returns, but it is working", ".*"],
        ),
        (with_a_report_from_before, [r"worker 3: its report is from iteration 9, .* from 20$"]),
        (with_the_number_that_was_lost, [r"worker 3: report (\d+) should have number \d+$"]),
        (put("iteration/delay", (22, 2), 9), ["^iteration 22, worker 3: delay 9 is logged"]),
    ],
)
def test_faults(path: Path, edit: Edit, patterns: list[str]) -> None:
    assert_only(violations(path, edit), *patterns)


def test_who_is_away_is_not_in_the_objective(path: Path) -> None:
    with Log(path) as log:
        losses, worker, used = (log[f"report/{name}"] for name in ("loss", "worker", "iteration"))
        newest = np.array([losses[(worker == v) & (used <= 12)][-1] for v in (1, 2, 3, 4)])
        assert log["iteration/objective"][12] == pytest.approx(newest[[0, 1, 3]].mean(), rel=1e-12)
    with_it = put("iteration/objective", 12, newest.mean())
    assert_only(violations(path, with_it), "^iteration 12: objective .* the newest losses give")


def test_the_delay_counts_on_while_a_worker_is_away(path: Path) -> None:
    with Log(path) as log:
        delay = log["iteration/delay"][:, 2]
        active = log["iteration/active"][:, 2]
    assert not active[10:20].any()
    np.testing.assert_array_equal(np.diff(delay[9:20]), 1)
    assert delay[20] == (0 if active[20] else 1)
