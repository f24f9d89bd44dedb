"""A page as a reader finds it: its tags, its tables, what it would load."""

from collections.abc import Iterator
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Parses ``text``; raises AssertionError where tags do not match.

    Attributes
    ----------
    tags : every opened tag, in order, but for those in SVG
    tables : by caption, the rows of cells, heads first
    loads : what attributes that load or lead somewhere name
    text : all that is not in scripts or styles
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.loads: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if "svg" not in self._open:
            self.tags.append(tag)
        self.loads += [
            value or ""
            for name, value in attributes
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster")
        ]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "caption":
            self._caption = ""
        elif tag == "tr":
            self.tables[self._caption].append([])
        elif tag in ("th", "td"):
            self.tables[self._caption][-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "caption":
            assert self._caption
            assert self._caption not in self.tables
            self.tables[self._caption] = []

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts.append(data)
        elif "style" not in self._open:
            self.text += data
        if "caption" in self._open:
            self._caption += data
        elif "th" in self._open or "td" in self._open:
            self.tables[self._caption][-1][-1] += data

    def table(self, beginning: str) -> list[list[str]]:
        """The one whose caption begins so, without its heads."""
        (found,) = [rows for name, rows in self.tables.items() if name.startswith(beginning)]
        return found[1:]

    def outside(self) -> Iterator[str]:
        """What it would load or lead to beyond itself."""
        for place in self.loads:
            if not place.startswith(("#", "data:image/png;")):
                yield place
