from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.analysis import curves as script
from asyndbt_mpi.analysis.convergence import Validation
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import Log
from tests.analysis.logs import evaluate
from tests.analysis.looks import check_looks, entries
from tests.helpers import plot

Run = Callable[..., Path]


def logs(virtual_run: Run, folder: Path, method: str, seeds: int = 2, **tables: object) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in range(seeds):
        settings = {"iterations": 6, "evaluate_every": 2, "seed": seed}
        virtual_run(run=settings, **tables).rename(folder / f"{method}-{seed}.h5")
    return folder


def test_the_newest_prompts_after_every_iteration_by_hand(virtual_run: Run, tmp_path: Path) -> None:
    folder = logs(virtual_run, tmp_path / "task", "asyndbt")
    for seed in range(2):
        path = folder / f"asyndbt-{seed}.h5"
        # Worker 2 is late; 3 and 4 are never evaluated.
        evaluate(path, (2, 1, 1.0, 0.5), (3, 2, 3.0, 0.1), (5, 1, 2.0 + seed, 0.7))
    found = script.courses(script.logs_of(folder, script.METHODS)["asyndbt"])
    assert found.iterations.tolist() == [3, 4, 5, 6]
    np.testing.assert_allclose(found.loss, [[2, 2, 2.5, 2.5], [2, 2, 3, 3]])
    np.testing.assert_allclose(found.accuracy, [[0.3, 0.3, 0.4, 0.4]] * 2)


def test_curves_begin_with_the_last_seed_and_end_with_the_first(
    virtual_run: Run, tmp_path: Path
) -> None:
    # Seconds are drawn under each seed: one run has time for more iterations.
    folder = tmp_path / "task"
    folder.mkdir()
    for seed in range(2):
        settings = {"iterations": 99, "evaluate_every": 1, "seed": seed}
        run = virtual_run(workers=2, run=settings, budget={"seconds": 12.0})
        run.rename(folder / f"asyndbt-{seed}.h5")
    paths = script.logs_of(folder, script.METHODS)["asyndbt"]
    ends = []
    for path in paths:
        with Log(path) as log:
            ends.append(log.committed)
    assert ends[0] != ends[1]
    evaluate(paths[0], (1, 1, 1.0, 0.5), (2, 2, 3.0, 0.1))
    evaluate(paths[1], (2, 1, 5.0, 0.5), (4, 2, 3.0, 0.1))
    found = script.courses(paths)
    assert found.iterations.tolist() == list(range(4, min(ends) + 1))
    np.testing.assert_allclose(found.loss.T, [[2, 4]] * len(found.iterations))


def test_curves_begin_when_all_have_been_evaluated() -> None:
    loss = np.array([[1.0, np.nan, np.nan], [1.0, 2.0, np.nan], [0.5, 2.0, np.nan]])
    checked = Validation(np.array([2, 5, 9]), loss, loss, loss, loss)
    assert script.first_of_all(checked) == 5


def test_logs_are_told_by_their_names_and_sorted_by_seed(tmp_path: Path) -> None:
    for name in ("asyndbt-10", "asyndbt-9", "asyndbt-x", "cendbt-0", "cendbt", "local-1"):
        (tmp_path / f"{name}.h5").touch()
    found = script.logs_of(tmp_path, script.METHODS)
    assert {method: [path.stem for path in paths] for method, paths in found.items()} == {
        "asyndbt": ["asyndbt-9", "asyndbt-10"],
        "cendbt": ["cendbt-0"],
    }


def test_the_figure_can_be_read(virtual_run: Run, tmp_path: Path) -> None:
    folder = logs(virtual_run, tmp_path / "task", "asyndbt")
    logs(virtual_run, folder, "cendbt", seeds=1)
    found = {m: script.courses(p) for m, p in script.logs_of(folder, script.METHODS).items()}
    for width in (84.0, 174.0):
        figure = script.draw(found, "task", width)
        check_looks(figure, width)
        assert entries(figure) == ["AsynDBT", "cenDBT"]
    result = plot("curves", folder, "-o", tmp_path / "curves.pdf")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_lines_are_means_and_bands_one_standard_deviation_wide() -> None:
    loss = np.array([[1.0, 2.0, 4.0], [2.0, 2.0, 1.0], [6.0, 5.0, 4.0]])
    accuracy = np.array([[0.5, 0.6, 0.7], [0.7, 0.6, 0.8], [0.9, 0.9, 0.9]])
    courses = script.Courses(np.array([4, 5, 6]), loss, accuracy)
    panels = script.draw({"asyndbt": courses}, "task").axes
    for axes, values in zip(panels, (loss, 100 * accuracy), strict=True):
        (line,), (band,) = axes.lines, axes.collections
        np.testing.assert_allclose(line.get_xdata(), [4, 5, 6])
        np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
        (path,) = band.get_paths()
        corners = np.unique(np.round(path.vertices, 9), axis=0)
        deviations = np.sqrt(((values - values.mean(axis=0)) ** 2).sum(axis=0) / 2)
        for x, mean, deviation in zip((4, 5, 6), values.mean(axis=0), deviations, strict=True):
            heights = corners[corners[:, 0] == x, 1]
            for edge in (mean - deviation, mean + deviation):
                assert np.isclose(heights, edge).any()
        edges = values.mean(axis=0) - deviations, values.mean(axis=0) + deviations
        assert corners[:, 1].min() == pytest.approx(edges[0].min())
        assert corners[:, 1].max() == pytest.approx(edges[1].max())


def test_the_caption_says_how_many_runs_there_are() -> None:
    row = np.array([[1.0, 2.0]])
    for runs, said in ((1, "A single run of each method."), (3, "mean of 3 runs")):
        found = script.Courses(np.array([4, 5]), *(row.repeat(runs, axis=0) for _ in range(2)))
        figure = script.draw({"asyndbt": found}, "task")
        shown = " ".join(each.get_text().replace("\n", " ") for each in figure.texts)
        assert said in shown
        assert ("bands" in shown) == (runs > 1)


def test_logs_of_other_settings_are_refused(virtual_run: Run, tmp_path: Path) -> None:
    folder = logs(virtual_run, tmp_path / "task", "asyndbt")
    (folder / "asyndbt-1.h5").unlink()
    other = virtual_run(run={"iterations": 6, "evaluate_every": 3, "seed": 1})
    other.rename(folder / "asyndbt-1.h5")
    with pytest.raises(ConfigurationError, match=r"evaluate_every.* only run\.seed may differ"):
        script.courses(script.logs_of(folder, script.METHODS)["asyndbt"])


def test_runs_without_validation_and_empty_folders_are_refused(
    virtual_run: Run, tmp_path: Path
) -> None:
    result = plot("curves", tmp_path, "-o", tmp_path / "no.png")
    assert result.returncode == 2
    assert "has no log asyndbt-SEED.h5" in result.stderr
    virtual_run(run={"iterations": 4, "evaluate_every": 0}).rename(tmp_path / "asyndbt-0.h5")
    result = plot("curves", tmp_path, "-o", tmp_path / "no.png")
    assert result.returncode == 2
    assert "no prompt was evaluated" in result.stderr
