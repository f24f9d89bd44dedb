"""Bounds on a TOML text, checked before it is parsed; and strings, as they are written.

The parser's time and memory grow with the square of the number of a key's parts.
"""

import json
import re

MOST_BYTES = 2**17
"""Of a file."""

MOST_WRITTEN_BYTES = 2**19
"""Of a configuration with every key written out, and each entry of a list on its own line."""

MOST_PARTS = 8
"""Of a dotted key, a table's name included; no meaningful key has more than four."""

# A string without an end matches up to the end of the text or line, where the parser refuses it:
# no character is scanned twice.
STRING_OR_COMMENT = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+(?:"{3,5})?'
    r"|'''(?:[^']++|'(?!''))*+(?:'{3,5})?"
    r'|"(?:[^"\\\n]++|\\.)*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+",
    re.DOTALL,
)
LONG_KEY = re.compile(rf"\.(?:[ \t]*+[A-Za-z0-9_-]++[ \t]*+\.){{{MOST_PARTS - 1}}}")
"""In a text without strings."""


def has_long_key(text: str) -> bool:
    """Whether ``text`` has a key of more than `MOST_PARTS` parts, quoted ones among them."""
    return LONG_KEY.search(STRING_OR_COMMENT.sub("s", text)) is not None


def toml_string(text: str) -> str:
    """``text`` as a string of TOML; what cannot be seen, such as a byte order mark, is escaped."""

    def seen(character: str) -> str:
        if character.isprintable():
            return character
        number = ord(character)
        return f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"

    return "".join(map(seen, json.dumps(text, ensure_ascii=False)))
