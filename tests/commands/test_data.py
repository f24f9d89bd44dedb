"""`asyndbt data`, and whole runs on data whose labels are their own."""

import csv
import re
from pathlib import Path

import pytest

from asyndbt_mpi.assemble import prepare
from asyndbt_mpi.commands.replay import replay
from asyndbt_mpi.commands.show import show
from asyndbt_mpi.commands.simulate import simulate
from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.jobs.resume import check_settings
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from tests.commands.partial import use_partial
from tests.helpers import Result, asyndbt, sets

TOPICS = "science", "sport", "politics"
MINE = """
[run]
name = "mine"
iterations = 3
evaluate_every = 1
[estimator]
samples = 2
batch = 4
[prompt]
fragment_length = 2
vocabulary_size = 4
pool = 3
[task]
path = "rows.csv"
template = "[[{fragment}\\n]]{Title}: {Body Text}\\nTopic:"
label_column = "Kind"
train_per_class = 3
validation_per_class = 2
test = 30
[llm]
cache = 0
"""
WORDS = '# vocabulary = "words.txt"   # one word or phrase a line, 16 or more; by default "instructions"'
TAKEN = '{ "politics" = " politics", "science" = " science", "sport" = " sport" }'


def write(folder: Path, *changed: tuple[int, str], topics: tuple[str, ...] = TOPICS) -> None:
    """A table of 90 rows, and a configuration; ``changed`` rows have another text."""
    texts = [f"What is told in text {n},\nat some length" for n in range(90)]
    for number, text in changed:
        texts[number] = text
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["id", "Title", "Body Text", "Kind", "a/b"])
        for number, text in enumerate(texts):
            writer.writerow([number, f"T{number}", text, topics[number % len(topics)], ""])
    (folder / "mine.toml").write_text(MINE)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)


def shown(*arguments: str) -> Result:
    return asyndbt("data", *arguments, folder=Path())


# ---------------------------------------------------------------- the command


def test_a_table_alone_is_guessed_at() -> None:
    result = shown("rows.csv")
    assert result.returncode == 0, result.stderr
    head, _, table = result.stdout.partition("[task]\n")
    assert head.startswith(
        "train: rows.csv: CSV, separated by semicolons, UTF-8; 90 rows\n"
        "columns: id, Title, Body Text (shown), Kind (the label), a/b (a template cannot show this"
        " name)\nsplit: 63 rows to train on and 27 to judge by (task.split = 0.3)\n"
    )
    assert "' politics'         21          9\n" in head
    assert head.count("\n--- rows.csv, line ") == 3
    assert "\nat some length\nLabel: sport\n" in head
    assert table == (
        'path = "rows.csv"\ntemplate = "[[{fragment}\\n]]Body Text: {Body Text}\\nLabel:"\n'
        f'label_column = "Kind"\nlabels = {TAKEN}\n'
        "# few rows, which 3 workers share:\ntrain_per_class = 4\nvalidation_per_class = 1\n\n"
        f"[prompt]\n{WORDS}\npool = 3\n"
    )
    assert "\nenough for 0 workers, each of which takes 18 rows" in head
    assert "\nthe sizes in the table below make the rows enough for 3 workers\n" in head
    assert (
        "\nwords of the prompts below: 'consider overall meaning carefully', the first 4 of"
        " prompt.vocabulary = 'instructions'; tuning chooses among 16\n\n--- rows.csv"
    ) in head
    Path("guess.toml").write_text("[task]\n" + table)
    materials = prepare(load("guess.toml"), 3)
    assert materials.template is not None
    assert materials.template.labels == [" politics", " science", " sport"]


@pytest.mark.parametrize("rows", [6, 12, 30, 60, 70, 90, 130, 180, 200, 400])
def test_a_guess_has_sizes_for_which_the_rows_are_enough(rows: int, tmp_path: Path) -> None:
    lines = "".join(f"text {n},{('a', 'b')[n % 2]}\n" for n in range(rows))
    (tmp_path / "few.csv").write_text("text,kind\n" + lines)
    understood, _, table = asyndbt("data", "few.csv", folder=tmp_path).stdout.partition("[task]\n")
    if rows == 70:
        assert "\nenough for 1 worker, which takes 18 rows of each class to train on" in understood
    (tmp_path / "guess.toml").write_text(
        "[task]\n" + table.replace("few.csv", str(tmp_path / "few.csv"))
    )
    config = load(str(tmp_path / "guess.toml"))
    if rows < 40:  # 6 rows of a class to judge by are the least that leaves some to test on
        assert "few rows" not in table
        with pytest.raises(ConfigurationError):
            prepare(config, 3)
    else:
        assert ("few rows" in table) == (rows < 400)
        assert ("the sizes in the table below" in understood) == (rows < 400)
        assert f"\n[prompt]\n{WORDS}\n" in table
        prepare(config, 3)


def test_a_configuration_is_shown_as_a_run_understands_it(tmp_path: Path) -> None:
    write(tmp_path, (3, "Same"), (4, "Same"))
    result = shown("mine.toml", *sets("task.template=[[{fragment}\n]]Say {Body Text}. Topic:"))
    assert result.returncode == 0, result.stderr
    assert "labels: taken from column 'Kind', after a space\n" in result.stdout
    assert "warning: 1 texts occur with different labels\n" in result.stdout
    assert "enough for 3 workers, each of which takes 6 rows of each class" in result.stdout
    assert "[task]" not in result.stdout
    assert "the sizes in the table below" not in result.stdout
    materials = prepare(load("mine.toml"), 3)
    assert materials.data is not None
    assert f"; {len(materials.data[1].test)} are then left to test on\n" in result.stdout


def test_data_that_ship_with_a_preset_are_shown() -> None:
    result = shown("fiveg")
    assert result.returncode == 0, result.stderr
    assert "columns: term1 (shown), term2 (shown), passage (shown), label (the label)\n" in (
        result.stdout
    )
    assert "' Yes'        256        170\n" in result.stdout
    assert "warning" not in result.stdout + result.stderr
    assert re.search(r"\nIn 5G networks, are .+ and .+ related\? (No|Yes)\n", result.stdout)


def test_texts_on_both_sides_are_counted() -> None:
    for name, lines in (("train", "a,x\nb,y\n"), ("test", "c,x\nb,y\n")):
        Path(f"{name}.csv").write_text("text,label\n" + lines)
    result = shown(".")
    assert "warning: 1 of the rows to judge by have texts that are also trained on" in result.stdout
    assert "the first is test.csv, line 3\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("synthetic",), "is a function, which has no data"),
        (("none.csv",), "no such file or folder"),
        (("rows.csv", "--set", "run.seed=1"), "--set changes a configuration"),
        (("numbers.csv",), "no column looks like texts"),
        (("ids.csv",), "no column looks like labels"),
        (("mine.toml", "--set", "task.label_column=kind"), "its columns are 'Kind', 'id'"),
        (("mine.toml", "--set", "task.template=[[{fragment} ]]{title}"), "its columns are 'Title'"),
        (("mine.toml", "--set", "task.template=[[{fragment} ]]{a b}"), "{a b} is no column"),
    ],
)
def test_what_a_run_would_refuse_is_refused(arguments: tuple[str, ...], fault: str) -> None:
    Path("numbers.csv").write_text("a,label\n,0\n,1\n")
    Path("ids.csv").write_text("text\n" + "".join(f"text {n}\n" for n in range(50)))
    result = shown(*arguments)
    assert result.returncode == 2
    assert fault in result.stderr
    assert "Traceback" not in result.stderr


# ---------------------------------------------------------------- labels of the data in runs


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Path:
    use_partial(monkeypatch)
    return made()


def made(*changes: str, resuming: bool = False) -> Path:
    request = Request("mine.toml", changes, None, False, False, resuming)
    simulate(Job.of(request, 2), resuming)
    return Path("runs/mine.h5")


def mine(*changes: str) -> Config:
    return load("mine.toml", changes)


def test_a_log_has_the_labels_of_the_data(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(log).violations == []
    with Log(log) as read:
        assert read.config.task.labels == {name: f" {name}" for name in sorted(TOPICS)}
        check_settings(read, mine())
    show(log, mine(), prompts=True, classes=False)
    assert capsys.readouterr().out.count("<Title>: <Body Text>\nTopic:") == 2


def test_a_run_with_labels_of_the_data_is_replayed_and_resumed(log: Path) -> None:
    assert replay(log, mine()).difference is None
    assert made("run.iterations=5", resuming=True) == log
    assert verify(log).violations == []
    assert replay(log, mine()).iterations == 5


@pytest.mark.parametrize("change", ["a text", "a label", "the labels"])
def test_a_run_whose_data_have_changed_is_refused(log: Path, change: str, tmp_path: Path) -> None:
    if change == "a text":
        for number in range(90):
            write(tmp_path, (number, "Other"))
            if prepare(mine(), 2).data_digest != Log(log).data_digest:
                break  # a row that the run uses
    else:
        write(
            tmp_path, topics=("science", "sports", "politics")[:: -1 if change == "a label" else 1]
        )
    with pytest.raises((LogError, ConfigurationError)) as caught:
        show(log, mine(), prompts=True, classes=False)
    assert "different data" in str(caught.value) or "no label stands" in str(caught.value)
    with pytest.raises(ConfigurationError):
        made("run.iterations=5", resuming=True)


def test_labels_by_name_give_the_run_of_labels_by_number() -> None:
    """The same texts in the same order of classes: the same rows for everybody."""
    by_name = prepare(mine(), 2)
    by_table = prepare(mine(f"task.labels={TAKEN.replace(' politics', ' P')}"), 2)
    Path("rows.csv").write_text(
        Path("rows.csv").read_text().replace(";politics;", ";0;").replace(";science;", ";1;")
        .replace(";sport;", ";2;")
    )  # fmt: skip
    by_number = prepare(mine('task.labels=[" politics", " science", " sport"]'), 2)
    assert by_name.data == by_table.data == by_number.data
    assert len({each.data_digest for each in (by_name, by_table, by_number)}) == 3


# ---------------------------------------------------------------- too few test rows


def test_too_few_test_rows_are_warned_of_everywhere(log: Path, tmp_path: Path) -> None:
    log.unlink()
    few = "task.test=31"
    left = 27 - 2 * 2 * 3
    line = f"warning: task.test = 31, but only {left} rows are left to test on"
    note = f"asyndbt: note: task.labels are taken from column 'Kind': {TAKEN}\n"
    options = ["mine.toml", "--workers", "2", *sets(few)]
    estimated = asyndbt("estimate", *options, folder=tmp_path)
    simulated = asyndbt("simulate", *options, folder=tmp_path)
    for result in (estimated, simulated):
        assert result.returncode == 0, result.stderr
        assert f"asyndbt: {line}" in result.stderr
        assert note in result.stderr
    table = asyndbt("show", str(log), folder=tmp_path).stdout
    assert f"warning: only {left} test rows, where task.test = 31 would take more" in table
    by_default = asyndbt(
        "estimate", "mine.toml", *sets("task.test=200"), "--workers", "2", folder=tmp_path
    )
    assert f"warning: task.test = 200 (the default), but only {left} rows" in by_default.stderr
    for enough in (f"task.test={left}", "run.evaluate_every=0"):
        result = asyndbt(
            "estimate", "mine.toml", *sets(few, enough), "--workers", "2", folder=tmp_path
        )
        assert "left to test on" not in result.stderr
