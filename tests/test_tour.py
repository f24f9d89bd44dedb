"""The notebook of docs/: does it still run, and say what is printed in it?"""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"
MOST_BYTES = 50_000


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """What each cell has printed; pictures differ between versions of matplotlib."""
    cells = [cell.get("outputs", []) for cell in notebook.cells]
    return ["".join(each.get("text", "") for each in outputs) for outputs in cells]


def test_the_tour_runs_and_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TOUR.parents[1]), prepend=":")
    shown = nbformat.read(TOUR, as_version=4)
    executed = nbformat.read(TOUR, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(executed, timeout=120, resources=place).execute()
    assert printed(executed) == printed(shown)
    assert "".join(printed(shown)).count("\n") >= 10
    pictures = [
        output for cell in executed.cells for output in cell.get("outputs", []) if "data" in output
    ]
    assert any("image/png" in output["data"] for output in pictures)
    assert (tmp_path / "tour.h5").exists()


def test_the_tour_is_kept_small_and_names_nobodys_machine() -> None:
    assert TOUR.stat().st_size < MOST_BYTES
    text = TOUR.read_text()
    for place in ("/home/", "/root/", "/tmp/"):
        assert place not in text
