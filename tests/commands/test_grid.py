from pathlib import Path

import pytest

from asyndbt_mpi.commands.experiment import Grid
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.inputs.sections import Delay


def configurations(folder: Path, *settings: str) -> list[Config]:
    """Of every cell."""
    grid = Grid(
        *(("reviews", "demo"), ("manual", "local"), 2, 3, 600, settings, None, "none", ""), folder
    )
    return [load(cell.source, cell.assignments) for cell in grid.cells()]


def test_assignments_take_a_second_on_average(tmp_path: Path) -> None:
    found = configurations(tmp_path)
    assert len(found) == 8
    assert {(each.delay.model, each.delay.mean) for each in found} == {("lognormal", 1.0)}


@pytest.mark.parametrize(
    ("settings", "delay"),
    [
        (("delay.mean=3",), Delay(model="lognormal", mean=3)),
        (("delay.model=constant",), Delay(model="constant", mean=1)),
        (("delay.model=none", "delay.mean=0"), Delay()),
    ],
)
def test_delays_are_those_of_the_command_line(
    settings: tuple[str, ...], delay: Delay, tmp_path: Path
) -> None:
    assert {each.delay.model_dump_json() for each in configurations(tmp_path, *settings)} == {
        delay.model_dump_json()
    }
