"""Types of the values in a configuration, with bounds that keep them usable."""

from typing import Annotated
from unicodedata import category

from pydantic import AfterValidator, Field

from asyndbt_mpi.inputs.files import check_encodable, check_line, check_path

LARGEST = 2**63 - 1
"""What HDF5 and the generators of random numbers can hold."""

MOST = 2**31 - 1
"""For anything kept in memory: products of several such numbers do not overflow."""

LONGEST = 1e6
"""Seconds, twelve days: longer than any sensible wait, and within what clocks can count."""


def is_path(text: str) -> str:
    """``text``, if it can be a path or is empty."""
    if text:
        check_path(text)
    return text


def is_line(text: str) -> str:
    """``text``, if it is one line."""
    check_line(text)
    return text


def _is_text(text: str) -> str:
    """Texts for a model may have line breaks, and the joiners of many languages."""
    for letter in text:
        if category(letter) in ("Cc", "Zl", "Zp") and letter not in "\n\t":
            raise ValueError(f"must not contain the control character {letter!r}")
    check_encodable(text)
    return text


Count = Annotated[int, Field(ge=1, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegativeCount = Annotated[int, Field(ge=0, le=LARGEST)]
Size = Annotated[int, Field(ge=1, le=MOST)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST)]
Price = Annotated[float, Field(ge=0, le=1e9)]
Line = Annotated[str, AfterValidator(is_line)]
FilePath = Annotated[str, AfterValidator(is_path)]
Text = Annotated[str, AfterValidator(_is_text)]
