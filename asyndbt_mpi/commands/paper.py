"""The paper's tables and figures, from the results and logs of an experiment."""

from collections.abc import Callable, Iterator
from pathlib import Path

from asyndbt_mpi.analysis import curves, files, training_time
from asyndbt_mpi.analysis.methods import PARTS, Cell, Table, table3, table4
from asyndbt_mpi.commands.experiment import Grid, results
from asyndbt_mpi.config import ConfigurationError

OF_TABLE4 = tuple(PARTS)
OF_FIGURE1 = tuple(training_time.METHODS)
OF_CURVES = tuple(curves.METHODS)
"""The methods that each needs."""

NOTHING = "No result is there."


def write_table3(grid: Grid) -> list[str]:
    """Write table3.md and table3.csv; the lines of the first."""
    return _write_table(grid, "table3", table3)


def write_table4(grid: Grid) -> list[str]:
    """Write table4.md and table4.csv; the lines of the first."""
    return _write_table(grid, "table4", table4)


def _write_table(grid: Grid, name: str, lines_of: Callable[[Table], Iterator[str]]) -> list[str]:
    cells = [Cell.of(found, Path(cell.source).stem) for cell, found in results(grid)]
    table = Table(cells, grid.methods, [Path(task).stem for task in grid.tasks])
    lines = list(lines_of(table)) if cells else [NOTHING]
    (grid.folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (grid.folder / f"{name}.csv").write_text(table.csv(), encoding="utf-8")
    return lines


def write_figure1(grid: Grid) -> list[str]:
    """Draw figure1.png and .pdf, and write figure1.csv; what AsynDBT saves, in lines."""
    there = training_time.folders(grid.folder)
    tasks = [path for path in _folders(grid) if path in there]
    if not tasks:
        return [NOTHING]
    found = [each for task in tasks for each in training_time.read(task)]
    target = files.Output.of(str(grid.folder / "figure1"))
    rows = list(training_time.rows(found))
    target.save(training_time.draw(found, training_time.delays(tasks[0])), {"": rows})
    return list(training_time.said(found))


def write_curves(grid: Grid) -> list[str]:
    """Draw curves-TASK.png and .pdf for each task."""
    for folder in _folders(grid):
        logs = curves.logs_of(folder, curves.METHODS)
        if logs:
            target = files.Output.of(str(grid.folder / f"curves-{folder.name}"))
            found = {method: curves.courses(paths) for method, paths in logs.items()}
            target.save(curves.draw(found, folder.name), {})
    return []


def _folders(grid: Grid) -> list[Path]:
    """By task, in the order asked for.

    Raises
    ------
    ConfigurationError
        Two tasks have the same name.
    """
    names = [Path(task).stem for task in grid.tasks]
    if len(set(names)) < len(names):
        raise ConfigurationError("--tasks: two have the same name, and so the same folder")
    return [grid.folder / name for name in names]
