"""Exact resume: a run that was cut anywhere goes on as if nothing had happened."""

import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyndbt_mpi.commands.replay import replay
from asyndbt_mpi.commands.simulate import simulate
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.jobs.codes import DONE
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.jobs.opening import Ended
from asyndbt_mpi.jobs.resume import log_to_resume, resume
from asyndbt_mpi.llm.base import NoModel, Prompt, Scores
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.storage.lock import LogLock
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.records import EventKind
from asyndbt_mpi.transport.interruption import Interrupted
from tests.commands.cutting import assert_same, cut
from tests.commands.settings import SETTINGS
from tests.helpers import asyndbt, sets


def job(path: Path, *changes: str, resuming: bool = False, workers: int = 4) -> Job:
    assignments = (*SETTINGS, *changes)
    request = Request("synthetic", assignments, str(path), not resuming, False, resuming)
    return Job.of(request, workers)


def simulated(path: Path, *changes: str) -> Path:
    simulate(job(path, *changes))
    return path


def go_on(path: Path, *changes: str) -> None:
    simulate(job(path, *changes, resuming=True), resuming=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Undisturbed runs, each made once."""
    made: dict[tuple[str, ...], Path] = {}

    def run(*changes: str) -> Path:
        if changes not in made:
            made[changes] = simulated(tmp_path_factory.mktemp("whole") / "run.h5", *changes)
        return made[changes]

    return run


@given(
    st.integers(0, 60),
    st.integers(0, 12),
    st.sampled_from(["additive", "loo", "bdpl", "exact"]),
    st.sampled_from(["adam", "sgd", "mirror"]),
    st.sampled_from(["all", "quorum"]),
    st.sampled_from(["all", "7"]),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_cut_run_goes_on_to_the_same_end(
    tmp_path, whole, committed, more, estimator, optimizer, participation, iterates
) -> None:
    changes = (
        f"estimator.name={estimator}",
        f"steps.optimizer={optimizer}",
        "algorithm.lower_gradient=black_box",
        f"algorithm.lower_participation={participation}",
        f"log.iterates={iterates}" if iterates == "7" else 'log.iterates="all"',
    )
    undisturbed = whole(*changes)
    path = tmp_path / "run.h5"
    for stale in tmp_path.glob("run.h5*"):
        stale.unlink()
    shutil.copy(undisturbed, path)
    cut(path, committed, more)
    go_on(path, *changes)
    leave_out = (
        ("iteration/z", "iteration/gradient", "report/p", "report/q") if iterates == "7" else ()
    )
    assert_same(path, undisturbed, leave_out)
    if iterates == "all":
        assert verify(path).violations == []
        assert replay(path).difference is None


def test_a_run_cut_five_times_is_the_same_run(tmp_path: Path, whole) -> None:
    undisturbed = whole()
    path = simulated(tmp_path / "run.h5", "run.iterations=9")
    for iterations in (10, 11, 25, 44, 60):
        go_on(path, f"run.iterations={iterations}")
    with Log(path) as log:
        assert log.starts == 6
        left_behind = log["event/llm_calls"][log["event/kind"] == EventKind.RESUMED]
        assert len(left_behind) == 5
        assert (left_behind > 0).all(), "the tests of the ends that were left behind were paid for"
    assert_same(path, undisturbed)
    assert replay(path).difference is None


def test_nothing_is_asked_again_whose_answer_is_in_the_log(tmp_path: Path) -> None:
    path = simulated(tmp_path / "run.h5")
    cut(path, 30, 3)
    with Log(path) as log:
        recorded = list(events(log))
        resumed = resume(log, job(path, resuming=True), "virtual")
    answered = dict.fromkeys(range(1, 5), 0)
    for event in recorded:
        if event.kind in (EventKind.REPORT, EventKind.LOWER_REPORT, EventKind.EVALUATION):
            answered[event.worker] += 1
    assert resumed.replay.answers == answered
    assert resumed.server.iteration >= 30
    assert resumed.time == recorded[-1].time


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("steps.p=0.5", "was made with steps.p = 1.0, not 0.5"),
        ("run.seed=3", "was made with run.seed = 0, not 3"),
        ("prompt.pool=4", "was made with prompt.pool = 8, not 4"),
        ("run.iterations=30", "run.iterations = 30: .* already has 60"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, whole, change, complaint) -> None:
    path = tmp_path / "run.h5"
    shutil.copy(whole(), path)
    with pytest.raises(ConfigurationError, match=complaint):
        go_on(path, change)
    assert list(tmp_path.iterdir()) == [path]


def test_another_number_of_workers_is_refused(tmp_path: Path, whole) -> None:
    path = tmp_path / "run.h5"
    shutil.copy(whole(), path)
    with pytest.raises(ConfigurationError, match=r"has 4 workers, not 5; give --workers 4"):
        simulate(job(path, resuming=True, workers=5), resuming=True)


def test_a_finished_run_is_left_alone(tmp_path: Path, whole) -> None:
    path = tmp_path / "run.h5"
    shutil.copy(whole(), path)
    before = path.read_bytes()
    with pytest.raises(Ended, match="has finished, after 60 iterations: nothing is left") as ended:
        go_on(path)
    assert ended.value.code == DONE
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_says_that_a_run_has_finished(tmp_path: Path, whole) -> None:
    """A batch job that is submitted once more is no error."""
    path = tmp_path / "run.h5"
    shutil.copy(whole(), path)
    options = ("--workers", "4", "--output", "run.h5", "--resume")
    result = asyndbt("simulate", "synthetic", *sets(*SETTINGS), *options, folder=tmp_path)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [
        "asyndbt: run.h5 has finished, after 60 iterations: nothing is left to do"
    ]


def test_without_a_log_it_starts_at_the_beginning(tmp_path: Path, whole) -> None:
    go_on(tmp_path / "run.h5")
    assert_same(tmp_path / "run.h5", whole())


def test_a_changed_answer_is_noticed(tmp_path: Path, whole) -> None:
    path = tmp_path / "run.h5"
    shutil.copy(whole(), path)
    cut(path, 30)
    with h5py.File(path, "r+") as file:
        row = int(np.flatnonzero(file["event/kind"][:] == EventKind.REPORT)[4])
        losses = file["event/losses"][row]
        losses[0] += 1.0
        file["event/losses"][row] = losses
    with pytest.raises(ConfigurationError, match=r"cannot be resumed: iteration \d+.* differs"):
        go_on(path)


def test_a_larger_budget_goes_on_where_the_smaller_ended(tmp_path: Path, whole) -> None:
    """Not bit by bit the run that never ended: what was asked at the end took (virtual) time."""
    path = simulated(tmp_path / "run.h5", "budget.calls=9000")
    with Log(path) as log:
        ended = log.committed
        assert 5 < ended < 60
        assert log.status == "finished"
        spent = int(log["event/llm_calls"].sum())
        assert spent <= 9000
    go_on(path, "budget.calls=0")
    assert_same(path, whole())
    assert verify(path).violations == []


def test_a_smaller_budget_ends_where_the_run_stands(tmp_path: Path) -> None:
    path = simulated(tmp_path / "run.h5")
    cut(path, 30)
    go_on(path, "budget.calls=100")
    with Log(path) as log:
        assert (log.committed, log.status) == (30, "finished")
    assert verify(path).violations == []
    assert replay(path).difference is None


def test_what_was_under_way_counts_as_spent(tmp_path: Path) -> None:
    """A killed process may have paid for it, and then it is asked again: the budget is hard."""
    path = simulated(tmp_path / "run.h5")
    cut(path, 30)
    with h5py.File(path, "r+") as file:
        file.attrs["transport"] = "mpi"
    with Log(path) as log:
        resumed = resume(log, job(path, resuming=True), "mpi")
        spent = int(log["event/llm_calls"].sum())
    under_way = resumed.server.spending.reserved
    assert under_way >= 80
    assert resumed.event.number == under_way
    assert resumed.server.spending.spent.calls == spent
    resumed.server.spending.budget = resumed.server.config.budget.model_copy(
        update={"calls": spent + 2 * under_way + 4 * 8 * 40 + 15 * 200}  # races and tests
    )
    assert resumed.server.spending.overdrawn(0, 0.0) is None
    assert resumed.server.spending.overdrawn(1, 0.0) is not None


def test_a_budget_holds_over_an_end_that_was_left_behind(tmp_path: Path) -> None:
    path = simulated(tmp_path / "run.h5", "run.iterations=6", "run.evaluate_every=3")
    with Log(path) as log:
        spent = int(log["event/llm_calls"].sum())
    for iterations, budget in ((8, spent + 600), (60, spent + 5000)):
        go_on(
            path,
            "run.evaluate_every=3",
            f"run.iterations={iterations}",
            f"budget.calls={budget}",
        )
        with Log(path) as log:
            assert log["event/llm_calls"].sum() <= budget
        assert verify(path).violations == []
        assert replay(path).difference is None


def test_a_budget_of_seconds_ends_a_run_once(tmp_path: Path) -> None:
    path = simulated(tmp_path / "run.h5", "budget.seconds=20")
    with Log(path) as log:
        assert 0 < log.committed < 60
    with pytest.raises(Ended, match=r"has finished, .* ended at budget.seconds = 20; raise"):
        go_on(path, "budget.seconds=20")
    assert replay(path).difference is None


def test_a_signal_ends_it_while_the_run_is_gone_through(tmp_path: Path) -> None:
    path = simulated(tmp_path / "run.h5")
    cut(path, 20)
    before = path.read_bytes()
    with Log(path) as log, pytest.raises(Interrupted, match="SIGUSR1"):
        resume(log, job(path, resuming=True), "virtual", [signal.SIGUSR1])
    assert path.read_bytes() == before


def test_a_log_that_is_being_written_is_not_gone_through(tmp_path: Path) -> None:
    path = simulated(tmp_path / "run.h5")
    held = LogLock(path)
    with pytest.raises(ConfigurationError, match="another process is writing"):
        log_to_resume(job(path, resuming=True))
    held.release()


class Even(NoModel):
    """Finds every label equally probable."""

    description = "even"

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        even = np.full((len(prompts), len(labels)), -np.log(len(labels)))
        return Scores(even, calls=len(prompts), prompt_tokens=len(prompts))


def test_a_simulation_goes_on_with_the_model_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.h5"

    def run(digest: str, iterations: int, *settings: str) -> None:
        monkeypatch.setattr("asyndbt_mpi.commands.simulate.language_model", lambda *_: Even(digest))
        monkeypatch.setattr("asyndbt_mpi.commands.simulate.rows_fit", lambda *_: True)
        resuming = path.exists()
        changes = (f"run.iterations={iterations}", "run.evaluate_every=0", *settings)
        request = Request("demo", changes, str(path), False, False, resuming)
        simulate(Job.of(request, 2), resuming)

    run("aa", 2)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="their digests are bb and aa"):
        run("bb", 4)
    assert path.read_bytes() == before
    run("aa", 4)
    run("bb", 5, "llm.model_may_differ=true")
    with Log(path) as log:
        assert log.models == ["aa", "aa"]
        assert all(e.model == "aa" for e in events(log) if e.kind is EventKind.HELLO)
    assert verify(path).violations == []
