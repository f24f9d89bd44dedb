"""The package from Python: what it exports, and runs with a black box of one's own."""

import ast
import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asyndbt_mpi as adbt
from asyndbt_mpi import api
from asyndbt_mpi.cli import cli
from asyndbt_mpi.task import function

M, N, U, V = 3, 5, 2, 4
SHAPES = adbt.Shapes(M, N, U, V)
WORDS = ["red", "green", "pale blue", "white", "as black as coal"]
SETTINGS = (
    "run.iterations=30", "run.evaluate_every=7", "algorithm.active_workers=2", "algorithm.max_delay=4",
    "algorithm.plane_period=5", "algorithm.plane_until=20", "delay.model=lognormal", "delay.mean=1",
)  # fmt: skip
TABLE = np.random.default_rng(0).normal(size=(M, N)), np.random.default_rng(1).normal(size=(U, V))


def loss(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
    of_words, of_shown = TABLE
    own = 0.1 * worker * demonstrations[:, 0]
    return of_words[range(M), words].sum(axis=1) + of_shown[range(U), demonstrations].sum(1) + own


def box(called: Any = loss, **options: Any) -> adbt.LossFunction:
    return adbt.LossFunction(called, SHAPES, WORDS, **options)


def config(*settings: str) -> adbt.Config:
    return adbt.load("synthetic", [*SETTINGS, *settings])


class LeaveOneOut(adbt.FromScores):
    def __init__(self, p_shape: tuple[int, ...], q_shape: tuple[int, ...]) -> None:
        super().__init__(adbt.leave_one_out)


class Averaged:
    """Leave one out, averaged over a worker's steps: an estimator that learns."""

    def __init__(self, p_shape: tuple[int, ...], q_shape: tuple[int, ...]) -> None:
        self.p, self.q = np.zeros(p_shape), np.zeros(q_shape)

    @property
    def state(self) -> list[np.ndarray]:
        return [self.p, self.q]

    def couple(self, uniform: np.ndarray) -> np.ndarray:
        return uniform

    def upper(self, members: Any, p: Any, q: Any, words: Any, shown: Any, losses: Any) -> Any:
        for mean, at, drawn in ((self.p, p, words), (self.q, q, shown)):
            mean[members] += 0.5 * (adbt.leave_one_out(at, drawn, losses) - mean[members])
        return self.p[members], self.q[members]

    def lower(self, members: Any, p: Any, words: Any, shown: Any, losses: Any) -> Any:
        return adbt.leave_one_out(p, words, losses)


def iterates(path: str | Path) -> dict[str, np.ndarray]:
    with adbt.Log(path) as log:
        return {name: log[name] for name in ("iteration/z", "report/p", "report/q", "dual/value")}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


# ---------------------------------------------------------------- the import


def test_the_import_loads_neither_mpi_nor_torch_nor_a_simulation() -> None:
    program = (
        "import sys, asyndbt_mpi as adbt\n"
        "print(sorted({'mpi4py', 'torch', 'numpy', 'h5py', 'pydantic'} & set(sys.modules)))\n"
        "config = adbt.load('synthetic', ['run.iterations=2'])\n"
        "print(sorted({'mpi4py', 'torch', 'h5py'} & set(sys.modules)))\n"
        "for state in adbt.iterate(config): pass\n"
        "print(sorted({'mpi4py', 'torch'} & set(sys.modules)), state.iteration)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["[]", "[]", "[] 2"]


def test_what_is_exported_is_there_and_known_to_type_checkers() -> None:
    assert adbt.__file__ is not None
    tree = ast.parse(Path(adbt.__file__).read_text())
    [checked] = [each for each in tree.body if isinstance(each, ast.If)]
    seen = {
        alias.name: str(each.module)
        for each in checked.body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    assert sorted(seen) == sorted(adbt.__all__)
    for name, module in seen.items():
        assert getattr(adbt, name) is getattr(import_module(module), name), name
        assert getattr(adbt, name).__doc__, name
    assert set(adbt.__all__) <= set(dir(adbt))
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        getattr(adbt, "simulat")  # noqa: B009


@pytest.mark.parametrize("module", [api, function])
def test_the_examples_do_what_they_say(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


# ---------------------------------------------------------------- a black box of one's own


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> adbt.Result:
    path = tmp_path_factory.mktemp("own") / "run.h5"
    return adbt.simulate(config(), 3, path, black_box=box(), estimator=Averaged)


GIVEN: dict[str, Any] = {"black_box": box(), "estimator": Averaged}


def test_a_run_finds_the_best_prompt_and_its_log_is_sound(tmp_path: Path) -> None:
    settings = config("run.iterations=120", "algorithm.plane_until=0")
    result = adbt.simulate(settings, 3, tmp_path / "run.h5", black_box=box())
    of_words, of_shown = TABLE
    assert (result.status, result.iterations) == ("finished", 120)
    assert result.words == [WORDS[best] for best in of_words.argmin(axis=1)]
    own = 0.1 * np.arange(1, 4)[:, None] * np.arange(V)
    assert result.demonstrations[:, 0].tolist() == (of_shown[0] + own).argmin(axis=1).tolist()
    assert result.demonstrations[:, 1].tolist() == [of_shown[1].argmin()] * 3
    assert adbt.verify(result.path).violations == []
    with adbt.Log(result.path) as log:
        assert result.calls == log["event/llm_calls"].sum() == log["event/prompts"].sum()
        assert (log.config.llm.backend, log.config.llm.model) == ("python", box().name)
        assert log.vocabulary == WORDS
        assert set(log.descriptions) == {f"Python function {box().name}"}
        assert (log.shapes.positions, log.shapes.classes) == (M, U)


def test_an_own_estimator_that_is_a_known_one_gives_its_iterates(tmp_path: Path) -> None:
    known, own = tmp_path / "known.h5", tmp_path / "own.h5"
    adbt.simulate(config("estimator.name=loo"), 3, known, black_box=box())
    adbt.simulate(config(), 3, own, black_box=box(), estimator=LeaveOneOut)
    assert same(iterates(known), iterates(own))
    other = tmp_path / "other.h5"
    adbt.simulate(config(), 3, other, black_box=box(), estimator=Averaged)
    assert not same(iterates(known), iterates(other))


def test_a_log_is_replayed_given_the_same_again(run: adbt.Result) -> None:
    comparison = adbt.replay(run.path, **GIVEN)
    assert (comparison.iterations, comparison.difference) == (30, None)
    assert adbt.verify(run.path).violations == []


def other_loss(*asked: Any) -> Any:
    return loss(*asked) + 1e-9


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "no black box": ({"black_box": None}, r"llm.backend = 'python': .* run it from Python"),
    "no estimator": ({"estimator": None}, r"estimator.name = 'python: Averaged, .* run it from"),
    "another function": ({"black_box": box(other_loss)}, "was made with llm.model = 'loss, code"),
    "another name": ({"black_box": box(name="v2")}, "was made with llm.model = .* not 'v2'"),
    "another pool": (
        {"black_box": adbt.LossFunction(loss, adbt.Shapes(M, N, U, V + 1), WORDS)},
        f"was made with prompt.pool = {V}, not {V + 1}",
    ),
    "fewer classes": (
        {"black_box": adbt.LossFunction(loss, adbt.Shapes(M, N, U - 1, V), WORDS)},
        "was made with a different vocabulary or different sizes",
    ),
    "other words": (
        {"black_box": adbt.LossFunction(loss, SHAPES, WORDS[::-1])},
        "was made with prompt.vocabulary = ",
    ),
    "another estimator": ({"estimator": LeaveOneOut}, "estimator.name = 'python: Averaged, code"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_black_box_is_refused_in_one_line(other: str, run: adbt.Result) -> None:
    change, line = OTHERS[other]
    before = run.path.read_bytes()
    with pytest.raises((adbt.ConfigurationError, adbt.LogError), match=line) as error:
        adbt.replay(run.path, **GIVEN | change)
    assert "\n" not in str(error.value)
    if change[next(iter(change))] is None:
        line = "was made with"  # the configuration that is given says something else
    with pytest.raises(adbt.ConfigurationError, match=line):
        adbt.simulate(config("run.iterations=40"), 3, run.path, resume=True, **GIVEN | change)
    assert run.path.read_bytes() == before


def test_replay_finds_a_function_that_answers_otherwise_under_its_old_name(tmp_path: Path) -> None:
    named = {"name": "version 1"}
    result = adbt.simulate(config(), 3, tmp_path / "run.h5", black_box=box(**named))
    assert adbt.replay(result.path, black_box=box(other_loss, **named)).difference is not None
    assert adbt.replay(result.path, black_box=box(**named)).difference is None


@pytest.mark.parametrize("estimator", [None, Averaged])
def test_a_run_that_is_resumed_is_the_one_that_was_not_interrupted(
    tmp_path: Path, estimator: Any
) -> None:
    class Gone(Exception):
        pass

    asked = 0

    def dies(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
        nonlocal asked
        asked += 1
        if asked == 40:
            raise Gone
        return loss(worker, words, demonstrations)

    whole, part = tmp_path / "whole.h5", tmp_path / "part.h5"
    given = {"estimator": estimator, "black_box": box(dies, name="toy")}
    with pytest.raises(Gone):
        adbt.simulate(config(), 3, part, **given)
    with adbt.Log(part) as log:
        assert (log.status, 0 < log.committed < 30) == ("interrupted", True)
    result = adbt.simulate(config(), 3, part, resume=True, **given)
    assert (result.status, result.iterations) == ("finished", 30)
    adbt.simulate(config(), 3, whole, **given)
    assert same(iterates(whole), iterates(part))
    assert adbt.verify(part).violations == []
    assert adbt.replay(part, **given).difference is None
    assert asked > 40
    asked = 0
    finished = adbt.simulate(config(), 3, part, resume=True, **given)
    assert asked == 0, "nothing is left to do"
    assert (finished.status, finished.iterations) == ("finished", 30)
    assert finished.words == result.words


def test_a_wrong_loss_leaves_nothing_in_the_way_of_the_next_try(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with pytest.raises(adbt.ConfigurationError, match=r"shape \(8, 3\) for worker 1; .* 8 finite"):
        adbt.simulate(config(), 3, path, black_box=box(lambda w, words, _: words))
    assert list(tmp_path.iterdir()) == []
    path.write_text("no log")
    with pytest.raises(adbt.ConfigurationError, match="already exists"):
        adbt.simulate(config(), 3, path, black_box=box(lambda w, words, _: words))
    assert path.read_text() == "no log"


@pytest.mark.parametrize("workers", [0, -1, 2.0, True])
def test_workers_are_counted_from_one_on(workers: Any) -> None:
    for start in (adbt.simulate, adbt.iterate):
        with pytest.raises(adbt.ConfigurationError, match="must be a whole number of at least 1"):
            start(config("algorithm.active_workers=1"), workers)  # type: ignore[operator]


@pytest.mark.parametrize(
    "command",
    [["replay"], ["stationarity"], ["simulate", "synthetic", "--set", "llm.backend=python"],
     ["estimate", "synthetic", "--set", "llm.backend=python"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_command_says_how_to_go_on_from_python(command: list[str], run: adbt.Result) -> None:
    logs = [str(run.path)] if len(command) == 1 else []
    with pytest.raises(adbt.ConfigurationError, match=r"run it from Python, with black_box="):
        cli.main([*command, *logs], standalone_mode=False, obj=False)


def test_show_and_verify_need_no_black_box(
    run: adbt.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("show", "verify"):
        assert cli.main([command, str(run.path)], standalone_mode=False, obj=False) == 0
    said = capsys.readouterr().out
    assert "What was learnt" in said
    assert "every invariant holds" in said


# ---------------------------------------------------------------- iteration by iteration


def states(**given: Any) -> Iterator[adbt.State]:
    return adbt.iterate(config(), 3, **given)


def test_the_states_are_those_of_the_log(run: adbt.Result) -> None:
    found = list(states(**GIVEN))
    assert [state.iteration for state in found] == list(range(1, 31))
    with adbt.Log(run.path) as log:
        assert np.array_equal([state.z for state in found], log["iteration/z"][1:])
        for name in ("active", "delay", "time", "objective"):
            logged = log[f"iteration/{name}"]
            assert np.array_equal([getattr(state, name) for state in found], logged)
        columns = (log[f"report/{name}"] for name in ("iteration", "worker", "p", "q"))
        of_report = zip(*columns, strict=True)
        for iteration, worker, p, q in of_report:
            assert np.array_equal(found[iteration].p[worker - 1], p)
            assert np.array_equal(found[iteration].q[worker - 1], q)
    for before, after in pairwise(found):
        waiting = ~after.active
        assert np.array_equal(before.p[waiting], after.p[waiting])


def test_a_state_is_the_callers_own() -> None:
    untouched = [state.z for state in states(**GIVEN)]
    seen = []
    for state in states(**GIVEN):
        seen.append(state.z.copy())
        for array in (state.z, state.p, state.q, state.active, state.delay):
            array[:] = 0
    assert np.array_equal(seen, untouched)


def test_nothing_is_asked_beyond_where_the_caller_stops() -> None:
    asked = []

    def counted(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
        asked.append(worker)
        return loss(worker, words, demonstrations)

    iterating = states(black_box=box(counted))
    assert not asked
    next(iterating)
    first = len(asked)
    assert 0 < first < 10
    iterating.close()  # type: ignore[attr-defined]
    assert len(asked) == first


def test_a_budget_that_covers_nothing_is_refused() -> None:
    with pytest.raises(adbt.ConfigurationError, match="too small for one iteration"):
        list(adbt.iterate(config("budget.calls=1"), 3, black_box=box()))


# ---------------------------------------------------------------- the documentation


def code_blocks(page: str) -> list[str]:
    text = (Path(__file__).parents[1] / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return [block for block in blocks if "runs/demo.h5" not in block]  # of the section on logs


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_what_the_documentation_shows_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place: dict[str, Any] = {"my_model": lambda worker, words, shown: words.sum(axis=1) + worker}
    source = "\n".join(block for block in code_blocks(page) if "adbt.run(" not in block)
    assert "adbt.simulate(" in source
    exec(source, place)
    assert place["result"].status == "finished"
    assert adbt.verify(place["result"].path).violations == []


def test_a_run_without_mpiexec_says_how_to_start_it(tmp_path: Path) -> None:
    program = "import asyndbt_mpi as adbt; adbt.run(adbt.load('synthetic'), 'run.h5')"
    (tmp_path / "my_run.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "my_run.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.endswith("Start it with: mpiexec -n 4 python my_run.py")
    assert list(tmp_path.iterdir()) == [tmp_path / "my_run.py"]
