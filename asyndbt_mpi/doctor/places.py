"""Folders: which part of a path exists, and whether it is writable; leaves nothing behind."""

import tempfile
from pathlib import Path

OWN = ".asyndbt-doctor-"
"""Prefix of the doctor's own temporary files."""


def existing(folder: Path) -> Path:
    """The part of the path that exists: the folder itself, or the nearest above it."""
    folder = folder.expanduser().absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def unwritable(folder: Path) -> str:
    """Why no file can be created in the folder, which may not exist yet; "" if one can."""
    try:
        place = existing(folder)
        if not place.is_dir():
            return f"{place} is not a folder"
        # Try it: permissions do not tell, as root may do anything and file systems be read-only.
        with tempfile.NamedTemporaryFile(prefix=OWN, dir=place):
            return ""
    except OSError as error:
        return error.strerror or str(error)
