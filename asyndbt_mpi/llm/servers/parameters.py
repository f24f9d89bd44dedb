"""Parameters that a server does not take: given by their newer name, or left out."""

import re
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asyndbt_mpi.llm.servers.bodies import read_object

MAX_COMPLETION_TOKENS = "max_completion_tokens"
"""The newer name of max_tokens."""

NOT_TAKEN = re.compile(
    r"unsupported|not support|only the default|not permitted|not allowed|extra inputs|unknown"
    r"|unrecogni[sz]ed|unexpected|use '?max_completion_tokens|deprecated|strictly positive"
    r"|greater than 0",
    re.IGNORECASE,
)
"""Words of a server that does not take a parameter at all, or not the value that it is to have."""

OTHERWISE = ("max_tokens", "temperature")
"""Parameters that can be given otherwise, or left out."""

QUOTED = re.compile(r"(?P<mark>['\"`])(?:body\.)?(?P<name>\w+)(?P=mark)")


def refused_parameter(content: bytes, said: str, sent: Iterable[str]) -> str:
    """The parameter that an error is about; "" if it names none of those that were sent.

    A server may list all that it takes behind the one that it refuses.  So what counts is the
    name in OpenAI's field "param", or in FastAPI's "loc"; or else the first one that is quoted;
    or else the first one at all.

    Parameters
    ----------
    content : the body of the server's answer
    said : the words in it
    """
    names = set(sent)
    if named := _field(content):
        return named if named in names else ""
    quoted = [found["name"] for found in QUOTED.finditer(said) if found["name"] in names]
    # A model, a prompt or a message is also spoken of where it is no parameter.
    plain = names - {"model", "prompt", "messages"}
    return next(iter(quoted or (word for word in re.findall(r"\w+", said) if word in plain)), "")


def _field(content: bytes) -> str:
    """The name of a parameter in a field made for it; "" if there is none."""
    body = read_object(content)
    error = "" if isinstance(body, str) else body.get("error", body)
    if not isinstance(error, Mapping):
        return ""
    if isinstance(error.get("param"), str):
        return str(error["param"])
    detail = error.get("detail")
    first = detail[0] if isinstance(detail, list) and detail else None
    place = first.get("loc") if isinstance(first, Mapping) else None
    names = [part for part in place if isinstance(part, str)] if isinstance(place, list) else []
    return names[1] if names[:1] == ["body"] and len(names) > 1 else "".join(names[:1])


class Parameters:
    """What ``server`` has refused so far; for requests from any number of threads."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._otherwise: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def taken(self, body: Mapping[str, Any], tried: Sequence[str] = ()) -> dict[str, Any]:
        """A request's body as the server takes it, and ``tried`` otherwise, too."""
        with self._lock:
            otherwise = self._otherwise.union(tried)
        taken = {name: value for name, value in body.items() if name not in otherwise}
        if "max_tokens" in otherwise and "max_tokens" in body:
            taken[MAX_COMPLETION_TOKENS] = body["max_tokens"]
        return taken

    def keep(self, tried: Sequence[str]) -> None:
        """Give these otherwise from now on: it has helped."""
        with self._lock:
            first = "temperature" in tried and "temperature" not in self._otherwise
            self._otherwise = self._otherwise.union(tried)
        if first:
            warnings.warn(
                f"{self._server} does not accept temperature = 0: it is omitted, and the same"
                " prompt may get a different answer when it is asked again",
                stacklevel=2,
            )


def can_be_given_otherwise(name: str, said: str) -> bool:
    """Whether a request in which this parameter was refused, with these words, can be mended."""
    return name in OTHERWISE and bool(NOT_TAKEN.search(said))


def what_was_tried(tried: Sequence[str]) -> str:
    """What was done about refusals, for one that remains."""
    words = {
        "max_tokens": f"with {MAX_COMPLETION_TOKENS} in place of max_tokens",
        "temperature": "without temperature",
    }
    return f"; it was also tried {' and '.join(words[name] for name in tried)}" if tried else ""
