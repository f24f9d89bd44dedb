"""The reader: one clear error for whatever cannot be read."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from asyndbt_mpi import __version__
from asyndbt_mpi.log import reader
from asyndbt_mpi.log.annotate import add_stationarity
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from tests.log.conftest import LogCopy
from tests.log.simulated_run import SHAPES, VOCABULARY, WORKERS


def test_attributes(log_copy: LogCopy) -> None:
    with Log(log_copy("sparse")) as log:
        assert (log.workers, log.active_workers, log.max_delay, log.seed) == (WORKERS, 2, 3, 7)
        assert (log.shapes, log.vocabulary, log.every) == (SHAPES, VOCABULARY, 6)
        assert (log.committed, log.status, log.transport) == (40, "finished", "virtual")
        assert log.config.run.iterations == 40


def test_blocks_are_the_whole(log_copy: LogCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    with Log(log_copy("whole")) as log:
        z = log["iteration/z"]
        monkeypatch.setattr(reader, "BLOCK_BYTES", 7 * z[0].nbytes)
        blocks = list(log.blocks("iteration/z"))
        assert [start for start, _ in blocks] == [0, 7, 14, 21, 28, 35]
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), z)
        np.testing.assert_array_equal(log.rows("iteration/z", 3, 5), z[3:5])


def read_all(path: Path) -> None:
    with Log(path) as log:
        for columns in log.groups.values():
            for column in columns:
                log[column.path]


def refusal(path: Path) -> str:
    """The one line with which ``path`` is refused, without the path that it begins with."""
    with pytest.raises(LogError) as caught:
        read_all(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def test_no_such_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.h5") == "no such file"


def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


def test_not_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[run]\n")
    assert refusal(path) == "not an HDF5 file"


def test_another_hdf5_file(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    h5py.File(path, "w").close()
    assert "not an asyndbt log" in refusal(path)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 6])
def test_another_version(log_copy: LogCopy, version: int) -> None:
    path = log_copy("whole")
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = version
        file.attrs["package_version"] = "7.8"
    assert refusal(path) == (
        f"has format version {version}: the asyndbt_mpi that wrote it (7.8) can read it; this one "
        f"({__version__}) reads version 5"
    )


def test_a_missing_dataset(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    with h5py.File(path, "r+") as file:
        del file["report/q"]
    assert refusal(path) == "the dataset 'report/q' is missing"


def test_a_missing_attribute(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    with h5py.File(path, "r+") as file:
        del file.attrs["workers"]
    assert re.match("an attribute is missing: .*workers", refusal(path))


def test_a_bad_configuration(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = "[algorithm]\nactive_worker = 3\n"
    assert "active_workers" in refusal(path)


def test_a_truncated_file(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "truncated" in refusal(path)


def test_an_unknown_dataset(log_copy: LogCopy) -> None:
    with Log(log_copy("whole")) as log, pytest.raises(LogError, match="'nothing' is missing"):
        log["nothing"]


def test_evaluations_may_come_in_any_order(log_copy: LogCopy) -> None:
    """Workers answer when they can: evaluations of an earlier iteration may come later."""
    path = log_copy("whole")
    with h5py.File(path, "r+") as file:
        file.attrs["committed"] = 20
        file.attrs["status"] = "running"
        file["evaluation/iteration"][:] = file["evaluation/iteration"][:][::-1]
        expected = file["evaluation/worker"][:][file["evaluation/iteration"][:] <= 20]
    with Log(path) as log:
        assert log["evaluation/iteration"].max() <= 20
        np.testing.assert_array_equal(log["evaluation/worker"], expected)


def test_a_log_lists_what_can_be_read(log_copy: LogCopy) -> None:
    with Log(log_copy("whole")) as log:
        assert list(log) == log.keys()
        assert len(log) == len(set(log)) > 60
        for path in log:
            assert path in log
            assert len(log[path]) == log.count(path) or path.startswith("evaluation/")
        assert "report/no_such" not in log
        assert not any(path.startswith(("batch/", "stationarity/")) for path in log)
        names: set[str] = set()
        log.file.attempt(lambda file: file.visit(names.add))
        groups = {path.partition("/")[0] for path in names} - {"batch"}
        assert {path for path in names if path.partition("/")[0] in groups} - groups == set(
            log
        ) - groups


def test_stationarity_is_among_it_once_it_is_there(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    with Log(path) as log:
        iteration = np.arange(3)
    add_stationarity(path, reader.Stationarity("exact", iteration, *np.ones((4, 3))))
    with Log(path) as log:
        assert [key for key in log if key.startswith("stationarity/")] == [
            f"stationarity/{name}" for name in ("iteration", "p", "q", "z", "lam")
        ]
        assert log["stationarity/lam"].tolist() == [1, 1, 1]


def test_a_log_shows_what_it_is(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    with Log(path) as log:
        assert repr(log) == f"<Log {str(path)!r}: 'run', finished, 40 iterations of 4 workers>"
