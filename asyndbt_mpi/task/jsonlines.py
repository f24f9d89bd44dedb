"""JSON Lines: one object a line, read more strictly than Python does."""

import io
import json
from collections.abc import Iterator
from typing import Any

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import not_utf8, shown, size

LONGEST_LINE = 2**24
"""Bytes of a line: more than any model reads."""


def read(content: bytes, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the object of every line that is not empty.

    Raises
    ------
    ConfigurationError
        A line is malformed; the message names the file ``name`` and the line.
    """
    # Not splitlines, which would also split at separators that JSON allows inside a string.
    for number, line in enumerate(io.BytesIO(content), start=1):
        if not line.strip():
            continue
        try:
            yield number, _object(line)
        except ValueError as error:
            raise ConfigurationError(f"{name}, line {number}: {error}") from error


def _object(line: bytes) -> dict[str, Any]:
    record = _parsed(line)
    if isinstance(record, list):
        raise ValueError(
            "is a list, but every line must be one object; jq -c '.[]' writes a list that way"
        )
    if not isinstance(record, dict):
        raise ValueError('must be an object, such as {"text": "...", "label": 0}')
    return record


def _parsed(line: bytes) -> Any:
    """The JSON value in ``line``."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"is longer than {size(LONGEST_LINE)}")
    try:
        return json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_number,
            parse_int=_whole_number,
        )
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(line, error)) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error}); every line must be one object") from error
    except RecursionError as error:
        raise ValueError("not valid JSON (nested too deeply)") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate keys, since JSON does not say which value counts."""
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise ValueError(f"the key {shown(key)} occurs twice")
        record[key] = value
    return record


def _no_number(name: str) -> Any:
    raise ValueError(f"not valid JSON ({name} is not a JSON number)")


def _whole_number(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:  # beyond what Python converts
        raise ValueError(
            f"has a whole number of {len(digits)} digits, which is too long"
        ) from error
