"""Figures at the widths of a journal: whatever a run was like, they can be read."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from matplotlib.figure import Figure

from asyndbt_mpi.analysis import convergence, scaling, stragglers, timing
from asyndbt_mpi.analysis.arrivals import arrive
from asyndbt_mpi.analysis.arrivals import read as read_run
from asyndbt_mpi.analysis.iteration_times import read as read_times
from asyndbt_mpi.analysis.style import COLUMN, LEAST_WIDTH, PAGE
from asyndbt_mpi.log.reader import Log
from tests.analysis.looks import check_looks, check_whole, entries, seen_lines

Run = Callable[..., Path]
WIDTHS = [LEAST_WIDTH, PAGE]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("workers", "iterations", "evaluate_every"), [(3, 1, 1), (3, 12, 2), (40, 30, 0)]
)
def test_convergence(
    virtual_run: Run, width: float, workers: int, iterations: int, evaluate_every: int
) -> None:
    name = "-".join(["name"] * 20)
    run = {"name": name, "iterations": iterations, "evaluate_every": evaluate_every}
    with Log(virtual_run(workers, run=run)) as log:
        figure = convergence.draw(log, width)
        seconds = "virtual seconds"
    check_looks(figure, width)
    for axes in figure.axes:
        assert axes.get_xlabel() in ("iteration", seconds, "")  # a bar of colours has none
        if axes.get_xlabel() == "iteration":
            check_whole(axes.xaxis)
        if axes.get_ylabel() in ("worker", "iterations late"):
            check_whole(axes.yaxis)
        if legend := axes.get_legend():
            shown = {line.get_label() for line in seen_lines(axes)}
            assert {text.get_text() for text in legend.get_texts()} <= shown


@pytest.mark.parametrize("width", WIDTHS)
def test_convergence_of_a_classifier(demo_run: Path, width: float) -> None:
    with Log(demo_run) as log:
        check_looks(convergence.draw(log, width), width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("workers", [1, 4, 45])
def test_timing(virtual_run: Run, width: float, workers: int) -> None:
    algorithm = {"active_workers": min(2, workers), "max_delay": 90}
    logs = [
        virtual_run(
            workers, f"{'a run of a long name ' * 5}{n}", run={"iterations": 9}, algorithm=algorithm
        )
        for n in range(3)
    ]
    timings = [timing.read(log) for log in logs]
    figure = timing.draw(timings, width)
    check_looks(figure, width)
    drawn = [
        timing.label(component)
        for component in timing.COMPONENTS
        if any(share.of(component) > 1e-6 for each in timings for share in each.shares)
    ]
    assert entries(figure) == drawn


# ---------------------------------------------------------------- stragglers


def straggling(
    virtual_run: Run, actives: Sequence[int], workers: int, seeds: int = 1, planes: bool = False
) -> dict[Any, Any]:
    """Settings of the figure: two delay models."""
    logs = [
        virtual_run(
            workers,
            f"{model}-{active}-{seed}",
            run={"iterations": 12, "seed": seed},
            delay={"model": model, "mean": 1.0, "slow_workers": 1},
            algorithm={
                "active_workers": active,
                "max_delay": 100,
                "plane_until": 1000 if planes else 0,
            },
        )
        for model in ("lognormal", "constant")
        for active in actives
        for seed in range(seeds)
    ]
    return stragglers.by_active_workers(read_times(log) for log in logs)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("actives", "workers"), [((1, 3, 4), 4), ((2, 12), 12), ((5,), 11)])
def test_stragglers(virtual_run: Run, width: float, actives: Sequence[int], workers: int) -> None:
    figure = stragglers.draw(straggling(virtual_run, actives, workers), width)
    check_looks(figure, width)
    for axes in figure.axes:
        if axes.get_visible():
            assert axes.get_xlabel() == "active workers S"
            check_whole(axes.xaxis)
    assert len(entries(figure)) == 3
    assert entries(figure)[-1] == "measured, one run each"


def test_stragglers_say_of_how_many_runs_bars_are(virtual_run: Run) -> None:
    settings = straggling(virtual_run, (1, 3), 3, seeds=2)
    assert entries(stragglers.draw(settings))[-1] == (
        "measured: median and 10th to 90th percentile of 2 runs"
    )
    next(iter(settings.values()))[1].pop()
    assert entries(stragglers.draw(settings))[-1].endswith("of 1 to 2 runs")


def test_stragglers_without_a_prediction_have_no_entry_for_it(virtual_run: Run) -> None:
    figure = stragglers.draw(straggling(virtual_run, (1, 3), 3, planes=True))
    assert entries(figure) == ["measured, one run each"]


def test_a_longer_time_is_a_multiple(virtual_run: Run) -> None:
    """Constant delays: S = 3 of 4 takes as long per iteration as S = 4."""
    settings = straggling(virtual_run, (3, 4), 4)
    figure = stragglers.draw(settings)
    lower = next(axes for axes in figure.axes if "per report" in axes.get_ylabel())
    assert lower.get_ylabel() == "seconds per report\nused, S = R is 1"
    assert lower.get_ylim()[0] > 0
    assert [
        stragglers.multiple(ratio) for ratio in (0.25, 0.9996, 1.0001, 2.654, float("nan"))
    ] == ["75.0 % less", "the same", "the same", "2.65 times as long", "-"]


# ---------------------------------------------------------------- scaling


@pytest.fixture
def scaled(virtual_run: Run) -> Callable[..., Callable[[float], Figure]]:
    """Draws runs whose squared norm is 8 / t, or stays as it was where they are ``stuck``."""
    number = itertools.count()

    def make(
        x: str,
        values: Sequence[int],
        epsilons: Sequence[float],
        seeds: int = 1,
        stuck: Sequence[int] = (),
    ) -> Callable[[float], Figure]:
        runs = []
        for value in values:
            for seed in range(seeds):
                log = virtual_run(
                    value if x == "R" else 4,
                    f"{next(number)}",
                    run={"iterations": 40, "seed": seed},
                    algorithm={
                        "active_workers": value if x == "S" else 2,
                        "max_delay": value if x == "tau" else 9,
                    },
                )
                with h5py.File(log, "r+") as file:
                    group = file.create_group("stationarity")
                    group.attrs["kind"] = "exact"
                    group["iteration"] = np.arange(40)
                    norms = 8 / (1 + np.arange(40) * (value not in stuck))
                    for part in ("p", "q", "z", "lam"):
                        group[part] = norms / 4
                runs.append(read_run(log, False))
        arrivals = [arrive(run, epsilon) for run in runs for epsilon in epsilons]
        lines = scaling.split(arrivals, x)
        return lambda width: scaling.draw(runs, lines, False, width)

    return make


def said(figure: Figure) -> str:
    return " ".join(figure.get_suptitle().split())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("x", "values", "seeds"),
    [
        ("S", (1, 2, 3, 4), 2),
        ("R", (2, 3, 12, 13), 1),
        ("tau", (0, 1, 30), 1),
        ("epsilon", (9,), 5),
    ],
)
def test_scaling(
    scaled: Callable[..., Callable[[float], Figure]],
    width: float,
    x: str,
    values: Sequence[int],
    seeds: int,
) -> None:
    figure = scaled(x, values, [8, 2, 0.5], seeds)(width)
    check_looks(figure, width)
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert axes.get_xlabel() == scaling.AXIS[x]
        if x != "epsilon":
            check_whole(axes.xaxis)
        if axes.get_ylabel() != "virtual seconds":
            check_whole(axes.yaxis)


def test_exponents_need_five_seeds(scaled: Callable[..., Callable[[float], Figure]]) -> None:
    for seeds in (4, 5):
        figure = scaled("S", (1, 2, 4), [2, 1], seeds)(PAGE)
        assert any("∝" in entry for entry in entries(figure)) == (seeds == 5)
        nothing = "No exponents: from fewer than 5 seeds they mean nothing." in said(figure)
        assert nothing == (seeds == 4)
        assert ("95 % intervals over seeds (jackknife)." in said(figure)) == (seeds == 5)
        assert f"band: 10th to 90th percentile of {seeds} runs, one per seed" in entries(figure)


def test_what_is_not_drawn_has_no_entry(scaled: Callable[..., Callable[[float], Figure]]) -> None:
    figure = scaled("S", (1, 2), [8, 1, 0.01], stuck=[1])(PAGE)
    legend = entries(figure)
    assert not any(entry.startswith("ε = 0.01") for entry in legend)
    assert "Not drawn, as fewer than half of the runs reach it: ε = 0.01." in said(figure)
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert len(drawn) == sum(entry.startswith("ε") for entry in legend) == 2
    assert any("FedOne" in entry for entry in legend)
    assert not any("synchronous" in entry or "band" in entry for entry in legend)
    # Nothing of S = 1 is drawn if it never arrives.
    legend = entries(scaled("S", (1, 2), [1], stuck=[1])(PAGE))
    assert not any("FedOne" in entry for entry in legend)


def test_where_nothing_is_reached_there_is_no_legend(
    scaled: Callable[..., Callable[[float], Figure]],
) -> None:
    figure = scaled("S", (2, 3), [0.01])(COLUMN)
    check_looks(figure, COLUMN)
    assert entries(figure) == []
    assert "Not drawn" in said(figure)
