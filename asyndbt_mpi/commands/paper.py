"""The paper's tables and figures, from the results and logs of an experiment."""

from collections.abc import Callable, Iterator
from pathlib import Path

from asyndbt_mpi.analysis import curves, files, training_time
from asyndbt_mpi.analysis.methods import PARTS, Cell, Table, table3, table4
from asyndbt_mpi.commands.experiment import Grid, results, stem

OF_TABLE4 = tuple(PARTS)
OF_FIGURE1 = training_time.METHODS
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
    cells = [Cell.of(found, stem(cell.source)) for cell, found in results(grid)]
    table = Table(cells, grid.methods, [stem(task) for task in grid.tasks])
    lines = list(lines_of(table)) if cells else [NOTHING]
    (grid.folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (grid.folder / f"{name}.csv").write_text(table.csv(), encoding="utf-8")
    return lines


def write_figure1(grid: Grid) -> list[str]:
    """Draw figure1.png and .pdf, and write figure1.csv; how long AsynDBT takes, in lines."""
    found, lines = [], []
    for folder, logs in _logs(grid).items():
        missing = [method for method in OF_FIGURE1 if method not in logs]
        if missing:
            lines.append(f"{folder.name} is left out: it has no log of {', '.join(missing)}")
        else:
            found += training_time.read(folder, range(grid.seeds))
    if not found:
        return [*lines, NOTHING]
    model = training_time.delays(grid.folder / found[0].task)
    target = files.Output.of(str(grid.folder / "figure1"))
    target.save(training_time.draw(found, model), {"": list(training_time.rows(found))})
    return [*lines, *training_time.said(found)]


def write_curves(grid: Grid) -> list[str]:
    """Draw curves-TASK.png and .pdf for each task."""
    for folder, logs in _logs(grid).items():
        if logs:
            target = files.Output.of(str(grid.folder / f"curves-{folder.name}"))
            found = {method: curves.courses(paths) for method, paths in logs.items()}
            target.save(curves.draw(found, folder.name), {})
    return []


def _logs(grid: Grid) -> dict[Path, dict[str, list[Path]]]:
    """By task, in the order asked for, and method: the logs of finished results alone."""
    found: dict[Path, dict[str, list[Path]]] = {grid.folder / stem(task): {} for task in grid.tasks}
    for cell, _ in results(grid):
        log = cell.output.with_suffix(".h5")
        if log.exists():
            found[log.parent].setdefault(cell.method, []).append(log)
    return found
