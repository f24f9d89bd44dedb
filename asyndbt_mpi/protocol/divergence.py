"""Steps that lead out of the finite numbers: what they were of, and what to lower."""

from types import TracebackType

import numpy as np


class Diverged(ArithmeticError):
    """The run cannot go on; says which variable is at fault, and by which key likely."""


class Step:
    """A step on ``what``; where it leads to numbers that are not finite, it is `Diverged`.

    ``keys`` of the configuration are what its size depends on; ``when`` is a part of a sentence.
    """

    __slots__ = ("_quiet", "keys", "what", "when")

    def __init__(self, what: str, keys: str, when: str = "") -> None:
        self.what = what
        self.keys = keys
        self.when = when

    def __enter__(self) -> None:
        # What becomes infinite is told in a line of its own.
        self._quiet = np.errstate(over="ignore", invalid="ignore")
        self._quiet.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._quiet.__exit__(kind, error, traceback)
        if isinstance(error, FloatingPointError):
            raise Diverged(
                f"{self.what} would not be finite{self.when}: lower {self.keys}"
            ) from error
