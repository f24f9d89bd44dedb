"""The file beneath HDF5: kills at every moment, and readers beside the writer."""

import contextlib
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.log import datasets, writer
from asyndbt_mpi.log import file as log_file
from asyndbt_mpi.log.annotate import add_stationarity
from asyndbt_mpi.log.errors import LogError, LogWriteError
from asyndbt_mpi.log.reader import Log, Stationarity
from asyndbt_mpi.log.storage import journal
from asyndbt_mpi.log.storage.blocks import MARK, PAGE, SLOT
from asyndbt_mpi.log.storage.journal import JournaledFile, finish
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import Iteration, Record
from tests.helpers import ROOT
from tests.log.power import seen_by_hdf5
from tests.log.simulated_run import SHAPES, VOCABULARY, WORKERS, Run, configuration

# ---------------------------------------------------------------- a disk that is cut short


class Change(NamedTuple):
    """One change of a file: ``content`` at ``offset``, or its size if there is none."""

    offset: int
    content: bytes | None


class Disk:
    """Everything that a `JournaledFile` does to its file, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changes: list[Change] = []
        pwrite, ftruncate = os.pwrite, os.ftruncate

        def record_write(handle: int, content: memoryview, offset: int) -> int:
            self.changes.append(Change(offset, bytes(content)))
            return pwrite(handle, content, offset)

        def record_size(handle: int, size: int) -> None:
            self.changes.append(Change(size, None))
            ftruncate(handle, size)

        monkeypatch.setattr(os, "pwrite", record_write)
        monkeypatch.setattr(os, "ftruncate", record_size)
        monkeypatch.setattr(journal, "reserve", lambda *_: False)  # it truncates then

    def moments(self, path: Path, first: int) -> Iterator[int]:
        """Put into ``path`` what each moment from change ``first`` on would have left.

        A write may be cut where a page ends.
        """
        with path.open("wb+", buffering=0) as file:
            for number, (offset, content) in enumerate(self.changes):
                if content is None:
                    file.truncate(offset)
                else:
                    cut = PAGE - offset % PAGE
                    if cut < len(content) and number >= first:
                        os.lseek(file.fileno(), offset, os.SEEK_SET)
                        file.write(content[:cut])
                        yield number
                    file.seek(offset)
                    file.write(content)
                if number >= first:
                    yield number


def columns(log: Log) -> dict[str, np.ndarray]:
    """Everything that counts."""
    names = [column.path for group in log.groups.values() for column in group]
    names += ["vocabulary", "worker/description", "worker/cost_bounds", "worker/model"]
    return {name: log.rows(name) for name in names}


def start(path: Path, **settings_: object) -> tuple[Writer, Run]:
    """A log's writer that commits when it is told to, and the run to be written."""
    run = Run(configuration(algorithm={"plane_until": 100}, run={"iterations": 140}, log=settings_))
    return Writer(path, run.config, SHAPES, WORKERS, VOCABULARY, "virtual", run.z0), run


def write_batch(opened: Writer, records: Iterator[Record], iterations: int) -> None:
    """Write and commit so many iterations."""
    while iterations:
        record = next(records)
        opened.write(record)
        iterations -= isinstance(record, Iteration)
    opened.flush()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The indices of datasets are split after 64 chunks."""
    monkeypatch.setattr(datasets, "LONGEST_CHUNK", 2)
    monkeypatch.setattr(writer, "SECONDS_BETWEEN_BATCHES", 1e9)


def assert_counts(log: Log, expected: dict[str, np.ndarray], moment: int) -> None:
    """What counts is as in the whole log."""
    for name, rows in columns(log).items():
        wanted = expected[name][: len(rows)]
        if name.startswith("worker/"):
            assert set(rows) in ({""}, set(wanted)), (moment, name)
            continue
        if name == "plane/dropped":
            wanted = np.where(wanted >= log.committed, -1, wanted)
        np.testing.assert_array_equal(rows, wanted, str((moment, name)))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_kill_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    """Indices of chunks are split meanwhile, compressed chunks move, texts are replaced."""
    monkeypatch.setattr(log_file, "ATTEMPTS", 1)
    path, cut = tmp_path / "run.h5", tmp_path / "cut.h5"
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        opened, run = start(path, compression=compression)
        begun, records = len(disk.changes), run.records()
        for _ in range(4):
            write_batch(opened, records, 35)
        opened.close("finished")
    with Log(path) as log:
        expected = columns(log)
    with h5py.File(path, "r") as file:
        assert file["iteration/z"].id.get_num_chunks() > 64
    counts, known = [0], b""
    for moment in disk.moments(cut, begun):
        if (seen := seen_by_hdf5(cut)) == known:
            continue
        with Log(cut) as log:
            assert log.committed >= counts[-1], moment
            counts.append(log.committed)
            assert_counts(log, expected, moment)
        known = seen
    assert set(counts) == {0, 35, 70, 105, 140}
    assert cut.read_bytes() == path.read_bytes()


@pytest.mark.long
@pytest.mark.usefixtures("small_chunks")
def test_what_is_added_to_a_log_whose_end_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal says that it is finished."""
    path, cut, copy = (tmp_path / name for name in ("run.h5", "cut.h5", "copy.h5"))
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        opened, run = start(path)
        write_batch(opened, run.records(), 30)
        begun = len(disk.changes)
        opened.close("finished")
    found = Stationarity("exact", np.arange(3), *(np.ones(3) for _ in "pqzl"))
    finished = 0
    for moment in disk.moments(cut, begun):
        shutil.copy(cut, copy)
        with Log(copy) as log:
            status = log.status
        add_stationarity(copy, found)
        with Log(copy) as log:
            assert (log.committed, log.status) == (30, status), moment
            assert log.stationarity is not None
        assert verify(copy).violations == []
        finished += status == "finished"
    assert finished > 2


def test_a_commit_after_the_end_has_come_nearer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cut = tmp_path / "file", tmp_path / "cut"
    path.touch()
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        file = JournaledFile(path, writable=True)
        for value, size in ((1, 1 << 22), (2, 1 << 20)):
            file.seek(0)
            file.write(memoryview(bytes([value]) * size))
            file.truncate(size)
            begun = len(disk.changes)
            file.commit()
    for moment in disk.moments(cut, begun):
        found = JournaledFile(cut)
        content = found.read(1 << 22)
        first = content[: 1 << 20]
        assert first in (bytes([1]) * (1 << 20), bytes([2]) * (1 << 20)), moment
        assert first[0] == 2 or content == bytes([1]) * (1 << 22), moment


# ---------------------------------------------------------------- a file is like bytes

Access = tuple[str, int, int]
ACCESSES = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "read", "commit", "settle"]),
        st.integers(0, 5 * PAGE),
        st.integers(1, 2 * PAGE),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(accesses=ACCESSES)
def test_it_reads_as_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, accesses: list[Access]
) -> None:
    path = tmp_path_factory.mktemp("file") / "file"
    path.touch()
    file, expected = JournaledFile(path, writable=True), bytearray()
    committed = on_disk = b""
    for number, (kind, offset, size) in enumerate(accesses):
        if kind == "write":
            expected.extend(bytes(max(0, offset + size - len(expected))))
            expected[offset : offset + size] = bytes([number + 1]) * size
            file.seek(offset)
            assert file.write(memoryview(bytes([number + 1]) * size)) == size
            file.truncate(len(expected))
        elif kind == "read":
            size = min(size, max(0, len(expected) - offset))
            file.seek(offset)
            assert file.read(size) == expected[offset : offset + size]
            assert file.tell() == offset + size
        else:
            file.commit()
            committed = bytes(expected)
            if kind == "settle":
                file.settle()
                on_disk = committed
        assert path.read_bytes()[: len(on_disk)] == on_disk  # for who does not know of journals
        with contextlib.closing(JournaledFile(path)) as reader:
            assert reader.read(len(committed)) == committed
    file.commit(spare=0)
    file.cut()
    file.close()
    assert path.read_bytes() == expected


# ---------------------------------------------------------------- who comes upon a journal


@pytest.fixture
def halfway(small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log whose writer has died while pages of its second commit went to their places."""
    path = tmp_path / "run.h5"
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        opened, run = start(tmp_path / "whole.h5", compression="gzip")
        records = run.records()
        for _ in range(2):
            write_batch(opened, records, 60)
        with_journal = [
            n for n, (_, content) in enumerate(disk.changes) if says_of_a_journal(content)
        ]
        opened.close("interrupted")
    moments = disk.moments(path, 0)
    while next(moments) < with_journal[-1] + 1:
        pass
    moments.close()
    return path


def says_of_a_journal(content: bytes | None) -> bool:
    """Whether it is a slot that names a block."""
    return content is not None and content.startswith(MARK) and SLOT.unpack(content)[5] > 0


def is_whole(path: Path) -> bool:
    """For a program that does not know of journals."""
    try:
        with h5py.File(path, "r") as file:
            return file.attrs["committed"] == 120 and bool(np.isfinite(file["report/p"][:]).all())
    except OSError:
        return False


def test_a_journal_is_read_and_then_finished(halfway: Path) -> None:
    assert not is_whole(halfway)
    before = halfway.read_bytes()
    with Log(halfway) as log:
        assert (log.committed, log.status) == (120, "running")
        expected = columns(log)
    assert verify(halfway).violations == []
    assert halfway.read_bytes() == before
    for _ in range(2):
        finish(halfway)
        assert is_whole(halfway)
    with Log(halfway) as log:
        assert_counts(log, expected, 0)


def test_a_resumed_run_finishes_the_journal_of_the_killed_one(halfway: Path) -> None:
    before = Log(halfway)
    with before:
        Writer.resumed(before, before.config).close("interrupted")
        assert np.isfinite(before["report/p"]).all()  # though pages have changed below it
    assert is_whole(halfway)
    with Log(halfway) as log:
        assert (log.committed, log.starts) == (120, 2)


def test_a_journal_that_was_written_over_is_none(halfway: Path) -> None:
    content = bytearray(halfway.read_bytes())
    for place in range(len(content) - 2 * PAGE, len(content) - PAGE, 8):  # of the newest block
        content[place] ^= 1
    halfway.write_bytes(content)
    file = JournaledFile(halfway)
    assert file.read(len(content)) == content
    file.close()


@pytest.mark.usefixtures("small_chunks")
def test_a_reader_beside_the_writer_never_reads_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 keeps in mind the upper part of an index whose lower part is split afterwards."""
    monkeypatch.setattr(datasets, "LONGEST_CHUNK", 1)
    opened, run = start(tmp_path / "run.h5")
    records = run.records()
    write_batch(opened, records, 119)
    with opened, Log(tmp_path / "run.h5") as early:
        early.rows("iteration/z", 0, 1)
        write_batch(opened, records, 21)
        found = early["iteration/z"]
        assert early.committed == 119
        with Log(tmp_path / "run.h5") as late:
            np.testing.assert_array_equal(late["iteration/z"][:120], found)


def test_a_log_that_is_read_is_the_one_that_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if another has its name by now, or none."""
    monkeypatch.chdir(tmp_path)
    first, run = start(Path("run.h5"))
    records = run.records()
    write_batch(first, records, 10)
    with Log("run.h5") as log:
        expected = log["iteration/z"]
        write_batch(first, records, 10)
        first.close("finished")
        other, another_run = start(tmp_path / "other.h5")
        write_batch(other, another_run.records(), 3)
        other.close("finished")
        os.replace("other.h5", "run.h5")
        np.testing.assert_array_equal(log["iteration/z"], expected)
        os.unlink("run.h5")
        monkeypatch.chdir("/")
        np.testing.assert_array_equal(log["iteration/z"], expected)


@pytest.mark.usefixtures("small_chunks")
def test_large_reads_are_made_of_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, run = start(tmp_path / "run.h5")
    records = run.records()
    write_batch(opened, records, 31)
    with opened, Log(tmp_path / "run.h5") as log:
        expected = columns(log)
        for size in (1, 100, 1000):
            monkeypatch.setattr(log_file, "BLOCK_BYTES", size)
            for name, rows in columns(log).items():
                np.testing.assert_array_equal(rows, expected[name])
                assert rows.dtype == expected[name].dtype


def test_what_is_written_too_fast_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, run = start(tmp_path / "run.h5")
    write_batch(opened, run.records(), 3)
    with opened, Log(tmp_path / "run.h5") as log:
        with monkeypatch.context() as patch:
            patch.setattr(JournaledFile, "changed", lambda _: True)
            with pytest.raises(LogError, match=r"run\.h5: is being written faster than it can be"):
                log.rows("iteration/z")
        assert len(log.rows("iteration/z")) == 4


@pytest.mark.long
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("lands", [False, True])
@pytest.mark.parametrize("fails_at", range(1, 12))
def test_a_disk_that_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, lands: bool
) -> None:
    path = tmp_path / "run.h5"
    opened, run = start(path)
    records = run.records()
    write_batch(opened, records, 30)
    pwrite, calls = os.pwrite, 0

    def fail(handle: int, content: memoryview, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            if lands:
                pwrite(handle, content, offset)
            raise OSError(5, "Input/output error")
        return pwrite(handle, content, offset)

    monkeypatch.setattr(os, "pwrite", fail)
    expected = r"run\.h5: cannot be written \(Input/output error\); 30 iterations are safe in it$"
    with pytest.raises(LogWriteError, match=expected):
        write_batch(opened, records, 30)
    opened.close("finished")
    with Log(path) as log:
        assert log.committed in (30, 60)
        assert log.status == "interrupted"
    assert verify(path).violations == []


BROKEN = """
import sys
from tests.log.test_journal import write_to_a_broken_disk
print(write_to_a_broken_disk(*sys.argv[1:]))
"""


def write_to_a_broken_disk(path: str, call: str) -> str:
    """Write to ``path`` until every ``call`` fails, and close; what the error says."""
    opened, run = start(Path(path))
    records = run.records()
    write_batch(opened, records, 30)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    setattr(os, call, fail)
    with pytest.raises(LogWriteError) as caught:
        write_batch(opened, records, 30)
    opened.close("finished")
    return str(caught.value)


@pytest.mark.parametrize("call", ["pwrite", "pread"])
def test_a_disk_that_is_gone(tmp_path: Path, call: str) -> None:
    path = tmp_path / "run.h5"
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, path, call],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    expected = f"{path}: cannot be written (Input/output error); 30 iterations are safe in it\n"
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
    with Log(path) as log:
        assert (log.committed, log.status) == (30, "running")
    assert verify(path).violations == []


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("called", "moment"),
    [("write", 1), ("write", 5), ("write", 30), ("seek", 1), ("seek", 30), ("commit", 1)],
)
def test_ctrl_c_amid_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str, moment: int
) -> None:
    """HDF5 is left halfway: nothing of the batch is committed."""
    path = tmp_path / "run.h5"
    opened, run = start(path)
    records = run.records()
    write_batch(opened, records, 30)
    original, calls = getattr(JournaledFile, called), 0

    def interrupt(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(JournaledFile, called, interrupt)
    with pytest.raises((KeyboardInterrupt, LogWriteError)), opened:
        write_batch(opened, records, 30)
    with Log(path) as log:
        assert (log.committed, log.status) == (30, "interrupted")
    assert verify(path).violations == []


def test_no_handle_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    start(path)[0].close("finished")
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        Log(path)["report/p"]
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("leave", ["log = Log(path)", "log = Log(path); log['report/p']"])
def test_a_log_that_is_not_closed(tmp_path: Path, leave: str) -> None:
    path = tmp_path / "run.h5"
    start(path)[0].close("finished")
    code = f"import sys; from asyndbt_mpi.log.reader import Log; path = sys.argv[1]; {leave}"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
