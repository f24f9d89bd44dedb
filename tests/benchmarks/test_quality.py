import json
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quality
import quality_methods
import quality_tasks
from prompt_search import Judge
from quality_cells import Cell, Key, Mismatch, finished, make, read
from quality_methods import METHODS, USUAL, asyndbt, made_with
from quality_table import paired, tables
from quality_tasks import TASKS, Trial
from scipy import stats

from asyndbt_mpi.inputs.defaults import MIRROR_STEPS
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import WITHOUT, Candidate, Split
from asyndbt_mpi.protocol.records import Evaluation, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.transport.virtual import VirtualCluster
from tests.conftest import Opinionated
from tests.helpers import ROOT

TEST = 20
CALLS = 1500
TUNED = [name for name, method in METHODS.items() if method.func is asyndbt]


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> CachedModel:
    """Stands for the language model with its answers on disk: one for all methods."""
    kept = CachedModel(Opinionated(), 100_000)
    monkeypatch.setattr(quality_tasks, "language_model", lambda *_: kept)
    return kept


@pytest.fixture
def trial(tmp_path: Path) -> Callable[..., Trial]:
    def of(task: str = "reviews", seed: int = 0) -> Trial:
        return Trial(task, seed, TEST, tmp_path / "data", tmp_path / "answers", 1)

    return of


# ---------------------------------------------------------------- methods


@pytest.mark.parametrize("name", METHODS)
def test_a_method_costs_the_same_whoever_asked_before_and_at_most_its_calls(
    name: str, trial: Callable[..., Trial]
) -> None:
    same = trial()
    first, again = METHODS[name](same, CALLS), METHODS[name](same, CALLS)
    assert first.calls == again.calls <= CALLS
    tuned = name in TUNED or name.startswith(("search", "halving"))
    assert (first.calls > 0.3 * CALLS) == tuned
    assert json.dumps(_lists(first.prompts)) == json.dumps(_lists(again.prompts))
    assert {*first.prompts["own"]} == {1, 2, 3}


def _lists(prompts: dict[str, Any]) -> dict[str, Any]:
    return {
        kind: {worker: [each.tolist() for each in prompt] for worker, prompt in of.items()}
        for kind, of in prompts.items()
    }


@pytest.mark.parametrize("calls", [200, 800])
@pytest.mark.parametrize("calibration", ["none", "batch"])
def test_a_run_ends_where_the_next_step_could_exceed_its_calls(
    calls: int, calibration: Any, trial: Callable[..., Trial]
) -> None:
    found = asyndbt(trial(), calls, calibration, {"run": {"race": 0}})
    # A step of a worker, its validation and what others have under way.
    assert calls - 3 * (40 + 40) < found.calls <= calls


@pytest.mark.parametrize("name", ["search", "halving"])
def test_a_search_costs_what_all_workers_paid(
    name: str, trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    judges: list[Judge] = []

    class Noted(Judge):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            judges.append(self)

    monkeypatch.setattr(quality_methods, "Judge", Noted)
    found = METHODS[name](trial(), CALLS)
    assert len(judges) == 3
    assert found.calls == sum(judge.calls for judge in judges)
    assert all(0 < judge.calls <= CALLS // 3 for judge in judges)


def test_a_run_without_an_iteration_is_refused(trial: Callable[..., Trial]) -> None:
    with pytest.raises(ValueError, match="60 calls are too few for one iteration"):
        asyndbt(trial(), 60, "none")


@pytest.mark.parametrize("name", ["was", "now-calibrated", "planes-off"])
def test_a_run_is_as_its_cell_says_and_yields_the_prompts_that_it_tested(
    name: str, trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[Server] = []
    records: list[Record] = []

    class Noted(VirtualCluster):
        def run(self, write: Callable[[list[Record]], None]) -> None:
            servers.append(self.server)

            def noted(new: list[Record]) -> None:
                records.extend(new)
                write(new)

            super().run(noted)

    monkeypatch.setattr(quality_methods, "VirtualCluster", Noted)
    prompts = _lists(METHODS[name](trial(), CALLS).prompts)
    tested = {
        (each.candidate, each.worker): [each.words.tolist(), each.demonstrations.tolist()]
        for each in records
        if isinstance(each, Evaluation) and each.split is Split.TEST
    }
    for kind, candidate in (("own", Candidate.TUNED), ("consensus", Candidate.CONSENSUS)):
        assert prompts[kind] == {worker: tested[candidate, worker] for worker in (1, 2, 3)}
    assert prompts["own"] != prompts["consensus"]
    config = servers[0].config
    written = made_with("reviews", name, CALLS, TEST)
    for section in ("algorithm", "estimator", "steps"):
        assert getattr(config, section).model_dump(mode="json") == written[section]
    for calibration in (config.task.calibration, written["task"]["calibration"]):
        assert calibration == ("batch" if name == "now-calibrated" else "none")
    assert (config.algorithm.plane_until == 0) == (name == "planes-off")
    assert (config.run.race == 0) == (name == "was")


def test_the_mean_is_that_of_all_workers_words_with_the_own_demonstrations(
    trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not be what any worker, most of them or the consensus would take."""

    class Ended(VirtualCluster):
        def run(self, *arguments: Any) -> None:
            super().run(*arguments)
            word, algorithm = np.eye(8), self.server.algorithm
            algorithm.z = np.array([word[5], word[4]])
            for worker, first in enumerate((0, 0, 1)):
                often = np.array([word[first], word[first + 6]])
                algorithm.p[worker] = 0.55 * often + 0.45 * np.array([word[2], word[3]])

    monkeypatch.setattr(quality_methods, "VirtualCluster", Ended)
    found = asyndbt(trial(), 400, "none", {"run": {"race": 0}}).prompts
    assert {*found["mean"]} == {1, 2, 3}
    for worker, (words, shown) in found["mean"].items():
        assert words.tolist() == [2, 3]
        np.testing.assert_array_equal(shown, found["consensus"][worker][1])


@pytest.mark.long
def test_a_run_whose_prompts_are_all_repeats_ends(trial: Callable[..., Trial]) -> None:
    found = METHODS["words-off-calibrated"](trial(), 6000)
    assert found.calls < 4000
    assert found.details["iterations"] == 750


def test_texts_lack_what_a_method_leaves_out(
    trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    score = Opinionated.label_log_probabilities

    def listening(self: Opinionated, prompts: Any, labels: Any) -> Any:
        asked.extend(prompt.context + prompt.query for prompt in prompts)
        return score(self, prompts, labels)

    monkeypatch.setattr(Opinionated, "label_log_probabilities", listening)
    METHODS["words-off-calibrated"](trial("requests"), 2000)
    assert asked
    assert not any("Note:" in text for text in asked)
    asked.clear()
    METHODS["demonstrations-off-calibrated"](trial("requests"), 2000)
    contexts = {text.rpartition("\n\n")[0] for text in asked if "Note:" in text}
    shown = {_without_notes(context) for context in contexts if context}
    # At the most the random demonstrations of each of the three workers.
    assert len(shown) == 3


def _without_notes(context: str) -> str:
    return "\n".join(line for line in context.split("\n") if not line.startswith("Note:"))


def test_demonstrations_left_alone_are_those_of_the_method_random(
    trial: Callable[..., Trial],
) -> None:
    same = trial("requests")
    random, tuned = (METHODS[name](same, 2000) for name in ("random", "demonstrations-off"))
    for worker in (1, 2, 3):
        _, chosen = random.prompts["own"][worker]
        shown = [
            pool[k].texts["sentence1"]
            for pool, k in zip(random.box.data[worker].pool, chosen, strict=True)
        ]
        assert shown == [row.texts["sentence1"] for (row,) in tuned.box.data[worker].pool]


def test_untuned_and_random_prompts_have_no_words(trial: Callable[..., Trial]) -> None:
    for name in ("untuned", "calibrated", "random", "random-calibrated"):
        for words, _ in METHODS[name](trial(), CALLS).prompts["own"].values():
            assert (words == WITHOUT).all()


def test_all_methods_have_the_same_test_rows_which_nobody_tunes_on(
    trial: Callable[..., Trial],
) -> None:
    data = trial("requests").materials.data
    assert data is not None
    tests = {tuple(row.texts["sentence1"] for row in held.test) for held in data.values()}
    assert len(tests) == 1
    (texts,) = tests
    own = {
        row.texts["sentence1"]
        for held in data.values()
        for rows in (held.train, held.validation, *held.pool)
        for row in rows
    }
    assert not own & {*texts}


def test_the_settings_hold_for_every_task() -> None:
    for name, task in TASKS.items():
        found = quality_tasks.settings(name, TEST)
        of_task = found.pop("task")
        assert found == quality_tasks.merged(quality_tasks.SETTINGS)
        rows = 10 if len(task.labels) == 2 else 5
        assert of_task["train_per_class"] == of_task["validation_per_class"] == rows


# ---------------------------------------------------------------- cells


KEY = Key(CALLS, 0, "reviews", "random")


@pytest.fixture
def made(tmp_path: Path, trial: Callable[..., Trial]) -> Path:
    make(trial(), KEY, TEST, tmp_path)
    return tmp_path


def test_a_cell_has_what_its_prompts_score_on_the_test_rows(
    made: Path, trial: Callable[..., Trial]
) -> None:
    cell = read(KEY, TEST, made)
    assert cell is not None
    found = METHODS[KEY.method](trial(), CALLS)
    losses, accuracies = [], []
    for worker, (words, shown) in found.prompts["own"].items():
        query = Query(worker, Split.TEST, np.arange(TEST), words[None], shown[None])
        (answer,) = found.box.answer([query])
        losses.append(answer.losses[0])
        accuracies.append(answer.accuracies[0])
    assert cell.accuracy == {"own": pytest.approx(np.mean(accuracies))}
    assert cell.loss == {"own": pytest.approx(np.mean(losses), abs=1e-6)}
    assert cell.spent == 0


def test_a_cell_that_is_not_there_is_none(made: Path) -> None:
    assert read(Key(CALLS, 1, "reviews", "random"), TEST, made) is None
    assert read(Key(CALLS + 1, 0, "reviews", "random"), TEST, made) is None


def test_a_cell_of_other_settings_is_refused(made: Path) -> None:
    with pytest.raises(Mismatch, match="other settings; remove it, or give another --output"):
        read(KEY, TEST + 1, made)


def test_a_run_with_other_defaults_is_refused(
    tmp_path: Path, trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Key(CALLS, 0, "reviews", "now")
    make(trial(), key, TEST, tmp_path)
    assert read(key, TEST, tmp_path)
    monkeypatch.setitem(MIRROR_STEPS, "transformers", 10.0)
    with pytest.raises(Mismatch, match="other settings"):
        read(key, TEST, tmp_path)


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"tests": {"own": [{"right": [1]}]}}'])
def test_a_file_that_is_no_cell_is_refused(made: Path, damage: str) -> None:
    KEY.path(made).write_text(damage)
    with pytest.raises(Mismatch, match="is no cell of this benchmark"):
        read(KEY, TEST, made)


@pytest.mark.parametrize("missing", ["a worker", "a row"])
def test_a_cell_that_lacks_answers_is_refused(made: Path, missing: str) -> None:
    path = KEY.path(made)
    content = json.loads(path.read_text())
    own = content["tests"]["own"]
    _ = own.pop() if missing == "a worker" else own[0]["right"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(Mismatch, match="does not have the tests of all workers"):
        read(KEY, TEST, made)


def test_cells_of_other_rows_are_not_compared(made: Path, trial: Callable[..., Trial]) -> None:
    other = Key(CALLS, 0, "reviews", "untuned")
    make(trial(), other, TEST, made)
    assert len(finished([KEY, other], TEST, made)) == 2
    path = other.path(made)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": "another"}))
    with pytest.raises(Mismatch, match="is of other rows"):
        finished([KEY, other], TEST, made)


def test_a_method_that_spends_too_much_leaves_no_cell(
    tmp_path: Path, trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, search = Key(10, 0, "reviews", "search"), METHODS["search"]
    monkeypatch.setitem(METHODS, "search", lambda trial, _: search(trial, CALLS))
    with pytest.raises(RuntimeError, match=r"search spent \d+ calls of 10"):
        make(trial(), key, TEST, tmp_path)
    assert not key.path(tmp_path).exists()


# ---------------------------------------------------------------- statistics and tables


def test_a_paired_difference_is_that_of_students_t() -> None:
    first = {0: 78.0, 1: 81.0, 2: 77.5, 4: 60.0}
    second = {2: 74.0, 0: 77.9, 1: 76.9, 3: 99.0}
    differences = [first[seed] - second[seed] for seed in (0, 1, 2)]
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    found = paired(first, second)
    assert found is not None
    assert found.n == 3
    assert found.mean == pytest.approx(np.mean(differences))
    assert found.mean - found.half == pytest.approx(expected.low)
    assert found.mean + found.half == pytest.approx(expected.high)


def test_one_pair_has_no_interval_and_none_no_difference() -> None:
    found = paired({0: 2.0}, {0: 1.5, 1: 3.0})
    assert found is not None
    assert (found.mean, found.n) == (0.5, 1)
    assert np.isnan(found.half)
    assert paired({0: 1.0}, {1: 1.0}) is None


def cell(method: str, task: str, seed: int, accuracy: float, **more: float) -> Cell:
    kinds = {"own": accuracy, **more}
    loss = {kind: 1 - value for kind, value in kinds.items()}
    return Cell(Key(1200, seed, task, method), kinds, loss, 1000 + seed, "rows")


def rows(lines: list[str], title: str) -> dict[str, list[str]]:
    """Of the table under ``title``, by the first column."""
    start = next(n for n, line in enumerate(lines) if line.startswith(title)) + 4
    found = {}
    for line in lines[start:]:
        if not line:
            break
        first, *others = [each.strip() for each in line.strip("|").split("|")]
        found[first] = others
    return found


def test_the_tables_by_hand() -> None:
    cells = [
        cell("search-calibrated", "snips", 0, 0.70),
        cell("search-calibrated", "snips", 1, 0.74),
        cell("search-calibrated", "clinc", 0, 0.50),
        cell("search-calibrated", "clinc", 1, 0.50),
        cell("now", "snips", 0, 0.75, consensus=0.60),
        cell("now", "snips", 1, 0.77, consensus=0.70),
        cell("now", "clinc", 0, 0.60, consensus=0.50),
    ]
    lines = list(tables(cells, list(METHODS), list(TASKS)))
    means = rows(lines, "Test accuracy")
    assert means["search-calibrated"] == ["72.0 (0.280)", "50.0 (0.500)", "61.0 (0.390)"]
    assert means["now"] == ["76.0 (0.240)", "60.0 (0.400) [1]", "67.5 (0.325) [1]"]
    assert means["now, words of the consensus"][0] == "65.0 (0.350)"
    differences = rows(lines, "Less `search-calibrated`")
    # Differences of 5 and 3 points: 4 +- 12.706 * sqrt(2) / sqrt(2).
    assert differences["now"][0] == "+4.0 ± 12.7 (-0.040 ± 0.127)"
    assert differences["now"][1:] == ["+10.0 (-0.100) [1]", "+7.5 (-0.075) [1]"]
    assert "search-calibrated" not in differences
    assert rows(lines, "Calls")["now"] == ["1,000", "1,000"]
    assert list(means) == ["search-calibrated", "now", "now, words of the consensus"]


def test_tables_without_the_baseline_and_without_cells() -> None:
    lines = list(tables([cell("now", "snips", 0, 0.5)], list(METHODS), list(TASKS)))
    assert not any("Less" in line for line in lines)
    assert list(tables([], list(METHODS), list(TASKS))) == ["No cell is finished."]


def test_tasks_without_a_cell_have_no_column() -> None:
    lines = list(tables([cell("now", "snips", 0, 0.5)], list(METHODS), list(TASKS)))
    assert [line for line in lines if line.startswith("| method")] == [
        "| method | snips | mean of tasks |",
        "| method | snips |",
    ]


# ---------------------------------------------------------------- the command


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["quality.py", *map(str, words)])
    quality.main()


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[list[Key]]:
    """Cells are made here, and noted; another process would have the real language model."""
    groups: list[list[Key]] = []

    class Here:
        def __init__(self, processes: int) -> None: ...
        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, function: Callable[..., None], arguments: Any, group: list[Key]) -> Any:
            groups.append(group)
            future: Future[None] = Future()
            future.set_result(function(arguments, group))
            return future

    monkeypatch.setattr(quality, "ProcessPoolExecutor", Here)
    return groups


def test_the_command_makes_what_is_missing_seed_by_seed_and_prints_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    in_this_process: list[list[Key]],
) -> None:
    common = ["--output", tmp_path, "--calls", CALLS, "--test", TEST, "--tasks"]
    command(monkeypatch, *common, "requests", "--seeds", 1, "--methods", "random")
    wanted = ["requests", "reviews", "--seeds", 2, "--methods", "random", "search-calibrated"]
    command(monkeypatch, *common, *wanted)
    in_this_process.pop(0)
    made = [(k.seed, k.task, k.method) for group in in_this_process for k in group]
    both = ["random", "search-calibrated"]
    assert made == [
        (0, "requests", "search-calibrated"),
        *((0, "reviews", method) for method in both),
        *((1, task, method) for task in ("requests", "reviews") for method in both),
    ]
    capsys.readouterr()
    before = list(in_this_process)
    command(monkeypatch, *common, *wanted)
    assert in_this_process == before  # nothing is left to do
    printed = capsys.readouterr().out.splitlines()
    assert "Less `search-calibrated`: points of accuracy (loss) ± half of the 95 % interval:" in (
        printed
    )
    command(monkeypatch, *common, *wanted, "--table")
    assert capsys.readouterr().out.splitlines() == printed


def test_a_task_whose_folder_is_missing_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, "--data", tmp_path, "--output", tmp_path, "--table")
    printed = capsys.readouterr()
    for name in ("snips", "clinc", "sst2"):
        place = tmp_path / TASKS[name].folder
        assert f"{name} is left out: {place} is no folder; see --data" in printed.err
    assert "reviews" not in printed.err
    assert "No cell is finished." in printed.out


def test_too_few_calls_end_the_command_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_this_process: list[list[Key]]
) -> None:
    words = ["--output", tmp_path, "--tasks", "reviews", "--test", TEST, "--methods", "search"]
    with pytest.raises(SystemExit, match=r"^\d+ calls are too few .* give more --calls$"):
        command(monkeypatch, *words, "--calls", 60)


def test_quick_is_less_unless_something_else_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["quality.py", "--quick", "--seeds", "2"])
    found = quality.parsed()
    assert (found.seeds, found.test, found.tasks) == (2, 50, ["reviews", "requests"])
    assert {*found.methods} <= {*METHODS}
    monkeypatch.setattr(sys, "argv", ["quality.py"])
    full = quality.parsed()
    assert (full.calls, full.seeds, full.test, full.methods) == (1200, 5, 100, USUAL)


def test_the_document_names_every_method() -> None:
    text = (ROOT / "docs" / "quality.md").read_text()
    assert not [name for name in METHODS if f"`{name.removesuffix('-calibrated')}" not in text]
