import csv
from pathlib import Path

import pytest

from asyndbt_mpi.analysis.robustness import COLUMNS, draw, read, rows, worst
from asyndbt_mpi.config import ConfigurationError
from tests.analysis.looks import check_looks
from tests.helpers import plot

Line = dict[str, object]


def line(
    attack: str, defence: str, malicious: int, seed: int, kept: float, **other: object
) -> Line:
    """Own prompts keep 100 less a tenth of what the consensus loses."""
    setting = {"variant": "exact", "workers": 20, "active": 10, "heterogeneity": 0.5}
    run = {"attack": attack, "defence": defence, "malicious": malicious, "seed": seed}
    values = {"loss_kept": 100 - (100 - kept) / 10, "consensus_kept": kept}
    return setting | run | values | other


def table(path: Path, lines: list[Line]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def small() -> list[Line]:
    return [
        line("none", "mean", 2, 0, 100), line("none", "mean", 8, 0, 100),
        line("flip", "mean", 2, 0, 90), line("flip", "mean", 2, 1, 70),
        line("noise", "mean", 2, 0, 60), line("noise", "mean", 2, 1, 99),
        line("flip", "mean", 8, 0, 20), line("noise", "mean", 8, 0, 10),
    ]  # fmt: skip


def test_the_worst_attack_by_hand(tmp_path: Path) -> None:
    points = worst(read([table(tmp_path / "a.csv", small())]))
    found = [
        (each.share, each.attack, each.seeds, each.mean, each.low, each.high)
        for each in points
        if each.quantity == "consensus_kept"
    ]
    assert found == [
        (0, "none", 1, 100, 100, 100),
        (10, "noise", 2, 79.5, 60, 99),  # 60 and 99 are less on average than 90 and 70
        (40, "noise", 1, 10, 10, 10),
    ]
    assert len(list(rows(points))) == len(points) == 6


def test_a_run_in_two_tables_counts_once(tmp_path: Path) -> None:
    paths = [table(tmp_path / name, small()) for name in ("a.csv", "b.csv")]
    assert worst(read(paths)) == worst(read(paths[:1]))


@pytest.mark.parametrize("width", [84.0, 174.0])
@pytest.mark.parametrize("settings", [1, 3])
def test_the_figure_can_be_read(tmp_path: Path, width: float, settings: int) -> None:
    defences = [f"a defence with ${number}$" for number in range(9)]
    lines = [
        line(attack, defence, malicious, seed, 100 - 12 * malicious - seed, active=active)
        for active in range(1, settings + 1)
        for defence in defences
        for attack in ("none", "flip")
        for malicious in (2, 9)
        for seed in range(2)
    ]
    figure = draw(worst(read([table(tmp_path / "a.csv", lines)])), width)
    check_looks(figure, width)
    assert len(figure.axes) == 2 * settings
    assert sorted({text.get_text() for text in figure.legends[0].get_texts()}) == defences


@pytest.mark.parametrize(
    "lines",
    [
        [{"variant": "exact"}],
        [line("none", "mean", 2, 0, 100, workers=0)],
        [line("none", "mean", 2, 0, float("nan"))],
        [line("none", "mean", 20, 0, 100)],
    ],
)
def test_another_table_is_one_line(tmp_path: Path, lines: list[Line]) -> None:
    with pytest.raises(ConfigurationError, match="is no table of") as told:
        read([table(tmp_path / "a.csv", lines)])
    assert COLUMNS[0] in str(told.value)


def test_the_command_keeps_what_it_reads(tmp_path: Path) -> None:
    path = table(tmp_path / "robustness.csv", small())
    before = path.read_bytes()
    result = plot("robustness", path, "-o", tmp_path / "robustness.png")
    assert result.returncode == 0, result.stderr
    assert path.read_bytes() == before
    assert (tmp_path / "robustness.png").exists()
    assert (tmp_path / "robustness-worst.csv").read_text().count("\n") == 7
    result = plot("robustness", tmp_path / "none.csv", "-o", tmp_path / "no.png")
    assert result.returncode == 2
    assert "none.csv" in result.stderr + result.stdout
