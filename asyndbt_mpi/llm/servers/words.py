"""What a server says of itself in an error, in one line that quotes neither prompt nor key."""

import html
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

from asyndbt_mpi.llm.servers.bodies import read

MESSAGE = 200
"""Characters of somebody else's words that are passed on."""

LOOKED_AT = 2000
"""Characters of a message that are looked through: more than the shown ones can stand for."""

QUOTED_TEXT, QUOTED_KEY = 16, 4
"""Characters in a row that are taken for a quotation of a prompt, or of the key."""

QUOTED_EVEN_KEY, QUOTED_CODED = 8, 8
"""Of a key with other characters between its own, or in another case; and of one that is coded."""

LIKE_A_KEY = re.compile(r"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{24,}")
"""What may be a key, or something coded, whatever the code: letters and digits in one long row."""

READ_AT_MOST = 2**14
"""Bytes of a text that are looked through."""

PAGE_READ_AT_MOST = 2**11
"""Of a web page, whose parser takes time that grows with the square."""

MOST_FAULTS = 10
"""Entries of a list that are looked at."""

CODES = (b64encode, urlsafe_b64encode)

NOTHING = "no message"

MESSAGES = ("message", "msg", "detail", "error_description", "error", "errors", "reason", "title")
"""Where servers put their words, in the order in which they are looked for."""


def said(content: bytes) -> str:
    """The words in the body of an answer: JSON of whatever form, a web page, or plain text."""
    text = content.lstrip()[:READ_AT_MOST].decode(errors="replace").strip()
    if text.startswith("<"):
        return _of_page(text[:PAGE_READ_AT_MOST]) or NOTHING
    try:
        found = _of_json(read(content))[:READ_AT_MOST]
    except ValueError:
        found = text
    return " ".join(found.split()) or NOTHING


def without(message: str, text: str, key: str) -> str:
    """The message in one line of `MESSAGE` characters, if it quotes neither the prompt nor the key.

    Quotations are also found where they are escaped as in JSON, Python, HTML or an address, where
    there are other characters between letters and digits, and backwards; of the key also in
    base64 and in hexadecimal digits.  What looks like a key is left out, whoever's it is.
    Characters that a terminal might obey are replaced.
    """
    message = message[:LOOKED_AT]
    if _is_quoted(message, text, QUOTED_TEXT):
        return "(a message that quotes the prompt)"
    line = " ".join("[key]" if _tells(word, key) else word for word in message.split())
    if _is_quoted(line, key, QUOTED_EVEN_KEY):
        return "(a message that quotes the key)"
    line = LIKE_A_KEY.sub("[...]", line)
    return "".join(each if each.isprintable() else "\ufffd" for each in line[:MESSAGE])


def _is_quoted(message: str, secret: str, length: int) -> bool:
    """Whether so many letters and digits of the secret are in any reading of the message."""
    even = _even(secret)
    readings = set(map(_even, _readings(message)))
    return any(quotes(each, way, length) for each in readings for way in (even, even[::-1]))


def _tells(word: str, key: str) -> bool:
    """Whether a word has a part of the key, as it is, backwards or coded."""
    ways = key.encode(), key[::-1].encode()
    if any(quotes(word, each.decode(), QUOTED_KEY) for each in ways):
        return True
    if any(quotes(word.lower(), each.hex(), QUOTED_CODED) for each in ways):
        return True
    # Three bytes are four characters: by what stands before the key there are three spellings.
    coded = [code(b"\0" * n + each).decode() for each in ways for n in range(3) for code in CODES]
    return bool(key) and any(quotes(word, each.rstrip("=")[4:-1], QUOTED_CODED) for each in coded)


def _readings(message: str) -> list[str]:
    """A message as it is, and without the escapes of JSON, Python, HTML and addresses."""
    plain = html.unescape(unquote(message))
    signs = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), message)
    signs = re.sub(r"\\[nrt]", " ", signs)
    hexadecimal = re.sub(r"\\x([0-9a-fA-F]{2})", r"%\1", re.sub(r"\\[nrt]", " ", message))
    paired = signs.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return [message, plain, paired, unquote(hexadecimal), unquote(hexadecimal, "latin-1")]


def _even(text: str) -> str:
    """Text without what a quotation may change: all but letters and digits, and their case."""
    return "".join(each for each in text.casefold() if each.isalnum())


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
        return "; ".join(filter(None, map(_of_json, body[:MOST_FAULTS])))
    if not isinstance(body, Mapping):
        return "" if body is None or isinstance(body, bool) else str(body)
    found = next((words for name in MESSAGES if (words := _of_json(body.get(name)))), "")
    # FastAPI names the place of each fault; a router has the words of whom it asked.
    place = body.get("loc")
    if found and isinstance(place, list) and place:
        found = f"{'.'.join(map(str, place[:MOST_FAULTS]))}: {found}"
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
