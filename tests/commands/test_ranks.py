"""What all ranks must have in common, and rows that cannot fit: refused before anything is asked."""

import json
import sys
from pathlib import Path

import pytest
from transformers import GPT2Config

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from tests.helpers import (
    Result,
    asyndbt,
    asyndbt_alone,
    complaints,
    mpiexec,
    needs_mpiexec,
    start,
)
from tests.llm.tiny import save

pytestmark = needs_mpiexec

CONFIG = """
[run]
iterations = 2
[algorithm]
active_workers = 2
[prompt]
fragment_length = 2
vocabulary = {words}
vocabulary_size = 2
pool = 2
[estimator]
samples = 2
batch = 2
[task]
path = "data"
template = "[[{{fragment}}: ]]It is {{sentence1}}?"
labels = [" good", " bad"]
train_per_class = 2
validation_per_class = 2
test = 4
[llm]
model = "{model}"
cache_folder = ""
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4}
    return save(tmp_path_factory.mktemp("model"), GPT2Config(n_positions=128, **sizes))


def lay_out(folder: Path, model: Path, words: str = '["a", "b"]', long: int = 0) -> None:
    """The configuration and data of a run; a row of class 0 in every file may have ``long`` letters."""
    (folder / "data").mkdir(parents=True)
    (folder / "mine.toml").write_text(CONFIG.format(model=model, words=words))
    for name in ("train", "dev"):
        rows = [{"sentence1": f"{name} {i}", "label": i % 2} for i in range(20)]
        rows[6]["sentence1"] += "x" * long
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def ranks(how: str, folder: Path, *arguments: str, elsewhere: Path | None = None) -> Result:
    command = [sys.executable, "-m", "tests.commands.rank", how, "run", "mine.toml"]
    words = ["--output", "run.h5", *arguments]
    return start(mpiexec(3, [*command, *words]), folder, ELSEWHERE=str(elsewhere or folder))


def refused(result: Result, folder: Path) -> str:
    """The one line of a run that was refused before anything was asked."""
    assert result.returncode == 2, result.stderr
    (line,) = complaints(result)
    assert "Traceback" not in result.stderr
    assert not list(folder.rglob("*.h5"))
    return line


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("iterations = 3", "another configuration"),
        ("words", "another word list"),
        ("data", "other data"),
    ],
)
def test_a_rank_that_reads_something_else_is_named(
    tmp_path: Path, model: Path, change: str, what: str
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder, words in (
        (here, "a\nb\n"),
        (elsewhere, "a\nc\n" if change == "words" else "a\nb\n"),
    ):
        lay_out(folder, model, '"words.txt"')
        (folder / "words.txt").write_text(words)
    if change == "data":
        file = elsewhere / "data" / "train.jsonl"
        file.write_text(file.read_text().replace("train", "other"))
    if change.startswith("iterations"):
        file = elsewhere / "mine.toml"
        file.write_text(file.read_text().replace("iterations = 2", change))
    result = ranks("folder", here, elsewhere=elsewhere)
    line = refused(result, tmp_path)
    assert line.startswith("asyndbt: rank 2 on ")
    assert f"has read {what} than rank 0 on " in line
    assert ("run.iterations = 3, not 2" in line) == (what == "another configuration")
    assert "asked" not in result.stdout


@pytest.mark.parametrize("how", ["models:aa,aa", "late"])
def test_a_row_that_cannot_fit_is_refused(tmp_path: Path, model: Path, how: str) -> None:
    lay_out(tmp_path, model, long=150)
    line = refused(ranks(how, tmp_path), tmp_path)
    assert "data/dev.jsonl, line 7 (" in line or "data/train.jsonl, line 7 (" in line
    assert "reads at most 128" in line
    assert "xxx" not in line


def test_a_row_that_cannot_fit_is_refused_in_simulations(tmp_path: Path, model: Path) -> None:
    lay_out(tmp_path, model, long=150)
    result = asyndbt("simulate", "mine.toml", "--workers", "2", folder=tmp_path)
    assert "jsonl, line 7 (" in refused(result, tmp_path)


def test_the_doctor_finds_a_row_that_cannot_fit(tmp_path: Path, model: Path) -> None:
    lay_out(tmp_path, model, long=150)
    result = asyndbt_alone("doctor", "mine.toml", "--workers", "2", folder=tmp_path)
    assert result.returncode == 1
    (line,) = [line for line in result.stdout.splitlines() if " rows: " in line]
    assert line.startswith("problem  rows: ")
    assert "jsonl, line 7 (" in line
    (tmp_path / "short").mkdir()
    lay_out(tmp_path / "short" / "run", model)
    result = asyndbt_alone(
        "doctor", "mine.toml", "--workers", "2", folder=tmp_path / "short" / "run"
    )
    assert "ok       rows: all fit" in result.stdout


def test_a_run_whose_workers_hold_two_models_is_refused(tmp_path: Path, model: Path) -> None:
    lay_out(tmp_path, model)
    result = ranks("models:aa,bb", tmp_path)
    assert result.returncode == 2, result.stderr
    line = complaints(result)[0]
    for part in ("worker 1 (", "worker 2 (", "aa", "bb", "llm.model_may_differ"):
        assert part in line


def test_models_that_may_differ_are_logged(tmp_path: Path, model: Path) -> None:
    lay_out(tmp_path, model)
    result = ranks("models:aa,bb", tmp_path, "--set", "llm.model_may_differ=true")
    assert result.returncode == 0, result.stderr
    assert "asked" in result.stdout
    path = tmp_path / "run.h5"
    with Log(path) as log:
        assert log.models == ["aa", "bb"]
    assert verify(path).violations == []


def test_a_resumed_run_with_another_model_is_refused_and_its_log_unharmed(
    tmp_path: Path, model: Path
) -> None:
    lay_out(tmp_path, model)
    assert ranks("models:aa,aa", tmp_path).returncode == 0
    longer = ("--resume", "--set", "run.iterations=4")
    refusal = ranks("models:bb,bb", tmp_path, *longer)
    assert refusal.returncode == 2, refusal.stderr
    assert "bb and aa" in complaints(refusal)[0]
    assert "asked" not in refusal.stdout
    result = ranks("models:aa,aa", tmp_path, *longer)
    assert result.returncode == 0, result.stderr
    path = tmp_path / "run.h5"
    with Log(path) as log:
        assert (log.committed, log.models) == (4, ["aa", "aa"])
    assert verify(path).violations == []


def test_a_rank_that_never_takes_part_is_named(tmp_path: Path, model: Path) -> None:
    lay_out(tmp_path, model)
    result = ranks("absent", tmp_path, "--set", "run.worker_timeout=3")
    assert result.returncode == 1
    assert "asyndbt: rank 2 took no part in the start for 3 seconds" in result.stderr
    assert not list(tmp_path.rglob("*.h5"))


def test_a_summary_that_fails_costs_nothing_but_itself(tmp_path: Path, model: Path) -> None:
    """The other ranks end by themselves, the log is whole, and no process is aborted."""
    lay_out(tmp_path, model)
    result = ranks("unsummed", tmp_path)
    assert result.returncode == 1
    assert complaints(result) == [
        "asyndbt: the run is over and its log is whole (run.h5), but it cannot be summed up:"
        " KeyError: 'what there is not'"
    ]
    assert "MPI_ABORT" not in result.stderr
    assert verify(tmp_path / "run.h5").violations == []
    with Log(tmp_path / "run.h5") as log:
        assert (log.status, log.committed) == ("finished", 2)
