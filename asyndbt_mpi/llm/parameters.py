"""Parameters that a server does not take: given by their newer name, or left out."""

import re
import threading
import warnings
from collections.abc import Mapping
from typing import Any

MAX_COMPLETION_TOKENS = "max_completion_tokens"
"""The newer name of max_tokens."""

NOT_TAKEN = re.compile(
    r"unsupported|not support|only the default|not permitted|not allowed|extra inputs|unknown"
    r"|unrecogni[sz]ed|unexpected|use '?max_completion_tokens|deprecated|strictly positive"
    r"|greater than 0",
    re.IGNORECASE,
)
"""Words of a server that does not take a parameter at all, or not the value that it is to have."""


class Parameters:
    """What ``server`` has refused so far; for requests from any number of threads."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._renamed: dict[str, str] = {}
        self._left_out: set[str] = set()
        self._lock = threading.Lock()

    @property
    def tried(self) -> str:
        """What was done about refusals, for one that remains."""
        tried = [f"with {new} in place of {old}" for old, new in self._renamed.items()]
        tried += [f"without {name}" for name in sorted(self._left_out)]
        return f"; it was also tried {' and '.join(tried)}" if tried else ""

    def taken(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request's body as the server takes it."""
        with self._lock:
            return {
                self._renamed.get(name, name): value
                for name, value in body.items()
                if name not in self._left_out
            }

    def learn(self, sent: Mapping[str, Any], said: str) -> bool:
        """Whether a request that was refused, with these words, can be sent otherwise."""
        if not NOT_TAKEN.search(said):
            return False
        if "max_tokens" in sent and re.search(r"\bmax_tokens\b", said):
            with self._lock:
                self._renamed["max_tokens"] = MAX_COMPLETION_TOKENS
            return True
        if "temperature" in sent and re.search(r"\btemperature\b", said):
            with self._lock:
                first = "temperature" not in self._left_out
                self._left_out.add("temperature")
            if first:
                warnings.warn(
                    f"{self._server} does not take temperature = 0: it is left out, and the same"
                    " prompt may get another answer when it is asked again",
                    stacklevel=2,
                )
            return True
        return False
