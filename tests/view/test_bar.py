"""The line of progress: what a terminal shows, and what a file or a pipe gets."""

import os
import re
import sys
import time
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.view.bar import Bar, Count, drawn, duration, fitted, waiting
from asyndbt_mpi.view.say import say

SEQUENCE = re.compile(r"\x1b\[(\??\d*)([A-Za-z])")


class Terminal(StringIO):
    """Standard error as a terminal, and what a terminal makes of it."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines that are to be seen at the end."""
        lines, row, column = [""], 0, 0
        rest = self.getvalue()
        while rest:
            if found := SEQUENCE.match(rest):
                number, what = found.groups()
                rest = rest[found.end() :]
                if what == "A":
                    row = max(0, row - int(number or 1))
                elif what == "K":
                    assert number == "2"
                    lines[row] = ""
                else:
                    assert what in "lhm", found.group()
                continue
            sign, rest = rest[0], rest[1:]
            if sign == "\r":
                column = 0
            elif sign == "\n":
                row, column = row + 1, 0
                lines += [""] * (row == len(lines))
            else:
                lines[row] = lines[row][:column].ljust(column) + sign + lines[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines if line.strip()]


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Not a fixture: pytest has its own standard error between set-up and call."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "50")
    return found


def test_on_a_terminal_nothing_that_others_print_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with Count(100, "rows") as bar:
        for number in range(4):
            bar.add(25)
            print(f"printed {number}", file=sys.stderr)
            say(f"warned {number}", err=True)
            bar.say(f"said {number} {'and more ' * 9}")
    lines = terminal.screen()
    for number in range(4):
        assert f"printed {number}" in lines
        assert f"warned {number}" in lines
        assert any(line.startswith(f"said {number}") for line in lines)
    assert [line for line in lines if "rows" in line] == lines[-1:]
    assert lines[-1].startswith("100/100 rows ████████")


def test_on_a_terminal_the_line_fits_when_the_window_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_terminal(monkeypatch)
    widths = []

    def text(width: int) -> str:
        widths.append(width)
        return "x" * 200

    monkeypatch.delenv("COLUMNS")
    for columns in (80, 30):
        monkeypatch.setattr("os.get_terminal_size", lambda *_, n=columns: os.terminal_size((n, 24)))
        with Bar(text):
            pass
        assert widths[-1] == columns
        assert terminal.screen()[-1] == "x" * columns


def test_a_line_that_is_kept_stays_above_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    texts = ["first"]
    with Bar(lambda width: texts[-1]) as bar:
        bar.keep()
        texts.append("second")
    assert terminal.screen() == ["first", "second"]


def test_a_terminal_that_can_do_nothing_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    with Count(3, "rows") as bar:
        bar.add(3)
    assert terminal.getvalue().splitlines()[0] == "0/3 rows ░░░░░░░░, 0:00"
    assert "\x1b" not in terminal.getvalue()


@pytest.mark.parametrize("forced", [None, "FORCE_COLOR", "TTY_COMPATIBLE"])
@pytest.mark.parametrize("columns", [20, 50, 80, 200])
def test_files_and_pipes_get_plain_lines_that_fit(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    forced: str | None,
    columns: int,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    if forced:
        monkeypatch.setenv(forced, "1")
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with Count(10, "rows of a table") as bar:
        for _ in range(10):
            now[0] += 1000
            bar.add(1)
    text = capsys.readouterr().err
    assert not {"\r", "\x1b", "\b"} & set(text)
    assert len(text.splitlines()) == 11
    assert all(0 < len(line) <= columns for line in text.splitlines())
    assert text.splitlines()[-1].startswith("10/10 rows of a table"[:columns])


def test_plain_lines_come_soon_at_first_and_seldom_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with Count(90_000, "rows") as bar:
        for _ in range(86_400):
            now[0] += 1
            bar.add(1)
            if now[0] == 60:
                of_a_minute = capsys.readouterr().err
    assert 6 < len(of_a_minute.splitlines()) < 12
    assert 1000 < len(capsys.readouterr().err.splitlines()) < 1500


def test_time_left_is_told_without_the_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with Count(10, "rows") as bar:
        for seconds in (1000.0, 20.0, 20.0):  # the first compiles
            now[0] += seconds
            bar.add(1)
    assert capsys.readouterr().err.splitlines()[-1].endswith(", 17:20, 2:20 left")


def test_waiting_says_what_for(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("loading a model"):
        pass
    assert capsys.readouterr().err == "loading a model\n"


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1), st.integers(1, 200))
def test_what_fits_is_the_beginning(parts: list[str], width: int) -> None:
    line = fitted(parts, width)
    assert len(line) <= width
    assert ", ".join(parts).startswith(line)
    if len(", ".join(parts)) <= width:
        assert line == ", ".join(parts)


@given(st.floats(-1, 2), st.integers(1, 50))
def test_a_bar_is_full_only_when_all_is_done(share: float, cells: int) -> None:
    bar = drawn(share, cells)
    assert len(bar) == cells
    assert ("░" not in bar) == (share >= 1)


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.9, 60, 3599, 3600, 100_000)] == [
        "0:00", "0:59", "1:00", "59:59", "1:00:00", "27:46:40",
    ]  # fmt: skip
