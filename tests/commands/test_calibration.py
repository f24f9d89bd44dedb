"""Whole runs with calibrated scores: their log, verify, replay, resume, estimates and budgets."""

from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.assemble import hellos, prepare, workers_without_model
from asyndbt_mpi.commands.estimate import estimate
from asyndbt_mpi.commands.replay import replay
from asyndbt_mpi.commands.simulate import simulate
from asyndbt_mpi.config import ConfigurationError, load
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.llm.base import NoModel, Prompt
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.blackbox import calibration_of
from asyndbt_mpi.protocol.messages import Candidate, RowScores, Split
from asyndbt_mpi.protocol.records import Evaluation, EventKind, Record
from asyndbt_mpi.protocol.scoring import scored
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.transport.replay import Recorded, Replay
from tests.commands.cutting import assert_same, cut
from tests.commands.partial import Partial, use_partial
from tests.log.edits import assert_only, put, violations
from tests.task.weighting import weighted

WORKERS = 3
SETTINGS = (
    "run.iterations=6", "run.evaluate_every=2", "task.test=20", "task.train_per_class=4",
    "task.validation_per_class=3", "estimator.batch=3", "algorithm.plane_period=3",
    "algorithm.tolerance=0", "delay.model=lognormal", "delay.mean=1", "llm.cache=0",
    "task.partition=dirichlet", "task.alpha=0.5",
)  # fmt: skip
METHODS = ("none", "batch", "content_free")
TEST_ROWS = 20


@pytest.fixture(autouse=True)
def partial(monkeypatch: pytest.MonkeyPatch) -> None:
    use_partial(monkeypatch)


def run(path: Path, method: str, *changes: str, resuming: bool = False) -> Path:
    settings = (*SETTINGS, f"task.calibration={method}", *changes)
    request = Request("reviews", settings, str(path), not resuming, False, resuming)
    simulate(Job.of(request, WORKERS), resuming)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with each method."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        use_partial(patch)
        return {method: run(folder / f"{method}.h5", method) for method in METHODS}


@pytest.fixture(params=METHODS)
def logged(request: pytest.FixtureRequest, finished: dict[str, Path]) -> tuple[str, Path]:
    return request.param, finished[request.param]


@pytest.fixture
def of_batch(finished: dict[str, Path], tmp_path: Path) -> Path:
    """A log to be changed."""
    path = tmp_path / "run.h5"
    path.write_bytes(finished["batch"].read_bytes())
    return path


def rows_of_tests(log: Log, candidate: Candidate) -> dict[int, int]:
    """By worker, the row of /evaluation with its test of ``candidate``."""
    found = (log["evaluation/split"] == Split.TEST) & (log["evaluation/candidate"] == candidate)
    rows = np.flatnonzero(found & (log["evaluation/worker"] > 0))
    return {int(log["evaluation/worker"][row]): int(row) for row in rows}


def test_a_log_verifies_and_replays(logged: tuple[str, Path]) -> None:
    _, path = logged
    found = verify(path)
    assert found.violations == []
    repeated = replay(path)
    assert (repeated.difference, repeated.iterations) == (None, 6)


def test_every_test_has_its_rows_which_give_its_loss_and_accuracy(
    logged: tuple[str, Path],
) -> None:
    method, path = logged
    with Log(path) as log:
        workers = log["evaluation/worker"] > 0
        tests = (log["evaluation/split"] == Split.TEST) & workers
        assert tests.sum() == 4 * WORKERS + 1
        for row in range(len(tests)):
            labels, log_probabilities = log.answers(row)
            assert len(labels) == (TEST_ROWS if tests[row] else 0)
            of_rows = log.rows("answer/loss")[log.answered == row]
            assert bool(len(of_rows)) == bool(workers[row])
            if workers[row]:
                assert of_rows.mean() == pytest.approx(log["evaluation/loss"][row], rel=1e-12)
            if not tests[row]:
                continue
            losses, accuracies = scored(log_probabilities[None], labels)
            assert losses[0] == log["evaluation/loss"][row]
            assert accuracies[0] == log["evaluation/accuracy"][row]
        kinds = zip(log["evaluation/candidate"], log["evaluation/split"], strict=True)
        due = [
            calibration_of(Candidate(each), Split(split), method) != "none"  # type: ignore[arg-type]
            for each, split in kinds
        ]
        assert (log["evaluation/bias"].any(axis=1) == np.where(workers, due, False)).all()


def test_the_calibrated_untuned_prompt_follows_from_the_raw_one(logged: tuple[str, Path]) -> None:
    """By hand, from the raw scores in the log and the model's answers on the references."""
    method, path = logged
    with Log(path) as log:
        (untuned,) = rows_of_tests(log, Candidate.UNTUNED).values()
        labels, raw = log.answers(untuned)
        materials = prepare(log.config, WORKERS)
        assert materials.data is not None
        assert materials.template is not None
        for worker, row in rows_of_tests(log, Candidate.CALIBRATED).items():
            held, template = materials.data[worker], materials.template
            texts = [template.render(each, None) for each in held.train]
            if method == "content_free":
                texts = [template.render(held.train[0], None).replace(held.train[0].texts["sentence1"], text)
                         for text in ("N/A", "", "[MASK]")]  # fmt: skip
            asked = [Prompt("", text) for text in texts]
            answers = Partial().label_log_probabilities(asked, template.labels)
            p, shares = np.exp(answers.log_probabilities), np.array(held.class_counts) + 1
            mean = p.mean(axis=0)
            if method != "content_free":
                of_train = np.array([each.label for each in held.train])
                [mean] = weighted(p[None], of_train, shares / shares.sum())
            assert np.exp(log["evaluation/bias"][row]) == pytest.approx(mean)
            due = np.exp(raw) / mean * shares
            due /= due.sum(axis=1, keepdims=True)
            own, found = log.answers(row)
            assert (own == labels).all()
            assert np.exp(found) == pytest.approx(due)
            # The preference is gone.
            assert abs(np.log(due.mean(axis=0) / shares * shares.sum())[0]) < 1


def test_replay_with_the_logs_answers_gives_the_same_evaluations(logged: tuple[str, Path]) -> None:
    _, path = logged
    records: list[Record] = []
    with Log(path) as log:
        materials = prepare(log.config, WORKERS)
        workers, box = workers_without_model(log.config, materials, range(1, WORKERS + 1))
        server = Server(log.config, log.shapes, WORKERS, log.committed)
        Replay(server, workers, Recorded(events(log), box)).run(events(log), records.extend)
        evaluations = [each for each in records if isinstance(each, Evaluation)]
        assert len(evaluations) == len(log["evaluation/worker"]) == log.count("evaluation")
        for row, each in enumerate(evaluations):
            assert (each.bias == log["evaluation/bias"][row]).all()
            labels, log_probabilities = log.answers(row)
            assert isinstance(each.rows, RowScores) == bool(len(labels))
            if isinstance(each.rows, RowScores):
                assert (each.rows.labels == labels).all()
                assert (each.rows.log_probabilities == log_probabilities).all()
            if each.rows is not None:
                assert (each.losses == log.rows("answer/loss")[log.answered == row]).all()


@pytest.mark.parametrize(("committed", "more"), [(2, 0), (2, 7), (6, 3), (6, 9), (6, 100)])
def test_a_run_that_was_cut_resumes_exactly(
    logged: tuple[str, Path], tmp_path: Path, committed: int, more: int
) -> None:
    method, whole = logged
    path = tmp_path / "run.h5"
    path.write_bytes(whole.read_bytes())
    cut(path, committed, more)
    run(path, method, resuming=True)
    assert verify(path).violations == []
    assert_same(path, whole)


def test_beyond_its_end_a_run_leaves_the_old_tests_behind(
    logged: tuple[str, Path], tmp_path: Path
) -> None:
    method, whole = logged
    path, longer = tmp_path / "run.h5", tmp_path / "longer.h5"
    path.write_bytes(whole.read_bytes())
    run(path, method, "run.iterations=8", resuming=True)
    assert verify(path).violations == []
    run(longer, method, "run.iterations=8")
    with Log(path) as log, Log(longer) as other:
        for name in ("evaluation", "row", "loss", "label", "log_probabilities"):
            np.testing.assert_array_equal(log[f"answer/{name}"], other[f"answer/{name}"])
        assert np.array_equal(log["evaluation/bias"], other["evaluation/bias"])


def test_what_is_asked_is_foretold_and_within_its_bounds(logged: tuple[str, Path]) -> None:
    method, path = logged
    config = load("reviews", (*SETTINGS, f"task.calibration={method}"))
    materials = prepare(config, WORKERS)
    found = estimate(config, materials, WORKERS, lambda texts: [1] * len(texts))
    bounds = hellos(config, materials, WORKERS, NoModel())
    with Log(path) as log:
        kinds, prompts, workers = (log[f"event/{name}"] for name in ("kind", "prompts", "worker"))
        validation, races, tests = found.parts[2:]
        asked = {kind: prompts[kinds == kind] for kind in EventKind}
        # The workers come late to their last validation.
        assert 0 < asked[EventKind.EVALUATION].sum() <= validation.calls
        assert asked[EventKind.TEST].sum() == tests.calls
        assert 0 < asked[EventKind.RACE].sum() <= races.most
        for worker, hello in bounds.items():
            raced = prompts[(kinds == EventKind.RACE) & (workers == worker)]
            assert raced.max() <= hello.cost_bounds.race
        of_step = config.estimator.samples * (3 + 3 * (method == "content_free"))
        assert set(asked[EventKind.REPORT].tolist()) == {of_step}
        assert not asked[EventKind.LOWER_REPORT].size, "models answer in place of the black box"
        names = {EventKind.REPORT: "assignment", EventKind.EVALUATION: "validation", EventKind.TEST: "test"}  # fmt: skip
        for kind, name in names.items():
            for worker, hello in bounds.items():
                most = getattr(hello.cost_bounds, name)
                asked_of = prompts[(kinds == kind) & (workers == worker)]
                assert asked_of.max() <= most
                if kind != EventKind.TEST or method != "none":
                    assert asked_of.max() == most


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_holds_with_all_the_tests(tmp_path: Path, method: str) -> None:
    calls = 1500
    path = run(tmp_path / "run.h5", method, f"budget.calls={calls}", "run.iterations=100")
    with Log(path) as log:
        assert 0 < log.committed < 100
        assert log["event/llm_calls"].sum() <= calls
        # Nothing was left out for want of calls.
        assert len(rows_of_tests(log, Candidate.CALIBRATED)) == WORKERS
        assert len(rows_of_tests(log, Candidate.UNTUNED)) == 1
    assert verify(path).violations == []


def test_training_batches_are_calibrated_by_themselves(finished: dict[str, Path]) -> None:
    """The losses of the two runs are of the same prompts in the first step, and differ."""
    losses = []
    for method in ("none", "batch"):
        with Log(finished[method]) as log:
            reports = np.flatnonzero(log["event/kind"] == EventKind.REPORT)
            losses.append(log["event/losses"][reports[0]])
    assert (losses[0] != losses[1]).all()


@pytest.mark.parametrize("backend", ["synthetic", "python"])
@pytest.mark.parametrize("method", ["batch", "content_free"])
def test_a_function_has_nothing_to_calibrate(backend: str, method: str) -> None:
    settings = (f"llm.backend={backend}", f"task.calibration={method}")
    with pytest.raises(ConfigurationError) as caught:
        prepare(load("synthetic", settings), 3)
    if backend == "synthetic":
        assert "needs a language model, but llm.backend = 'synthetic' is a function" in str(
            caught.value
        )


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (("task.calibration=batch", "estimator.batch=1"), "estimator.batch of at least 2"),
        (
            ("task.calibration=content_free", 'task.template="[[{fragment} ]]{sentence1}"'),
            "words besides its placeholders",
        ),
    ],
)
def test_what_calibrates_by_nothing_is_refused(settings: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        prepare(load("reviews", settings), 3)


TESTED = 10**7
"""Stands for the first answer on a test row."""


@pytest.mark.parametrize(
    ("path", "index", "value", "patterns"),
    [
        (
            "answer/label",
            TESTED + 3,
            7,
            [r"labels outside \[0, 2\)", "different labels from the first test"],
        ),
        ("answer/row", 3, 7, ["not numbered from 0"]),
        ("answer/evaluation", 3, 10**6, ["out of range or of order"]),
        ("answer/log_probabilities", TESTED, [np.nan, 0.0], ["out of range or not normalised"]),
        ("answer/log_probabilities", TESTED, [-0.1, -0.2], ["out of range or not normalised"]),
        ("answer/loss", TESTED, 9.0, ["losses other than their log-probabilities give"]),
        ("answer/log_probabilities", 3, [-0.1, -0.2], ["but are of a worker's own rows"]),
        ("answer/label", 3, 1, ["but are of a worker's own rows"]),
        ("answer/loss", 3, np.nan, ["losses outside"]),
        ("answer/loss", 3, 9.0, [r"/evaluation/loss row \d+ is"]),
        ("evaluation/bias", 0, [0.0, 0.0], ["no bias, but the calibration is batch"]),
        ("evaluation/bias", 0, [-1.0, -1.0], ["is not of mean probabilities"]),
    ],
)
def test_verify_finds_what_does_not_fit(
    of_batch: Path, path: str, index: int, value: object, patterns: list[str]
) -> None:
    log = of_batch
    if index >= TESTED:
        with Log(log) as read:
            index += int(np.flatnonzero(read["answer/label"] >= 0)[0]) - TESTED
    assert_only(violations(log, put(path, index, value)), *patterns)


def test_verify_finds_another_loss(of_batch: Path) -> None:
    log = of_batch
    with Log(log) as read:
        first = int(read["answer/evaluation"][0])
        loss, event = read["evaluation/loss"][first], read["event/losses"]
        (row,) = np.flatnonzero((event[:, 0] == loss) & np.isnan(event[:, 1]))

    def edit(file) -> None:
        file["evaluation/loss"][first] = file["event/losses"][row, 0] = loss + 0.01

    assert_only(violations(log, edit), "its rows give")
