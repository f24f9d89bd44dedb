from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asyndbt_mpi.analysis import convergence as script
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.view.outcomes import outcomes
from tests.analysis.logs import evaluate
from tests.helpers import Result, plot

Run = Callable[..., Path]


def convergence(*arguments: object) -> Result:
    return plot("convergence", *arguments)


@pytest.mark.parametrize("evaluate_every", [0, 5])
def test_draws_a_picture(virtual_run: Run, tmp_path: Path, evaluate_every: int) -> None:
    run = virtual_run(run={"iterations": 20, "evaluate_every": evaluate_every})
    picture = tmp_path / "picture.png"
    result = convergence(run, "-o", picture)
    assert result.returncode == 0, result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000


def test_draws_many_workers_and_left_out_iterates(virtual_run: Run, tmp_path: Path) -> None:
    run = virtual_run(
        workers=40,
        run={"iterations": 30},
        algorithm={"active_workers": 8, "max_delay": 20},
        log={"iterates": 7},
    )
    assert convergence(run, "-o", tmp_path / "many.png").returncode == 0


def test_refuses_what_is_no_log(tmp_path: Path) -> None:
    result = convergence(tmp_path / "absent.h5", "-o", tmp_path / "no.png")
    assert result.returncode == 2
    assert result.stderr == f"asyndbt: {tmp_path / 'absent.h5'}: no such file\n"
    help_text = convergence("--help").stdout
    assert "asyndbt plot convergence runs/demo.h5 -o runs/demo.png" in help_text


LATE = ((4, 1, 2.0, 0.5), (6, 1, 3.0, 0.9), (4, 2, 5.0, 0.4), (8, 2, 4.0, 0.3), (7, 1, 1.0, 0.6))
"""Worker 2's first arrives after worker 1's second; its second before worker 1's third."""


@pytest.fixture
def late(virtual_run: Run) -> Log:
    return Log(evaluate(virtual_run(run={"iterations": 12, "evaluate_every": 2}), *LATE))


def test_validations_are_in_order_of_iteration_whenever_they_arrived(late: Log) -> None:
    found = script.validation(late)
    nan = np.nan
    np.testing.assert_array_equal(found.iteration, [4, 6, 7, 8])
    np.testing.assert_array_equal(found.loss, [[2, 5, nan], [3, 5, nan], [1, 5, nan], [1, 4, nan]])
    np.testing.assert_array_equal(found.accuracy[:, :2], [[0.5, 0.4], [0.9, 0.4], [0.6, 0.4], [0.6, 0.3]])  # fmt: skip
    np.testing.assert_array_equal(found.best_loss[:, :2], [[2, 5], [2, 5], [1, 5], [1, 4]])
    np.testing.assert_array_equal(found.best_accuracy[:, :2], [[0.5, 0.4], [0.5, 0.4], [0.6, 0.4], [0.6, 0.3]])  # fmt: skip


def test_no_worker_is_known_before_its_first_evaluation(virtual_run: Run) -> None:
    path = virtual_run(run={"iterations": 12, "evaluate_every": 2})
    with Log(evaluate(path, (2, 1, 3.0, 0.5), (4, 3, 2.0, 0.5), (6, 1, 4.0, 0.5))) as log:
        found = script.validation(log)
        nan = np.nan
        np.testing.assert_array_equal(found.loss, [[3, nan, nan], [3, nan, 2], [4, nan, 2]])
        np.testing.assert_array_equal(found.best_loss, [[3, nan, nan], [3, nan, 2], [3, nan, 2]])
        lines = {
            line.get_label(): line for line in panel(script.draw(log), "validation loss").lines
        }
    np.testing.assert_array_equal(lines["newest prompts"].get_xydata(), [[4, 2.5], [6, 3.0]])
    np.testing.assert_array_equal(lines["best prompts so far"].get_xydata(), [[4, 2.5], [6, 2.5]])


def panel(figure: Figure, label: str) -> Axes:
    (axes,) = (
        each for each in figure.axes
        if label in (each.get_ylabel(), each.get_xlabel()) and each.get_xlabel() != "seconds"
    )  # fmt: skip
    return axes


def test_no_line_runs_backwards(late: Log) -> None:
    figure = script.draw(late)
    for label in ("validation loss", "validation\naccuracy, %"):
        lines = panel(figure, label).lines
        assert len(lines) == late.workers + 2
        for line in lines:
            assert (np.diff(line.get_xdata()) > 0).all()


@pytest.mark.parametrize("evaluate_every", [0, 2])
def test_every_entry_of_a_legend_has_a_line(virtual_run: Run, evaluate_every: int) -> None:
    with Log(virtual_run(run={"iterations": 6, "evaluate_every": evaluate_every})) as log:
        figure = script.draw(log)
    entries = []
    for axes in figure.axes:
        if legend := axes.get_legend():
            shown = {line.get_label(): line for line in axes.lines}
            entries += [text.get_text() for text in legend.get_texts()]
            assert all(len(shown[entry.get_text()].get_xdata()) for entry in legend.get_texts())
    assert len(entries) == (4 if evaluate_every else 2)
    caption = figure.get_supxlabel()
    assert ("Validation:" in caption) == bool(evaluate_every)
    assert "Test:" not in caption


@pytest.mark.parametrize(
    ("workers", "defence", "rule"),
    [
        (3, {}, "the mean of the newest"),
        (4, {}, "the trimmed mean, after nearest-neighbour mixing, of the newest"),
        (4, {"malicious": 0.2}, "the mean of the newest"),
        (4, {"aggregator": "rsa"}, "the mean of the newest"),
        (4, {"aggregator": "rsa", "preaggregator": "nnm"}, "the mean, after nearest-"),
        (4, {"aggregator": "krum", "preaggregator": "none"}, "the choice by Krum of the newest"),
        (4, {"aggregator": "median", "preaggregator": "bucketing"}, "the median, after bucketing,"),
    ],
)
def test_the_caption_names_the_runs_rule(
    virtual_run: Run, workers: int, defence: dict[str, object], rule: str
) -> None:
    with Log(virtual_run(workers, run={"iterations": 2}, defence=defence)) as log:
        caption = script.caption(log, script.validation(log), {})
    assert f"the objective, which is {rule}" in caption


def test_iterations_are_whole_numbers(late: Log) -> None:
    figure = script.draw(late)
    figure.draw_without_rendering()
    (objective, *_), loss = figure.axes, panel(figure, "validation loss")
    for axes in (objective, loss):
        assert axes.get_xlabel() == "iteration"
        assert all(tick == round(tick) for tick in axes.get_xticks())


def test_tests_are_drawn_with_their_intervals(demo_run: Path) -> None:
    with Log(demo_run) as log:
        figure, found = script.draw(log), outcomes(log)
    axes = panel(figure, "test accuracy, %")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [c.name.lower() for c in found]
    bars = [line for line in axes.lines if line.get_linewidth() == script.INTERVAL]
    for bar, outcome in zip(bars, found.values(), strict=True):
        assert outcome.accuracy
        ends = [100 * outcome.accuracy.low, 100 * outcome.accuracy.high]
        np.testing.assert_allclose(bar.get_xdata(), ends)
    assert "on 40 rows; bars are 95 % intervals over rows (Wilson)." in " ".join(
        figure.get_supxlabel().split()
    )


@pytest.mark.parametrize("length", [1, 4, 30, 5000])
def test_a_running_median_is_that_of_the_neighbours(length: int) -> None:
    values = np.random.default_rng(0).random(length)
    values[length // 2 :: 7] = np.nan if length > 4 else 0.5
    places, medians = script.running_median(values)
    assert places[0] == 0
    assert places[-1] == length - 1
    assert len(places) <= 500
    width = script.window(length)
    assert width % 2 == 1
    for place, median in zip(places.tolist(), medians.tolist(), strict=True):
        near = np.abs(np.arange(length) - place) <= width // 2
        assert median == np.nanmedian(values[near])
