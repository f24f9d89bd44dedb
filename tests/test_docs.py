"""The documentation and the package name the same things; its links are checked by `make docs`."""

import re

import asyndbt_mpi
from tests.helpers import ROOT


def test_the_reference_has_every_public_name_once() -> None:
    text = (ROOT / "docs/reference.md").read_text()
    assert sorted(re.findall(r"^\.\. auto\w+:: (\w+)", text, re.MULTILINE)) == sorted(
        asyndbt_mpi.__all__
    )


def test_the_bounds_of_the_threat_model_have_their_tests() -> None:
    """Each named test is in the file that is named behind it."""
    rows = (ROOT / "docs/threats.md").read_text().splitlines()
    cells = [row.rsplit("|", 2)[-2] for row in rows if "`test_" in row]
    assert cells
    for cell in cells:
        for names, file in re.findall(r"([^()]*)\(`(\S+\.py)`\)", cell):
            defined = re.findall(r"^def (test_\w+)", (ROOT / "tests" / file).read_text(), re.M)
            wanted = re.findall(r"`(test_\w+)`", names)
            assert wanted
            assert set(wanted) <= set(defined), cell
