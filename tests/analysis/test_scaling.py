import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import stats

from tests.helpers import Result, plot

Run = Callable[..., Path]
Table = list[dict[str, str]]
ITERATIONS = 40


def scaling(*arguments: object) -> Result:
    return plot("scaling", *arguments)


def add_stationarity(
    path: Path, norms: Sequence[float], iterations: Sequence[int] | None = None, kind: str = "exact"
) -> None:
    """Squared norms over ``iterations`` (all from 0, if None), spread over the four parts."""
    at = range(len(norms)) if iterations is None else iterations
    with h5py.File(path, "r+") as file:
        group = file.create_group("stationarity")
        group.attrs["kind"] = kind
        group["iteration"] = np.array(at, dtype="i8")
        for part, share in (("p", 0.5), ("q", 0.25), ("z", 0.125), ("lam", 0.125)):
            group[part] = share * np.array(norms, dtype="f8")


def arriving(when: int | None) -> list[float]:
    """Squared norms that are 4, and 1 from the ``when``-th iteration on (counted from 1)."""
    return [1.0 if when is not None and t + 1 >= when else 4.0 for t in range(ITERATIONS)]


@pytest.fixture
def sweep(virtual_run: Run) -> Callable[..., Path]:
    """A log of known S, R, tau and seed that reaches 1 in a known iteration; its path."""

    def make(
        when: int | None,
        active: int = 1,
        workers: int = 4,
        delay: int = 10,
        seed: int = 0,
        model: str = "lognormal",
    ) -> Path:
        path = virtual_run(
            name=f"S{active}-R{workers}-tau{delay}-{model}-{seed}",
            workers=workers,
            run={"iterations": ITERATIONS, "seed": seed},
            algorithm={"active_workers": active, "max_delay": delay},
            delay={"model": model, "mean": 1.0},
        )
        add_stationarity(path, arriving(when))
        return path

    return make


def table(path: Path) -> Table:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def number(row: dict[str, str], column: str) -> float:
    return float(row[column])


def run_script(folder: Path, *arguments: object) -> tuple[Table, Table, Table, str]:
    """Rows of the runs, the medians and the fits, and what was printed."""
    prefix = folder / "out" / "figure"
    result = scaling(folder, "-o", prefix, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert prefix.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert prefix.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    tables = (table(Path(f"{prefix}{suffix}.csv")) for suffix in ("", "-medians", "-fits"))
    runs, medians, fits = tables
    return runs, medians, fits, result.stdout


def spent(path: Path, column: str, iterations: int) -> int:
    """Sum of a column over the reports and estimates of the first ``iterations``."""
    with h5py.File(path) as file:
        return sum(
            int(value)
            for group in ("report", "lower")
            for t, value in zip(file[group]["iteration"], file[group][column], strict=True)
            if t < iterations
        )


def few(seeds: int) -> str:
    return f"means nothing: {seeds} seed{'s' if seeds > 1 else ''}, 5 are needed"


def test_counts_what_it_took_up_to_and_including_the_first_iteration_there(
    virtual_run: Run, tmp_path: Path
) -> None:
    log = virtual_run(run={"iterations": ITERATIONS, "seed": 3})
    norms = [8.0, 4.0, 2.0, 0.5, 3.0, 0.25, 0.25]
    add_stationarity(log, norms, [0, 1, 5, 12, 13, 22, 39])
    runs, *_ = run_script(tmp_path, "--epsilon", "8,2,0.3,0.1")
    assert [number(row, "epsilon") for row in runs] == [8, 2, 0.3, 0.1]
    with h5py.File(log) as file:
        times = file["iteration/time"][:]
    for row, iterations in zip(runs, (1, 6, 23), strict=False):
        assert int(row["iterations"]) == iterations
        assert int(row["llm_calls"]) == spent(log, "llm_calls", iterations) > 0
        assert int(row["prompt_tokens"]) == spent(log, "prompt_tokens", iterations)
        assert number(row, "seconds") == times[iterations - 1]
    for column in ("iterations", "llm_calls", "prompt_tokens", "seconds"):
        assert runs[-1][column] == "nan"
    assert runs[0] | {"iterations": "", "llm_calls": "", "prompt_tokens": "", "seconds": ""} == {
        "path": "run.h5",
        "active_workers": "2",
        "workers": "3",
        "max_delay": "5",
        "seed": "3",
        "delay_model": "lognormal",
        "epsilon": "8.0",
        "iterations": "",
        "llm_calls": "",
        "prompt_tokens": "",
        "seconds": "",
        "kind": "exact",
    }


def test_exponent_interval_and_medians_over_seeds(
    sweep: Callable[..., Path], tmp_path: Path
) -> None:
    """Iterations 32, 16, 8 and 16, 4, 1 over S = 1, 2, 4: exponents -1 and -2, seed by seed."""
    for seed, powers in ((0, (32, 16, 8)), (1, (16, 4, 1))):
        for active, when in zip((1, 2, 4), powers, strict=True):
            sweep(when, active=active, seed=seed)
    _, medians, fits, printed = run_script(tmp_path, "--epsilon", 2)

    iterations = [row for row in medians if row["quantity"] == "iterations"]
    assert [row["value"] for row in iterations] == ["1", "2", "4"]
    assert [number(row, "median") for row in iterations] == [24, 10, 4.5]
    assert number(iterations[0], "q10") == pytest.approx(16 + 0.1 * 16)
    assert number(iterations[0], "q90") == pytest.approx(16 + 0.9 * 16)
    assert {(row["reached"], row["runs"]) for row in iterations} == {("2", "2")}

    fit = next(row for row in fits if row["quantity"] == "iterations")
    assert (fit["x"], fit["law"], fit["runs"], fit["not_reached"]) == ("S", "S^b", "6", "0")
    assert number(fit, "b") == pytest.approx(-1.5)
    # With as many runs of each seed, the jackknife is Student's interval of the seeds' exponents.
    half = stats.t.ppf(0.975, 1) * np.std([-1, -2], ddof=1) / math.sqrt(2)
    assert number(fit, "low") == pytest.approx(-1.5 - half)
    assert number(fit, "high") == pytest.approx(-1.5 + half)
    assert fit["theorem_2"] == "falls as R - S shrinks; no power law"
    assert printed.splitlines()[1].split()[:5] == ["S", "2", "-", "iterations", "S^b"]
    assert "-1.5" in printed.splitlines()[1]


def test_runs_that_never_arrive_count_as_infinite(
    sweep: Callable[..., Path], tmp_path: Path
) -> None:
    arrivals: dict[int, list[int | None]] = {
        1: [10, 20, None],
        2: [10, None, None],
        3: [5, 6, 7],
        4: [2, 3, 4],
    }
    for active, whens in arrivals.items():
        for seed, when in enumerate(whens):
            sweep(when, active=active, seed=seed)
    _, medians, fits, _ = run_script(tmp_path, "--epsilon", 1)
    rows = [row for row in medians if row["quantity"] == "iterations"]
    assert [number(row, "median") for row in rows] == [20, math.inf, 6, 3]
    assert [number(row, "q10") for row in rows] == pytest.approx([12, math.inf, 5.2, 2.2])
    assert [number(row, "q90") for row in rows] == pytest.approx([math.inf, math.inf, 6.8, 3.8])
    assert [row["reached"] for row in rows] == ["2", "1", "3", "3"]
    fit = next(row for row in fits if row["quantity"] == "iterations")
    assert (fit["runs"], fit["not_reached"]) == ("9", "3")
    assert (fit["low"], fit["high"]) == ("nan", "nan")
    assert fit["remark"] == f"biased: 3 of 12 runs did not reach it; {few(3)}"


def test_over_workers_compares_a_power_with_an_exponential(
    sweep: Callable[..., Path], tmp_path: Path
) -> None:
    """Iterations 4, 8, 16 over R = 2, 3, 4 are 2^R."""
    for workers, when in ((2, 4), (3, 8), (4, 16)):
        for seed in (0, 1):
            sweep(when, workers=workers, seed=seed)
    _, _, fits, printed = run_script(tmp_path, "--epsilon", 1)
    power, exponential = (row for row in fits if row["quantity"] == "iterations")
    assert power["theorem_2"] == "tends to 2 as R >> S"
    assert (power["law"], exponential["law"]) == ("R^b", "exp(b R)")
    assert number(exponential, "b") == pytest.approx(math.log(2))
    assert number(exponential, "aic_difference") < -2
    assert exponential["remark"] == f"describes the data better than the power law; {few(2)}"
    assert exponential["remark"] in printed


def test_over_epsilon_when_nothing_else_varies(virtual_run: Run, tmp_path: Path) -> None:
    for seed in (0, 1):
        log = virtual_run(name=f"run{seed}", run={"iterations": ITERATIONS, "seed": seed})
        add_stationarity(log, [4 / (t + 1) ** 0.5 for t in range(ITERATIONS)])
    _, medians, fits, _ = run_script(tmp_path, "--epsilon", "0.7,2.001,1.001")
    rows = [row for row in medians if row["quantity"] == "iterations"]
    assert [number(row, "value") for row in rows] == [0.7, 1.001, 2.001]
    assert [number(row, "median") for row in rows] == [33, 16, 4]
    fit = next(row for row in fits if row["quantity"] == "iterations")
    assert number(fit, "b") == pytest.approx(-2, abs=0.02)
    assert (fit["epsilon"], fit["theorem_2"]) == ("all", "at least -2")


def test_chooses_epsilons_that_nine_of_ten_runs_reach(virtual_run: Run, tmp_path: Path) -> None:
    """Ten of eleven fall from 80 to 0.9801 or less: 0.99, and up by cube roots of 80 / 0.9801."""
    for seed in range(10):
        log = virtual_run(name=f"run{seed}", run={"iterations": 3, "seed": seed})
        add_stationarity(log, [80.0, 20.0, 9.0 if seed == 4 else 0.9801 - 0.01 * seed])
    other = {"run": {"iterations": 3, "name": "b", "seed": 10}, "log": {"compression": "gzip"}}
    log = virtual_run(name="other", **other, algorithm={"active_workers": 3, "max_delay": 5})
    add_stationarity(log, [80.0, 20.0, 0.1])
    runs, *_ = run_script(tmp_path)
    chosen = sorted({number(row, "epsilon") for row in runs})
    step = (80 / 0.9801) ** (1 / 3)
    assert chosen[0] == 0.99
    assert chosen[1:] == [math.ceil(0.9801 * step * 10) / 10, math.ceil(0.9801 * step**2)]


def test_other_variables_and_delay_models_have_lines_of_their_own(
    sweep: Callable[..., Path], tmp_path: Path
) -> None:
    for delay in (2, 5, 10):
        for active, model in ((1, "lognormal"), (2, "lognormal"), (2, "constant")):
            sweep(3 * delay, active=active, delay=delay, model=model)
    _, medians, fits, _ = run_script(tmp_path, "--epsilon", 1)
    assert {row["x"] for row in medians} == {"tau"}
    assert {row["line"] for row in fits} == {
        "S = 1, delay = lognormal",
        "S = 2, delay = lognormal",
        "S = 2, delay = constant",
    }
    fit = fits[0]
    assert number(fit, "b") == pytest.approx(1)
    assert (fit["low"], fit["remark"]) == ("nan", f"no interval: too few seeds; {few(1)}")
    _, medians, fits, _ = run_script(tmp_path, "--epsilon", 1, "--x", "S")
    assert {row["x"] for row in medians} == {"S"}
    assert fits[0]["remark"] == "no fit: fewer than 3 values of S"
    assert fits[0]["b"] == "nan"


def test_what_x_determines_needs_no_lines(sweep: Callable[..., Path], tmp_path: Path) -> None:
    for workers in (2, 4, 6):
        sweep(workers, active=workers // 2, workers=workers)
    _, _, fits, _ = run_script(tmp_path, "--epsilon", 1, "--x", "R")
    assert {row["line"] for row in fits} == {""}
    assert number(fits[0], "b") == pytest.approx(1)
    assert fits[0]["theorem_2"] == "tends to 2 as R >> S"


def test_synchronous_runs_have_no_bound_over_workers(
    sweep: Callable[..., Path], tmp_path: Path
) -> None:
    for workers, when in ((2, 4), (3, 6), (4, None)):
        sweep(when, active=workers, workers=workers)
        sweep(when and when + 1, active=workers, workers=workers, seed=1)
    _, _, fits, _ = run_script(tmp_path, "--epsilon", 1, "--x", "R")
    assert fits[0]["remark"] == "no fit: fewer than 3 values of R"
    sweep(8, active=4, workers=4, seed=2)
    _, _, fits, printed = run_script(tmp_path, "--epsilon", 1, "--x", "R")
    power, exponential = (row for row in fits if row["quantity"] == "iterations")
    assert power["theorem_2"] == "no explicit dependence"
    assert (power["low"], power["remark"]) == (
        "nan",
        f"biased: 2 of 7 runs did not reach it; {few(3)}",
    )
    assert exponential["remark"].startswith("biased: 2 of 7 runs did not reach it; ")
    assert power["remark"] in printed


def test_fits_over_epsilon_count_arrivals(sweep: Callable[..., Path], tmp_path: Path) -> None:
    for seed in (0, 1):
        sweep(5, seed=seed)
    with h5py.File(sweep(5, seed=2), "r+") as file:
        for part, share in (("p", 0.5), ("q", 0.25), ("z", 0.125), ("lam", 0.125)):
            file["stationarity"][part][:] = share * 6.0
    _, _, fits, _ = run_script(tmp_path, "--epsilon", "7,5,2,1")
    assert (fits[0]["remark"], fits[0]["low"]) == (
        f"biased: 3 of 12 arrivals are missing; {few(3)}",
        "nan",
    )


def test_draws_where_nothing_is_reached_and_the_largest_delay_is_0(
    sweep: Callable[..., Path], tmp_path: Path
) -> None:
    for delay in (0, 1, 2, 4):
        sweep(None if delay == 4 else 5, active=4, delay=delay)
    _, _, fits, _ = run_script(tmp_path, "--epsilon", "1,0.1")
    assert {row["remark"] for row in fits} == {"no fit: fewer than 3 values of tau"}


@pytest.fixture
def two(virtual_run: Run) -> Callable[..., tuple[Path, Path]]:
    """Two logs, the second of which has further tables."""

    def make(**tables: object) -> tuple[Path, Path]:
        first = virtual_run(name="a", run={"iterations": 3})
        second = virtual_run(name="b", **{"run": {"iterations": 3}, **tables})
        add_stationarity(first, [3.0, 2.0, 1.0])
        return first, second

    return make


def refused(*logs: Path) -> str:
    result = scaling(*logs, "-o", logs[0].parent / "no")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr.removesuffix("\n")


def test_refuses_a_log_without_stationarity(two: Callable[..., tuple[Path, Path]]) -> None:
    first, second = two()
    assert refused(first, second) == (
        f"asyndbt: {second}: has no stationarity; add it with: asyndbt stationarity {second}"
    )


@pytest.mark.parametrize(
    ("tables", "difference"),
    [
        ({"steps": {"optimizer": "sgd", "p": 0.1}}, "steps.p = 0.1, but {} has 0.05"),
        (
            {"delay": {"model": "lognormal", "mean": 2.0}},
            "delay.mean = 2.0, but {} has 1.0",
        ),
    ],
)
def test_refuses_runs_that_differ_otherwise(
    two: Callable[..., tuple[Path, Path]], tables: dict[str, object], difference: str
) -> None:
    first, second = two(**tables)
    add_stationarity(second, [3.0, 2.0, 1.0])
    assert refused(first, second).startswith(f"asyndbt: {second}: {difference.format(first)}; ")


def test_refuses_to_mix_exact_and_estimated(two: Callable[..., tuple[Path, Path]]) -> None:
    first, second = two()
    add_stationarity(second, [3.0, 2.0, 1.0], kind="estimated")
    assert "kind of stationarity = 'estimated', but" in refused(first, second)


def test_refuses_to_choose_an_epsilon_below_0(virtual_run: Run, tmp_path: Path) -> None:
    log = virtual_run(run={"iterations": 2})
    add_stationarity(log, [1.0, -0.5], kind="estimated")
    assert refused(log) == (
        "asyndbt: no epsilon can be chosen: 90% of the runs reach ||grad G||^2 = -0.5;"
        " give --epsilon, above 0"
    )
    runs, *_ = run_script(tmp_path, "--epsilon", 0.1)
    assert (runs[0]["iterations"], runs[0]["kind"]) == ("2", "estimated")


def test_refuses_what_is_no_log_and_no_epsilon(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent.h5").startswith(f"asyndbt: {tmp_path / 'absent.h5'}: no log")
    (tmp_path / "bad.h5").write_text("no HDF5")
    assert refused(tmp_path / "bad.h5") == f"asyndbt: {tmp_path / 'bad.h5'}: not an HDF5 file"
    result = scaling(tmp_path, "-o", tmp_path / "no", "--epsilon", "1,-1")
    assert result.returncode == 2
    assert result.stderr.endswith("'--epsilon': '-1' is not a number above 0\n")


def test_refuses_other_iterations_with_stationarity(
    two: Callable[..., tuple[Path, Path]],
) -> None:
    """Those of every second iteration would seem to arrive later."""
    first, second = two()
    with h5py.File(second, "r+") as file:
        file.attrs["config"] = str(file.attrs["config"]).replace("seed = 0", "seed = 1")
    add_stationarity(second, [3.0, 1.0], [0, 2])
    assert refused(first, second) == (
        f"asyndbt: {second}: iterations with stationarity = '0 to 2, 2 apart at most', but {first}"
        " has '0 to 2, 1 apart at most'; only S, R, tau, the seed and delay.model may differ"
    )


def test_refuses_the_same_run_twice(two: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    first, second = two()
    add_stationarity(second, [3.0, 2.0, 1.0])
    assert refused(first, second) == (
        f"asyndbt: {first} and {second}: both have seed 0 and S = 2, R = 3, tau = 5,"
        " delay = lognormal; give one"
    )
    second.unlink()
    (tmp_path / "linked.h5").symlink_to(first)
    around = f"{tmp_path}/../{tmp_path.name}/*.h5"
    result = scaling("-o", tmp_path / "one", "--epsilon", 2, "--", tmp_path, around, first)
    assert result.returncode == 0, result.stderr
    assert [row["path"] for row in table(tmp_path / "one.csv")] == ["a.h5"]


def test_refuses_a_damaged_stationarity(virtual_run: Run, tmp_path: Path) -> None:
    log = virtual_run(run={"iterations": 3})
    add_stationarity(log, [3.0, math.nan, 1.0])
    assert refused(log) == (
        f"asyndbt: {log}: ||grad G||^2 is not a number after iteration 1; work it out anew:"
        f" asyndbt stationarity {log}"
    )
    with h5py.File(log, "r+") as file:
        del file["stationarity/q"]
    assert refused(log).startswith(f"asyndbt: {log}: ")


def test_help_says_what_is_written() -> None:
    text = scaling("--help").stdout
    assert "asyndbt plot scaling runs/sweep" in text
    assert all(f"FILE{suffix}" in text for suffix in (".png", ".csv", "-medians.csv", "-fits.csv"))
