import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "analysis"
SCRIPTS = ("scaling", "stragglers", "timing")


def refused(script: str, prefix: str, folder: Path) -> str:
    """The one line that ``script`` ends with, in ``folder``; the log it is given is none."""
    command = [sys.executable, str(FOLDER / f"{script}.py"), "no.h5", "-o", prefix]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
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
    command = [sys.executable, str(FOLDER / "timing.py"), "no.h5", "-o", "a/b/sigma-0.5"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stderr.startswith("timing: no.h5: no log there")
    assert (tmp_path / "a/b").is_dir()
