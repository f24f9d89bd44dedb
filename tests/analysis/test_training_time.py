from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.analysis import training_time as script
from asyndbt_mpi.analysis.training_time import Compared, Training, compared
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import Log
from tests.analysis.logs import evaluate
from tests.analysis.looks import check_looks
from tests.helpers import plot

Run = Callable[..., Path]


def run(pace: float, *best: float) -> Training:
    return Training(pace * np.arange(1, len(best) + 1), np.array(best))


INF = np.inf


def test_the_best_loss_so_far_after_every_iteration_by_hand(virtual_run: Run) -> None:
    path = virtual_run(workers=2, run={"iterations": 7, "evaluate_every": 1})
    evaluate(path, (2, 1, 3.0, 0.5), (3, 2, 1.0, 0.5), (4, 1, 4.0, 0.5), (6, 2, 0.5, 0.5))
    with Log(path) as log:
        found = script.training(log, path)
    # Worker 1 ends with 4, but has had 3.
    np.testing.assert_array_equal(found.best, [INF, INF, 2, 2, 2, 1.75, 1.75])
    with Log(path) as log:
        np.testing.assert_array_equal(found.times, log["iteration/time"])


def test_seconds_at_equal_iterations_and_at_equal_loss_by_hand() -> None:
    runs = {
        "asyndbt": {0: run(1.0, INF, 0.9, 0.5, 0.4)},
        "synchronous": {0: run(2.0, INF, 0.6, 0.6)},
        "cendbt": {0: run(3.0, 0.8, 0.7, 0.6, 0.6, 0.3), 1: run(3.0, 0.1)},
    }
    iterations, loss = compared("task", runs)
    # The synchronous run has 3 iterations, and ends with the largest loss: 0.6.
    assert {m: v.tolist() for m, v in iterations.seconds.items()} == {
        "asyndbt": [3.0], "synchronous": [6.0], "cendbt": [9.0],
    }  # fmt: skip
    assert {m: v.tolist() for m, v in loss.seconds.items()} == {
        "asyndbt": [3.0], "synchronous": [4.0], "cendbt": [9.0],
    }  # fmt: skip
    assert iterations.ratio("cendbt").value == pytest.approx(3 / 9)
    assert np.isnan(iterations.ratio("cendbt").low)


def test_the_ratio_is_a_geometric_mean_with_students_interval() -> None:
    seconds = {"asyndbt": np.array([1.0, 1.0]), "cendbt": np.array([2.0, 8.0])}
    found = Compared("task", "loss", seconds).ratio("cendbt")
    assert found.value == pytest.approx(1 / 4)  # the root of 1/2 times 1/8
    # Logarithms to base 2: mean -2, deviation sqrt(2), t(0.975, 1) = 12.706.
    assert found.low == pytest.approx(2 ** (-2 - 12.7062), rel=1e-4)
    assert found.high == pytest.approx(2 ** (-2 + 12.7062), rel=1e-4)


def test_seeds_that_a_method_lacks_do_not_count() -> None:
    runs = {"asyndbt": {0: run(1.0, 1.0)}, "cendbt": {1: run(1.0, 1.0)}}
    with pytest.raises(ConfigurationError, match="no seed has logs of asyndbt, cendbt"):
        compared("task", runs)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_figure_can_be_read(seeds: int) -> None:
    random = np.random.default_rng(0)
    found = [
        Compared(task, at, {m: 50 + 20 * random.random(seeds) for m in script.METHODS})
        for task in ("fiveg", "cola", "sst2", "mrpc", "qqp", "qnli")
        for at in script.AT
    ]
    for width in (84.0, 174.0):
        check_looks(script.draw(found, "3 workers.", width), width)
    assert len(list(script.rows(found))) == len(list(script.said(found))) == 12


def test_a_folder_without_logs_is_refused(tmp_path: Path) -> None:
    result = plot("training_time", tmp_path, "-o", tmp_path / "no.png")
    assert result.returncode == 2
    assert "no folder in it has logs of asyndbt, synchronous, cendbt" in result.stderr


def test_logs_give_times_and_other_settings_are_refused(virtual_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    settings = {"iterations": 6, "evaluate_every": 2}
    for method in script.METHODS:
        workers = 1 if method == "cendbt" else 4
        active = {"active_workers": 4 if method == "synchronous" else 1, "min_workers": 1}
        run = virtual_run(workers=workers, run=settings, algorithm=active)
        run.rename(folder / f"{method}-0.h5")
    result = plot("training_time", tmp_path, "-o", tmp_path / "times.png")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "times.csv").read_text().count("task,") == 3
    other = virtual_run(run=settings, steps={"p": 3.0})
    other.rename(folder / "asyndbt-0.h5")
    result = plot("training_time", tmp_path, "-o", tmp_path / "times.png")
    assert result.returncode == 2
    assert "steps." in result.stderr
