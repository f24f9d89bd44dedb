"""Folders: what there is of a path, and whether it can be written; nothing stays there."""

import tempfile
from pathlib import Path

OWN = ".asyndbt-doctor-"
"""How the names of the doctor's own files begin, which live for a moment."""


def existing(folder: Path) -> Path:
    """The part of the path that is there: the folder itself, or the nearest above it."""
    folder = folder.expanduser().absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def unwritable(folder: Path) -> str:
    """Why no file can come into the folder, which may still have to be made; "" if one can."""
    try:
        place = existing(folder)
        if not place.is_dir():
            return f"{place} is no folder"
        # Tried, not asked for: root may do everything, and a file system may be read-only.
        with tempfile.NamedTemporaryFile(prefix=OWN, dir=place):
            return ""
    except OSError as error:
        return error.strerror or str(error)
