"""`asyndbt sweep`: many simulated runs, over a grid of settings and seeds, on all cores."""

import itertools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.job import Job, Request
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.simulate import simulate_silently
from asyndbt_mpi.stationarity import add as add_stationarity

WORKERS = "workers"
"""The one thing that can be varied and is no key of the configuration."""

PARTIAL = ".part"
"""Ending of a log under way, which is renamed when all is in it."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What the command line asked for.

    ``vary`` are texts KEY=VALUE,VALUE,...; ``workers`` is R where it is not varied; the seeds
    are ``seeds`` of them from run.seed on.
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
    """Make every run that is not there yet; the failures, a line each.

    Raises
    ------
    ConfigurationError
        A setting is wrong, another sweep is at work in the folder, or a log in it was made with
        other settings. Nothing has been started then.
    """
    points = list(_points(asked))
    asked.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(asked.folder / ".lock", timeout=0):
            missing = [point for point in points if not _is_there(point)]
            return _run(missing, len(points))
    except Timeout as error:
        raise ConfigurationError(f"another sweep is at work in {asked.folder}") from error


def _points(asked: Sweep) -> Iterator[_Point]:
    """Every combination of the varied values, and every seed for each."""
    varied = [_values(text) for text in asked.vary]
    if len({key for key, _ in varied}) < len(varied):
        raise ConfigurationError("--vary: a key is given twice")
    first_seed = load(asked.source, asked.assignments).run.seed
    for combination in itertools.product(*(values for _, values in varied)):
        for seed in range(first_seed, first_seed + asked.seeds):
            settings = dict(zip((key for key, _ in varied), combination, strict=True))
            name = ",".join(
                f"{key.rpartition('.')[2]}={value.replace('/', '-')}"
                for key, value in (settings | {"seed": str(seed)}).items()
            )
            workers = _workers(settings.pop(WORKERS, str(asked.workers)))
            changes = tuple(f"{key}={value}" for key, value in settings.items())
            yield _Point(
                asked.folder / f"{name}.h5",
                asked.source,
                (*asked.assignments, *changes, f"run.seed={seed}"),
                workers,
            )


def _values(text: str) -> tuple[str, list[str]]:
    """Key and values of KEY=VALUE,VALUE,..."""
    key, separator, written = text.partition("=")
    values = [value.strip() for value in written.split(",")]
    if not separator or not all(values) or len(set(values)) < len(values):
        raise ConfigurationError(
            f"--vary {text}: expected section.key=value,value,... or workers=R,R,...,"
            " each value once"
        )
    if key == "run.seed":
        raise ConfigurationError("--vary run.seed: give --seeds, and run.seed by --set")
    return key.strip(), values


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"--vary workers: {text!r} is no number of workers")
    return int(text)


def _is_there(point: _Point) -> bool:
    """Whether the log of ``point`` is there; its settings are checked whether or not it is."""
    config = point.job(point.path).config
    if not point.path.exists():
        return False
    with Log(point.path) as log:
        if log.workers != point.workers:
            difference: str | None = f"{WORKERS} = {log.workers}, not {point.workers}"
        else:
            difference = _difference(log.config, config)
    if difference:
        raise ConfigurationError(
            f"{point.path} was made with {difference}; give another folder, or the same settings"
        )
    return True


def _difference(old: Config, new: Config) -> str | None:
    """The first key in which two configurations differ, with both values."""
    before, after = old.model_dump(), new.model_dump()
    for section, keys in before.items():
        for key, value in keys.items():
            if value != after[section][key]:
                return f"{section}.{key} = {value!r}, not {after[section][key]!r}"
    return None


def _run(points: Sequence[_Point], total: int) -> list[str]:
    """Run ``points`` on all cores; the failures."""
    cores = len(os.sched_getaffinity(0))
    processes = max(1, min(cores, len(points)))
    # Each process has a core to itself: the threads of numerical libraries would fight.
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // processes))
    failures = []
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    with tqdm(total=total, initial=total - len(points), unit="run") as progress:
        try:
            futures: dict[Future[None], _Point] = {
                pool.submit(_run_one, point, cores // processes): point for point in points
            }
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise RuntimeError(
                        "a process of the sweep died (out of memory?); what is finished stays,"
                        " and the same command goes on from there"
                    ) from error
                if error:
                    failures.append(f"{futures[future].path}: {type(error).__name__}: {error}")
                progress.update(1)
        finally:
            pool.shutdown(cancel_futures=True)
    return failures


def _run_one(point: _Point, cores: int) -> None:
    """Make one log; it has its name when all is in it."""
    partial = point.path.with_name(point.path.name + PARTIAL)
    job = point.job(partial)
    try:
        simulate_silently(job, cores)
        if job.config.llm.backend == "synthetic" and job.config.log.iterates == "all":
            add_stationarity(partial, every=1, samples=0, quiet=True)
        os.replace(partial, point.path)
    finally:
        partial.unlink(missing_ok=True)
