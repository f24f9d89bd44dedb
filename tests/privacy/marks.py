"""Texts with marks that occur nowhere else, and the search for them in whatever form."""

import base64
import json
import random
import string
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

CLASSES, ROWS_PER_CLASS = 2, 30
MARK_LETTERS = 12
FRAGMENT_LETTERS = 6
"""Part of a mark that is taken for a leak of it."""
RUN_OF_TOKENS = 4
"""So many token ids of a mark in a row are taken for a leak of it."""
INTEGERS = "<i8", ">i8", "<i4", ">i4", "<u2", ">u2", "<f8", "<f4"
KEY_BYTES = 6
"""The first of every form that is searched for, by which they are found all together."""
SEPARATORS = (", ", ",", " ", "\n")


def marks() -> list[str]:
    """One for each row, of letters drawn at random: no two share a fragment."""
    generator = random.Random(20)
    letters = string.ascii_lowercase
    drawn = [
        "".join(generator.choices(letters, k=MARK_LETTERS)) for _ in range(CLASSES * ROWS_PER_CLASS)
    ]
    assert len({part for mark in drawn for part in fragments(mark)}) == len(drawn) * (
        MARK_LETTERS - FRAGMENT_LETTERS + 1
    )
    return drawn


def write_rows(path: Path) -> list[str]:
    """A data file, each of whose rows has one of the `marks`, which are returned."""
    found = marks()
    rows = [
        {"text": f"it was {mark} and so", "label": number % CLASSES}
        for number, mark in enumerate(found)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def fragments(mark: str) -> Iterator[str]:
    """Every part of `FRAGMENT_LETTERS` letters."""
    for start in range(MARK_LETTERS - FRAGMENT_LETTERS + 1):
        yield mark[start : start + FRAGMENT_LETTERS]


class Search:
    """Finds marks, parts of them, and their token ids, in bytes.

    Parameters
    ----------
    tokens : those of each mark
    """

    def __init__(self, marks: Sequence[str], tokens: Sequence[Sequence[int]]) -> None:
        self.forms: dict[bytes, str] = {}
        for mark, ids in zip(marks, tokens, strict=True):
            for part in fragments(mark):
                self._add_text(part)
            assert len(ids) >= RUN_OF_TOKENS, "the mark has too few tokens to be told apart"
            for start in range(len(ids) - RUN_OF_TOKENS + 1):
                self._add_tokens(ids[start : start + RUN_OF_TOKENS])
        assert min(map(len, self.forms)) >= KEY_BYTES
        self._by_key: dict[int, list[bytes]] = {}
        for form in self.forms:
            self._by_key.setdefault(int(_keys(form)[0]), []).append(form)

    def _add_text(self, part: str) -> None:
        self.forms |= {
            part.encode(): part,
            part.upper().encode(): part,
            part[::-1].encode(): part,
            part.encode("utf-16-le"): part,
            part.encode("utf-32-le"): part,
            part.encode().hex().encode(): part,
        }
        for shift in range(3):  # of base64, the characters that depend on the part alone
            bits = 8 * shift, 8 * (shift + len(part))
            coded = base64.b64encode(bytes(shift) + part.encode() + b"  ")
            self.forms[coded[-(-bits[0] // 6) : bits[1] // 6]] = part

    def _add_tokens(self, ids: Sequence[int]) -> None:
        what = f"tokens {list(ids)}"
        for kind in INTEGERS:
            self.forms[np.array(ids).astype(kind).tobytes()] = what
        for separator in SEPARATORS:
            self.forms[separator.join(map(str, ids)).encode()] = what

    def found(self, content: bytes) -> set[str]:
        """What of the marks is in ``content``."""
        keys = np.intersect1d(_keys(content), list(self._by_key))
        forms = [form for key in keys.tolist() for form in self._by_key[key]]
        return {self.forms[form] for form in forms if form in content}


def _keys(content: bytes) -> np.ndarray:
    """The number that each run of `KEY_BYTES` bytes of ``content`` is."""
    each = np.frombuffer(content, np.uint8).astype(np.uint64)
    length = max(0, len(each) - KEY_BYTES + 1)
    keys = np.zeros(length, np.uint64)
    for place in range(KEY_BYTES):
        keys = (keys << np.uint64(8)) | each[place : place + length]
    return keys
