"""The bodies of answers: JSON of bounded size, number of values and depth."""

import json
from typing import Any

MOST_VALUES = 10**5
"""As many commas: each value takes some fifty times the room in memory that it takes in JSON."""

MOST_DEPTH = 32
"""Of lists and objects within each other; answers have 7."""


def read_object(content: bytes) -> dict[str, Any] | str:
    """The JSON object that an answer's body is, or else what is wrong with it."""
    try:
        answer = read(content)
    except ValueError as error:
        return str(error)
    return answer if isinstance(answer, dict) else "is not a JSON object"


def read(content: bytes) -> Any:
    """The value that a body is in JSON.

    Raises
    ------
    ValueError
        What is wrong with it, in words that may follow its name.
    """
    if content.count(b",") > MOST_VALUES:
        raise ValueError(f"has more than {MOST_VALUES} values")
    deep = ValueError(f"is nested more than {MOST_DEPTH} levels deep")
    try:
        answer = json.loads(content)
    except ValueError:
        raise ValueError("is not a JSON object") from None
    except RecursionError:
        raise deep from None
    if isinstance(answer, dict | list) and _is_deep(answer):
        raise deep
    return answer


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_DEPTH):
        inside: list[Any] = []
        for each in level:
            inside += each.values() if isinstance(each, dict) else each
        level = [each for each in inside if isinstance(each, dict | list)]
        if not level:
            return False
    return True
