"""Templates, which turn a row, a prompt fragment and a label into text."""

import re
import unicodedata
from collections.abc import Sequence

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import SHOWN, shown
from asyndbt_mpi.llm.base import ENDING
from asyndbt_mpi.task.dataset import Row

PLACEHOLDER = re.compile(r"\{(\w+)\}")
KNOWN = ("sentence1", "sentence2", "fragment")
EXAMPLE = r'"[[Note: {fragment}\n]]Review: {sentence1}\nSentiment:"'


class Template:
    """Text with {sentence1}, optionally {sentence2}, and [[a part with the {fragment}]].

    The part in double square brackets is left out when there is no fragment. ``labels`` (U,)
    are appended verbatim: a label brings its own leading space. ``pairs`` says whether the
    text shows {sentence2}.

    Raises
    ------
    ConfigurationError
        The text or the labels break a rule; the message names the key and the rule.
    """

    def __init__(self, text: str, labels: Sequence[str]) -> None:
        self._before, self._inside, self._after = _divide(text)
        _check_placeholders(self._before + self._after, self._inside)
        _check_labels(labels)
        self.labels = list(labels)
        self.pairs = "{sentence2}" in text

    def render(self, row: Row, words: Sequence[str] | None) -> str:
        """The row as a query, with the fragment's ``words`` (M,), or without it if None."""
        values = {"sentence1": row.sentence1, "sentence2": row.sentence2 or ""}
        text = self._before + self._after
        if words is not None:
            values["fragment"] = " ".join(words)
            text = self._before + self._inside + self._after
        # One pass, so that braces in the inserted texts are never taken for placeholders.
        return PLACEHOLDER.sub(lambda found: values[found[1]], text)

    def demonstrate(self, row: Row, words: Sequence[str] | None) -> str:
        """The row as a demonstration: the query and its correct label."""
        return self.render(row, words) + self.labels[row.label]

    def context(self, rows: Sequence[Row], words: Sequence[str] | None) -> str:
        """The rows as demonstrations, each followed by a blank line; "" if there are none."""
        return "".join(self.demonstrate(row, words) + ENDING for row in rows)


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


def _check_placeholders(outside: str, inside: str) -> None:
    names = PLACEHOLDER.findall(outside)
    for name in names + PLACEHOLDER.findall(inside):
        if name not in KNOWN:
            known = ", ".join(f"{{{name}}}" for name in KNOWN)
            raise ConfigurationError(
                f"task.template: unknown placeholder {{{name[:SHOWN]}}}; known are {known}"
            )
    if "sentence1" not in names:
        raise ConfigurationError(
            "task.template: needs {sentence1} outside the square brackets, as in " + EXAMPLE
        )
    if "fragment" in names or "{fragment}" not in inside:
        raise ConfigurationError(
            "task.template: needs {fragment} inside the double square brackets and nowhere else, "
            "as in " + EXAMPLE
        )


def _check_labels(labels: Sequence[str]) -> None:
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
