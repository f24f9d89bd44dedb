"""Whether all ranks see the same folder: rank 0 puts a locked file there, the others look for it.

The workers keep their model's answers beside the log, which only rank 0 writes.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from asyndbt_mpi.doctor.facts import SERVER, Facts, Shared
from asyndbt_mpi.doctor.findings import Finding, ok, ranks_in_words, warning
from asyndbt_mpi.doctor.places import OWN, existing
from asyndbt_mpi.inputs.ownership import FILE_MODE
from asyndbt_mpi.log.storage.lock import FileLock, Locked, take

ATTEMPTS, SECONDS_BETWEEN = 4, 0.5
"""Seconds; a network file system may take a moment to show another node's files."""


class ProbeFile:
    """Rank 0's file, by which the others recognise the folder, or the nearest existing one above.

    Parameters
    ----------
    folder : may not exist yet
    number : becomes part of the file's name

    Attributes
    ----------
    above : how many levels above the folder the file is

    Raises
    ------
    OSError
        It cannot be created there.
    """

    def __init__(self, folder: Path, number: int) -> None:
        folder = folder.expanduser().absolute()
        self.above = len(folder.parts) - len(existing(folder).parts)
        self._file = probe_path(folder, self.above, number)
        self._file.touch(FILE_MODE, exist_ok=False)
        self._lock: FileLock | None = take(self._file)

    def remove(self) -> None:
        """Remove the file."""
        if self._lock is not None:
            self._lock.release()
        self._file.unlink(missing_ok=True)


def probe_path(folder: Path, above: int, number: int) -> Path:
    """Where the file is for a rank whose folder has the same name."""
    folder = folder.expanduser().absolute()
    return (folder, *folder.parents)[above] / f"{OWN}{number}"


def look_for(sign: Path) -> Shared:
    """Whether rank 0's file is in this rank's folder, and locked."""
    for attempt in range(ATTEMPTS):
        if sign.exists():
            break
        if attempt < ATTEMPTS - 1:
            time.sleep(SECONDS_BETWEEN)
    else:
        return Shared(False, False)
    try:
        lock = take(sign)
    except Locked:
        return Shared(True, True)
    if lock is not None:
        lock.release()
    return Shared(True, False)


def check_shared(facts: Sequence[Facts], answers: bool) -> list[Finding]:
    """Findings; ``answers``: workers keep their model's answers there."""
    looked = [each for each in facts if each.shared is not None and each.rank != SERVER]
    blind = [each for each in looked if each.shared and not each.shared.sees_file]
    if not looked:
        return []
    if blind and answers:
        hosts = ", ".join(sorted({each.process.host for each in blind}))
        text = (
            f"{ranks_in_words(each.rank for each in blind)} on {hosts} do not see the folder that"
            " rank 0 writes to: a resumed run may pay again for answers kept elsewhere"
        )
        return [warning("shared folder", text, "name one that all nodes see with --output")]
    if any(each.shared and each.shared.sees_file and not each.shared.sees_lock for each in looked):
        text = "locks do not work between the ranks: nothing stops two runs from writing one log"
        return [warning("shared folder", text, "give every run its own --output")]
    if blind:
        hosts = ", ".join(sorted({each.process.host for each in blind}))
        text = (
            f"{ranks_in_words(each.rank for each in blind)} on {hosts} do not see it: a job"
            " that is requeued with another first node would not find its log"
        )
        return [warning("shared folder", text, "name one that all nodes see with --output")]
    return [ok("shared folder", "all ranks see it and each other's locks")]
