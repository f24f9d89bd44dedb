import numpy as np
import pytest
from scipy import stats

from asyndbt_mpi.analysis.methods import Cell, Table, ranks, table3, table4


def test_ranks_by_hand() -> None:
    # Ranks 1 2 3, 2 1 3, 1.5 1.5 3, 1 2 3.
    found = ranks(np.array([[9.0, 8, 7], [8, 9, 7], [9, 9, 7], [9, 8, 7]]))
    np.testing.assert_allclose(found.mean, [5.5 / 4, 6.5 / 4, 3.0])
    # 12 N / (k (k + 1)) [sum of squares - k (k + 1)^2 / 4], over 1 - 6 / (N k (k^2 - 1)) for the tie
    squares = sum(each**2 for each in (5.5 / 4, 6.5 / 4, 3.0))
    chi_square = 4 * (squares - 12) / (1 - 6 / (4 * 3 * 8))
    assert found.p_value == pytest.approx(stats.chi2.sf(chi_square, 2))


@pytest.mark.parametrize(("methods", "quantile"), [(3, 2.343), (4, 2.569), (9, 3.102)])
def test_critical_differences_are_those_of_the_published_table(
    methods: int, quantile: float
) -> None:
    """Demšar, JMLR 7 (2006), table 5a, for the Nemenyi test."""
    found = ranks(np.random.default_rng(0).random((14, methods)))
    due = quantile * np.sqrt(methods * (methods + 1) / (6 * 14))
    assert found.critical_difference == pytest.approx(due, rel=1e-3)


def test_few_methods_or_tasks_have_no_ranks() -> None:
    for shape in ((1, 4), (5, 2)):
        with pytest.raises(ValueError, match="ranks need"):
            ranks(np.ones(shape))


def cells() -> list[Cell]:
    return [
        Cell(method, task, seed, 60.0 + 10 * good + task_gain + seed, 0.5, 100, 2000)
        for good, method in enumerate(("bad", "middling", "good"))
        for task_gain, task in enumerate(("one", "two"))
        for seed in range(2)
    ]


def test_the_table_has_means_ranks_and_costs() -> None:
    lines = list(table3(Table(cells(), ["good", "bad", "middling", "absent"], ["two", "one"])))
    assert "| method | two | one | mean rank |" in lines
    assert "| good | 81.5 ± 0.7 | 80.5 ± 0.7 | 1.00 |" in lines
    assert "| bad | 61.5 ± 0.7 | 60.5 ± 0.7 | 3.00 |" in lines
    assert "| good | 6.4 | 6.4 |" in lines
    assert "| good | 100 (2,000) | 100 (2,000) |" in lines
    assert not any("absent" in line for line in lines)


def test_a_single_seed_has_no_intervals() -> None:
    lines = list(table3(Table([cell for cell in cells() if not cell.seed], ["good"], ["one"])))
    assert "| good | 80.0 |" in lines
    assert not any("interval" in line for line in lines)


def test_an_unfinished_table_says_what_is_missing() -> None:
    some = [cell for cell in cells() if (cell.method, cell.task, cell.seed) != ("bad", "one", 1)]
    lines = list(table3(Table(some, ["bad", "good"], ["one"])))
    assert "| bad | 60.0 [1] |" in lines


def test_every_cell_is_a_line_of_the_csv() -> None:
    lines = Table(cells(), ["bad"], ["one"]).csv().splitlines()
    assert len(lines) == 1 + len(cells())
    assert lines[1] == "one,bad,0,60.0000,0.500000,100,2000"


def test_the_parts_of_a_prompt_are_paired_by_seed_with_the_plain_one() -> None:
    gains = {"manual": (0, 0, 0), "words_only": (1, 2, 3), "cendbt": (10, 10, 16)}
    some = [
        Cell(method, "one", seed, 50.0 + 7 * seed + gain, 0.5, 0, 0)
        for method, of_seeds in gains.items()
        for seed, gain in enumerate(of_seeds)
    ]
    lines = list(table4(Table(some, ["manual", "words_only", "cendbt"], ["one"])))
    assert "| plain | 57.0 ± 7.0 |" in lines
    # t(0.975, 2) = 4.303: 4.303 * 1 / sqrt(3), and 4.303 * sqrt(12) / sqrt(3)
    assert "| words only | +2.0 ± 2.5 |" in lines
    assert "| both | +12.0 ± 8.6 |" in lines
    assert sum(line.startswith("| plain") for line in lines) == 1
