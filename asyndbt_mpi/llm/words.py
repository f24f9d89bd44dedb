"""What a server says of itself in an error, in one line that quotes neither prompt nor key."""

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

MESSAGE = 200
"""Characters of somebody else's words that are passed on."""

QUOTED_TEXT, QUOTED_KEY = 16, 4
"""Characters in a row that are taken for a quotation of a prompt, or of the key."""

NOTHING = "no message"

MESSAGES = ("message", "msg", "detail", "error_description", "error", "errors", "reason", "title")
"""Where servers put their words, in the order in which they are looked for."""


def said(content: bytes) -> str:
    """The words in the body of an answer: JSON of whatever form, a web page, or plain text."""
    text = content.decode(errors="replace").strip()
    if text.startswith("<"):
        return _of_page(text) or NOTHING
    try:
        found = _of_json(json.loads(text))
    except (ValueError, RecursionError):
        found = text
    return " ".join(found.split()) or NOTHING


def without(message: str, text: str, key: str) -> str:
    """The message, cut to `MESSAGE` characters, if it quotes neither the prompt nor the key."""
    if quotes(_even(message), _even(text), QUOTED_TEXT):
        return "(a message that quotes the prompt)"
    words = ["[key]" if quotes(word, key, QUOTED_KEY) else word for word in message.split()]
    return " ".join(words)[:MESSAGE]


def _even(text: str) -> str:
    """Text without what a quotation may change: spaces, upper and lower case."""
    return " ".join(text.split()).casefold()


def quotes(message: str, secret: str, length: int) -> bool:
    """Whether some ``length`` characters in a row of the secret, or all, are in the message."""
    length = min(length, len(secret))
    if not length:
        return False
    return any(
        message[start : start + length] in secret for start in range(len(message) - length + 1)
    )


def is_page(content: bytes) -> bool:
    """Whether an answer is a web page: of a proxy, or of another service at that address."""
    return content.lstrip()[:1] == b"<"


def _of_json(body: Any) -> str:
    """The words in any of the forms that servers give to an error."""
    if isinstance(body, list):
        return "; ".join(filter(None, map(_of_json, body)))
    if not isinstance(body, Mapping):
        return "" if body is None or isinstance(body, bool) else str(body)
    found = next((words for name in MESSAGES if (words := _of_json(body.get(name)))), "")
    # FastAPI names the place of each fault; a router has the words of whom it asked.
    place = body.get("loc")
    if found and isinstance(place, list) and place:
        found = f"{'.'.join(map(str, place))}: {found}"
    details = body.get("metadata")
    if isinstance(details, Mapping) and isinstance(details.get("raw"), str):
        found = f"{found}: {details['raw']}"
    return found


class _Page(HTMLParser):
    """Collects a page's title, and its text besides what is not to be read."""

    HIDDEN = ("script", "style")

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.text = ""
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in (*self.HIDDEN, "title"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if "title" in self._inside:
            self.title += data
        elif not self._inside:
            self.text += f" {data}"


def _of_page(text: str) -> str:
    page = _Page()
    try:
        page.feed(text)
        page.close()
    except Exception:  # html.parser is not made for all that begins with "<"
        page.title, page.text = "", re.sub(r"<[^<>]*>?", " ", text)
    words = " ".join((page.title.strip() or page.text).split())
    return f"a web page: {words}" if words else "a web page without words"
