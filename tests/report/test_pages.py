"""Pages of runs and sweeps: the numbers are the log's, and whatever a log says stays text."""

import base64
import hashlib
import re
import shlex
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.table import Table
from rich.text import Text
from scipy import stats

from asyndbt_mpi.commands.show import texts_of_prompts
from asyndbt_mpi.config import load
from asyndbt_mpi.log.reader import Candidate, Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import EventKind
from asyndbt_mpi.report import run as of_run
from asyndbt_mpi.report.run import configuration_file, run_page
from asyndbt_mpi.report.tables import page_table
from asyndbt_mpi.view import intervals
from asyndbt_mpi.view.accuracy import differences, in_words
from asyndbt_mpi.view.outcomes import outcomes
from asyndbt_mpi.view.recommended import recommended
from tests.commands.partial import use_partial
from tests.conftest import SHAPES
from tests.helpers import ROOT, asyndbt, sets
from tests.report.parsed import Page

Run = Callable[..., Path]
NEEDING = "prompt", "show", "replay"

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "\"' onload=alert(1) x='",
    "{{ 7 * 7 }}{% raw %}]]>&lt;<!--",
    "$\\frac$ \x1b[2J\x07 \u202e [red]x[/]",
)


def page(path: Path) -> Page:
    with Log(path) as log:
        return Page(run_page(log, {}))


def test_the_numbers_are_those_of_the_log(demo_run: Path) -> None:
    found = page(demo_run)
    with Log(demo_run) as log:
        scored = outcomes(log)
        best, why = recommended(log)
        rows = scored[Candidate.TUNED].right().shape[1]
        accuracies = found.table(f"On {rows} test rows")
        tuned = next(n for n, row in enumerate(accuracies) if row[0] == "tuned")
        single = [row[-4:] for row in accuracies[tuned : tuned + log.workers]]
        single[0] = single[0][-4:]
        for worker, cells in enumerate(single, start=1):
            share = intervals.accuracy(scored[Candidate.TUNED].right([worker]))
            assert cells[0] == str(worker)
            assert cells[1] == f"{100 * share.value:.1f}"
            assert cells[2] == f"{100 * share.low:.1f} to {100 * share.high:.1f}"
        compared = [[who, name, in_words(each)] for who, name, each in differences(scored)]
        assert [row[:3] for row in found.table("What tuning has gained")] == compared
        assert f"worker {best}: {why}" in found.text.replace("\n", " ")
        confusions = np.array(
            [[int(cell.replace(".", "0")) for cell in row[1:]] for row in found.table("Rows by")]
        )
        answers = scored[Candidate.TUNED].answers[best]
        np.testing.assert_array_equal(confusions.sum(axis=1), np.bincount(answers.labels))
        assert np.trace(confusions) == answers.right.sum()
        costs = {row[0]: [int(cell.replace(",", "")) for cell in row[1:]] for row in found.table("What was paid")}  # fmt: skip
        tests = log["event/kind"] == EventKind.TEST
        assert costs["tests"][0] == log["event/llm_calls"][tests].sum()
        assert costs["all"][0] == log["event/llm_calls"].sum()
        *parts, total = costs.values()
        np.testing.assert_array_equal(np.sum(parts, axis=0), total)


def test_a_tie_is_an_error_in_the_confusions_too(demo_run: Path) -> None:
    with h5py.File(demo_run, "r+") as file:
        file["answer/log_probabilities"][:] = np.log(1 / 7)
        for name, value in (("loss", np.log(7)), ("accuracy", 0.0)):
            file[f"evaluation/{name}"][:] = value
    table = page(demo_run).table("Rows by right label")
    assert all(row[1 + number] == "." for number, row in enumerate(table))


def test_nothing_is_loaded_and_one_script_runs(demo_run: Path) -> None:
    with Log(demo_run) as log:
        text = run_page(log, {})
    found = Page(text)
    assert list(found.outside()) == []
    assert len(found.scripts) == 1
    digest = base64.b64encode(hashlib.sha256(found.scripts[0].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text  # fmt: skip
    styles = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in styles
    assert "@import" not in styles
    assert not {"link", "iframe", "object", "embed", "img", "base", "form"} & set(found.tags)
    assert len(text) < 1_000_000
    names = re.findall(r' id="([^"]+)"', text)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_log_says_stays_text(demo_run: Path, text: str) -> None:
    """The page has the same elements as that of a harmless log."""
    harmless = page(demo_run)
    with h5py.File(demo_run, "r+") as file:
        kinds = file["event/kind"][:]
        file["event/text"][np.flatnonzero(kinds == EventKind.HELLO)[0]] = text
        file["worker/description"][1] = text
        file["worker/model"][:] = text
        file["vocabulary"][:] = [f"{text}{n}" for n in range(len(file["vocabulary"]))]
        written = file.attrs["config"]
        assert 'name = "demo"' in written
        if text.isprintable():
            quoted = text.replace("\\", "\\\\").replace('"', '\\"')
            written = written.replace('name = "demo"', f'name = "{quoted}"')
            written = written.replace(" music", f" {quoted}")
            file.attrs["config"] = written
    found = page(demo_run)
    assert found.tags == harmless.tags
    assert len(found.scripts) == 1
    assert list(found.outside()) == []
    assert "\x1b" not in found.text
    assert "\u202e" not in found.text
    assert "7 * 7" in found.text or "7 * 7" not in text


@pytest.mark.parametrize("evaluate_every", [0, 4])
def test_a_function_has_no_texts_and_no_classes(virtual_run: Run, evaluate_every: int) -> None:
    found = page(virtual_run(run={"iterations": 12, "evaluate_every": evaluate_every}))
    assert "{fragment}" not in found.text
    assert "The mean of the newest losses of the workers that take part" in found.text
    assert "--prompts" not in found.text
    assert not [caption for caption in found.tables if "label" in caption]
    assert ("None: no prompt was scored" in found.text) == (evaluate_every == 0)
    assert any(caption.startswith("In the tests at the end") for caption in found.tables) == bool(
        evaluate_every
    )
    assert "asyndbt simulate run.toml --workers 3" in found.text


def test_a_run_that_goes_on_shows_its_best_so_far(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 12, "evaluate_every": 4})
    with h5py.File(path, "r+") as file:
        file.attrs["status"] = "running"
    found = page(path)
    assert "running, or killed" in found.text
    assert found.table("Best so far in validation")


def test_a_run_without_an_iteration_has_a_page(tmp_path: Path) -> None:
    path = tmp_path / "young.h5"
    words = [f"word{n}" for n in range(SHAPES.words)]
    z = np.full((SHAPES.positions, SHAPES.words), 1 / SHAPES.words)
    with Writer(path, load("synthetic"), SHAPES, 3, words, "mpi", z):
        pass
    found = page(path)
    assert "No worker's report has been used yet" in found.text
    assert "No time passes" in found.text
    assert "Nothing has happened yet" in found.text


def test_time_that_does_not_pass(virtual_run: Run) -> None:
    found = page(virtual_run(run={"iterations": 5}, delay={"model": "none"}))
    assert "No time passes in this run" in found.text


def test_who_was_lost_is_among_the_events(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 6})
    with h5py.File(path, "r+") as file:
        file["event/kind"][-1] = EventKind.LOST
        file["event/worker"][-1] = 2
        file["event/text"][-1] = "it fell silent"
    last = page(path).table("What happened")[-1]
    assert last[-3:] == ["2", "lost", "it fell silent"]


def test_of_very_many_events_the_last_are_shown(
    virtual_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = virtual_run(run={"iterations": 6})
    whole = page(path)
    monkeypatch.setattr(of_run, "MOST_EVENTS", 2)
    shortened = page(path)
    assert shortened.table("What happened") == whole.table("What happened")[-2:]
    left_out = len(whole.table("What happened")) - 2
    assert left_out
    assert f"The first {left_out} are left out." in shortened.text


@pytest.mark.parametrize(
    "source",
    [("demo",), ("synthetic",), ("sst2", "task.path=mine"), ("reviews", "task.path=mine"),
     ("demo", "task.path=mine"), ("demo", "algorithm.lower_gradient=black_box"),
     ("synthetic", "estimator.name=exact", "steps.optimizer=sgd")],
)  # fmt: skip
def test_the_configuration_on_a_page_can_be_run(tmp_path: Path, source: tuple[str, ...]) -> None:
    config = load(source[0], source[1:])
    path = tmp_path / "run.toml"
    path.write_text(configuration_file(config))
    assert load(str(path)) == config


def test_texts_of_the_data_are_shown_only_if_asked_for(demo_run: Path, tmp_path: Path) -> None:
    with Log(demo_run) as log:
        texts = texts_of_prompts(log, None)
    output = tmp_path / "page.html"
    for options in ((), ("--prompts",)):
        result = asyndbt("report", str(demo_run), "-o", str(output), *options, folder=tmp_path)
        assert result.returncode == 0, result.stderr
        found = Page(output.read_text()).text
        assert all((text in found) == bool(options) for text in texts.values())
        assert (f"asyndbt show {demo_run} --prompts" in found) != bool(options)


@pytest.fixture
def run_on_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The log of a run on data of the user's, with a path that a shell would take apart."""
    use_partial(monkeypatch)
    with resources.as_file(resources.files("asyndbt_mpi.task") / "data/reviews") as data:
        shutil.copytree(data, tmp_path / "mine")
    (tmp_path / "CONFIG.toml").write_text(
        "[run]\niterations = 2\nevaluate_every = 1\n[algorithm]\nactive_workers = 2\n"
        '[delay]\nmodel = "lognormal"\nmean = 1\n[prompt]\npool = 3\n'
        '[task]\npath = "mine"\ntemplate = "[[{fragment} ]]{sentence1}:"\n'
        'labels = [" bad", " good"]\ntest = 20\n'
    )
    path = "the runs/mine.h5"
    (tmp_path / "the runs").mkdir()
    result = asyndbt("simulate", "CONFIG.toml", "-o", path, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    return path


@pytest.mark.parametrize("on_files", [True, False])
def test_the_commands_on_a_page_work_as_printed(
    on_files: bool, run_on_files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run_on_files
    if not on_files:
        path = "runs/own.h5"
        settings = sets("run.iterations=2", "run.evaluate_every=1", "task.test=20")
        made = asyndbt("simulate", "reviews", "-o", path, *settings, folder=tmp_path)
        assert made.returncode == 0, made.stderr
    assert asyndbt("report", path, "-o", "page.html", folder=tmp_path).returncode == 0
    page = Page((tmp_path / "page.html").read_text())
    with Log(tmp_path / path) as log:
        (tmp_path / "run.toml").write_text(configuration_file(log.config))
    commands = re.findall("^asyndbt (?:prompt|show|simulate|replay|verify) .*", page.text, re.M)
    assert len(commands) == 5
    assert ("CONFIG.toml is the configuration" in page.text) == on_files
    for command in commands:
        assert (" --config " in command) == (on_files and command.split()[1] in NEEDING)
        result = asyndbt(*shlex.split(command)[1:], folder=tmp_path)
        assert result.returncode == 0, (command, result.stderr)


def test_a_replay_needs_no_model_of_a_server(run_on_files: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / run_on_files, "r+") as file:
        written = file.attrs["config"].replace('path = "mine"', 'path = ""')
        file.attrs["config"] = written.replace('"transformers"', '"openai"')
    asyndbt("report", run_on_files, "-o", "page.html", folder=tmp_path)
    assert "--config" not in Page((tmp_path / "page.html").read_text()).text


def test_shipped_data_are_not_named_beside_a_path() -> None:
    own = load("reviews", ["task.path=mine"])
    assert "path = " in configuration_file(own)
    assert "reviews" not in configuration_file(own).partition("[task]")[2].partition("[")[0]
    assert 'name = "reviews"' in configuration_file(load("reviews"))
    # Which columns GLUE's files have.
    assert (
        'name = "sst2"' in configuration_file(load("sst2", ["task.path=mine"])).split("[task]")[1]
    )


def test_races_and_tests_are_said_to_be_in_no_figure_of_the_time(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 12, "evaluate_every": 4})
    with h5py.File(path, "r+") as file:
        end = float(file["iteration/time"][-1])
        file["evaluation/time"][:] = end + 12.34
    assert f"Of the iterations, {end:,.1f} virtual seconds. Races and tests" in page(path).text
    assert "took 12.3 more" in page(path).text
    with h5py.File(path, "r+") as file:
        file["evaluation/time"][:] = 0.0
    assert "Races and tests" not in page(path).text


def test_pages_that_are_not_made(virtual_run: Run, tmp_path: Path) -> None:
    run = virtual_run(run={"iterations": 3})
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.h5").write_text("no log")

    def refused(*arguments: str) -> str:
        result = asyndbt("report", *arguments, folder=tmp_path)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        return result.stderr

    assert "is what is read" in refused("run.h5", "-o", "run.h5")
    assert "--output no/where.html: cannot be written" in refused("run.h5", "-o", "no/where.html")
    assert "no log there" in refused("empty", "-o", "page.html")
    assert "a.h5" in refused("bad", "-o", "page.html")
    assert "give its log" in refused(".", "--prompts", "-o", "page.html")
    assert "no such file" in refused("absent.h5", "-o", "page.html")
    assert not (tmp_path / "page.html").exists()
    assert run.exists()


SETTINGS = (
    "run.iterations=20", "estimator.name=exact", "steps.optimizer=sgd", "delay.model=lognormal",
    "delay.mean=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings, three seeds."""
    folder = tmp_path_factory.mktemp("sweep")
    sets = [word for each in SETTINGS for word in ("--set", each)]
    result = asyndbt(
        "sweep", "synthetic", "--workers", "3", "--seeds", "3", "-o", "runs",
        "--vary", "algorithm.active_workers=1,3", *sets, folder=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder / "runs"


@pytest.fixture
def swept(sweep: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(sweep, tmp_path / "runs"))


def of_sweep(folder: Path) -> Page:
    result = asyndbt("report", str(folder), "-o", "sweep.html", folder=folder.parent)
    assert result.returncode == 0, result.stderr
    return Page((folder.parent / "sweep.html").read_text())


def test_a_sweep_is_compared_by_means_over_seeds(swept: Path) -> None:
    found = of_sweep(swept)
    heads, *rows = found.tables["Means over the runs of each setting"]
    assert [row[:2] for row in rows] == [["1", "3"], ["3", "3"]]
    for row in rows:
        logs = [Log(path) for path in sorted(swept.glob(f"active_workers={row[0]},*.h5"))]
        ends = np.array([log["iteration/time"][-1] for log in logs])
        low, high = stats.t.interval(0.95, 2, ends.mean(), stats.sem(ends))
        cell = row[heads.index("virtual seconds")]
        assert cell == f"{ends.mean():,.4g}\n{low:,.4g} to {high:,.4g}"
    assert len(found.table("Every run")) == 6
    assert "Cost to become stationary." in found.text
    assert "No figure" not in found.text
    assert list(found.outside()) == []


def test_a_sweep_can_be_made_again_from_its_page(swept: Path, tmp_path: Path) -> None:
    with Log(next(swept.glob("*.h5"))) as log:
        (tmp_path / "run.toml").write_text(configuration_file(log.config))
    (command,) = re.findall("asyndbt sweep .*", of_sweep(swept).text)
    words = [{"DIR": "again"}.get(word, word) for word in shlex.split(command)[1:]]
    result = asyndbt(*words, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    for path in swept.glob("*.h5"):
        with Log(path) as first, Log(tmp_path / "again" / path.name) as second:
            assert first.seed == second.seed
            np.testing.assert_array_equal(first["iteration/z"], second["iteration/z"])


def test_what_a_sweep_lacks_is_told(swept: Path) -> None:
    next(swept.glob("active_workers=1,*.h5")).unlink()
    with h5py.File(next(swept.glob("active_workers=3,*.h5")), "r+") as file:
        file.attrs["status"] = "interrupted"
        del file["stationarity"]
    found = of_sweep(swept)
    assert "Not finished:" in found.text
    assert "No figure: " in found.text
    assert "has no stationarity" in found.text
    assert "asyndbt sweep" not in found.text
    assert sorted(row[1] for row in found.table("Means over")) == ["2", "3"]


def test_one_run_is_a_folder_too(swept: Path) -> None:
    first, *others = sorted(swept.glob("*.h5"))
    for path in others:
        path.unlink()
    ((setting, runs, *numbers),) = of_sweep(swept).table("Means over")
    assert (setting, runs) == ("the same for all", "1")
    assert not [cell for cell in numbers if "to" in cell], "one seed has no interval"
    shutil.copy(first, swept / "copy.h5")
    text = of_sweep(swept).text
    assert "both have seed" in text
    assert "with the same settings: copy.h5. Such runs are not independent" in text


def test_long_settings_that_begin_alike_are_not_one(virtual_run: Run, tmp_path: Path) -> None:
    for end in ("x", "y"):
        words = ["w" * 300, f"{end}1", f"{end}2", f"{end}3", f"{end}4", f"{end}5"]
        prompt = {"vocabulary": words, "vocabulary_size": 6, "fragment_length": 4, "pool": 3}
        virtual_run(name=end, run={"iterations": 3}, prompt=prompt)
    assert [row[1] for row in of_sweep(tmp_path).table("Means over")] == ["1", "1"]


def test_cells_of_the_terminal_become_text() -> None:
    table = Table(title=Text("[b]title"), caption="[b]note[/b]")
    table.add_column("a")
    table.add_column("b", justify="right")
    table.add_row(Text("[red]"), "[red]1[/red]")
    table.add_row("", "2", end_section=True)
    table.add_row("x", "3")
    found = page_table(table)
    assert (found.title, found.note) == ("[b]title", "note")
    assert found.heads == [("a", False), ("b", True)]
    assert found.sections == [[["[red]", "1"], ["", "2"]], [["x", "3"]]]
    assert [found.is_group(section) for section in found.sections] == [True, False]


def test_what_is_to_be_cited_is_in_the_citation_file(virtual_run: Run) -> None:
    said = " ".join(page(virtual_run(run={"iterations": 3})).text.split())
    citation = (ROOT / "CITATION.cff").read_text()
    software, paper, *_ = re.findall(r'title: "(.*)"', citation)
    assert software in said
    assert paper in said
    names = zip(
        re.findall(r"given-names: (.*)", citation), re.findall(r"family-names: (.*)", citation),
        strict=True,
    )  # fmt: skip
    given, family = next(names)
    assert f"{given} {family}" in said
