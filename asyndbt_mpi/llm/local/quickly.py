"""Imports of torch and transformers without what takes time and is not needed here."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

UNUSED = "scipy", "sklearn"
"""Libraries that transformers does without where they are not installed: it wants them for images
and for assisted generation."""


@contextmanager
def quickly() -> Iterator[None]:
    """Import transformers within this, or parts of it: that takes 30 % less time.

    Thousands of modules and classes stay for good, so that looking for garbage among them is in
    vain. And to transformers the `UNUSED` libraries are not installed, in this process, unless it
    or they were imported before.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        if "transformers" not in sys.modules:
            _leave_out_unused()
        yield
    finally:
        if collecting:
            gc.enable()


def _leave_out_unused() -> None:
    """Have transformers look for the libraries, which it does once, while they cannot be found."""
    hidden = [name for name in UNUSED if name not in sys.modules]
    nothing: Any = None
    sys.modules.update(dict.fromkeys(hidden, nothing))  # how Python marks what is not there
    try:
        from transformers import utils

        known: Any = utils  # its functions have no types
        known.is_scipy_available()
        known.is_sklearn_available()
    finally:
        for name in hidden:
            del sys.modules[name]
