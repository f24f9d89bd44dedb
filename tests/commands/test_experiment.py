import dataclasses
from pathlib import Path

import pytest

from asyndbt_mpi.baselines.result import Result
from asyndbt_mpi.commands import baseline as commands
from asyndbt_mpi.commands import experiment as module
from asyndbt_mpi.commands.experiment import Grid, experiment, finished
from asyndbt_mpi.commands.paper import write_table3
from asyndbt_mpi.config import ConfigurationError
from tests.conftest import Opinionated

SMALL = "task.test=20", "prompt.pool=4", "task.train_per_class=5", "task.validation_per_class=5"
METHODS = "manual", "random_icl", "random_search"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Cells are made in this process, by a model that costs nothing; those that were."""
    made: list[Path] = []
    monkeypatch.setattr(commands, "language_model", lambda *_: Opinionated())
    monkeypatch.setattr(commands, "rows_fit", lambda *_: True)

    def one_by_one(work, do, name, unit, total):  # type: ignore[no-untyped-def]
        made.extend(cell.output for cell in work)
        for cell in work:
            do(cell, 1)
        return []

    monkeypatch.setattr(module, "on_all_cores", one_by_one)
    return made


def grid(folder: Path, *settings: str, tasks: tuple[str, ...] = ("reviews", "demo"),
         seeds: int = 2) -> Grid:  # fmt: skip
    return Grid(tasks, METHODS, seeds, 3, 600, (*SMALL, *settings), None, "none", "", folder)


def test_what_is_finished_is_not_made_again(tmp_path: Path, here: list[Path]) -> None:
    assert experiment(grid(tmp_path)) == []
    assert len(here) == 12
    (tmp_path / "reviews" / "random_icl-1.json").unlink()
    here.clear()
    assert experiment(grid(tmp_path)) == []
    assert here == [tmp_path / "reviews" / "random_icl-1.json"]


def test_methods_of_a_task_and_seed_have_the_same_rows(tmp_path: Path) -> None:
    experiment(grid(tmp_path))
    found = [finished(cell) for cell in grid(tmp_path).cells()]
    by_row: dict[tuple[str, int], set[tuple[str, tuple[int, ...]]]] = {}
    for each in found:
        assert isinstance(each, Result)
        rows = each.data_digest, tuple(each.labels)
        by_row.setdefault((each.task, each.seed), set()).add(rows)
    assert len(by_row) == 4
    assert all(len(rows) == 1 for rows in by_row.values())


def test_the_table_is_written_beside_the_results(tmp_path: Path) -> None:
    experiment(grid(tmp_path))
    lines = write_table3(grid(tmp_path))
    assert any(line.startswith("| random_search |") for line in lines)
    assert (tmp_path / "table3.md").read_text().splitlines() == lines
    assert len((tmp_path / "table3.csv").read_text().splitlines()) == 13


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    experiment(grid(tmp_path, seeds=1))
    with pytest.raises(ConfigurationError, match="was made with other settings"):
        experiment(grid(tmp_path, "task.calibration=batch", seeds=1))


def test_data_that_do_not_ship_have_to_be_given(tmp_path: Path, here: list[Path]) -> None:
    with pytest.raises(ConfigurationError, match=r"cola: .* give --data FOLDER.*CoLA"):
        experiment(grid(tmp_path, tasks=("reviews", "cola")))
    assert here == []


def test_too_few_calls_for_one_method_are_refused_before_another_is_made(
    tmp_path: Path, here: list[Path]
) -> None:
    with pytest.raises(ConfigurationError, match="59 are too few for random_search"):
        experiment(dataclasses.replace(grid(tmp_path), calls=59))
    assert here == []
