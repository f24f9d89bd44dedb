"""`asyndbt cache`: the folder of converted models, and what can go from it."""

from collections.abc import Iterator
from typing import Literal

from asyndbt_mpi.llm.converted import cache_folder, entries, remove, remove_leftovers


def contents() -> Iterator[str]:
    """What is in the folder, one line each."""
    found = entries()
    yield f"{cache_folder()}: {_size(sum(each.size for each in found))} of converted models"
    for entry in found:
        made = f"from {entry.file}" if entry.file else "by an earlier version"
        old = ", old: that file is gone or changed" if entry.old and entry.file else ""
        yield f"  {_size(entry.size):>9}  {entry.folder.name} ({made}{old})"
    if any(each.old for each in found):
        yield "asyndbt cache --clear old removes those that no run would use"


def clear(which: Literal["old", "all"]) -> Iterator[str]:
    """Remove entries; one line for each."""
    size = 0
    for entry in entries():
        if entry.old or which == "all":
            remove(entry)
            size += entry.size
            yield f"removed {entry.folder.name}"
    size += remove_leftovers()
    yield f"{_size(size)} are free now"


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
