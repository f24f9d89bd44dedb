"""The folder of the log: can it be written to, and do locks work there?"""

import os
import shutil
import tempfile
from pathlib import Path

from asyndbt_mpi.doctor.findings import Finding, ok, problem, warning
from asyndbt_mpi.doctor.places import OWN, existing, unwritable
from asyndbt_mpi.log.storage.lock import has_locks, is_being_written

MOUNTS = Path("/proc/mounts")
LITTLE = 2**30
"""Bytes; the log of a long run with many words may need more."""
VARIABLE = "HDF5_USE_FILE_LOCKING"


def look_at_folder(log: Path) -> list[Finding]:
    """What rank 0 would find when it creates the ``log``."""
    subject, folder = "output", log.expanduser().absolute().parent
    if log.is_dir():
        return [problem(subject, f"{log} is a folder", "name a file with --output or run.output")]
    if why := unwritable(folder):
        text = f"{folder} cannot be written to: {why}"
        return [problem(subject, text, "name another file with --output or run.output")]
    return [_space(folder), *_earlier_log(log), *_locks(folder)]


def _space(folder: Path) -> Finding:
    place = existing(folder)
    free = shutil.disk_usage(place).free
    text = f"{folder} is writable, {free / 2**30:,.1f} GiB free, on {file_system(place.resolve())}"
    if free < LITTLE:
        return warning("output", text, "free some space, or name another folder with --output")
    return ok("output", text)


def file_system(place: Path, mounts: str | None = None) -> str:
    """The type of the file system that ``place`` is on, as the kernel names it."""
    try:
        text = MOUNTS.read_text("utf-8", "replace") if mounts is None else mounts
    except OSError:
        return "a file system of unknown type"
    found, longest = "a file system of unknown type", -1
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        mounted = Path(fields[1].replace("\\040", " "))
        # Of several mounted on one place, the last is visible.
        if place.is_relative_to(mounted) and len(mounted.parts) >= longest:
            found, longest = fields[2], len(mounted.parts)
    return found


def _earlier_log(log: Path) -> list[Finding]:
    if is_being_written(log):
        hint = "wait for it to end, or name another file with --output"
        return [problem("output", f"another process is writing {log}", hint)]
    if log.exists():
        hint = "--resume continues it; otherwise give --overwrite or another --output"
        return [warning("output", f"{log} already exists", hint)]
    return []


def _locks(folder: Path) -> list[Finding]:
    if why := _hdf5_refuses(existing(folder)):
        return [
            problem("HDF5 locking", f"HDF5 cannot write there: {why}", f"export {VARIABLE}=FALSE")
        ]
    if not has_locks(existing(folder)):
        text = "the file system has no locks: nothing stops two runs from writing one log"
        return [warning("HDF5 locking", text, "give every run its own --output")]
    setting = os.environ.get(VARIABLE, "").strip()
    named = f", whatever {VARIABLE}={setting} says" if setting else ""
    return [ok("HDF5 locking", f"runs do not use HDF5's locks{named}; the log's own lock works")]


def _hdf5_refuses(place: Path) -> str:
    """Why HDF5 cannot create a file as the log's writer would; "" if it can."""
    import h5py

    try:
        with tempfile.TemporaryDirectory(prefix=OWN, dir=place) as folder:
            h5py.File(Path(folder) / "try.h5", "w", locking=False).close()
    except OSError as error:
        return " ".join(str(error).split())
    return ""
