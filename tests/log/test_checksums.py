"""A log that does not read as it was written is noticed, whatever it says instead."""

import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from asyndbt_mpi.config import Config
from asyndbt_mpi.log import schema
from asyndbt_mpi.log.annotate import add_stationarity
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.integrity import damage
from asyndbt_mpi.log.reader import Log, Stationarity
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import Writer
from tests.helpers import ROOT
from tests.log.conftest import CONFIGURATIONS, LogCopy
from tests.log.simulated_run import (
    SHAPES,
    VOCABULARY,
    WORKERS,
    Run,
    configuration,
)

sys.path.insert(0, str(ROOT / "benchmarks"))
from bitflips import NOTICED, draw, outcome
from live import extents

COLUMNS = [column for group in schema.groups("l1").values() for column in group]


def damages(path: Path) -> list[str]:
    with Log(path) as log:
        return list(damage(log))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_an_honest_log_reads_as_it_was_written(log_copy: LogCopy, name: str) -> None:
    assert damages(log_copy(name)) == []


def batched(path: Path, config: Config, sizes: tuple[int, ...]) -> None:
    """A log whose batches have so many records."""
    run = Run(config)
    records = list(run.records(40))
    with Writer(path, config, SHAPES, WORKERS, VOCABULARY, "virtual", Run(config).z0) as writer:
        for size in sizes:
            writer.write_all(records[:size])
            writer.flush()
            del records[:size]
        writer.write_all(records)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("iterates", ["all", 7])
@pytest.mark.parametrize("sizes", [(0,), (1, 1, 1), (13, 0, 50, 3), (4, 100)])
def test_batches_of_any_size(
    tmp_path: Path, compression: str, iterates: object, sizes: tuple[int, ...]
) -> None:
    path = tmp_path / "run.h5"
    batched(path, configuration(log={"compression": compression, "iterates": iterates}), sizes)
    assert damages(path) == []
    with h5py.File(path, "r") as file:
        ends = file["batch/rows"][:]
        assert len(ends) == len(file["batch/checksum"]) == 1 + sum(map(bool, sizes)) + 1
        assert ends[-1] == file.attrs["committed_rows"]
        assert (np.diff(ends["event"], prepend=0) >= 0).all()


def changed(value: object) -> object:
    """Another value of the same type."""
    if isinstance(value, bytes):
        return value + b"!"
    array = np.array(value)
    first = array.reshape(-1)[:1]
    first[...] = ~first if array.dtype == bool else np.nan_to_num(first) + 1
    return array


@pytest.fixture(scope="module")
def in_batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of three batches."""
    path = tmp_path_factory.mktemp("batches") / "run.h5"
    batched(path, configuration(), (30, 50))
    return path


def changes(path: Path, columns: list[schema.Column], row: int) -> list[str]:
    """The columns that are named after their ``row`` was changed."""
    with h5py.File(path, "r+") as file:
        for column in columns:
            file[column.path][row] = changed(file[column.path][row])
    lines = damages(path)
    assert all(line.endswith(" differs from its checksum") for line in lines), lines
    return [line.split()[-5].removeprefix("/") for line in lines]


@pytest.mark.parametrize("row", [0, -1])
def test_every_column_is_covered(in_batches: Path, tmp_path: Path, row: int) -> None:
    path = Path(shutil.copy(in_batches, tmp_path))
    # A function has no answers by row.
    columns = [column for column in COLUMNS if not column.path.startswith("answer/")]
    assert sorted(changes(path, columns, row)) == sorted(column.path for column in columns)


@pytest.mark.parametrize("row", [0, -1])
@pytest.mark.parametrize("column", COLUMNS[::7], ids=lambda column: column.path)
def test_no_other_column_is_blamed(
    in_batches: Path, tmp_path: Path, column: schema.Column, row: int
) -> None:
    path = Path(shutil.copy(in_batches, tmp_path))
    assert changes(path, [column], row) == [column.path]


ATTRIBUTES = ["config", "status", "seed", "committed", "committed_rows", "logging_seconds",
              "transport", "data_digest", "package_version"]  # fmt: skip


@pytest.mark.parametrize("name", [*ATTRIBUTES, *schema.FIXED, "checksum"])
def test_what_changes_in_place_is_covered(log_copy: LogCopy, name: str) -> None:
    path = log_copy("whole")

    def other(value: object) -> object:
        if isinstance(value, str):
            return value + "\n"
        if isinstance(value, np.void):
            value["event"] -= 1
            return value
        return value - 1 if name == "committed" else changed(value)

    with h5py.File(path, "r+") as file:
        if name in schema.FIXED:
            file[name][1] = "another"
        else:
            file.attrs[name] = other(file.attrs[name])
    paths = ", ".join(f"/{path}" for path in schema.FIXED)
    assert verify(path).violations == [f"the attributes, {paths}: one differs from the checksum"]


def test_an_attribute_that_makes_checks_endless(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    with h5py.File(path, "r+") as file:
        rows = file.attrs["kept_rows"]
        rows["iteration"] = 2**50
        file.attrs["kept_rows"] = rows
    with pytest.raises(LogError, match="more rows were kept than there are"):
        verify(path)


def test_an_attribute_that_is_gone_is_noticed(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    with h5py.File(path, "r+") as file:
        del file.attrs["data_digest"]
    assert "differs from the checksum" in damages(path)[0]


@pytest.mark.parametrize("field", ["rows", "checksum"])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_the_checksums_themselves_are_covered(
    in_batches: Path, tmp_path: Path, field: str, batch: int
) -> None:
    path = Path(shutil.copy(in_batches, tmp_path))
    with h5py.File(path, "r+") as file:
        record = file[f"batch/{field}"][batch]
        record[record.dtype.names[0]] += 1
        file[f"batch/{field}"][batch] = record
    assert damages(path)


@pytest.mark.parametrize("field", ["rows", "checksum"])
def test_a_missing_table_is_named(log_copy: LogCopy, field: str) -> None:
    path = log_copy("whole")
    with h5py.File(path, "r+") as file:
        del file[f"batch/{field}"]
    assert any(f"'batch/{field}' is missing" in line for line in verify(path).violations)


def test_stationarity_is_covered(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    add_stationarity(path, Stationarity("exact", np.arange(3), *(np.ones(3) for _ in "pqzl")))
    assert damages(path) == []
    with h5py.File(path, "r+") as file:
        file["stationarity/q"][1] = math.nextafter(1.0, 2.0)
    assert damages(path) == ["/stationarity differs from its checksum"]


def test_damage_is_listed_although_it_is_in_the_way_of_checks(log_copy: LogCopy) -> None:
    """A text that is none any more, say."""
    path = log_copy("whole")
    content = path.read_bytes()
    assert content.count(b"died, signal 9") == 1
    path.write_bytes(content.replace(b"died, signal 9", b"\xff\xfeed, signal 9"))
    [line] = verify(path).violations
    assert line.endswith("/event/text differs from its checksum")


FLIPS = 20


@pytest.mark.long
@pytest.mark.parametrize("places", ["rows", "attribute values"])
def test_bit_flips_are_noticed(
    virtual_run: Callable[..., Path], tmp_path: Path, places: str
) -> None:
    path = virtual_run(run={"iterations": 24, "evaluate_every": 4})
    live = [each for each in extents(path) if each.place.startswith(places)]
    missed = [
        flip
        for flip in draw(live, FLIPS, np.random.default_rng(11))
        if outcome(path, flip, tmp_path / "copy.h5") not in NOTICED
    ]
    assert missed == []
