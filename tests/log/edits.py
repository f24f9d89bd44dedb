"""Changes to logs, and what verification then finds."""

import re
from collections.abc import Callable
from pathlib import Path

import h5py

from asyndbt_mpi.log.verify import verify
from tests.log.reseal import reseal

Edit = Callable[[h5py.File], None]


def violations(path: Path, edit: Edit) -> list[str]:
    """What is found where the checksums do not help."""
    with h5py.File(path, "r+") as file:
        edit(file)
        reseal(file)
    return verify(path).violations


def assert_only(found: list[str], *patterns: str) -> None:
    """Every line matches one of the patterns, and every pattern a line."""
    lines = [line for line in found if not line.startswith("... and")]
    for line in lines:
        assert any(re.search(pattern, line) for pattern in patterns), line
    for pattern in patterns:
        assert any(re.search(pattern, line) for line in lines), (pattern, lines)


def put(path: str, index: object, value: object) -> Edit:
    """Overwrite one number (or row) of a dataset."""

    def edit(file: h5py.File) -> None:
        file[path][index] = value

    return edit
