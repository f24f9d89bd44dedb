"""A run's prompt as a file, and what it predicts: the same as in the run's own tests."""

import csv
import importlib
import json
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import h5py
import jinja2
import numpy as np
import pytest

import asyndbt_mpi as adbt
from asyndbt_mpi.assemble import prepare
from asyndbt_mpi.commands.predict import predict
from asyndbt_mpi.commands.prompt import tuned_prompt
from asyndbt_mpi.commands.simulate import simulate
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.log.reader import Best, Log
from asyndbt_mpi.protocol.messages import Candidate, EvaluationReport, Split, ToServer
from asyndbt_mpi.protocol.records import Output
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.tuned import (
    Demonstration,
    TunedPrompt,
    as_jinja,
    as_request,
    as_text,
    read_prompt,
)
from asyndbt_mpi.view.outcomes import newest_tests
from asyndbt_mpi.view.recommended import recommended
from tests.commands.partial import Partial, use_partial
from tests.helpers import Result, asyndbt
from tests.report.parsed import Page

WORKERS = 3
SETTINGS = (
    "run.iterations=3", "run.evaluate_every=2", "run.race=5", "task.test=20",
    "task.train_per_class=6", "task.validation_per_class=5", "estimator.batch=3",
    "algorithm.plane_period=3", "delay.model=lognormal", "delay.mean=1",
    "task.partition=dirichlet", "task.alpha=0.5",
)  # fmt: skip
METHODS = ("none", "batch", "content_free")


@pytest.fixture(autouse=True)
def partial(monkeypatch: pytest.MonkeyPatch) -> None:
    use_partial(monkeypatch)


def run(path: Path, *settings: str) -> Path:
    request = Request("reviews", (*SETTINGS, *settings), str(path), True, False, False)
    simulate(Job.of(request, WORKERS), False)
    return path


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with each calibration."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        use_partial(patch)
        return {each: run(folder / f"{each}.h5", f"task.calibration={each}") for each in METHODS}


@pytest.fixture(scope="module")
def prompt(logs: dict[str, Path]) -> TunedPrompt:
    return tuned_prompt(logs["batch"], None)


def refused(result: Result) -> str:
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    return result.stderr


# ---------------------------------------------------------------- the prompt


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("worker", [1, 2, 3])
def test_scores_are_those_of_the_runs_own_tests(logs, method: str, worker: int) -> None:
    with Log(logs[method]) as log:
        data = prepare(log.config, WORKERS).data
        tests = newest_tests(log)
        chosen = [
            row
            for row in tests.tolist()
            if log["evaluation/worker"][row] == worker
            and log["evaluation/candidate"][row] == Candidate.TUNED
        ]
        _, logged = log.answers(chosen[0])
    assert data is not None
    found = tuned_prompt(logs[method], None, worker=worker)
    again = TunedPrompt.model_validate_json(found.to_json())
    np.testing.assert_allclose(
        again.log_probabilities(Partial(), data[worker].test), logged, atol=1e-9
    )


def test_recommended_is_the_least_loss_in_a_race(logs, prompt) -> None:
    with Log(logs["batch"]) as log:
        losses = {worker: best.loss for worker, best in log.winners.items()}
    assert prompt.origin.worker == min(losses, key=lambda worker: losses[worker])
    assert "in its race" in prompt.origin.chosen
    assert tuned_prompt(logs["batch"], None, worker=2).origin.worker == 2


def test_what_is_recommended_is_a_workers_own_word(tmp_path: Path, monkeypatch) -> None:
    """A liar among four has its own recommended, and the reason says whose word that is."""
    liar, receive = 4, Server.receive

    def told(self: Server, worker: int, message: ToServer, now: float) -> Output:
        if worker == liar and isinstance(message, EvaluationReport):
            message = replace(message, loss=-100.0)
        return receive(self, worker, message, now)

    monkeypatch.setattr(Server, "receive", told)
    for workers in (4, 3):
        path = tmp_path / f"{workers}.h5"
        config = adbt.load("synthetic", ["run.iterations=6", "run.evaluate_every=3", "run.race=4"])
        adbt.simulate(config, workers, path)
        with Log(path) as log:
            chosen, why = recommended(log)
            assert ("by its own word; --worker" in why) == (workers == 4)
            assert (chosen == liar) == (workers == 4)
            assert recommended(log, worker=2)[0] == 2


def test_without_tests_the_race_calibrates(tmp_path: Path) -> None:
    path = run(tmp_path / "run.h5", "task.test=0")
    found = tuned_prompt(path, None)
    assert found.tested is None
    with Log(path) as log:
        raced = (log["evaluation/split"] == Split.RACE) & (
            log["evaluation/worker"] == found.origin.worker
        )
        biases = log["evaluation/bias"][raced]
    assert any(np.array_equal(found.bias, bias) for bias in biases)


def test_how_good_it_is_is_what_show_says(logs, prompt, tmp_path: Path) -> None:
    assert prompt.tested is not None
    assert prompt.tested.rows == 20
    assert prompt.tested.low <= prompt.tested.accuracy <= prompt.tested.high
    result = asyndbt("show", str(logs["batch"]), folder=tmp_path)
    assert f"{100 * prompt.tested.accuracy:.1f}" in result.stdout


def test_a_prompt_comes_back_from_its_file(logs, prompt, tmp_path: Path) -> None:
    result = asyndbt("prompt", str(logs["batch"]), "-o", "prompt.json", folder=tmp_path)
    assert result.returncode == 0
    assert f"of worker {prompt.origin.worker}" in result.stdout
    assert read_prompt(tmp_path / "prompt.json") == prompt
    assert asyndbt("prompt", str(logs["batch"]), folder=tmp_path).stdout == prompt.to_json()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--worker", "4"], "--worker 4: the run has workers 1 to 3"),
        (["-o", "missing/prompt.json"], "cannot be written"),
        (["--data", "missing"], "missing"),
    ],
)
def test_what_cannot_be_exported_is_refused(logs, tmp_path: Path, arguments, said: str) -> None:
    assert said in refused(asyndbt("prompt", str(logs["none"]), *arguments, folder=tmp_path))


def test_a_function_has_no_prompt(tmp_path: Path) -> None:
    request = Request(
        "synthetic", ("run.iterations=1",), str(tmp_path / "s.h5"), True, False, False
    )
    simulate(Job.of(request, WORKERS), False)
    assert "no prompt in words" in refused(asyndbt("prompt", "s.h5", folder=tmp_path))


def test_other_data_are_refused_and_moved_ones_found(tmp_path: Path) -> None:
    shipped = resources.files("asyndbt_mpi.task") / "data" / "reviews"
    with resources.as_file(shipped) as folder:
        shutil.copytree(folder, tmp_path / "old")
    path = run(tmp_path / "run.h5", f"task.path={tmp_path / 'old'}")
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert asyndbt("prompt", "run.h5", "--data", "new", folder=tmp_path).returncode == 0
    assert "--config" in refused(asyndbt("prompt", "run.h5", folder=tmp_path))
    train = tmp_path / "new" / "train.jsonl"
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    for row in rows:
        row["sentence1"] += " indeed"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "different data" in refused(
        asyndbt("prompt", str(path), "--data", "new", folder=tmp_path)
    )


def spoil(path: Path) -> None:
    """Tuned prompts become wrong on all test rows but one, other prompts right on all."""
    with h5py.File(path, "r+") as file:
        evaluations, of = file["evaluation"], file["answer/evaluation"][:]
        for row in np.unique(of).tolist():
            rows = np.flatnonzero(of == row)
            labels = file["answer/label"][:][rows]
            is_tuned = evaluations["candidate"][row] == Candidate.TUNED
            answered = labels + (is_tuned & (np.arange(len(rows)) > 0))
            classes = file["answer/log_probabilities"].shape[1]
            logs = np.log(np.where(np.eye(classes)[answered % classes], 0.9, 0.1 / (classes - 1)))
            file["answer/log_probabilities"][rows] = logs
            evaluations["accuracy"][row] = (answered == labels).mean()
            evaluations["loss"][row] = -logs[np.arange(len(rows)), labels].mean()


def test_what_the_tests_say_against_it_is_told_with_a_recommendation(
    demo_run: Path, tmp_path: Path
) -> None:
    commands = (
        ("prompt", "demo.h5", "-o", "prompt.json"), ("show", "demo.h5"),
        ("report", "demo.h5", "-o", "page.html"),
    )  # fmt: skip

    def told() -> list[str]:
        results = [asyndbt(*command, folder=tmp_path) for command in commands]
        assert not any(result.returncode for result in results)
        texts = (
            results[0].stderr,
            results[1].stdout,
            Page((tmp_path / "page.html").read_text()).text,
        )
        return [" ".join(text.split()) for text in texts]

    warning = "the test rows the tuned prompts are 97.5 points below the untuned prompt (95 %: "
    assert not any("points below" in text for text in told())
    worker = read_prompt(tmp_path / "prompt.json").origin.worker
    spoil(demo_run)
    assert all(f"arning: on {warning}" in text for text in told())
    assert read_prompt(tmp_path / "prompt.json").origin.worker == worker, "the race has chosen"
    printed = asyndbt("prompt", "demo.h5", folder=tmp_path)
    assert printed.stdout == (tmp_path / "prompt.json").read_text()
    assert printed.stderr.startswith(f"asyndbt: warning: on {warning}")


# ---------------------------------------------------------------- for other programs


NASTY = Row({"sentence1": "{{ 7 * 7 }} {% raw %} {sentence1} {% endraw %} \\ \"'\n<b>"}, 0)


def test_formats_are_the_prompt(prompt: TunedPrompt) -> None:
    changed = prompt.model_copy(
        update={
            "template": "{% set %} {" + prompt.template,
            "words": ["{{ x }}", "{# y #}"],
            "demonstrations": [Demonstration(texts=NASTY.texts, label=1)],
        }
    )
    (whole,) = changed.prompts([NASTY])
    due = whole.context + whole.query
    text = NASTY.texts["sentence1"]
    environment = jinja2.Environment(keep_trailing_newline=True)
    assert environment.from_string(as_jinja(changed)).render(sentence1=text) == due
    assert as_text(changed).replace("<sentence1>", text) == due
    body = json.loads(as_request(changed))
    assert body["prompt"].replace("{sentence1}", text).startswith(due[:20])
    assert body["model"] == changed.model.model
    chat = changed.model.model_copy(update={"backend": "openai", "api": "chat"})
    body = json.loads(as_request(changed.model_copy(update={"model": chat})))
    assert [message["role"] for message in body["messages"]] == ["user"]


# ---------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bias": [0.0]}, "bias has 1 numbers"),
        ({"log_prior": []}, "log_prior has 0 numbers"),
        ({"bias": [0.0, 1e300]}, "finite"),
        ({"demonstrations": [{"texts": {"sentence1": "x"}, "label": 2}]}, "label 2"),
        ({"demonstrations": [{"texts": {"other": "x"}, "label": 1}]}, "lacks sentence1"),
        ({"template": "no place for texts"}, "task.template"),
        ({"labels": [" one"]}, "task.labels"),
        ({"calibration": "sometimes"}, "calibration"),
        ({"format": "asyndbt prompt 2"}, "format"),
        ({"key": "value"}, "key"),
        ({"model": None}, "model"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(prompt, tmp_path: Path, changes, said: str) -> None:
    content = json.loads(prompt.to_json()) | changes
    (tmp_path / "prompt.json").write_text(json.dumps(content))
    (tmp_path / "rows.csv").write_text("sentence1\nfine\n")
    told = refused(asyndbt("predict", "prompt.json", "rows.csv", "-o", "o.csv", folder=tmp_path))
    assert said in told
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize("content", ["", "[]", "{", "\xff", '{"format": NaN}'])
def test_what_is_no_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "prompt.json").write_text(content, encoding="latin-1")
    (tmp_path / "rows.csv").write_text("sentence1\nfine\n")
    refused(asyndbt("predict", "prompt.json", "rows.csv", "-o", "o.csv", folder=tmp_path))


# ---------------------------------------------------------------- predictions


@pytest.fixture
def folder(prompt: TunedPrompt, tmp_path: Path) -> Path:
    (tmp_path / "prompt.json").write_text(prompt.to_json())
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "sentence1"])
        writer.writerows([n % 2, f"row number {n}, {'good' * (n % 3)}"] for n in range(150))
    return tmp_path


def test_every_row_has_its_label_and_probabilities(folder: Path, prompt: TunedPrompt) -> None:
    result = asyndbt("predict", "prompt.json", "rows.csv", "-o", "out.csv", folder=folder)
    assert result.returncode == 0, result.stderr
    with (folder / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == [str(n) for n in range(1, 151)]
    texts = [Row({"sentence1": f"row number {n}, {'good' * (n % 3)}"}, 0) for n in range(150)]
    due = np.exp(prompt.log_probabilities(Partial(), texts))
    names = [label.strip() for label in prompt.task.label_texts]
    found = np.array([[float(row[f"p({name})"]) for name in names] for row in rows])
    np.testing.assert_allclose(found, due, atol=1e-6)
    assert [row["label"] for row in rows] == [names[best] for best in due.argmax(axis=1)]


def predicted(folder: Path, rows: str) -> list[list[str]]:
    result = asyndbt("predict", "prompt.json", rows, "-o", "out.csv", folder=folder)
    assert result.returncode == 0, result.stderr
    with (folder / "out.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_columns_that_are_not_shown_are_kept(folder: Path) -> None:
    (folder / "ids.csv").write_text(
        'id,sentence1,label,"a, b",row,label (input),p(other)\n'
        '7,one,positive,"x, ""y""",9,z,\n"8\n",two,,,,,0.5\n'
    )
    head, *lines = predicted(folder, "ids.csv")
    kept = ["id", "label (input) (input)", "a, b", "row (input)", "label (input)", "p(other)"]
    assert head == ["row", *kept, "label", "p(negative)", "p(positive)"]
    assert [line[:7] for line in lines] == [
        ["1", "7", "positive", 'x, "y"', "9", "z", ""], ["2", "8\n", "", "", "", "", "0.5"],
    ]  # fmt: skip
    assert all(line[7] in ("negative", "positive") for line in lines)


def test_cells_of_json_are_kept_as_they_were(folder: Path) -> None:
    (folder / "rows.jsonl").write_text(
        '{"sentence1": "one", "id": 12, "ok": true, "tags": ["a", "b"], "p(negative)": 1}\n'
        '{"sentence1": "two", "id": null, "note": "half \\ud800"}\n'
    )
    head, *lines = predicted(folder, "rows.jsonl")
    assert head[:6] == ["row", "id", "ok", "tags", "p(negative) (input)", "note"]
    assert [line[:6] for line in lines] == [
        ["1", "12", "true", '["a", "b"]', "1", ""], ["2", "", "", "", "", "half \\ud800"],
    ]  # fmt: skip


def test_of_parquet_texts_and_whole_numbers_are_kept(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    rows = [{"id": 7, "sentence1": "one", "share": 0.5, "name": "x"}]
    writer = importlib.import_module("pyarrow.parquet")
    writer.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    head, line = predicted(folder, "rows.parquet")
    assert (head[:4], line[:3]) == (["row", "id", "name", "label"], ["1", "7", "x"])


def test_predictions_are_compared_with_labels(folder: Path, prompt: TunedPrompt) -> None:
    arguments = "prompt.json", "rows.csv", "-o", "out.csv", "--evaluate"
    result = asyndbt("predict", *arguments, folder=folder)
    texts = [Row({"sentence1": f"row number {n}, {'good' * (n % 3)}"}, 0) for n in range(150)]
    best = prompt.log_probabilities(Partial(), texts).argmax(axis=1)
    share = np.mean(best == np.arange(150) % 2)
    assert f"accuracy {100 * share:.1f} per cent" in result.stdout
    assert "on 150 rows" in result.stdout
    for right in (0, 1):
        for predicted in (0, 1):
            count = int(((np.arange(150) % 2 == right) & (best == predicted)).sum())
            assert str(count) in result.stdout


def test_a_log_predicts_as_its_prompt_file(folder: Path, logs: dict[str, Path]) -> None:
    for source, output in (("prompt.json", "one.csv"), (str(logs["batch"]), "two.csv")):
        result = asyndbt("predict", source, "rows.csv", "-o", output, folder=folder)
        assert result.returncode == 0, result.stderr
    assert (folder / "one.csv").read_text() == (folder / "two.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.csv", "-o", "o.csv"], "missing.csv"),
        (["empty.csv", "-o", "o.csv"], "no rows"),
        (["other.csv", "-o", "o.csv"], "{sentence1} is no column"),
        (["rows.csv", "-o", "missing/o.csv"], "cannot be written"),
        (["rows.csv", "-o", "o.csv", "--worker", "1"], "--worker"),
        (["rows.csv", "-o", "o.csv", "--set", "llm.modle=x"], "llm.modle"),
        (["unlabelled.csv", "-o", "o.csv", "--evaluate"], "label"),
        (["strange.csv", "-o", "o.csv", "--evaluate"], "no label stands for"),
    ],
)
def test_what_cannot_be_predicted_is_refused(folder: Path, arguments, said: str) -> None:
    (folder / "empty.csv").write_text("sentence1\n")
    (folder / "other.csv").write_text("text\nfine\n")
    (folder / "unlabelled.csv").write_text("sentence1\nfine\n")
    (folder / "strange.csv").write_text("sentence1,label\nfine,7\n")
    assert said in refused(asyndbt("predict", "prompt.json", *arguments, folder=folder))


def test_the_same_from_python(folder: Path, logs: dict[str, Path], prompt: TunedPrompt) -> None:
    assert adbt.tuned_prompt(logs["batch"]) == adbt.read_prompt(folder / "prompt.json") == prompt
    rows = [{"sentence1": "one"}, {"sentence1": "two", "further": "column"}]
    due = np.exp(prompt.log_probabilities(Partial(), [Row(row, 0) for row in rows]))
    np.testing.assert_array_equal(adbt.predict(prompt, rows), due)
    with pytest.raises(adbt.ConfigurationError, match=r"rows\[1\]: sentence1 is missing"):
        adbt.predict(prompt, [rows[0], {"text": "two"}])


def changed_model(folder: Path, **changes: str) -> None:
    content = json.loads((folder / "prompt.json").read_text())
    content["model"] |= changes
    (folder / "prompt.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({"backend": "openai"}, [], "--set llm.base_url"),
        ({"model": "someone/model"}, [], "--set llm.model"),
        ({}, ["--set", "llm.model=other"], "tuned and calibrated for"),
        ({}, ["--set", "llm.precision=bfloat16"], "tuned and calibrated for"),
        ({}, ["--set", "task.calibration=none"], "only keys of [llm]"),
    ],
)
def test_whom_to_ask_is_not_taken_from_a_file(folder: Path, changes, arguments, said: str) -> None:
    changed_model(folder, **changes)
    command = "predict", "prompt.json", "rows.csv", "-o", "o.csv", *arguments
    assert said in refused(asyndbt(*command, folder=folder))
    if "calibrated" in said:
        allowed = asyndbt(*command, "--set", "llm.model_may_differ=true", folder=folder)
        assert allowed.returncode == 0


def test_nothing_that_is_read_is_written_over(folder: Path, logs: dict[str, Path]) -> None:
    shutil.copy(logs["batch"], folder / "run.h5")
    shutil.copy(logs["none"], folder / "other.h5")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for output in ("run.h5", "./run.h5", "other.h5"):
        refused(asyndbt("prompt", "run.h5", "-o", output, folder=folder))
    for output in ("prompt.json", "rows.csv", "other.h5"):
        refused(asyndbt("predict", "prompt.json", "rows.csv", "-o", output, folder=folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_untuned_prompt_is_calibrated_if_it_wins(logs, monkeypatch) -> None:
    with Log(logs["batch"]) as log:
        raced = (log["evaluation/split"] == Split.RACE) & (
            log["evaluation/candidate"] == Candidate.UNTUNED
        )
        untuned = {
            worker: Best(
                Candidate.UNTUNED, log.committed, 0.0, np.full_like(w, -1), np.full_like(d, -1)
            )
            for worker, w, d in zip(
                log["evaluation/worker"][raced].tolist(),
                log["evaluation/words"][raced],
                log["evaluation/demonstrations"][raced],
                strict=True,
            )
        }
        winners = log.winners
    monkeypatch.setattr(Log, "winners", untuned)
    for worker in untuned:
        found = tuned_prompt(logs["batch"], None, worker=worker)
        assert not found.words
        assert not found.demonstrations
        assert np.abs(found.bias).max() > 0.1
        known = winners[worker].candidate is Candidate.UNTUNED
        assert (found.tested is not None) == known, "what was tested may be another prompt"


def test_what_was_predicted_before_an_error_is_kept(folder: Path, prompt: TunedPrompt) -> None:
    class Breaking(Partial):
        asked = 0

        def label_log_probabilities(self, prompts, labels):  # type: ignore[no-untyped-def]
            self.asked += 1
            if self.asked > 1:
                raise ConnectionError
            return super().label_log_probabilities(prompts, labels)

    rows = [Row({"sentence1": str(n)}, 0) for n in range(150)]
    with pytest.raises(ConnectionError):
        predict(prompt, Breaking(), rows, {}, folder / "out.csv")
    assert len((folder / "out.csv").read_text().splitlines()) == 1 + 64
