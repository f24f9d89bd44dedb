"""`asyndbt sweep`: many simulated runs, over a grid of settings and seeds, on all cores."""

import itertools
import math
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from asyndbt_mpi.commands.cores import on_all_cores
from asyndbt_mpi.commands.simulate import simulate_silently
from asyndbt_mpi.commands.stationarity import add as add_stationarity
from asyndbt_mpi.config import Config, ConfigurationError, difference, load
from asyndbt_mpi.inputs.files import shown
from asyndbt_mpi.jobs.job import Job, Request, writable_path
from asyndbt_mpi.log.file import is_log
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.storage.lock import Locked, take

WORKERS = "workers"
"""The only thing that can be varied although it is not a configuration key."""

MOST_RUNS = 100_000

MOST_PROCESS = 2**22
"""Largest process number on Linux."""

PARTIAL = ".part-"
"""In the name of an unfinished log, before its process number; renamed when complete."""
LEFT = re.compile(rf"(.+){re.escape(PARTIAL)}[0-9]+")
HIDDEN = re.compile(rf"\.{LEFT.pattern}(?:\.lock|\.[0-9a-f]{{32}}\.new)")
"""Names of unfinished logs, and of the hidden files beside them."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What the command line asked for.

    ``vary`` are texts KEY=VALUE,VALUE,...; ``workers`` is R unless it is varied; ``seeds`` is the
    number of seeds, starting at run.seed.
    """

    source: str
    assignments: tuple[str, ...]
    vary: tuple[str, ...]
    workers: int
    seeds: int
    folder: Path


@dataclass(frozen=True, slots=True)
class _Point:
    """One run: its log, its settings and R."""

    path: Path
    source: str
    assignments: tuple[str, ...]
    workers: int

    def job(self, path: Path) -> Job:
        return Job.of(
            Request(self.source, self.assignments, str(path), overwrite=True, debug=False),
            self.workers,
        )


def sweep(asked: Sweep) -> list[str]:
    """Make every run that does not exist yet; returns the failures, one line each.

    Raises
    ------
    ConfigurationError
        A setting is wrong, another sweep is running in the folder, or a log in it is not finished
        or was made with other settings. No run has been started then.
    """
    writable_path("--output", str(asked.folder))
    try:
        points = _points(asked)
        asked.folder.mkdir(parents=True, exist_ok=True)
        lock = take(asked.folder / ".lock")
    except Locked as error:
        raise ConfigurationError(f"another sweep is running in {asked.folder}") from error
    except OSError as error:
        raise ConfigurationError(
            f"{shown(str(asked.folder))}: {error.strerror or error}"
        ) from error
    try:
        missing = [point for point, config in points.items() if not _is_there(point, config)]
        _remove_partial(asked.folder, {point.path.name for point in points})
        return _run(missing, len(points))
    finally:
        if lock is not None:
            lock.release()


def _remove_partial(folder: Path, logs: Collection[str]) -> None:
    """Delete what a killed sweep has left of its ``logs`` in ``folder``, and nothing else."""
    for entry in list(folder.iterdir()):
        hidden, log = HIDDEN.fullmatch(entry.name), LEFT.fullmatch(entry.name)
        found = hidden or log
        if found and found[1] in logs and (hidden or is_log(str(entry))):
            entry.unlink()


def _points(asked: Sweep) -> dict[_Point, Config]:
    """Every combination of varied values and seeds, with its settings."""
    varied = dict(_values(text) for text in asked.vary)
    if len(varied) < len(asked.vary):
        raise ConfigurationError("--vary: a key is given twice")
    first_seed = load(asked.source, asked.assignments).run.seed
    runs = asked.seeds * math.prod(map(len, varied.values()))
    if runs > MOST_RUNS:
        raise ConfigurationError(f"the sweep has {runs} runs; at most {MOST_RUNS} are allowed")
    seeds = range(first_seed, first_seed + asked.seeds)
    made = [
        _point(asked, dict(zip(varied, combination, strict=True)), seed)
        for combination in itertools.product(*varied.values())
        for seed in seeds
    ]
    for point in made:
        writable_path("--vary", str(_partial(point.path, MOST_PROCESS)))
    points = {point: point.job(point.path).config for point in made}
    different = {(config.to_toml(), point.workers) for point, config in points.items()}
    if min(len(different), len({point.path for point in made})) < len(made):
        raise ConfigurationError("--vary: two of the values are the same, or give the same name")
    return points


def _point(asked: Sweep, settings: dict[str, str], seed: int) -> _Point:
    name = ",".join(
        f"{key.rpartition('.')[2]}={value.replace('/', '-')}"
        for key, value in (settings | {"seed": str(seed)}).items()
    )
    workers = _workers(settings.pop(WORKERS, str(asked.workers)))
    changes = tuple(f"{key}={value}" for key, value in settings.items())
    assignments = (*asked.assignments, *changes, f"run.seed={seed}")
    return _Point(asked.folder / f"{name}.h5", asked.source, assignments, workers)


def _values(text: str) -> tuple[str, list[str]]:
    """Key and values of KEY=VALUE,VALUE,..."""
    key, _, written = text.partition("=")
    key = key.strip()
    values = [value.strip() for value in written.split(",")]
    if not ("." in key or key == WORKERS) or not all(values):
        raise ConfigurationError(
            f"--vary {shown(text)}: expected section.key=value,value,... or workers=R,R,..."
        )
    if key == "run.seed":
        raise ConfigurationError("--vary run.seed: use --seeds, and --set run.seed=N for the first")
    return key, values


def _workers(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10) or int(text) < 1:
        raise ConfigurationError(f"--vary workers: {shown(text)} is not a number of workers")
    return int(text)


def _is_there(point: _Point, config: Config) -> bool:
    """Whether the log of ``point`` exists; if so, it must have been made with ``config``."""
    if not point.path.exists():
        return False
    with Log(point.path) as log:
        if log.status != "finished":
            raise ConfigurationError(f"{point.path} is {log.status}; remove it, or wait for it")
        if log.workers != point.workers:
            found: str | None = f"{WORKERS} = {log.workers}, not {point.workers}"
        else:
            found = difference(log.config, config)
    if found:
        raise ConfigurationError(
            f"{point.path} was made with {found}; choose another folder, or the same settings"
        )
    return True


def _run(points: Sequence[_Point], total: int) -> list[str]:
    """Run ``points`` on all cores; the failures."""
    return on_all_cores(points, _run_one, lambda point: str(point.path), "runs", total)


def _partial(path: Path, process: int) -> Path:
    """Where ``process`` writes the log that will be at ``path``."""
    return path.with_name(f"{path.name}{PARTIAL}{process}")


def _run_one(point: _Point, cores: int) -> None:
    """Make one log, which gets its name when it is complete."""
    partial = _partial(point.path, os.getpid())
    job = point.job(partial)
    try:
        simulate_silently(job, cores)
        if job.config.llm.backend == "synthetic" and job.config.log.iterates == "all":
            add_stationarity(partial, every=1, samples=0, quiet=True, given=job.config)
        os.replace(partial, point.path)
    finally:
        partial.unlink(missing_ok=True)
