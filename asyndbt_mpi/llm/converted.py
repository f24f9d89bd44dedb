"""The folder of converted GGUF files, which is shared by all runs of a user on a machine.

An entry is named by the content of its file, so that a file may be moved, copied or touched, and
one with another content is another model. Beside the entries there are locks, notes of which
content a file had when it was last read (large files take a while), and what conversions that were
killed have left.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LAYOUT = "3"
"""Part of an entry's name: raise it when the conversion changes."""
SOURCE = "converted.json"
"""In an entry: what it was made from."""
PARTIAL, LOCK, NOTE = ".partial", ".lock", ".note"


@dataclass(frozen=True, slots=True)
class Entry:
    """A converted model: its folder, the file that it was made from, and its bytes.

    It is ``old`` if that file is gone or has another content, or if this version of the package
    converts otherwise. The file is "" if nobody knows.
    """

    folder: Path
    file: str
    size: int
    old: bool


def cache_folder() -> Path:
    """Where converted models are: $ASYNDBT_CACHE/models, or the user's cache folder."""
    import platformdirs

    own = os.environ.get("ASYNDBT_CACHE")
    base = Path(own).expanduser() if own else platformdirs.user_cache_path("asyndbt_mpi")
    return base / "models"


def entry_of(file: Path) -> Path:
    """The folder that a file is converted into, whether it is there or not."""
    return cache_folder() / _name(file.resolve())


def convert_once(file: Path, convert: Callable[[Path, Path], None]) -> Path:
    """The folder with the converted ``file``; ``convert`` makes it if there is none.

    Ranks that start together wait for the one that does. What the same file was converted into
    when it had another content is removed.
    """
    import filelock

    target = entry_of(file)
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(target, PARTIAL)
    with filelock.FileLock(_beside(target, LOCK)):
        if target.is_dir():
            return target
        # Left by a conversion that was killed; the lock says that nobody is at work on it.
        if partial.exists():
            shutil.rmtree(partial)
        convert(file, partial)
        (partial / SOURCE).write_text(json.dumps({"file": str(file.resolve())}))
        partial.rename(target)
    for entry in entries():
        if entry.old and entry.file == str(file.resolve()):
            remove(entry)
    return target


def entries() -> list[Entry]:
    """What is in the folder, by name."""
    folder = cache_folder()
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        _entry(each)
        for each in found
        if each.is_dir() and not each.is_symlink() and each.suffix != PARTIAL
    ]


def _entry(folder: Path) -> Entry:
    file = ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        file = str(json.loads((folder / SOURCE).read_text())["file"])
    old = True
    with contextlib.suppress(OSError):
        old = not file or _name(Path(file)) != folder.name
    return Entry(folder, file, _size(folder), old)


def remove(entry: Entry) -> None:
    """Remove an entry; a run that has loaded it keeps what it has."""
    doomed = _beside(entry.folder, PARTIAL)
    if doomed.exists():
        shutil.rmtree(doomed)
    entry.folder.rename(doomed)  # at once: nobody must load a part of it
    shutil.rmtree(doomed)
    _beside(entry.folder, LOCK).unlink(missing_ok=True)


def remove_leftovers() -> int:
    """Remove what killed conversions have left, and the notes; the bytes of the former."""
    import filelock

    size = 0
    for partial in cache_folder().glob(f"*{PARTIAL}"):
        lock = partial.with_suffix(LOCK)
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(lock, timeout=0):
            size += _size(partial)
            shutil.rmtree(partial)
            lock.unlink(missing_ok=True)
    for note in cache_folder().glob(f"*{NOTE}"):
        note.unlink(missing_ok=True)
    return size


def _size(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def _name(file: Path) -> str:
    content = hashlib.sha256(f"{LAYOUT} {_digest(file)}".encode()).hexdigest()
    return f"{file.stem}-{content[:12]}"


def _digest(file: Path) -> str:
    """Of the content of ``file``; noted, so that it is read once as long as it stays as it is."""
    stat = file.stat()
    identity = f"{file} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
    name = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()
    note = cache_folder() / f"{name[:32]}{NOTE}"
    with contextlib.suppress(OSError):
        if found := note.read_text():
            return found
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # where nothing can be written, it is read again
        note.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, delete=False) as written:
            written.write(digest)
        os.replace(written.name, note)
    return digest
