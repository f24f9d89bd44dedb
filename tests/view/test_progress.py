"""What a run shows of its progress, without a terminal: `test_bar` has the terminal."""

import numpy as np
import pytest

from asyndbt_mpi.config import Config, load
from asyndbt_mpi.protocol.messages import Costs, Report
from asyndbt_mpi.protocol.records import Event, EventKind, Iteration, UsedReport
from asyndbt_mpi.view.progress import Progress


def config(*settings: str) -> Config:
    return load("synthetic", ["run.iterations=2", *settings])


def iteration(number: int, delay: tuple[int, int]) -> Iteration:
    report = Report(
        1, 0, 0.5, 0.0, 0.0, Costs(20, 300, 1.0), 0.0, np.eye(2), np.eye(2), np.zeros(2)
    )
    return Iteration(
        number, np.eye(2), np.zeros((2, 2)), np.array([False, True]), np.array(delay), 1.0, 0.4321,
        [UsedReport(2, report, 1.0)], np.array([]), np.zeros((0, 2)), None,
    )  # fmt: skip


def event(kind: EventKind, worker: int, calls: int = 0) -> Event:
    return Event(kind, worker, 1, 0, 1.0, Costs(calls, 15 * calls, 1.0))


def of_a_model() -> Config:
    shown = config()
    llm = shown.llm.model_copy(update={"backend": "transformers"})
    return shown.model_copy(update={"llm": llm})


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def show(shown: Config) -> None:
    """Two workers come, two iterations pass, one worker goes."""
    with Progress(shown, 2) as progress:
        for worker in (1, 2):
            progress.update(event(EventKind.HELLO, worker))
            assert progress.ready == worker
        for number in range(2):
            if number:
                progress.say("worker 1 is excluded: NaN")
                progress.update(event(EventKind.EXCLUDED, 1))
            progress.update(event(EventKind.REPORT, 2, calls=20))
            progress.update(iteration(number, delay=(3, 1)))


def test_everything_there_is_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    show(config())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "0/2 workers ready, 0:00"
    assert "worker 1 is excluded: NaN" in lines
    assert lines[-1] == "2/2 ████████, 0:00, loss 0.432, active 2, late 1, 40 calls"


def test_a_language_model_is_loaded_and_reads_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    show(of_a_model())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("loading the model: 0/2 workers ready")
    assert lines[-1].endswith(" tokens/s")


def test_a_resumed_run_does_not_seem_to_wait_for_who_never_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only a worker that had been lost says hello again."""
    with Progress(config("run.iterations=5"), 2, done=3) as progress:
        progress.update(event(EventKind.HELLO, 1))
        progress.update(iteration(3, delay=(0, 0)))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("3/5 ")
    assert lines[-1].startswith("4/5 ")


@pytest.mark.parametrize(
    ("tests", "line"), [(5, "2/7 tests ██░░░░░░, 3 prompts raced"), (0, "3 prompts raced")]
)
def test_races_and_tests_have_a_line_of_their_own(
    capsys: pytest.CaptureFixture[str], tests: int, line: str
) -> None:
    with Progress(config("run.evaluate_every=1", f"task.test={tests}"), 2) as progress:
        progress.update(iteration(1, delay=(0, 0)))
        progress.update(event(EventKind.CLOSING, 0))
        for kind, times in ((EventKind.RACE, 3), (EventKind.TEST, 2)):
            for _ in range(times):
                progress.update(event(kind, 1, calls=5))
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2].startswith("2/2 ████████, ")
    assert lines[-1].startswith(f"{line}, ")


def test_without_races_and_tests_there_is_no_such_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(config(), 2) as progress:
        progress.update(iteration(1, delay=(0, 0)))
        progress.update(event(EventKind.CLOSING, 0))
    assert "raced" not in capsys.readouterr().err
