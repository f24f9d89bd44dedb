"""Errors about a worker's texts, told without the texts.

What stops a worker is sent to rank 0, which prints it and logs it. A library's error may quote
what it was about, as text, as tokens or in some other form: of such an error only the kind and the
place are told.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.llm.base import LabelError, ModelError

OWN_WORDS = (ConfigurationError, ModelError, LabelError, OSError, MemoryError)
"""Errors whose words are this package's own, and name rows by number alone; or that are about
files and memory."""


class UnquotedError(RuntimeError):
    """Stands for an error whose words are left out, because they may quote a row."""


@contextmanager
def unquoted() -> Iterator[None]:
    """Raise what happens within without any text, nor the errors that it was caused by.

    Raises
    ------
    UnquotedError
        For an error that is not in `OWN_WORDS`.
    """
    try:
        yield
    except OWN_WORDS as error:
        raise error from None  # a traceback would show its causes as well
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UnquotedError(
            f"{type(error).__name__} in {place.name} ({Path(place.filename).name}, line"
            f" {place.lineno}) at a worker's rows; its words are left out, for they may quote them"
        ) from None
