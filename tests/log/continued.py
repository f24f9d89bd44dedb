"""Logs of runs that were stopped, or killed, and resumed."""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

from asyndbt_mpi.config import Config
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import Record
from tests.log.simulated_run import (
    SHAPES,
    VOCABULARY,
    WORKERS,
    Run,
    configuration,
    not_in,
)

ITERATIONS = 40
Cut = tuple[int, str]
"""How many records the writer is given, and how it ends."""


CUTS: list[Cut] = [(40, "killed"), (70, "interrupted"), (100, "killed")]


@functools.cache
def configured(distance: str, iterates: str | int, compression: str) -> Config:
    tolerance = 0.25 if distance == "l1" else 0.001
    return configuration(
        algorithm={"lower_distance": distance, "tolerance": tolerance},
        log={"iterates": iterates, "compression": compression},
    )


@functools.cache
def run_of(config_key: tuple[str, str | int, str]) -> tuple[Config, list[Record]]:
    config = configured(*config_key)
    return config, list(Run(config).records(ITERATIONS))


PLAIN = ("l1", "all", "none")


def open_writer(path: Path, config: Config, records: Sequence[Record]) -> Writer:
    """A writer for what the log at ``path`` lacks."""
    if not path.exists():
        return Writer(path, config, SHAPES, WORKERS, VOCABULARY, "virtual", Run(config).z0)
    with Log(path) as log:
        return Writer.resumed(log, config)


def write_rest(path: Path, config: Config, records: Sequence[Record], cut: Cut) -> None:
    """Write what the log lacks of the first so many records, then end as the cut says."""
    upto, end = cut
    rest: list[Record] = list(records[:upto])
    if path.exists():
        with Log(path) as log:
            rest = list(not_in(log, rest))
    writer = open_writer(path, config, records)
    writer.write_all(rest)
    if end != "killed":
        writer.close(end)
        return
    writer.flush()
    kill(writer)


def kill(writer: Writer) -> None:
    """As far as the file can tell."""
    with contextlib.suppress(Exception):
        writer.file.close()
    writer._disk.close()
    writer._lock.release()


def write_chain(path: Path, key: tuple[str, str | int, str], cuts: Sequence[Cut]) -> None:
    config, records = run_of(key)
    for cut in cuts:
        write_rest(path, config, records, cut)
    write_rest(path, config, records, (len(records), "finished"))
