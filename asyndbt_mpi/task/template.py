"""Templates, which turn a row, a prompt fragment and a label into text."""

import re
import unicodedata
from collections.abc import Sequence

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import shown
from asyndbt_mpi.llm.base import ENDING
from asyndbt_mpi.task.dataset import Row

PLACEHOLDER = re.compile(r"\{(\w(?:[\w .-]*\w)?)\}")
FRAGMENT = "fragment"
JOINED = ":.,;?!}"
"""What a text may end with, besides a letter, if a space is to follow; "}" is that of a column."""
EXAMPLE = r'"[[Note: {fragment}\n]]Review: {text}\nSentiment:"'


class Template:
    """Text with columns of the data, as {text}, and [[a part with the {fragment}]].

    The part in double square brackets is left out when there is no fragment. ``labels`` (U,)
    are appended verbatim: a label brings its own leading space. ``columns`` are those that the
    text shows, in order.

    Raises
    ------
    ConfigurationError
        The text or the labels break a rule; the message names the key and the rule.
    """

    def __init__(self, text: str, labels: Sequence[str]) -> None:
        self._before, self._inside, self._after = _divide(text)
        self.columns = columns_of(text)
        check_labels(labels)
        self.labels = list(labels)

    def without_space(self) -> list[str]:
        """The labels that would be read as one word with the end of the text.

        In scripts without spaces, and after brackets or quotation marks, none is needed.
        """
        ends = [(self._before + part + self._after)[-1:] for part in ("", self._inside)]
        if not any(end.isalnum() or end in JOINED for end in ends):
            return []
        # Letters that have a case are those of scripts with spaces.
        firsts = [(label, label[0]) for label in self.labels]
        return [label for label, first in firsts if first.isdecimal() or first.swapcase() != first]

    def render(self, row: Row, words: Sequence[str] | None) -> str:
        """The row as a query, with the fragment's ``words`` (M,), or without it if None."""
        values = {column: row.texts[column] for column in self.columns}
        text = self._before + self._after
        if words is not None:
            values[FRAGMENT] = " ".join(words)
            text = self._before + self._inside + self._after
        # One pass, so that braces in the inserted texts are never taken for placeholders.
        return PLACEHOLDER.sub(lambda found: values[found[1]], text)

    def demonstrate(self, row: Row, words: Sequence[str] | None) -> str:
        """The row as a demonstration: the query and its correct label."""
        return self.render(row, words) + self.labels[row.label]

    def context(self, rows: Sequence[Row], words: Sequence[str] | None) -> str:
        """The rows as demonstrations, each followed by a blank line; "" if there are none."""
        return "".join(self.demonstrate(row, words) + ENDING for row in rows)


def columns_of(text: str) -> list[str]:
    """The columns that a template shows, in order.

    Raises
    ------
    ConfigurationError
        It breaks a rule.
    """
    before, inside, after = _divide(text)
    outside = PLACEHOLDER.findall(before + after)
    if FRAGMENT in outside or f"{{{FRAGMENT}}}" not in inside:
        raise ConfigurationError(
            "task.template: needs {fragment} inside the double square brackets and nowhere else, "
            "as in " + EXAMPLE
        )
    if not outside:
        raise ConfigurationError(
            "task.template: needs a column of the data outside the square brackets, as in "
            + EXAMPLE
        )
    names = dict.fromkeys(outside + PLACEHOLDER.findall(inside))
    return [name for name in names if name != FRAGMENT]


def _divide(text: str) -> tuple[str, str, str]:
    """The text before, in and after the part in double square brackets."""
    before, opening, rest = text.partition("[[")
    inside, closing, after = rest.partition("]]")
    parts = before, inside, after
    if not (opening and closing) or any("[[" in part or "]]" in part for part in parts):
        raise ConfigurationError(
            "task.template: must have exactly one part in double square brackets, as in " + EXAMPLE
        )
    return parts


def check_labels(labels: Sequence[str]) -> None:
    """Refuse labels that a reader could not tell apart, and fewer than two.

    Raises
    ------
    ConfigurationError
    """
    if len(labels) < 2:
        raise ConfigurationError(
            f"task.labels = {shown(list(labels))}: at least 2 are needed, one per class, "
            'as in [" negative", " positive"]'
        )
    seen: dict[str, int] = {}
    for number, label in enumerate(labels):
        where, plain = f"task.labels[{number}] = {shown(label)}", _plain(label)
        if not plain:
            raise ConfigurationError(f"{where}: must not be empty")
        if plain in seen:
            raise ConfigurationError(
                f"{where}: must differ from the others, but reads the same as"
                f" task.labels[{seen[plain]}]"
            )
        seen[plain] = number


def _plain(label: str) -> str:
    """A label as a reader sees it: one form of each letter, nothing invisible around it."""
    letters = unicodedata.normalize("NFKC", label)
    return "".join(each for each in letters if unicodedata.category(each) != "Cf").strip()


def without_space(template: Template) -> str:
    """A warning of labels that lack their leading space; "" if there are none."""
    found = template.without_space()
    if not found:
        return ""
    others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return (
        f"task.labels: {shown(found[0])}{others} has no leading space, and task.template does not"
        f" end with one: the model reads them as one word; write {shown(' ' + found[0])}"
    )
