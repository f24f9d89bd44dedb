import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from asyndbt_mpi.analysis.plot import FIGURES
from asyndbt_mpi.config import Config
from tests.helpers import ROOT, plot, start

Run = Callable[..., Path]


def refused(figure: str, name: str, folder: Path) -> str:
    """The one line that a figure ends with, in ``folder``; the log it is given is none."""
    result = plot(figure, "no.h5", "-o", name, folder=folder)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"asyndbt: --output {name}: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix(f"asyndbt: --output {name}: ").removesuffix("\n")


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_looks_at_the_name_before_it_reads(figure: str, tmp_path: Path) -> None:
    assert refused(figure, "a.jpg", tmp_path) == (
        ".jpg is no kind of picture; give a name that ends in .png, .pdf or .svg"
    )


def test_refuses_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "file").touch()
    ending = "is no kind of picture; give a name that ends in .png, .pdf or .svg"
    expected = {
        "figures/": "is a folder; give the name of a picture, such as figures/figure.png",
        "runs": "is a folder; give the name of a picture, such as runs/figure.png",
        "runs/a.CSV": f".CSV {ending}",
        "a.h5": f".h5 {ending}",
        "file/a.png": "the folder file cannot be made (File exists); give one that can be written",
    }
    for name, reason in expected.items():
        assert refused("timing", name, tmp_path) == reason
    assert not (tmp_path / "figures").exists()


def test_makes_the_folder_and_takes_a_number_for_no_ending(tmp_path: Path) -> None:
    result = plot("timing", "no.h5", "-o", "a/b/sigma-0.5", folder=tmp_path)
    assert result.stderr.startswith("asyndbt: no.h5: no log there")
    assert (tmp_path / "a/b").is_dir()


@pytest.mark.parametrize("width", ["79.9", "501", "nan", "inf", "-84", "columns", "84mm"])
def test_refuses_what_is_no_width(width: str, tmp_path: Path) -> None:
    result = plot("timing", "no.h5", "-o", "a.png", "--width", width, folder=tmp_path)
    assert result.returncode == 2
    assert "give column, page or 80 to 500 (millimetres)" in result.stderr


STARTS = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.png", [".png"]),
        ("a.PDF", [".PDF"]),
        ("a.svg", [".svg"]),
        ("a", [".png", ".pdf"]),
    ],
)
def test_the_ending_decides_what_is_written(
    name: str, written: list[str], virtual_run: Run, tmp_path: Path
) -> None:
    run = virtual_run(run={"iterations": 5})
    (tmp_path / "out").mkdir()
    result = plot("timing", run, "-o", f"out/{name}", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    names = [f"a{ending}" for ending in (*written, ".csv")]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(names)
    assert result.stdout.splitlines()[-1].split() == [f"out/{name}" for name in names]
    for ending in written:
        content = (tmp_path / f"out/a{ending}").read_bytes()
        assert content.startswith(STARTS[ending.lower()])


@pytest.mark.parametrize(("width", "millimetres"), [("column", 84), ("page", 174), ("120", 120)])
def test_a_pdf_is_as_wide_as_asked_and_its_letters_are_letters(
    width: str, millimetres: float, virtual_run: Run, tmp_path: Path
) -> None:
    run = virtual_run(run={"iterations": 5})
    for figure in ("convergence", "timing", "stragglers"):
        plot(figure, run, "-o", "a.pdf", "--width", width, folder=tmp_path)
        content = (tmp_path / "a.pdf").read_bytes()
        box = re.search(rb"/MediaBox \[ 0 0 ([0-9.]+) ", content)
        assert box is not None
        assert float(box[1]) == pytest.approx(millimetres / 25.4 * 72, abs=0.01)
        assert b"/Type3" not in content  # fonts of type 3 are drawings of letters
        assert b"/CIDFontType2" in content


@pytest.mark.parametrize("figure", FIGURES)
def test_the_script_is_the_command(figure: str, tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "analysis" / f"{figure}.py")]
    own = start([*script, "no.h5", "-o", "a.png"], tmp_path)
    assert own.returncode == 2
    assert own.stderr == plot(figure, "no.h5", "-o", "a.png", folder=tmp_path).stderr


HOSTILE = "$x_{$ =cmd|' /C calc'!A0"
CONTROLS = "\x1b[2J\u202e"  # which no configuration has, and so no name of a run


def altered(path: Path) -> Path:
    with h5py.File(path, "r+") as file:
        config = Config.from_toml(file.attrs["config"])
        run = config.run.model_copy(update={"name": HOSTILE})
        file.attrs["config"] = config.model_copy(update={"run": run}).to_toml()
        file.attrs["transport"] = f"={HOSTILE} {CONTROLS}"
    return path


@pytest.mark.parametrize("figure", ["convergence", "timing", "stragglers"])
def test_text_of_a_log_is_text(figure: str, virtual_run: Run, tmp_path: Path) -> None:
    """No mathematics for matplotlib, no formula for a spreadsheet, nothing for a terminal."""
    path = altered(virtual_run(run={"iterations": 10}, delay={"model": "constant", "mean": 1.0}))
    output = tmp_path / "figure"
    result = plot(figure, path, "-o", output, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    told = result.stdout + result.stderr
    assert all(sign.isprintable() or sign == "\n" for sign in told)
    if figure == "stragglers":
        with open(f"{output}.csv", newline="") as file:
            assert next(csv.DictReader(file))["transport"].startswith("'=$x")


@pytest.mark.parametrize("figure", ["convergence", "timing"])
@pytest.mark.parametrize("target", ["/dev/null", "thesis.txt"])
def test_nothing_is_written_through_a_link(
    figure: str, target: str, virtual_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("dear to somebody")
    (tmp_path / "figure.png").symlink_to(target)
    path = virtual_run(run={"iterations": 10}, delay={"model": "constant", "mean": 1.0})
    result = plot(figure, path, "-o", "figure", folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        "asyndbt: figure.png: is there, and no regular file; give another --output\n"
    )
    assert (tmp_path / "thesis.txt").read_text() == "dear to somebody"
