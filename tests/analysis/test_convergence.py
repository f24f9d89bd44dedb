from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import ROOT, Result, python

SCRIPT = ROOT / "analysis" / "convergence.py"
Run = Callable[..., Path]


def convergence(*arguments: object) -> Result:
    return python(SCRIPT, *arguments)


@pytest.mark.parametrize("evaluate_every", [0, 5])
def test_draws_a_picture(virtual_run: Run, tmp_path: Path, evaluate_every: int) -> None:
    run = virtual_run(run={"iterations": 20, "evaluate_every": evaluate_every})
    picture = tmp_path / "picture.png"
    result = convergence(run, "-o", picture)
    assert result.returncode == 0, result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000


def test_draws_many_workers_and_left_out_iterates(virtual_run: Run, tmp_path: Path) -> None:
    run = virtual_run(
        workers=40,
        run={"iterations": 30},
        algorithm={"active_workers": 8, "max_delay": 20},
        log={"iterates": 7},
    )
    assert convergence(run, "-o", tmp_path / "many.png").returncode == 0


def test_refuses_what_is_no_log(tmp_path: Path) -> None:
    result = convergence(tmp_path / "absent.h5", "-o", tmp_path / "no.png")
    assert result.returncode == 2
    assert result.stderr == f"convergence: {tmp_path / 'absent.h5'}: no such file\n"
    help_text = convergence("--help").stdout
    assert "Example: python analysis/convergence.py" in help_text
