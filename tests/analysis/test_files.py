import csv
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from asyndbt_mpi.config import Config
from tests.helpers import ROOT, Result, python

FOLDER = ROOT / "analysis"
Run = Callable[..., Path]
SCRIPTS = ("scaling", "stragglers", "timing")


def run(script: str, log: object, output: object, folder: Path) -> Result:
    return python(FOLDER / f"{script}.py", log, "-o", output, folder=folder)


def refused(script: str, prefix: str, folder: Path) -> str:
    """The one line that ``script`` ends with, in ``folder``; the log it is given is none."""
    result = run(script, "no.h5", prefix, folder)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"{script}: --output {prefix}: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix(f"{script}: --output {prefix}: ").removesuffix("\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_looks_at_the_prefix_before_it_reads(script: str, tmp_path: Path) -> None:
    assert refused(script, "a.pdf", tmp_path) == ".pdf is added to the prefix; a would be right"


def test_refuses_what_is_no_prefix(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "file").touch()
    expected = {
        "figures/": "is a folder; give a prefix of files, such as figures/figure",
        "runs": "is a folder; give a prefix of files, such as runs/figure",
        "runs/a.PNG": ".PNG is added to the prefix; runs/a would be right",
        "a.csv": ".csv is added to the prefix; a would be right",
        "file/a": "the folder file cannot be made (File exists); give one that can be written",
    }
    for prefix, reason in expected.items():
        assert refused("timing", prefix, tmp_path) == reason
    assert not (tmp_path / "figures").exists()


def test_makes_the_folder_and_takes_a_dotted_prefix(tmp_path: Path) -> None:
    result = run("timing", "no.h5", "a/b/sigma-0.5", tmp_path)
    assert result.stderr.startswith("timing: no.h5: no log there")
    assert (tmp_path / "a/b").is_dir()


HOSTILE = "$x_{$ =cmd|' /C calc'!A0"
CONTROLS = "\x1b[2J\u202e"  # which no configuration has, and so no name of a run


def altered(path: Path) -> Path:
    with h5py.File(path, "r+") as file:
        config = Config.from_toml(file.attrs["config"])
        run = config.run.model_copy(update={"name": HOSTILE})
        file.attrs["config"] = config.model_copy(update={"run": run}).to_toml()
        file.attrs["transport"] = f"={HOSTILE} {CONTROLS}"
    return path


@pytest.mark.parametrize("script", ["convergence", "timing", "stragglers"])
def test_text_of_a_log_is_text(script: str, virtual_run: Run, tmp_path: Path) -> None:
    """No mathematics for matplotlib, no formula for a spreadsheet, nothing for a terminal."""
    path = altered(virtual_run(run={"iterations": 10}, delay={"model": "constant", "mean": 1.0}))
    output = tmp_path / "figure"
    result = run(script, path, output, tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    told = result.stdout + result.stderr
    assert all(sign.isprintable() or sign == "\n" for sign in told)
    if script == "stragglers":
        with open(f"{output}.csv", newline="") as file:
            assert next(csv.DictReader(file))["transport"].startswith("'=$x")


@pytest.mark.parametrize("script", ["convergence", "timing"])
@pytest.mark.parametrize("target", ["/dev/null", "thesis.txt"])
def test_nothing_is_written_through_a_link(
    script: str, target: str, virtual_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("dear to somebody")
    (tmp_path / "figure.png").symlink_to(target)
    path = virtual_run(run={"iterations": 10}, delay={"model": "constant", "mean": 1.0})
    result = run(script, path, "figure", tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        f"{script}: figure.png: is there, and no regular file; give another --output\n"
    )
    assert (tmp_path / "thesis.txt").read_text() == "dear to somebody"
