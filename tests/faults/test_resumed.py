"""What a resumed run takes from its log, what it judges again, and what it says."""

import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from asyndbt_mpi.cli import cli
from asyndbt_mpi.commands.replay import replay
from asyndbt_mpi.jobs.codes import BAD_USAGE, DONE, FAILED, TOO_FEW_WORKERS
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.jobs.resume import Resumed, resume
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.records import EventKind
from tests.faults.cluster import Mishap, Plan, start
from tests.faults.matrix import COSTS, ITERATIONS, PLANES, SETTINGS, TESTED, compare

LONG = (*SETTINGS, f"run.iterations={ITERATIONS}")
ALL = (*LONG, *PLANES, *TESTED)


def reopened(path: Path, settings: tuple[str, ...]) -> Resumed:
    """The run of ``path`` as a resumed process has it."""
    job = Job.of(Request("synthetic", settings, str(path), False, False, True), 4)
    with Log(path) as log:
        return resume(log, job, "mpi")


# ---------------------------------------------------------------- what is taken from the log


@pytest.mark.parametrize("lies", ["p", "q", "loss"])
@pytest.mark.parametrize("optimizer", ["adam", "mirror"])
def test_a_worker_goes_on_from_what_the_server_believes(
    tmp_path: Path, lies: str, optimizer: str
) -> None:
    path, settings = tmp_path / "run.h5", (*ALL, f"steps.optimizer={optimizer}")
    start(path, Plan(liar=2, lies=lies, term=25), settings)
    with pytest.warns(UserWarning, match="not explained by the recorded answers") as said:
        resumed = reopened(path, settings)
    [warning] = [str(each.message) for each in said]
    assert "what worker 2 reported from iteration" in warning
    assert not any(f"worker {honest} " in warning for honest in (1, 3, 4))
    server, workers = resumed.server, resumed.replay.workers
    with Log(path) as log:
        rows = np.flatnonzero(log["report/worker"] == 2)
        newest = log["report/p"][rows[-1]], log["report/q"][rows[-1]], log["report/loss"][rows[-1]]
    np.testing.assert_array_equal(server.algorithm.p[1], newest[0])
    np.testing.assert_array_equal(server.algorithm.q[1], newest[1])
    assert server.algorithm.loss[1] == newest[2]
    np.testing.assert_array_equal(workers.p[1], server.algorithm.p[1])
    np.testing.assert_array_equal(workers.q[1], server.algorithm.q[1])


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("leaves", [(), (Mishap(14, "exclude", 2),), (Mishap(14, "lose", 1),)])
def test_an_estimate_of_phi_is_taken_as_it_is_logged(
    tmp_path: Path, rounds: int, leaves: tuple[Mishap, ...]
) -> None:
    """What the first rounds' liar sent is in no log; phi is."""
    settings = (*ALL, f"algorithm.lower_steps={rounds}", "defence.aggregator=rsa")
    path = tmp_path / "run.h5"
    start(path, Plan(liar=2, lies="phi", term=34, mishaps=leaves), settings)
    with Log(path) as log:
        assert len(log["plane/id"]) > 0
    life = start(path, Plan(), settings)
    assert life.code == DONE, life.said
    with Log(path) as log:
        assert (log.status, log.committed) == ("finished", ITERATIONS)
    if not leaves:
        assert any("the estimates of phi from iteration 2 on" in line for line in life.said)
    assert verify(path).violations == []


@pytest.mark.parametrize("rounds", [1, 3])
def test_who_was_too_far_from_phi_is_taken_as_the_server_took_it(
    tmp_path: Path, rounds: int
) -> None:
    """By default its own p is in the log, in place of what it sent."""
    path, settings = tmp_path / "run.h5", (*ALL, f"algorithm.lower_steps={rounds}")
    start(path, Plan(liar=2, lies="phi", term=34), settings)
    life = start(path, Plan(), settings)
    assert life.code == DONE, life.said
    with Log(path) as log:
        assert (log.status, log.committed) == ("finished", ITERATIONS)
    assert verify(path).violations == []


def test_who_is_lost_in_an_estimate_is_not_accused(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    for at in range(10, 20):
        path = tmp_path / f"run{at}.h5"
        start(path, Plan(term=30, mishaps=(Mishap(at, "lose", 1),)), ALL)
        life = start(path, Plan(), ALL)
        assert (life.code, life.said) == (DONE, [])


@pytest.mark.parametrize(
    "path",
    ["iteration/z", "dual/value", "lower/phi_p", "lower/phi_z", "lower/h", "plane/b", "plane/c"],
)
def test_what_the_server_made_of_it_has_to_be_the_same(tmp_path: Path, path: str) -> None:
    """Its own rows are refused, where they differ: who would know which are right?"""
    log = tmp_path / "run.h5"
    start(log, Plan(term=34), ALL)
    with h5py.File(log, "r+") as file:
        file[path][0 if path.startswith(("lower", "plane")) else 1] += 0.01
    life = start(log, Plan(), ALL)
    assert life.code == BAD_USAGE
    assert "cannot be resumed: iteration" in life.said[0]
    with Log(log) as opened:
        assert opened.starts == 1


def test_a_p_that_nothing_follows_from_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "run.h5"
    start(log, Plan(term=34), ALL)
    with h5py.File(log, "r+") as file:
        row = np.flatnonzero(file["report/iteration"][:] == 2)[0]
        file["report/p"][row] = np.roll(file["report/p"][row], 1, axis=-1)
    life = start(log, Plan(), ALL)
    assert life.code == BAD_USAGE
    assert "differs by up to" in life.said[-1]


def test_left_out_iterates_cannot_be_taken_from_the_log(tmp_path: Path) -> None:
    """They are recomputed; where a worker lied, that cannot come out right, and it is said why."""
    path, settings = tmp_path / "run.h5", (*ALL, "log.iterates=7")
    start(path, Plan(liar=2, term=34), settings)
    life = start(path, Plan(), settings)
    assert life.code == BAD_USAGE
    assert "logged every 7 iterations only" in life.said[-1]


# ---------------------------------------------------------------- what is judged again


def test_who_was_excluded_in_the_tests_stays_so_in_what_follows(tmp_path: Path) -> None:
    path, short = tmp_path / "run.h5", "run.iterations=7"
    start(path, Plan(), (*ALL, short))
    with Log(path) as log:
        closing = [e.kind for e in events(log)].index(EventKind.CLOSING)
    path.unlink()
    plan = Plan(mishaps=(Mishap(closing + 3, "exclude", 4),))
    assert start(path, plan, (*ALL, short)).code == DONE
    assert start(path, Plan(), ALL).code == DONE
    with Log(path) as log:
        assert log.committed == ITERATIONS
        assert not log["iteration/active"][8:, 3].any()
        assert [e.worker for e in events(log) if e.kind is EventKind.EXCLUDED] == [4]
    assert verify(path).violations == []


def test_too_many_lost_in_the_tests_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    start(path, Plan(), ALL)
    with Log(path) as log:
        closing = [e.kind for e in events(log)].index(EventKind.CLOSING)
        tests = sorted(log["evaluation/worker"][log["evaluation/split"] == 2].tolist())
    path.unlink()
    plan = Plan(mishaps=tuple(Mishap(closing + 2 + v, "lose", v) for v in (1, 2, 3)))
    assert start(path, plan, ALL).code == TOO_FEW_WORKERS
    assert start(path, Plan(), ALL).code == DONE
    with Log(path) as log:
        assert sorted(log["evaluation/worker"][log["evaluation/split"] == 2].tolist()) == tests
        assert log.status == "finished"
    assert verify(path).violations == []


def test_a_budget_stays_hard_whatever_was_under_way(tmp_path: Path) -> None:
    """A killed process may have paid for its questions, which are asked again."""
    ended = set()
    for at, unwritten, more in itertools.product((9, 20, 31), (0, 2), (0, 100, 400, 2000)):
        path = tmp_path / f"{at}-{unwritten}-{more}.h5"
        start(path, Plan(kill=at, unwritten=unwritten), ALL)
        with Log(path) as log:
            budget = int(log["event/llm_calls"].sum()) + more
        settings = (*ALL, f"budget.calls={budget}")
        life = start(path, Plan(kill=at + 9), settings)
        life = start(path, Plan(), settings)
        assert life.code == DONE, life.said
        with Log(path) as log:
            resumptions = log["event/kind"] == EventKind.RESUMED
            written_off = log["event/number"][resumptions].sum()
            assert log["event/llm_calls"].sum() + written_off <= max(budget, _killed(log))
            assert log.status == "finished"
            ended.add(log.committed)
        assert verify(path).violations == []
        files = sorted(path.parent.glob(f"{path.name}*"))
        assert start(path, Plan(), settings).code == DONE
        assert sorted(path.parent.glob(f"{path.name}*")) == files
    assert len(ended) > 3


def _killed(log: Log) -> int:
    """What the process that was killed first may have spent, without a budget."""
    first = next(e for e in events(log) if e.kind is EventKind.RESUMED)
    before = itertools.takewhile(lambda e: e.kind is not EventKind.RESUMED, events(log))
    return sum(e.costs.calls for e in before) + first.number + first.costs.calls


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    path = tmp_path_factory.mktemp("undisturbed") / "run.h5"
    assert start(path, Plan(), ALL).code == DONE
    return path


@pytest.mark.parametrize("at", range(8, 40, 3))
def test_it_may_end_before_what_had_begun(tmp_path: Path, undisturbed: Path, at: int) -> None:
    """No more iterations than there are, though somebody had begun with the next; then more."""
    path = tmp_path / "run.h5"
    start(path, Plan(kill=at), ALL)
    with Log(path) as log:
        there = log.committed
    if there:
        assert start(path, Plan(), (*ALL, f"run.iterations={there}")).code == DONE
        with Log(path) as log:
            assert (log.status, log.committed) == ("finished", there)
        assert verify(path).violations == []
    assert start(path, Plan(), ALL).code == DONE
    compare(path, undisturbed, ())


@pytest.mark.parametrize(
    "budget", ["calls=1", "calls=170", "calls=400", "seconds=1e-300", "seconds=3"]
)
def test_a_budget_that_covers_nothing_is_said_and_a_larger_one_goes_on(
    tmp_path: Path, budget: str
) -> None:
    path, settings = tmp_path / "run.h5", ALL
    for _ in range(3):
        life = start(path, Plan(), (*settings, f"budget.{budget}"))
        assert life.code == BAD_USAGE
        assert "too small for the first iteration" in life.said[-1]
        with Log(path) as log:
            assert (log.status, log.committed) == ("interrupted", 0)
    assert start(path, Plan(), settings).code == DONE
    with Log(path) as log:
        assert (log.status, log.committed) == ("finished", ITERATIONS)


# ---------------------------------------------------------------- ended in its race

TOY = ("run.iterations=8", "run.evaluate_every=3", "task.test=30", "llm.device=cpu",
       "estimator.samples=3", "estimator.batch=3")  # fmt: skip
OF_MODEL = (*SETTINGS, *TOY), "demo"


def events_of_races(path: Path) -> list[int]:
    """How many events there were before each answer of a race, with those of the tests between."""
    with Log(path) as log:
        kinds = [e.kind for e in events(log)]
    raced = [row for row, kind in enumerate(kinds) if kind is EventKind.RACE]
    return list(range(raced[0], raced[-1] + 2))


@pytest.fixture(scope="module", params=[(ALL, "synthetic"), OF_MODEL], ids=["function", "model"])
def raced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[str, ...], str]:
    """A run that nothing happens to, its settings and its source."""
    path, (settings, source) = tmp_path_factory.mktemp("raced") / "run.h5", request.param
    life = start(path, Plan(), settings, source)
    assert life.code == DONE, life.said
    assert verify(path).violations == []
    return path, settings, source


@pytest.mark.parametrize("end", ["kill", "unwritten", "term"])
@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
def test_a_race_that_was_ended_anywhere_is_the_same(
    tmp_path: Path, raced: tuple[Path, tuple[str, ...], str], end: str, part: float
) -> None:
    undisturbed, settings, source = raced
    places = events_of_races(undisturbed)
    at, path = places[int(part * (len(places) - 1))], tmp_path / "run.h5"
    plan = Plan(term=at) if end == "term" else Plan(kill=at, unwritten=2 * (end == "unwritten"))
    start(path, plan, settings, source)
    with Log(path) as log:
        assert log.status != "finished"
    life = start(path, Plan(), settings, source)
    assert (life.code, life.said) == (DONE, [])
    compare(path, undisturbed, () if source == "synthetic" else COSTS)
    assert verify(path).violations == []
    if source == "synthetic":  # a replay would load the model that the toy stands for
        assert replay(path).difference is None


@pytest.mark.parametrize("lies", ["p", "q", "phi", "loss"])
@pytest.mark.parametrize("after", [1, 10])
def test_a_liar_whose_race_was_ended_goes_on_with_it(tmp_path: Path, lies: str, after: int) -> None:
    """What its model knew follows from no answer; the prompts that it named are in the log."""
    # Of a false q the log of an estimate says that no k follows from it.
    settings = (*LONG, *TESTED) if lies == "q" else ALL
    path, once = tmp_path / "run.h5", tmp_path / "once.h5"
    start(once, Plan(liar=2, lies=lies), settings)
    at = events_of_races(once)[after]
    start(path, Plan(liar=2, lies=lies, term=at), settings)
    life = start(path, Plan(), settings)
    assert life.code == DONE, life.said
    with Log(path) as log:
        assert (log.status, log.committed) == ("finished", ITERATIONS)
        assert set(log.winners) == {1, 2, 3, 4}
    found = verify(path).violations
    assert all(lies == "loss" and "/report/loss" in line for line in found), found


@pytest.mark.parametrize("what", ["exclude", "lose"])
@pytest.mark.parametrize("after", [1, 10])
def test_who_leaves_in_its_race_leaves_the_others_theirs(
    tmp_path: Path, undisturbed: Path, what: str, after: int
) -> None:
    path, at = tmp_path / "run.h5", events_of_races(undisturbed)[after]
    plan = Plan(mishaps=(Mishap(at, what, 4),))
    assert start(path, plan, ALL).code == DONE
    with Log(path) as log:
        assert {1, 2, 3} <= set(log.winners)
    assert verify(path).violations == []
    assert replay(path).difference is None


# ---------------------------------------------------------------- what is said


def status(path: Path, *settings: str) -> tuple[int, str]:
    sets = [word for setting in (*ALL, *settings) for word in ("--set", setting)]
    result = CliRunner().invoke(
        cli, ["status", "synthetic", *sets, "-o", str(path)], standalone_mode=False
    )
    return int(result.return_value), result.output


def test_status_tells_how_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    assert status(path)[0] == FAILED
    start(path, Plan(kill=20), ALL)
    code, line = status(path)
    assert code == FAILED
    assert "killed" in line
    start(path, Plan(mishaps=tuple(Mishap(24 + v, "exclude", v) for v in (1, 2, 3))), ALL)
    code, line = status(path)
    assert code == FAILED
    assert "interrupted" in line


def test_status_asks_for_more_only_where_there_is_more(tmp_path: Path) -> None:
    path, stopped = tmp_path / "run.h5", tmp_path / "stopped.h5"
    start(tmp_path / "whole.h5", Plan(), ALL)
    with Log(tmp_path / "whole.h5") as log:
        limit = int(0.8 * log["event/llm_calls"].sum())
    start(path, Plan(), (*ALL, f"budget.calls={limit}"))
    with Log(path) as log:
        assert 0 < log.committed < ITERATIONS
    for budget, code in ((limit, DONE), (limit - 1, DONE), (limit + 1, FAILED), (0, FAILED)):
        assert status(path, f"budget.calls={budget}")[0] == code
    still = ("run.evaluate_every=1", "run.early_stopping_patience=1", "steps.p=1e-300",
             "steps.q=1e-300", "algorithm.plane_period=100")  # fmt: skip
    start(stopped, Plan(), (*ALL, *still))
    with Log(stopped) as log:
        assert log.committed < ITERATIONS
    assert status(stopped, *still, "run.iterations=1000")[0] == DONE
