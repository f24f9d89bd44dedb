"""The documentation and the package name the same things; its links are checked by `make docs`."""

import re

import asyndbt_mpi
from tests.helpers import ROOT


def test_the_reference_has_every_public_name_once() -> None:
    text = (ROOT / "docs/reference.md").read_text()
    assert sorted(re.findall(r"^\.\. auto\w+:: (\w+)", text, re.MULTILINE)) == sorted(
        asyndbt_mpi.__all__
    )
