"""Verification: silent on honest logs, and each fault is found where it is."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.messages import CostBounds
from asyndbt_mpi.protocol.records import EventKind
from tests.log.conftest import CONFIGURATIONS, LogCopy
from tests.log.edits import Edit, assert_only, put, violations
from tests.log.simulated_run import EXCLUDED_IN, EXCLUDED_WORKER, write_log

LAST = 39
GROUPS = ("iteration", "report", "plane", "dual", "lower", "evaluation", "event")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_an_honest_log_is_whole(log_copy: LogCopy, name: str) -> None:
    found = verify(log_copy(name))
    assert found.violations == []
    assert bool(found.notes) == (name in ("sparse", "crowded"))


def test_a_run_without_iterations_is_whole(tmp_path: Path) -> None:
    write_log(tmp_path / "run.h5", CONFIGURATIONS["whole"], iterations=0)
    assert verify(tmp_path / "run.h5").violations == []


def test_something_else_is_not_verified(tmp_path: Path) -> None:
    with pytest.raises(LogError):
        verify(tmp_path / "none.h5")


def single(found: list[str]) -> list[str]:
    """Without the lines that say that a number is not that of its event, its q or its prompt."""
    compared = (
        r"/event row \d+ says|its events? say|the seed give|prompt has|(its|the workers') rows give"
    )
    return [line for line in found if not re.search(compared, line)]


def add(path: str, index: object, change: float) -> Edit:
    """Add ``change`` to one number (or row) of a dataset."""

    def edit(file: h5py.File) -> None:
        file[path][index] += change

    return edit


def attribute(name: str, value: object) -> Edit:
    """Change an attribute of the file."""

    def edit(file: h5py.File) -> None:
        file.attrs[name] = value

    return edit


def configured(line: str, other: str) -> Edit:
    """Change one line of the stored configuration."""

    def edit(file: h5py.File) -> None:
        config = file.attrs["config"]
        assert f"\n{line}\n" in config
        file.attrs["config"] = config.replace(f"\n{line}\n", f"\n{other}\n", 1)

    return edit


def together(*edits: Edit) -> Edit:
    """Several edits as one."""

    def edit(file: h5py.File) -> None:
        for each in edits:
            each(file)

    return edit


def remove_row(file: h5py.File, group: str, row: int) -> None:
    for dataset in file[group].values():
        kept = np.delete(dataset[:], row, axis=0)
        dataset.resize(len(kept), axis=0)
        dataset[:] = kept
    rows = file.attrs["committed_rows"]
    rows[group] -= 1
    file.attrs["committed_rows"] = rows


def without_answers(file: h5py.File) -> None:
    """As of a function, which has no rows."""
    for dataset in file["answer"].values():
        dataset.resize(0, axis=0)
    rows = file.attrs["committed_rows"]
    rows["answer"] = 0
    file.attrs["committed_rows"] = rows


# ---------------------------------------------------------------- structure


def without_a_dataset(file: h5py.File) -> None:
    del file["lower/h"]


def of_another_type(file: h5py.File) -> None:
    values = file["iteration/delay"][:]
    del file["iteration/delay"]
    file["iteration/delay"] = values.astype("i8")


def codes_without_names(file: h5py.File) -> None:
    values = file["event/kind"][:]
    del file["event/kind"]
    file["event/kind"] = values.astype("i1")


def of_another_shape(file: h5py.File) -> None:
    values = file["report/p"][:]
    del file["report/p"]
    file["report/p"] = values[:, :, :-1]


def with_a_row_too_many(file: h5py.File) -> None:
    file["report/loss"].resize(len(file["report/loss"]) + 1, axis=0)


def with_a_row_too_few(file: h5py.File) -> None:
    file["iteration/z"].resize(len(file["iteration/z"]) - 1, axis=0)


def with_rows_not_committed(file: h5py.File) -> None:
    file["dual/iteration"][-1] = LAST + 1


def with_a_short_vocabulary(file: h5py.File) -> None:
    file["vocabulary"].resize(4, axis=0)


@pytest.mark.parametrize(
    ("edit", "pattern"),
    [
        (without_a_dataset, "^/lower/h is missing"),
        (of_another_type, "^/iteration/delay is of type int64, not int32"),
        (codes_without_names, "^/event/kind is of type"),
        (with_a_row_too_many, "^/report/.* has .* rows, not "),
        (with_a_row_too_few, "^/iteration/z has 40 rows, not 41"),
        (with_rows_not_committed, "^/dual has .* rows, but the committed iterations claim"),
        (attribute("committed", LAST), "^/.* has .* rows, but .* claim"),
        (put("report/worker", 5, 0), "^/report/worker row 5: there is no worker 0"),
        (put("event/worker", 5, 5), "^/event/worker row 5: there is no worker 5"),
        (put("evaluation/worker", 1, -1), "^/evaluation/worker row 1: there is no worker -1"),
        (put("event/kind", 5, 99), "^/event/kind row 5: there is no event of kind 99"),
        (put("plane/id", 2, 7), "^/plane/id row 2: plane 7"),
        (put("dual/plane", 0, 99), "^/dual/plane row 0: there is no plane 99"),
        (put("report/iteration", 9, 0), "^/report/iteration row 9: iteration 0 is out of order"),
    ],
)
def test_structure(log_copy: LogCopy, edit: Edit, pattern: str) -> None:
    assert_only(violations(log_copy("whole"), edit), pattern)


def cost_bounds(text: str) -> Edit:
    def edit(file: h5py.File) -> None:
        file["worker/cost_bounds"][1] = text

    return edit


@pytest.mark.parametrize(
    "text",
    [
        *("x", "1 2 3 4 4 5", "1 2 3 4 4 5 6 7", " ".join(["-5"] * 7), "1 2 3 4 4 5 1" + "0" * 400),
        *("1 2 3 4 4 5 1099511627777", "1 2 3 4 4 5 \uff15", "1 2 3 4 4 5 1_0", "1 2 3 4 4 5 5.0"),
        *(" 1 2 3 4 4 5 6", "1 2 3 4 5 6 7"),
    ],
)
def test_needs_are_seven_counts(log_copy: LogCopy, text: str) -> None:
    path = log_copy("whole")
    assert_only(
        violations(path, cost_bounds(text)), "^/worker/cost_bounds row 1 (is not seven|has a count)"
    )
    with (
        Log(path) as log,
        pytest.raises(LogError, match=r"/worker/cost_bounds of worker 2 .*count"),
    ):
        list(events(log))


def test_needs_that_are_counts_are_read(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    assert violations(path, cost_bounds("0 1 2 3 3 4 1099511627776")) == []
    with Log(path) as log:
        found = [each.cost_bounds for each in events(log) if each.kind == EventKind.HELLO]
    assert CostBounds(0, 1, 2, 3, 3, 4, 2**40) in found


@pytest.mark.parametrize(
    "edit",
    [
        put("event/kind", 5, 99),
        put("event/worker", 5, 5),
        put("event/worker", 5, -1),
        put("event/worker", 0, 0),
    ],
)
def test_events_of_no_kind_or_worker_are_not_handed_on(log_copy: LogCopy, edit: Edit) -> None:
    path = log_copy("whole")
    with h5py.File(path, "r+") as file:
        edit(file)
    with Log(path) as log, pytest.raises(LogError, match=r"/event row [05] is of kind"):
        list(events(log))


@pytest.mark.parametrize(
    ("edit", "pattern"),
    [
        (
            of_another_shape,
            r"/report/p has rows of shape \(3, 4\), but the attributes say \(3, 5\)",
        ),
        (with_a_short_vocabulary, "/vocabulary has 4 rows, not 5"),
    ],
)
def test_other_shapes_are_not_read_at_all(log_copy: LogCopy, edit: Edit, pattern: str) -> None:
    with pytest.raises(LogError, match=pattern):
        violations(log_copy("whole"), edit)


def test_rows_beyond_the_counter_are_no_fault_of_a_killed_run(log_copy: LogCopy) -> None:
    def edit(file: h5py.File) -> None:
        file.attrs["status"] = "running"
        file.attrs["committed"] = LAST - 1
        with_a_row_too_many(file)

    assert violations(log_copy("whole"), edit) == []


# ---------------------------------------------------------------- invariants of the protocol

# Without all iterates nothing is computed again, so each fault stands alone.


@pytest.mark.parametrize(
    ("edit", "pattern"),
    [
        (add("iteration/z", (6, 1, 2), 1e-8), "^iteration 5: z is off the simplex"),
        (add("iteration/z", 0, 1e-8), "^the start: z is off the simplex"),
        (put("iteration/z", 6, np.nan), "^iteration 5: z is off the simplex by nan"),
        (put("iteration/z", LAST + 1, np.nan), "^iteration 39: z is off the simplex by nan"),
        (put("iteration/z", (3, 0, 0), 0.5), "^iteration 2: z is off the simplex by nan"),
        (add("report/p", (-1, 0, 0), 1e-8), r"^iteration 39, worker \d: p is off the simplex"),
        (add("report/q", (-1, 0, 0), -2.0), r"^iteration 39, worker \d: q is off the simplex"),
        (put("report/p", -1, np.nan), r"^iteration 39, worker \d: p is off the simplex by nan"),
        (add("iteration/delay", (10, 1), 1), "^iteration 10, worker 2: delay . is logged"),
        (
            together(attribute("max_delay", 1), configured("max_delay = 3", "max_delay = 1")),
            r"^iteration \d+, worker .: delay [23] exceeds max_delay 1",
        ),
        (
            together(
                attribute("active_workers", 3),
                configured("active_workers = 2", "active_workers = 3"),
            ),
            "active workers, not 3",
        ),
        (add("iteration/objective", 20, 1e-6), "^iteration 20: objective"),
        (
            add("plane/created", -2, 1),
            "^iteration 36, plane .: a dual before the plane is in force",
        ),
    ],
)
def test_invariants(log_copy: LogCopy, edit: Edit, pattern: str) -> None:
    assert_only(single(violations(log_copy("sparse"), edit)), pattern)


def test_who_was_excluded_need_not_report(log_copy: LogCopy) -> None:
    def edit(file: h5py.File) -> None:
        kinds = file["event/kind"][:]
        excluded = np.flatnonzero(kinds == EventKind.EXCLUDED)
        file["event/losses"][excluded[0]] = 0.5
        file["event/kind"][excluded[0]] = EventKind.LOWER_REPORT

    assert_only(
        violations(log_copy("synchronous"), edit),
        f"^iteration {EXCLUDED_IN}: 3 active workers, not 4",
        r"^iteration 3\d: 3 active workers, not 4",
        rf"^iteration 3\d, worker {EXCLUDED_WORKER}: delay \d+ exceeds max_delay 3",
        r"^iteration 3\d: objective .* is logged, but the newest losses give",
    )


def test_reports_are_those_of_the_active_workers(log_copy: LogCopy) -> None:
    def edit(file: h5py.File) -> None:
        file["report/loss"][:] = 1.0  # so that the objective does not depend on who reported
        file["iteration/objective"][:] = 1.0
        file["report/worker"][-1] = EXCLUDED_WORKER
        file["report/seq"][-1] = 1000

    assert_only(
        single(violations(log_copy("sparse"), edit)),
        r"^iteration 39, worker \d: active, with 0 reports",
        f"^iteration 39, worker {EXCLUDED_WORKER}: not active, with 1 reports",
        rf"^iteration 39, worker {EXCLUDED_WORKER}: report 1000 should have number \d+",
        rf"^iteration 39, worker {EXCLUDED_WORKER}: its report is from iteration",
        rf"^iteration 39, worker {EXCLUDED_WORKER}: its report has no event",
        rf"^iteration 39, worker {EXCLUDED_WORKER}: has a report, but it was excluded",
    )


def standing_dual(file: h5py.File) -> tuple[int, int]:
    """A row of /dual and a position at which its plane counts."""
    row = len(file["dual/plane"]) - 1
    plane = file["dual/plane"][row]
    counts = file["plane/positions"][plane] & (file["plane/dropped"][plane] < 0)
    counts |= file["plane/dropped"][plane] >= file["dual/iteration"][row]
    return row, int(np.flatnonzero(counts)[0])


@pytest.mark.parametrize("value", [-1e-6, 0.100001, np.nan])
def test_duals_stay_within_their_bounds(log_copy: LogCopy, value: float) -> None:
    def edit(file: h5py.File) -> None:
        file["dual/value"][standing_dual(file)] = value

    assert_only(violations(log_copy("sparse"), edit), r"^iteration 39, .* is outside \[0, 0.1\]")


def test_duals_are_zero_where_there_is_no_position(log_copy: LogCopy) -> None:
    def edit(file: h5py.File) -> None:
        positions = file["plane/positions"][:][file["dual/plane"][:]]
        row, position = np.argwhere(~positions)[0]
        file["dual/value"][row, position] = 0.05

    assert_only(violations(log_copy("sparse"), edit), "not have that position")


def test_duals_are_zero_where_a_position_was_dropped(log_copy: LogCopy) -> None:
    def edit(file: h5py.File) -> None:
        row, position = standing_dual(file)
        file["dual/value"][row, position] = 0.05
        file["plane/dropped"][file["dual/plane"][row], position] = LAST - 1

    assert_only(
        violations(log_copy("sparse"), edit),
        "^iteration 39, .* not have that position",
        r"^iteration 38, plane \d, .*: dropped, but phi is not estimated",
    )


def test_duals_are_there_for_every_plane(log_copy: LogCopy) -> None:
    found = violations(log_copy("sparse"), lambda file: remove_row(file, "dual", -1))
    assert_only(found, r"^iteration 39, plane \d: its dual is missing")


# ---------------------------------------------------------------- single numbers


@pytest.mark.parametrize(
    ("edit", "pattern"),
    [
        (attribute("seed", 8), "^the attribute seed is 8, but the configuration says 7"),
        (attribute("active_workers", 3), "^the attribute active_workers is 3"),
        (attribute("max_delay", 9), "^the attribute max_delay is 9"),
        (configured("fragment_length = 3", "fragment_length = 4"), "^the attribute positions is 3"),
        (configured("vocabulary_size = 5", "vocabulary_size = 6"), "^the attribute words is 5"),
        (configured("pool = 4", "pool = 5"), "^the attribute pool is 4"),
        (
            attribute("transport", "tcp"),
            "^the attribute transport is 'tcp', not one of mpi, virtual",
        ),
        (attribute("status", "done"), "^the attribute status is 'done', not one of running"),
        (put("report/sent_time", 7, np.nan), r"^iteration \d, worker \d: sent_time is nan"),
        (put("report/used_time", 7, 30.0), r"^iteration \d, worker \d: used_time 30 is not in"),
        (put("report/loss", -1, np.nan), "^iteration 39(, worker .: loss is nan|: objective)"),
        (put("report/grad_p_norm", 7, np.inf), r"worker \d: grad_p_norm is inf, outside"),
        (put("report/grad_q_norm", 7, -1.0), r"worker \d: grad_q_norm is -1.0, outside"),
        (put("report/llm_calls", 7, -1), r"worker \d: llm_calls is -1, outside"),
        (put("report/prompt_tokens", 7, -1), r"worker \d: prompt_tokens is -1, outside"),
        (put("report/compute_seconds", 7, np.nan), r"worker \d: compute_seconds is nan"),
        (put("lower/llm_calls", 1, -1), "^/lower/llm_calls row 1 is -1"),
        (put("lower/prompt_tokens", 1, -1), "^/lower/prompt_tokens row 1 is -1"),
        (put("evaluation/llm_calls", 1, -1), "^/evaluation/llm_calls row 1 is -1"),
        (put("evaluation/prompt_tokens", 1, -1), "^/evaluation/prompt_tokens row 1 is -1"),
        (put("evaluation/accuracy", 1, 1.01), "^/evaluation/accuracy row 1: 1.01 is outside"),
        (put("evaluation/accuracy", 1, -0.01), "^/evaluation/accuracy row 1: -0.01 is outside"),
        (put("evaluation/iteration", 1, 41), "^/evaluation/iteration row 1: .* iteration 41"),
        (put("evaluation/iteration", 1, -1), "^/evaluation/iteration row 1: .* iteration -1"),
        (put("event/time", 9, -1.0), "^/event/time row 9 is -1.0, outside"),
        (put("event/sent_time", 9, np.inf), "^/event/sent_time row 9 is inf"),
        (put("event/prompts", 9, -1), "^/event/prompts row 9 is -1"),
        (put("event/llm_calls", 9, -1), "^/event/llm_calls row 9 is -1"),
        (put("event/unrecognised", 9, 10**6), "^/event/unrecognised row 9 is 1000000 of"),
        (put("event/prompt_tokens", 9, -1), "^/event/prompt_tokens row 9 is -1"),
        (put("event/completion_tokens", 9, -1), "^/event/completion_tokens row 9 is -1"),
        (put("event/unrecognised", 9, -1), "^/event/unrecognised row 9 is -1"),
        (put("event/losses", (9, 3), np.nan), "^/event/losses row 9: .*impossible for a report"),
        (put("event/losses", (9, 3), -1.0), "^/event/losses row 9: .*impossible for a report"),
        (put("event/losses", (0, 0), 0.5), "^/event/losses row 0: .*impossible for a hello"),
        (
            put("event/accuracy", 9, 0.5),
            "^/event/accuracy row 9: 0.5 is impossible for a report",
        ),
        (put("evaluation/words", (1, 2), 5), r"^/evaluation/words row 1: .* \[-1, 5\)"),
        (put("evaluation/words", (1, 2), -2), r"^/evaluation/words row 1: .* \[-1, 5\)"),
        (put("evaluation/demonstrations", (1, 1), 4), r"^/evaluation/demonstrations row 1: "),
        (put("lower/k", (1, 2, 0), 4), r"^iteration 7, worker 3: the k \[4, \d\] .* \[-1, 4\)"),
        (put("lower/k", (1, 2, 0), -2), r"^iteration 7, worker 3: the k \[-2, \d\] .* \[-1, 4\)"),
        (put("lower/k", (1, 2, 0), -1), "^iteration 7, worker 3: its estimate has a k for a part"),
    ],
)
def test_numbers(log_copy: LogCopy, edit: Edit, pattern: str) -> None:
    assert_only(single(violations(log_copy("sparse"), edit)), pattern)


@pytest.mark.parametrize(("backend", "violated"), [("transformers", 1), ("synthetic", 0)])
def test_only_synthetic_losses_may_be_negative(
    log_copy: LogCopy, backend: str, violated: int
) -> None:
    def edit(file: h5py.File) -> None:
        file["report/loss"][:] = -1.0
        file["event/losses"][:] *= -1.0 / np.abs(file["event/losses"][:])
        file["iteration/objective"][:] = -1.0
        configured('backend = "transformers"', f'backend = "{backend}"')(file)
        if backend == "synthetic":
            without_answers(file)

    found = violations(log_copy("sparse"), edit)
    assert bool(single(found)) == violated
    found = [line for line in found if not line.startswith(("... and", "/event/losses"))]
    assert all("loss is -1.0" in line for line in single(found))


def test_evaluations_without_accuracy_are_no_fault(log_copy: LogCopy) -> None:
    def edit(file: h5py.File) -> None:
        file["evaluation/accuracy"][1] = np.nan
        (scored,) = np.nonzero(file["event/kind"][:] == EventKind.EVALUATION)
        file["event/accuracy"][scored[1]] = np.nan
        configured('backend = "transformers"', 'backend = "synthetic"')(file)
        without_answers(file)

    assert violations(log_copy("sparse"), edit) == []


@pytest.mark.parametrize(
    ("time", "pattern"),
    [
        (np.nan, "^iteration 0: its time nan is impossible"),
        (-1.0, "^iteration 0: its time -1 is impossible"),
        (1e9, "^iteration 1: its time 1.75 is before the previous one"),
    ],
)
def test_times(log_copy: LogCopy, time: float, pattern: str) -> None:
    # Reports are used between the times of two iterations, so theirs are wrong as well.
    found = violations(log_copy("sparse"), put("iteration/time", 0, time))
    assert_only(found, pattern, r"^iteration [01], worker \d: used_time .* is not in its iteration")


# ---------------------------------------------------------------- what was done when


def of_event(kind: EventKind, worker: int, column: str, value: float) -> Edit:
    """Overwrite a column of a worker's last event of a kind."""

    def edit(file: h5py.File) -> None:
        which = (file["event/kind"][:] == kind) & (file["event/worker"][:] == worker)
        file[f"event/{column}"][np.flatnonzero(which)[-1]] = value

    return edit


def remove_estimate(file: h5py.File) -> None:
    remove_row(file, "lower", 1)


def repeat_estimate(file: h5py.File) -> None:
    file["lower/iteration"][1] = file["lower/iteration"][2]


def drop_nothing(file: h5py.File) -> None:
    """A drop where a plane has no position, in the iteration of an honest drop."""
    plane, position = np.argwhere(~file["plane/positions"][:])[0]
    file["plane/dropped"][plane, position] = LAST


def without_hello(file: h5py.File) -> None:
    of_event(EventKind.HELLO, 1, "losses", 0.5)(file)
    of_event(EventKind.HELLO, 1, "kind", EventKind.LOWER_REPORT)(file)


def without_the_last_arrival(file: h5py.File) -> None:
    (last,) = file["report/worker"][-1:]
    of_event(EventKind.REPORT, last, "kind", EventKind.LOWER_REPORT)(file)


@pytest.mark.parametrize(
    ("edit", "pattern"),
    [
        (add("report/read_iteration", 20, 40), "its report is from iteration .* should be from"),
        (add("report/read_iteration", 20, -1), "its report is from iteration .* should be from"),
        (put("report/read_iteration", 0, 1), "^iteration 0, .* from iteration 1, .* be from 0"),
        (add("report/seq", -1, 1), r"^iteration 39, worker \d: report (\d+) should have number"),
        (put("report/seq", -1, 0), r"^iteration 39, worker \d: report 0 should have number"),
        (without_hello, "worker 1: has a report, but it never said hello"),
        (
            of_event(EventKind.REPORT, 1, "number", 77),
            r"^/event row \d+: worker 1's report 77 arrives as its number \d+",
        ),
        (without_the_last_arrival, r"^iteration 39, worker \d: its report has no event"),
        (
            of_event(EventKind.REPORT, 1, "iteration", 40),
            r"^iteration \d+, worker 1: its report arrived only in iteration 40",
        ),
        (remove_estimate, "^iteration 7: an estimate of phi is missing"),
        (
            configured("plane_until = 1000", "plane_until = 39"),
            "^iteration 39: an estimate of phi that was not due|^iteration 39, .* not estimated",
        ),
        (
            repeat_estimate,
            "^iteration 11: more than one estimate of phi|^iteration 7: .* is missing",
        ),
    ],
)
def test_conduct(log_copy: LogCopy, edit: Edit, pattern: str) -> None:
    assert_only(single(violations(log_copy("sparse"), edit)), pattern)


def test_who_was_excluded_reports_no_more(log_copy: LogCopy) -> None:
    found = violations(
        log_copy("sparse"), of_event(EventKind.EXCLUDED, EXCLUDED_WORKER, "iteration", 20)
    )
    assert_only(
        found,
        rf"worker {EXCLUDED_WORKER}: has a report, but it was excluded in iteration 20",
        r"^iteration 2\d: objective .* is logged, but the newest losses give",
    )


@pytest.mark.parametrize(
    ("edit", "pattern"),
    [
        (configured("plane_threshold = 0.02", "plane_threshold = 0.05"), "should be dropped$"),
        (configured("plane_threshold = 0.02", "plane_threshold = 0"), "dropped without a reason$"),
        (configured("max_planes = 3", "max_planes = 2"), "should be dropped$"),
        (drop_nothing, "dropped, but it does not take part"),
    ],
)
def test_drops(log_copy: LogCopy, edit: Edit, pattern: str) -> None:
    assert_only(violations(log_copy("sparse"), edit), pattern)


def test_a_plane_is_dropped_whole_only_where_there_is_no_room(log_copy: LogCopy) -> None:
    found = violations(log_copy("crowded"), configured("max_planes = 1", "max_planes = 9"))
    assert_only(found, "dropped without a reason$")


# ---------------------------------------------------------------- the mathematics


def off_by_a_tangent(file: h5py.File) -> None:
    """z after iteration 1, still on the simplex; there are no planes yet."""
    file["iteration/z"][2, 0, :2] += (1e-6, -1e-6)


def with_another_dual(file: h5py.File) -> None:
    row, position = standing_dual(file)
    value = file["dual/value"][row, position]
    file["dual/value"][row, position] = value + (1e-6 if value < 0.05 else -1e-6)


def with_another_position(file: h5py.File) -> None:
    position = int(np.flatnonzero(file["plane/positions"][-1])[0])
    file["plane/positions"][-1, position] = False


def without_its_plane(file: h5py.File) -> None:
    remove_row(file, "plane", -1)


def without_its_estimate(file: h5py.File) -> None:
    remove_row(file, "lower", -1)


@pytest.mark.parametrize(
    ("edit", "patterns"),
    [
        (off_by_a_tangent, ["^iteration 1: z differs from", "^iteration 2: z differs from"]),
        (with_another_dual, [r"^iteration 39, plane \d: lambda differs from \(22\) by 1.0e-06"]),
        (with_another_position, ["^iteration 39: the plane is not at the positions"]),
        (
            add("plane/a", (-1, 0, 0, 0), 1),
            [r"^iteration 39: a of the plane .* \(31\) by 1.0e\+00"],
        ),
        (add("plane/b", (-1, 0, 0), 1e-6), [r"^iteration 39: b of the plane .* \(32\)"]),
        (add("plane/c", (-1, 0), 1e-6), [r"^iteration 39: c of the plane .* \(33\)"]),
        (add("lower/phi_z", (-1, 0, 0), 1e-6), [r"^iteration 39: h differs from \(5\)"]),
        (
            add("lower/h", -1, 1e-6),
            [r"^iteration 39: h differs from \(5\)", r"^iteration 39: c of the plane .* \(33\)"],
        ),
        (without_its_plane, ["^iteration 39: h exceeds the tolerance, but there is no plane"]),
        (
            without_its_estimate,
            [
                "^iteration 39: a plane without an estimate",
                "^iteration 39: an estimate of phi is missing",
            ],
        ),
    ],
)
def test_mathematics(log_copy: LogCopy, edit: Edit, patterns: list[str]) -> None:
    assert_only(violations(log_copy("whole"), edit), *patterns)


@pytest.mark.parametrize("name", ["whole", "adam", "mirror"])
def test_another_step_of_z_would_be_noticed(log_copy: LogCopy, name: str) -> None:
    def edit(file: h5py.File) -> None:
        config = file.attrs["config"]
        assert "z = 0.05" in config
        file.attrs["config"] = config.replace("\nz = 0.05", "\nz = 0.04")

    assert_only(violations(log_copy(name), edit), r"z differs from \(21\)")


def test_long_lists_are_cut(log_copy: LogCopy) -> None:
    found = violations(log_copy("sparse"), put("iteration/objective", slice(None), 9.0))
    assert len(found) == 11
    assert found[-1] == "... and 30 more like these"
