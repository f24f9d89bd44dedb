"""Findings: one line each, with a way to fix it."""

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


class Level(StrEnum):
    """How bad it is; with a problem, a run cannot succeed."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``hint`` says what to do, "" if nothing."""

    level: Level
    subject: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        """The line, without the level."""
        return f"{self.subject}: {self.text}" + (f"; {self.hint}" if self.hint else "")


def ok(subject: str, text: str, hint: str = "") -> Finding:
    """A finding that all is well."""
    return Finding(Level.OK, subject, text, hint)


def warning(subject: str, text: str, hint: str = "") -> Finding:
    """It works, but costs something."""
    return Finding(Level.WARNING, subject, text, hint)


def problem(subject: str, text: str, hint: str = "") -> Finding:
    """A run would fail, or not be what was requested."""
    return Finding(Level.PROBLEM, subject, text, hint)


def ranks_in_words(ranks: Iterable[int]) -> str:
    """E.g. "rank 3" or "ranks 0-2, 5"."""
    numbers = sorted(set(ranks))
    parts = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        parts.append(f"{members[0]}-{members[-1]}" if len(members) > 2 else _listed(members))
    return ("ranks " if len(numbers) > 1 else "rank ") + ", ".join(parts)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items grouped by ``key``, in order of appearance."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def merged(found: Sequence[tuple[int, Finding]], ranks: Collection[int]) -> list[Finding]:
    """The findings of single ranks, with equal ones merged.

    The ranks are named unless all of ``ranks``, which made the check, found the same.
    """
    lines = []
    for finding, pairs in grouped(found, lambda pair: pair[1]).items():
        own = {rank for rank, _ in pairs}
        where = "" if own >= set(ranks) else f" ({ranks_in_words(own)})"
        lines.append(
            Finding(finding.level, finding.subject, f"{finding.text}{where}", finding.hint)
        )
    return lines
