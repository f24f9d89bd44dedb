"""A stranger's log: whatever HDF5 can do that a log has no use for is refused before it is read."""

import contextlib
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import h5py
import numpy as np
import pytest

from asyndbt_mpi.log import schema
from asyndbt_mpi.log.checks import foreign
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.file import is_log, remove_log
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.storage.journal import JournaledFile
from asyndbt_mpi.log.verify import verify
from tests.log.conftest import LogCopy
from tests.log.simulated_run import (
    configuration,
    write_log,
)

Edit: TypeAlias = Callable[[h5py.File], None]
COMMANDS = ("show", "verify", "replay", "stationarity")


def read_all(path: Path) -> None:
    with Log(path) as log:
        for columns in log.groups.values():
            for column in columns:
                log[column.path]
        _ = log.vocabulary, log.descriptions, log.cost_bounds, log.models, log.stationarity


def refusal(path: Path) -> str:
    with pytest.raises(LogError) as caught:
        read_all(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}")
    return line


# ---------------------------------------------------------------- the file itself


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


@pytest.mark.parametrize("make", [fifo, bound_socket])
def test_what_is_no_regular_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    path = tmp_path / "run.h5"
    make(path)
    assert refusal(path) == f"{path}: is no regular file"
    assert not is_log(str(path))


def test_a_device_is_not_read() -> None:
    assert refusal(Path("/dev/zero")) == "/dev/zero: is no regular file"


# ---------------------------------------------------------------- objects


def external(file: h5py.File) -> None:
    del file["vocabulary"]
    outside = [(os.path.abspath(__file__), 0, 100)]
    file.create_dataset("vocabulary", (5,), "S20", external=outside)


def external_numbers(file: h5py.File) -> None:
    shape = file["report/loss"].shape
    del file["report/loss"]
    outside = [(os.path.abspath(__file__), 0, 8 * shape[0])]
    file.create_dataset("report/loss", shape, "f8", external=outside)


def virtual(file: h5py.File) -> None:
    shape = file["report/loss"].shape
    del file["report/loss"]
    layout = h5py.VirtualLayout(shape, "f8")
    layout[:] = h5py.VirtualSource("other.h5", "report/loss", shape)
    file.create_virtual_dataset("report/loss", layout)


def soft_link(file: h5py.File) -> None:
    del file["report/loss"]
    file["report/loss"] = h5py.SoftLink("/report/grad_p_norm")


def soft_link_to_nothing(file: h5py.File) -> None:
    file["stationarity"] = h5py.SoftLink("/nowhere")


def external_link(file: h5py.File) -> None:
    del file["report"]
    file["report"] = h5py.ExternalLink("other.h5", "/report")


def alias(file: h5py.File) -> None:
    del file["report/loss"]
    file["report/loss"] = file["report/grad_p_norm"]


def cycle(file: h5py.File) -> None:
    file["stationarity"] = file["/"]


def group_for_a_dataset(file: h5py.File) -> None:
    del file["report/loss"]
    file.create_group("report/loss")


def dataset_for_a_group(file: h5py.File) -> None:
    file["stationarity"] = np.zeros(3)


def something_more(file: h5py.File) -> None:
    del file["report/loss"]
    file["report/notes"] = np.zeros(3)


def another_group(file: h5py.File) -> None:
    file.create_group("secrets")


def many_groups(file: h5py.File) -> None:
    for number in range(1000):
        file.create_group(f"g{number}")


def named_type(file: h5py.File) -> None:
    file["stationarity"] = np.dtype("f8")


def an_attribute_more(file: h5py.File) -> None:
    file.attrs["notes"] = "dear to somebody"


def another_attribute(file: h5py.File) -> None:
    del file.attrs["data_digest"]
    file.attrs["notes"] = "dear to somebody"


def an_attribute_on_a_dataset(file: h5py.File) -> None:
    file["report/loss"].attrs["notes"] = np.zeros(1000)


OBJECTS = {
    external: "/vocabulary has values of a type",
    external_numbers: "/report/loss has its rows in another file",
    virtual: "/report/loss is virtual: its rows are in other files",
    soft_link: "/report/loss is a link to something else",
    soft_link_to_nothing: "/stationarity is a link to something else",
    external_link: "/report is a link to something else",
    alias: "is a second name for something in the file",
    cycle: "/stationarity is a second name for something",
    group_for_a_dataset: "/report/loss is not what a log has there",
    dataset_for_a_group: "/stationarity is not what a log has there",
    something_more: "/report/notes is not part of a log",
    another_group: "/secrets is not part of a log",
    many_groups: "/ contains more than a log's does",
    named_type: "/stationarity is not what a log has there",
    an_attribute_more: "/ has 22 attributes, but a log has 21 there",
    another_attribute: "/ has an attribute 'notes', which no log has",
    an_attribute_on_a_dataset: "/report/loss has 1 attributes, but a log has 0 there",
}


# ---------------------------------------------------------------- types, filters, sizes


def references(file: h5py.File) -> None:
    rows = len(file["report/loss"])
    del file["report/loss"]
    file.create_dataset("report/loss", (rows,), h5py.ref_dtype, chunks=(64,))


def lists(file: h5py.File) -> None:
    rows = len(file["report/loss"])
    del file["report/loss"]
    file.create_dataset("report/loss", (rows,), h5py.vlen_dtype("f8"), chunks=(64,))


def blobs(file: h5py.File) -> None:
    rows = len(file["report/loss"])
    del file["report/loss"]
    file.create_dataset("report/loss", (rows,), "V100000000", chunks=(1,))


def lists_in_a_record(file: h5py.File) -> None:
    del file["batch/rows"]
    record = np.dtype([("iteration", h5py.vlen_dtype("i8"))])
    file.create_dataset("batch/rows", (1,), record, chunks=(1,))


def checksummed_chunks(file: h5py.File) -> None:
    values = file["report/loss"][:]
    del file["report/loss"]
    file.create_dataset("report/loss", data=values, chunks=(64,), fletcher32=True)


def compressed_numbers(file: h5py.File) -> None:
    values = file["report/loss"][:]
    del file["report/loss"]
    file.create_dataset("report/loss", data=values, chunks=(64,), compression="gzip")


def scaled(file: h5py.File) -> None:
    values = file["report/p"][:]
    del file["report/p"]
    file.create_dataset("report/p", data=values, chunks=(64, 3, 5), scaleoffset=3)


def no_rows(file: h5py.File) -> None:
    del file["report/loss"]
    file["report/loss"] = 1.0


def endless(path: str, rows: int = 2**60) -> Edit:
    """A column of so many rows, none of them stored, that the attributes say count."""

    def edit(file: h5py.File) -> None:
        file[path].resize(rows, axis=0)
        committed = file.attrs["committed_rows"]
        committed[path.partition("/")[0]] = rows
        file.attrs["committed_rows"] = committed

    return edit


def endless_group(file: h5py.File) -> None:
    rows = 2**50
    for dataset in file["event"].values():
        dataset.resize(rows, axis=0)
    committed = file.attrs["committed_rows"]
    committed["event"] = rows
    file.attrs["committed_rows"] = committed


def endless_iterations(file: h5py.File) -> None:
    for dataset in file["iteration"].values():
        dataset.resize(2**50, axis=0)
    committed = file.attrs["committed_rows"]
    committed["iteration"] = 2**50
    file.attrs["committed_rows"] = committed
    file.attrs["committed"] = 2**50


def endless_vocabulary(file: h5py.File) -> None:
    file["vocabulary"].resize(2**40, axis=0)


def endless_batches(file: h5py.File) -> None:
    file["batch/rows"].resize(2**40, axis=0)


def endless_stationarity(file: h5py.File) -> None:
    group = file.create_group("stationarity")
    group.attrs["kind"] = "exact"
    for name in ("iteration", *schema.STATIONARITY):
        dtype = "i8" if name == "iteration" else "f8"
        group.create_dataset(name, (2**40,), dtype, maxshape=(None,), chunks=(1024,))


def long_rows(file: h5py.File) -> None:
    del file["lower/phi_p"]
    shape = (0, 1000, 1000, 1000)
    file.create_dataset(
        "lower/phi_p", shape, "f8", maxshape=(None, *shape[1:]), chunks=(1, 1, 1, 1000)
    )


def large_chunks(file: h5py.File) -> None:
    values = file["report/p"][:]
    del file["report/p"]
    made = file.create_dataset(
        "report/p", (0, 3, 5), "f8", maxshape=(None, 3, 5), chunks=(2**20, 3, 5), compression="gzip",
        shuffle=True,
    )  # fmt: skip
    made.resize(len(values), axis=0)


def attribute(name: str, value: object) -> Edit:
    def edit(file: h5py.File) -> None:
        file.attrs[name] = value

    return edit


def kept_rows(file: h5py.File) -> None:
    first = file.attrs["kept_rows"]
    first["event"] = 2**40
    file.attrs["kept_rows"] = first


def fewer_than_none(file: h5py.File) -> None:
    committed = file.attrs["committed_rows"]
    committed["event"] = -1
    file.attrs["committed_rows"] = committed


def many_samples(file: h5py.File) -> None:
    file.attrs["config"] = file.attrs["config"].replace("samples = 8", "samples = 1000000000")


def long_text(file: h5py.File) -> None:
    file["event/text"][0] = "x" * (foreign.MOST_TEXT_BYTES + 1)


def long_word(file: h5py.File) -> None:
    file["vocabulary"][1] = "x" * (foreign.MOST_TEXT_BYTES + 1)


def one_text_many_times(file: h5py.File) -> None:
    """As many references as there are rows to the same 60,000 bytes."""
    texts = file["event/text"]
    texts[0] = "x" * 60_000
    file.flush()
    _, chunk = texts.id.read_direct_chunk((0,))
    texts.id.write_direct_chunk((0,), chunk[:16] * (len(chunk) // 16))


def a_text_that_says_it_is_long(file: h5py.File) -> None:
    texts = file["worker/cost_bounds"]
    texts[0] = "1 2 3 4 5"
    file.flush()
    _, chunk = texts.id.read_direct_chunk((0,))
    texts.id.write_direct_chunk((0,), struct.pack("<I", 4_000_000_000) + chunk[4:])


def texts_of_two_axes(path: str) -> Edit:
    """References behind the first of a row would be looked at by nobody."""

    def edit(file: h5py.File) -> None:
        rows = len(file[path])
        del file[path]
        texts = file.create_dataset(path, (rows, 50), h5py.string_dtype(), chunks=(1, 50))
        texts[:] = np.full((rows, 50), "x", dtype=object)

    edit.__qualname__ = f"texts_of_two_axes({path})"
    return edit


def numbers_of_more_axes(file: h5py.File) -> None:
    rows = len(file["report/loss"])
    del file["report/loss"]
    file["report/loss"] = np.zeros((rows, 1))


def numbers_of_another_shape(file: h5py.File) -> None:
    rows = len(file["event/losses"])
    del file["event/losses"]
    file["event/losses"] = np.zeros((rows, 3))


def fewer_workers_than_there_are(file: h5py.File) -> None:
    file["worker/cost_bounds"].resize(1, axis=0)


def deep_key(file: h5py.File) -> None:
    file.attrs["config"] = "a" + ".a" * 40_000 + " = 1"


SIZES = {
    texts_of_two_axes("event/text"): "/event/text has rows of 1 axes, not 0",
    texts_of_two_axes("vocabulary"): "/vocabulary has rows of 1 axes, not 0",
    texts_of_two_axes("worker/cost_bounds"): "/worker/cost_bounds has rows of 1 axes, not 0",
    numbers_of_more_axes: "/report/loss has rows of 1 axes, not 0",
    numbers_of_another_shape: r"/event/losses has rows of shape \(3,\), but the attributes say",
    fewer_workers_than_there_are: "/worker/cost_bounds has 1 rows, not 4",
    deep_key: "a bad attribute: the configuration: a key has more than 8 parts",
    references: "/report/loss has values of a type that no log has there",
    lists: "/report/loss has values of a type that no log has there",
    blobs: "/report/loss has values of a type that no log has there",
    lists_in_a_record: "/batch/rows has values of a type that no log has there",
    checksummed_chunks: "/report/loss has filters that no log has: 3",
    compressed_numbers: "/report/loss has filters that no log has: 1",
    scaled: "/report/p has filters that no log has: 6",
    no_rows: "/report/loss has a single value instead of rows",
    endless("event/losses"): "rows, but 1,152,921,504,606,846,976 are said to count",
    endless("event/text"): "rows, but 1,152,921,504,606,846,976 are said to count",
    endless("iteration/z"): "are said to count",
    endless("plane/a"): "/plane/a declares",
    endless_group: r"/event/.* declares 1,125,899,906,842,624 rows, but only",
    endless_iterations: r"/iteration/.* declares .* rows, but only",
    endless_vocabulary: "/vocabulary declares 1,099,511,627,776 rows, but only",
    endless_batches: "/batch/rows declares",
    endless_stationarity: "/stationarity/.* declares",
    long_rows: "/lower/phi_p has rows of 8,000,000,000 bytes",
    large_chunks: "/report/p has chunks of 125,829,120 bytes",
    attribute("workers", 2**40): "too small for a run of these sizes: one row of /iteration/active",
    attribute("words", 2**40): "too small for a run of these sizes: one row of /iteration/z",
    attribute("words", 6): r"/iteration/z has rows of shape \(3, 5\), but the attributes say",
    attribute("pool", 2**40): "is too small for a run of these sizes: one row of /report/q",
    attribute("classes", -1): "a bad attribute: rows of /report/q would have shape",
    many_samples: "is too small for a run of these sizes: one row of /event/losses",
    attribute(
        "committed", 2**40
    ): "a bad attribute: 1099511627776 iterations are committed, but there are 40",
    attribute("committed", -1): "a bad attribute: -1 iterations are committed",
    attribute(
        "committed", 41
    ): "a bad attribute: 41 iterations are committed, but there are 40 rows",
    attribute("committed", np.arange(9)): "the attribute committed is not a number",
    attribute("committed", "40"): "the attribute committed is not a number",
    attribute("status", 7): "the attribute status is not a text",
    attribute("starts", 0): "a bad attribute: an impossible number of starts",
    attribute("committed_rows", 7): "the attribute committed_rows is not a record",
    attribute("transport", "x" * 70_000): "the attribute transport has 70,000 bytes",
    kept_rows: "a bad attribute: more rows were kept than there are",
    fewer_than_none: "a bad attribute: a negative number of rows",
    long_text: "/event/text has a text of 65,537 bytes, more than 65,536",
    long_word: "/vocabulary has a text of 65,537 bytes",
    one_text_many_times: "/event/text has more text than the file has bytes",
    a_text_that_says_it_is_long: "/worker/cost_bounds has a text of 4,000,000,000 bytes",
}


KINDS = OBJECTS | SIZES


@pytest.mark.parametrize("edit", KINDS, ids=lambda edit: edit.__qualname__)
def test_is_refused(log_copy: LogCopy, edit: Edit) -> None:
    path, expected = log_copy("whole"), KINDS[edit]
    shutil.copy(path, path.with_name("other.h5"))
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(LogError, match=expected):
        Log(path)
    refusal(path)
    with pytest.raises(LogError, match=expected):
        verify(path)


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("edit", [virtual, one_text_many_times, endless_group])
def test_every_command_says_it_in_one_line(log_copy: LogCopy, command: str, edit: Edit) -> None:
    path = log_copy("whole")
    shutil.copy(path, path.with_name("other.h5"))
    with h5py.File(path, "r+") as file:
        edit(file)
    words = [sys.executable, "-m", "asyndbt_mpi", command, str(path)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"asyndbt: {path}: /")
    assert result.stderr.count("\n") == 1


def lying_attribute(path: Path, name: bytes, length: int) -> None:
    """Make the reference to the text of an attribute say another length."""
    content = bytearray(path.read_bytes())
    head = struct.pack("<BxHHH", 1, len(name) + 1, 20, 8)
    place = content.index(head + name + b"\0") + 8 + -(-(len(name) + 1) // 8) * 8 + 24 + 8
    content[place : place + 4] = struct.pack("<I", length)
    path.write_bytes(content)


def test_an_attribute_that_says_it_is_long_is_not_made_room_for(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lying_attribute(path, b"config", 4_000_000_000)
    assert refusal(path).endswith("the attribute config has 4,000,000,000 bytes, more than 524,288")
    lying_attribute(path, b"config", 100)
    lying_attribute(path, b"format", 4_000_000_000)
    with pytest.raises(LogError, match=r"the attribute format .* more than 65,536"):
        Log(path)
    assert not is_log(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB


def test_a_configuration_may_be_long_but_not_any_length(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = file.attrs["config"] + "#" * (1 << 18)
    Log(path).close()
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = "#" * (1 << 20)
    assert "the attribute config has 1,048,576 bytes" in refusal(path)


@pytest.mark.long
@pytest.mark.parametrize("positions", [3, 2**13])
def test_a_chunk_that_unfolds_to_more_than_it_holds(tmp_path: Path, positions: int) -> None:
    """Small chunks are refused by their size, large ones once a part of them is unfolded."""
    row = (positions, 5)
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        made = file.create_dataset(
            "p", (8, *row), "f8", chunks=(1, *row), compression="gzip", shuffle=True
        )
        made[0] = 1.0
        honest = 8 * positions * 5
        foreign.check_unfolding(made, 0, 8)
        noise = np.random.default_rng(1).bytes(honest)
        folded = zlib.compress(noise + bytes(1 << 29))
        made.id.write_direct_chunk((3, 0, 0), folded)
        foreign.check_unfolding(made, 0, 3)
        with pytest.raises(
            foreign.ForeignError, match="/p unpacks to more than its rows, from row 3"
        ):
            foreign.check_unfolding(made, 2, 5)


@pytest.mark.long
@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_a_bomb_in_a_log(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "run.h5"
    write_log(path, configuration(log={"compression": compression}))
    read_all(path)
    with h5py.File(path, "r+") as file:
        file["report/p"].id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(1 << 29), 9))
    assert "/report/p unpacks to more than its rows" in refusal(path)


def test_a_file_that_cannot_be_read_is_not_given_to_hdf5() -> None:
    words = [sys.executable, "-m", "asyndbt_mpi", "show", "/proc/self/mem"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert result.stderr == "asyndbt: /proc/self/mem: cannot be read: Input/output error\n"


def test_only_logs_are_removed(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("dear to somebody")
    remove_log(thesis)
    assert thesis.read_text() == "dear to somebody"
    target, link = tmp_path / "run.h5", tmp_path / "link.h5"
    write_log(target, configuration(), 3)
    link.symlink_to(target)
    remove_log(link)
    assert link.is_symlink()
    remove_log(target)
    assert not target.exists()


# ---------------------------------------------------------------- what is honest passes


def test_the_writer_writes_the_attributes_of_the_table(log_copy: LogCopy) -> None:
    with h5py.File(log_copy("whole")) as file:
        assert set(file.attrs) == set(schema.ATTRIBUTES)


@pytest.mark.parametrize("name", ["whole", "sparse", "l2sq"])
def test_honest_logs_pass(log_copy: LogCopy, name: str) -> None:
    read_all(log_copy(name))


@pytest.mark.parametrize("size", [0, 8, 2**60])
def test_a_heap_that_hdf5_would_never_leave_is_refused(log_copy: LogCopy, size: int) -> None:
    path = log_copy("whole")
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    (collection,) = struct.unpack_from("<Q", content, heap + 8)
    place = heap + 16
    while struct.unpack_from("<H", content, place)[0]:  # to what is not used
        (length,) = struct.unpack_from("<Q", content, place + 8)
        place += 16 + -(-length // 8) * 8
    assert place < heap + collection
    struct.pack_into("<Q", content, place + 8, size)
    path.write_bytes(content)
    assert "damaged collection" in refusal(path)


def test_holes_do_not_count_as_bytes_of_the_file(log_copy: LogCopy) -> None:
    path = log_copy("whole")
    size = path.stat().st_size
    os.truncate(path, size + 2**20)  # room for a commit, where none can be reserved
    read_all(path)
    os.truncate(path, 2**40)
    assert "has 1,099,511,627,776 bytes, of which only" in refusal(path)
    assert "cp --sparse=never" in refusal(path)
    assert not is_log(str(path))
    os.truncate(path, size)
    with h5py.File(path, "r+") as file:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_layout(h5py.h5d.CONTIGUOUS)
        made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((len(file["event/losses"]), 10**7))
        del file["event/losses"]
        h5py.h5d.create(file.id, b"event/losses", h5py.h5t.IEEE_F64LE, space, dcpl=made)
    assert "are stored" in refusal(path)


@pytest.mark.parametrize("apart", [1, 3])
def test_holes_are_told_from_bytes(tmp_path: Path, apart: int) -> None:
    path, page = tmp_path / "holes", 4096
    with open(path, "wb") as file:
        for number in range(5):
            file.seek(number * apart * page)
            file.write(b"x" * page)
        file.truncate(100 * page)
    with contextlib.closing(JournaledFile(path)) as source:
        assert (source.size, source.stored) == (100 * page, 5 * page)
