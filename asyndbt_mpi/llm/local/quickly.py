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
    vain; and `UNUSED` libraries seem not to be there, unless they are in use already.
    """
    hidden = [name for name in UNUSED if name not in sys.modules]
    collecting = gc.isenabled()
    gc.disable()
    # What Python itself looks at: the import of a name whose module is None fails.
    nothing: Any = None
    sys.modules.update(dict.fromkeys(hidden, nothing))
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)
        if collecting:
            gc.enable()
