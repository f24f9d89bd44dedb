"""What is foretold against what simulated runs have asked for."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from asyndbt_mpi import cli
from asyndbt_mpi.cli import _show_warning
from asyndbt_mpi.commands.estimate import (
    measured_seconds_per_call,
    remarks,
)
from asyndbt_mpi.commands.limits import limits, set_aside, shortfalls
from asyndbt_mpi.commands.simulate import simulate_silently
from asyndbt_mpi.config import ConfigurationError, load
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import EventKind
from tests.commands.foretold import OPENAI, foretold
from tests.helpers import asyndbt
from tests.llm.api_server import Manners, serving

KINDS = (
    EventKind.REPORT, EventKind.LOWER_REPORT, EventKind.EVALUATION, EventKind.RACE, EventKind.TEST,
)  # fmt: skip


def asked(folder: Path, *settings: str, workers: int) -> list[int]:
    """Prompts that a simulated run asked for: upper, lower, validation, races, tests."""
    path = folder / "run.h5"
    simulate_silently(Job.of(Request("synthetic", settings, str(path), True, False), workers), 1)
    with Log(path) as log:
        kind, prompts = log["event/kind"], log["event/prompts"]
        return [int(prompts[kind == each].sum()) for each in KINDS]


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("run.evaluate_every=1",),
        ("run.evaluate_every=40", "run.iterations=41"),
        ("algorithm.plane_until=29", "algorithm.plane_period=5"),
        ("algorithm.plane_period=7", "algorithm.lower_steps=1", "algorithm.plane_until=0"),
        ("algorithm.lower_gradient=black_box",),
        ("algorithm.lower_gradient=black_box", "algorithm.lower_participation=quorum"),
        ("estimator.batch=500", "estimator.samples=3"),
        ("estimator.name=exact", "steps.optimizer=sgd"),
        ("run.evaluate_every=0",),
        ("task.test=0",),
        ("run.race=0",),
        ("run.race=2",),
    ],
)
def test_a_synchronous_run_asks_for_exactly_as_much(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    base = "run.iterations=40", "run.evaluate_every=6", "algorithm.active_workers=4"
    settings = *base, "delay.model=lognormal", "delay.mean=1", *settings
    found = foretold("synthetic", *settings, workers=4)
    upper, lower, validation, races, tests = asked(tmp_path, *settings, workers=4)
    calls = [part.calls for part in found.parts]
    assert calls == [upper, lower, validation, calls[3], tests]
    assert bool(races) == bool(calls[3])
    assert races <= calls[3], "prompts that are the same race once"
    if "run.race=2" in settings:
        assert races == calls[3]
    assert [part.most for part in found.parts] == [part.calls for part in found.parts]


@pytest.mark.parametrize("participation", ["all", "quorum"])
@pytest.mark.parametrize("active", [1, 2, 4])
@pytest.mark.parametrize("max_delay", [2, 20])
def test_an_asynchronous_run_asks_for_no_more_and_hardly_less(
    tmp_path: Path, participation: str, active: int, max_delay: int
) -> None:
    settings = (
        "run.iterations=60", "run.evaluate_every=7", f"algorithm.active_workers={active}",
        f"algorithm.max_delay={max_delay}", "delay.model=pareto", "delay.mean=1",
        "algorithm.lower_gradient=black_box",
        f"algorithm.lower_participation={participation}",
    )  # fmt: skip
    found = foretold("synthetic", *settings, workers=5)
    upper, lower, validation, races, tests = asked(tmp_path, *settings, workers=5)
    parts = found.parts
    assert parts[0].calls <= upper <= parts[0].most
    assert parts[1].calls <= lower <= parts[1].most
    if participation == "all":
        assert parts[1].calls == lower == parts[1].most
    assert 0 < validation <= parts[2].calls
    assert 0 < races <= parts[3].calls
    assert tests == parts[4].calls


def test_more_active_workers_than_there_are_count_as_all() -> None:
    with pytest.raises(ConfigurationError, match="only 3 workers"):
        foretold("synthetic", "algorithm.active_workers=4")


def test_tokens_are_those_of_the_prompts_with_all_their_parts() -> None:
    """A template of one word, rows of one or two, two demonstrations, so that all is countable."""
    template = 'task.template="[[{fragment} ]]Q {sentence1}"'
    long = foretold("reviews", template, "prompt.fragment_length=5")
    short = foretold("reviews", template, "prompt.fragment_length=2")
    # The fragment stands in both demonstrations and in the query.
    for more, less in zip(long.parts[:3], short.parts[:3], strict=True):
        assert more.tokens_of_call - less.tokens_of_call == pytest.approx(3 * 3)
    # Of the 13 tests of 3 workers, on 120 rows each, two of each worker have a fragment; one of
    # each, the calibrated one, has 20 training rows more.
    tests = long.parts[4].tokens_of_call - short.parts[4].tokens_of_call
    assert tests == pytest.approx(6 * 120 * 9 / (13 * 120 + 3 * 20))


def test_money_is_what_is_read_and_what_is_written() -> None:
    here, there = foretold("reviews"), foretold("reviews", *OPENAI)
    assert here.cost is None
    assert here.tokens is not None
    assert there.tokens == pytest.approx(here.tokens + here.calls)
    assert there.cost == pytest.approx((2 * here.tokens + 3 * here.calls) / 1e6)
    assert there.rows()[-1] == ("together", there.calls, 6384, there.tokens, there.cost)


def test_a_synthetic_task_has_neither_tokens_nor_money() -> None:
    found = foretold("synthetic", "llm.input_price=1", "budget.tokens=5")
    assert (found.tokens, found.cost, found.seconds) == (None, None, None)
    assert shortfalls(found) == ["budget.tokens = 5 cannot be compared with anything"]


def test_seconds_are_shared_by_the_workers_and_limited_by_the_server() -> None:
    found = foretold("reviews", *OPENAI, seconds_per_call=0.5)
    assert found.seconds == pytest.approx(found.calls * 0.5 / 3)
    limited = foretold("reviews", *OPENAI, "llm.requests_per_minute=10", seconds_per_call=0.5)
    assert limited.seconds == pytest.approx(found.calls * 6)
    assert any("At least" in line for line in remarks(limited, "words", None))


def test_budgets_that_end_the_run_early_are_told() -> None:
    settings = (
        "run.iterations=100", "algorithm.plane_until=0", "run.evaluate_every=1000", "run.race=0"
    )  # fmt: skip
    # Steps take 40 calls, 2 each iteration and 1 more under way at the end; the 13 tests take up
    # to 120 calls and 20 more for calibration.
    (limit,) = limits(foretold("reviews", *settings, "budget.calls=2620"))
    assert (limit.reserve.end, limit.first, limit.iterations) == (1820, 120, 9)
    for calls, line in (
        (
            1939,
            "does not cover one iteration: 120 for a step of every worker, 0 for the races and 1,820 for",
        ),
        (2620, "will end the run after about 9 of 100 iterations"),
        (20000, None),
    ):
        found = foretold("reviews", *settings, f"budget.calls={calls}")
        assert len(shortfalls(found)) == (line is not None)
        assert line is None or line in shortfalls(found)[0]
        assert any("are set aside" in said for said in set_aside(found)) == (calls > 1939)
    (line,) = shortfalls(foretold("reviews", "budget.seconds=9"))
    assert "--like" in line
    for budget in ("budget.tokens=9", "budget.cost=0.001", "budget.seconds=9"):
        (line,) = shortfalls(foretold("reviews", *OPENAI, budget, seconds_per_call=1.0))
        assert "does not cover one iteration" in line


def test_a_race_is_known_before() -> None:
    """Of 20 + 20 rows each: five prompts on 16, two on all, of which 24 are new."""
    found = foretold("reviews", "run.race=5")
    (part,) = (part for part in found.parts if part.name == "races at the end")
    assert part.most == 3 * (5 * 16 + 2 * 40)
    assert part.calls == 3 * (5 * 16 + 2 * 24)
    assert foretold("reviews", "run.race=5", "llm.cache=0").parts[3].calls == part.most
    for none in ("run.race=0", "run.evaluate_every=0"):
        assert foretold("reviews", none).parts[3].most == 0
    (limit,) = limits(foretold("reviews", "run.race=5", "budget.calls=10000"))
    (without,) = limits(foretold("reviews", "run.race=0", "budget.calls=10000"))
    assert limit.reserve.end - without.reserve.end == part.calls + 3 * 16, (
        "the last prompt is set aside whole"
    )
    further = foretold("reviews", "run.race=5", "task.calibration=content_free").parts[3]
    assert further.most == part.most + 3 * 7 * 3


def iterations_of(folder: Path, *settings: str, source: str = "synthetic") -> int:
    path = folder / "run.h5"
    try:
        simulate_silently(Job.of(Request(source, settings, str(path), True, False), 3), 1)
    except ConfigurationError as error:
        if "too small for one iteration" not in str(error):
            raise
        return 0
    with Log(path) as log:
        return log.committed


@pytest.mark.parametrize("period", [1, 5])
@pytest.mark.parametrize(("tests", "race"), [(0, 8), (50, 0), (50, 5)])
def test_a_run_begins_where_an_iteration_is_covered(
    tmp_path: Path, period: int, tests: int, race: int
) -> None:
    settings = (
        "run.iterations=30", f"task.test={tests}", f"run.race={race}", "run.evaluate_every=100",
        f"algorithm.plane_period={period}", "algorithm.active_workers=3",
        "algorithm.lower_gradient=black_box",
    )  # fmt: skip
    (limit,) = limits(foretold("synthetic", *settings, "budget.calls=1"))
    least = int(limit.reserve.end + limit.first)
    with_race = least + (limit.first * 0.25 / 0.75 if race else 0)
    for calls in (least - 1, least, int(with_race) + 1):
        budget = f"budget.calls={calls}"
        (found,) = limits(foretold("synthetic", *settings, budget))
        if calls != least or not race:
            assert found.covers_one == (calls >= least)
        assert bool(iterations_of(tmp_path, *settings, budget)) == found.covers_one
    for calls in (2 * least, 5 * least):
        budget = f"budget.calls={calls}"
        (found,) = limits(foretold("synthetic", *settings, budget))
        ended = iterations_of(tmp_path, *settings, budget)
        assert abs(min(found.iterations, 30) - ended) <= 2 + period // 2


@pytest.mark.filterwarnings("ignore:.*has none of the labels")
@pytest.mark.parametrize("kind", ["calls", "tokens"])
@pytest.mark.parametrize("settings", [("api=completion",), ("api=chat", "scores=answers")])
def test_a_run_with_a_server_begins_where_an_iteration_is_covered(
    tmp_path: Path, kind: str, settings: tuple[str, ...]
) -> None:
    with serving(Manners()) as server:
        base = (
            "llm.backend=openai", "llm.model=toy", f"llm.base_url={server.url}",
            *(f"llm.{setting}" for setting in settings), 'task.labels=[" good", " bad"]',
            "task.test=20", "task.train_per_class=3", "run.iterations=1", "estimator.batch=4",
            "algorithm.active_workers=3", "algorithm.lower_gradient=black_box",
        )  # fmt: skip
        (limit,) = limits(foretold("reviews", *base, f"budget.{kind}=1"))
        least = int(limit.reserve.end + limit.first)
        for enough in (least - 1, int(limit.reserve.end + limit.first / 0.6)):
            made = iterations_of(tmp_path, *base, f"budget.{kind}={enough}", source="reviews")
            assert made == (enough > least)


def test_a_server_is_counted_with_all_that_it_may_bill() -> None:
    settings = *OPENAI, "llm.api=completion", "run.iterations=9", "estimator.batch=10", "run.race=0"
    found = foretold("reviews", *settings, "budget.calls=6000")
    # 4 samples on 10 rows, in slices of 4 * 8; labels of 8 tokens at the most.
    calls_of_prompt = 1 + 7 + 7 + 1
    (limit,) = limits(found)
    assert limit.reserve.steps == 3 * (40 * calls_of_prompt + 2 * 8)
    assert limit.reserve.end == 13 * (140 * calls_of_prompt + 5 * 8)
    (line,) = shortfalls(found)
    assert "does not cover one iteration" in line
    assert any("time-outs" in said for said in remarks(found, "words", None))
    answers = foretold(
        "reviews", *settings, "llm.scores=answers", "budget.calls=6000", "llm.cache=0"
    )
    (limit,) = limits(answers)
    assert (limit.reserve.steps, limit.reserve.end) == (3 * (2 * 40 + 8), 13 * (2 * 140 + 8))
    tokens, cost = limits(
        foretold("reviews", *settings, "llm.cache=0", "budget.tokens=5", "budget.cost=5")
    )
    of_call = tokens.reserve.steps / (3 * (40 * calls_of_prompt + 8))
    assert of_call > 64 + len(" negative")
    assert cost.reserve.steps / tokens.reserve.steps == pytest.approx(2e-6, rel=0.1)


def test_the_speed_is_the_median_of_the_workers_medians(virtual_run: Callable[..., Path]) -> None:
    path = virtual_run()
    with Log(path) as log, pytest.raises(LogError, match="virtual"):
        measured_seconds_per_call(log, log.config)
    with h5py.File(path, "r+") as file:
        file.attrs["transport"] = "mpi"
        worker, calls = file["event/worker"][:], file["event/llm_calls"][:]
        file["event/compute_seconds"][:] = np.array([0, 0.1, 0.2, 0.7])[worker] * calls
    with Log(path) as log:
        assert measured_seconds_per_call(log, log.config) == pytest.approx(0.2)
    with h5py.File(path, "r+") as file:
        file["event/llm_calls"][:] = 0
    with Log(path) as log, pytest.raises(LogError, match="no call was paid for"):
        measured_seconds_per_call(log, log.config)


def test_the_command(tmp_path: Path) -> None:
    result = asyndbt(
        "estimate", "synthetic", "--workers", "4", "--set", "budget.calls=100", folder=tmp_path
    )
    assert result.returncode == 0
    assert "upper steps" in result.stdout
    assert "tokens" not in result.stdout
    assert result.stderr.startswith(
        "asyndbt: warning: budget.calls = 100 does not cover one iteration"
    )
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_what_a_run_would(tmp_path: Path) -> None:
    for arguments, reason in (
        (("synthetic", "--set", "algorithm.active_workers=9"), "the run has only 3 workers"),
        (("synthetic", "--like", "absent.h5"), "absent.h5: no such file"),
        (("nothing",), "'nothing' is neither a configuration file nor a preset"),
    ):
        result = asyndbt("estimate", *arguments, folder=tmp_path)
        assert result.returncode == 2
        (line,) = result.stderr.splitlines()
        assert reason in line


def test_a_log_of_another_model_gives_no_speed(virtual_run: Callable[..., Path]) -> None:
    path = virtual_run()
    for config, key in ((load("demo"), "backend"), (load("synthetic", ["llm.model=x"]), "model")):
        with Log(path) as log, pytest.raises(ConfigurationError, match=rf"is of llm\.{key} = "):
            measured_seconds_per_call(log, config)


def test_a_task_without_a_template_is_told_what_it_needs(tmp_path: Path) -> None:
    result = asyndbt("estimate", "synthetic", "--set", "llm.backend=openai", folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "asyndbt: task.template is missing: llm.backend = 'openai' needs a [task] with template"
        " and data, such as asyndbt data FILE suggests"
    ]


def test_warnings_are_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _show_warning(UserWarning("two\nlines"), UserWarning, cli.__file__, 1)
    _show_warning(UserWarning("other"), UserWarning, __file__, 1)
    _show_warning(DeprecationWarning("old"), DeprecationWarning, cli.__file__, 1)
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "asyndbt: warning: two lines"
    assert [line.partition(": ")[2] for line in others if "Warning: " in line] == [
        "UserWarning: other",
        "DeprecationWarning: old",
    ]


def test_a_model_that_is_not_here_is_counted_by_characters(tmp_path: Path) -> None:
    settings = ("--set", "llm.model=no/such-model", "--set", "llm.input_price=1")
    result = asyndbt("estimate", "demo", *settings, folder=tmp_path)
    assert result.returncode == 0
    assert "4 characters per token, as there is no tokenizer of no/such-model" in result.stdout
    assert "cost" in result.stdout
