"""Pages in a browser: nothing is loaded, nothing is wrong, and they work by keyboard."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.report.run import run_page
from tests.helpers import asyndbt

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)  # fmt: skip
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here"),
    pytest.mark.long,
]

PAPER = 794
"""Pixels of A4."""
VIEWS = [("light", 1280), ("dark", 1280), ("light", 375), ("dark", 375)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page_of_run(demo_run: Path, tmp_path: Path) -> Path:
    result = asyndbt("report", str(demo_run), "-o", "run.html", "--prompts", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    return tmp_path / "run.html"


def opened(
    browser: Any, path: Path, scheme: str = "light", width: int = 1280
) -> tuple[Any, list[str]]:
    """The page, and what went wrong or was requested, which goes on growing."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: said.append(request.url))
    page.goto(path.as_uri())
    assert said.pop(0) == path.as_uri()
    return page, said


def check(browser: Any, path: Path) -> None:
    for scheme, width in VIEWS:
        page, said = opened(browser, path, scheme, width)
        for details in page.locator("details").all():
            details.locator("summary").first.click()
        found = axe.Axe().run(page).response["violations"]
        assert not found, [(each["id"], each["nodes"][0]["html"]) for each in found]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert [url for url in said if not url.startswith("data:image/png;")] == []
        page.close()


def test_a_run(browser: Any, page_of_run: Path) -> None:
    check(browser, page_of_run)


def test_a_run_on_paper(browser: Any, page_of_run: Path) -> None:
    """Nothing is folded away or cut off, and the paper is light."""
    page, _ = opened(browser, page_of_run, "dark", PAPER)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("nav").is_visible()
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == "rgb(255, 255, 255)"


def test_a_sweep(browser: Any, virtual_run: Any, tmp_path: Path) -> None:
    for active in (1, 2):
        for seed in (0, 1):
            virtual_run(
                name=f"{active}-{seed}",
                run={"iterations": 12, "evaluate_every": 4, "seed": seed},
                algorithm={"active_workers": active, "max_delay": 5},
            )
    assert asyndbt("report", ".", "-o", "page.html", folder=tmp_path).returncode == 0
    check(browser, tmp_path / "page.html")


def test_the_check_finds_what_is_wrong(browser: Any, page_of_run: Path) -> None:
    text = page_of_run.read_text()
    page_of_run.write_text(text.replace('<html lang="en">', "<html>"))
    with pytest.raises(AssertionError, match="html-has-lang"):
        check(browser, page_of_run)
    page_of_run.write_text(
        text.replace("<h2>", "<img src='http://localhost/x.png' alt='x'><h2>", 1)
    )
    with pytest.raises(AssertionError, match="localhost"):
        check(browser, page_of_run)


def test_values_are_read_by_keyboard_and_pointer(browser: Any, page_of_run: Path) -> None:
    page, _ = opened(browser, page_of_run)
    chart = page.locator(".chart[data-values]").first
    told = chart.locator("output")
    for _ in range(200):
        page.keyboard.press("Tab")
        if told.inner_text():
            break
    with_last = told.inner_text()
    assert with_last.startswith("iteration 8: every iteration ")
    page.keyboard.press("ArrowLeft")
    assert told.inner_text().startswith("iteration 7: ")
    page.keyboard.press("Home")
    assert told.inner_text().startswith("iteration 1: ")
    page.keyboard.press("Escape")
    assert told.inner_text() == ""
    picture = chart.locator("svg")
    box = picture.bounding_box()
    picture.hover(position={"x": box["width"] - 2, "y": box["height"] / 2})
    assert told.inner_text() == with_last


def test_marks_are_where_the_lines_are(browser: Any, page_of_run: Path) -> None:
    """The last mark is at the end of the line that it belongs to."""
    page, _ = opened(browser, page_of_run)
    chart = page.locator(".chart[data-values]").first
    chart.focus()
    mark = chart.locator("circle.mark").last.bounding_box()
    line = chart.locator('path[style*="--blue"][style*="1.4"]').first.bounding_box()
    assert mark["x"] + mark["width"] / 2 == pytest.approx(line["x"] + line["width"], abs=3)
    middle = mark["y"] + mark["height"] / 2
    assert line["y"] - 3 <= middle <= line["y"] + line["height"] + 3


def test_rows_are_sorted_by_keyboard(browser: Any, page_of_run: Path) -> None:
    page, _ = opened(browser, page_of_run)
    table = page.locator("table.sortable").filter(has_text="By right label").first

    def column() -> list[float]:
        cells = table.locator("tbody tr td:nth-child(5)").all_inner_texts()
        return [float(cell.split()[0]) for cell in cells]

    before = column()
    button = table.locator("thead button").nth(4)
    for reverse, state in ((False, "ascending"), (True, "descending")):
        button.press("Enter")
        assert column() == sorted(before, reverse=reverse)
        assert table.locator("thead th").nth(4).get_attribute("aria-sort") == state


def test_no_script_of_a_stranger_runs(browser: Any, demo_run: Path, tmp_path: Path) -> None:
    """Not from a log; and if one came in, the page's policy would stop it."""
    with h5py.File(demo_run, "r+") as file:
        attack = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"
        file["vocabulary"][:] = [f"{attack}{n}" for n in range(len(file["vocabulary"]))]
    path = tmp_path / "hostile.html"
    with Log(demo_run) as log:
        path.write_text(run_page(log, {}))
    page, said = opened(browser, path)
    assert said == []
    assert "<script>alert(1)</script>" in page.locator("#prompts").inner_text()
    path.write_text(path.read_text().replace("<h2>", "<script>alert(3)</script><h2>", 1))
    page, said = opened(browser, path)
    page.wait_for_load_state()
    assert not {"1", "2", "3"} & set(said)
    assert any("Content Security Policy" in line for line in said)
