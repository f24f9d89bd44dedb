"""Text of others is shown as text."""

from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.log.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("naïve 日本　語 🙂 a\u00a0b", "naïve 日本　語 🙂 a\u00a0b"),
        ("\x1b[2J\x1b]0;pwned\x07 \r", r"\x1b[2J\x1b]0;pwned\x07 \r"),
        ("a\x9bb\x7fc\x00", r"a\x9bb\x7fc\x00"),
        ("user\u202egpj.exe\u2066", r"user\u202egpj.exe\u2066"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("one\ntwo\u2028three", r"one\ntwo\u2028three"),
        ("[/b] [red]", "[/b] [red]"),
        ("half \ud800 of a pair", r"half \ud800 of a pair"),
    ],
)
def test_what_a_terminal_could_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_stay_where_they_are_meant() -> None:
    assert printable("one\n\ttwo\r\x1b", lines=True) == "one\n\ttwo" + r"\r\x1b"


@given(st.text(st.characters(codec=None)), st.booleans())
def test_nothing_else_is_changed(text: str, lines: bool) -> None:
    shown = printable(text, lines)
    assert all(sign.isprintable() or category(sign) == "Zs" or sign in "\n\t" for sign in shown)
    assert shown.count("\n") == (text.count("\n") if lines else 0)
    assert printable(shown, lines) == shown
    shown.encode()
