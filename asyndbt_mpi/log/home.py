"""What workers keep at home with `log.private`: one file for each, of one JSON object a line.

    run.h5.home/worker-1.jsonl

The first line says whose it is; each of the others is a `Kept`. Lines are appended as they come, so
that a kill cuts off at most the last one, which is then passed over.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.inputs import ownership
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.protocol.private import Kept

FORMAT = "asyndbt home"
SUFFIX = ".jsonl"


def folder_of(config: Config, log: Path) -> Path:
    """The folder in which the workers of the run with this ``log`` keep what they do not tell."""
    return Path(config.log.home.replace("{output}", str(log))).expanduser()


def file_of(config: Config, log: Path, worker: int) -> Path:
    """The file of ``worker``."""
    return folder_of(config, log) / f"worker-{worker}{SUFFIX}"


class HomeFiles:
    """The files of the workers of this process; a `protocol.private.Home`.

    Files are made when there is something to keep.

    Parameters
    ----------
    files : by worker
    overwrite : replace those that are there

    Raises
    ------
    ConfigurationError
        A file is there already, or the folder cannot be made or is not this user's own.
    """

    def __init__(self, files: Mapping[int, Path], name: str, overwrite: bool) -> None:
        self._files = dict(files)
        self._name = name
        self._open: dict[int, TextIO] = {}
        for path in self._files.values():
            try:
                ownership.make_folder(path.parent)
            except OSError as error:
                why = error.strerror or error
                raise ConfigurationError(f"log.home: {path.parent}: {why}") from error
            if overwrite:
                path.unlink(missing_ok=True)
            elif path.exists():
                raise ConfigurationError(
                    f"log.home: {path} already exists; move it away, or give --overwrite"
                )

    def keep(self, worker: int, kept: Kept) -> None:
        """Append a line to the file of ``worker``."""
        if worker not in self._open:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            descriptor = os.open(self._files[worker], flags, ownership.FILE_MODE)
            self._open[worker] = os.fdopen(descriptor, "w", encoding="utf-8")
            self._write(worker, {"format": FORMAT, "run": self._name, "worker": worker})
        self._write(worker, {key: _plain(value) for key, value in asdict(kept).items()})

    def _write(self, worker: int, line: Mapping[str, Any]) -> None:
        file = self._open[worker]
        file.write(json.dumps(line) + "\n")
        file.flush()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


@dataclass(frozen=True, slots=True)
class KeptAtHome:
    """What a worker's file says: of which ``run`` and ``worker`` it is, and what it ``kept``."""

    run: str
    worker: int
    kept: list[Kept]


def is_home(path: Path) -> bool:
    """Whether ``path`` has the name of a worker's file."""
    return path.suffix == SUFFIX


def read(path: Path) -> KeptAtHome:
    """The file at ``path``.

    Raises
    ------
    LogError
        It is no worker's file.
    """
    try:
        lines = _lines(path)
        first = next(lines, {})
        if first.get("format") != FORMAT:
            raise LogError(f"{path}: is no file of a worker's home, which begins with {FORMAT!r}")
        return KeptAtHome(str(first["run"]), int(first["worker"]), list(map(_kept, lines)))
    except OSError as error:
        raise LogError(f"{path}: cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, LogError):
            raise
        raise LogError(f"{path}: is damaged: {type(error).__name__}: {error}") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):  # else the process was killed while it wrote
                yield json.loads(line)


def _kept(line: Mapping[str, Any]) -> Kept:
    found = dict(line)
    for name in ("demonstrations", "losses", "q"):
        found[name] = None if found[name] is None else np.array(found[name])
    return Kept(**found)
