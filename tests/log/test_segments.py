"""A log of several files is the log that one file would have been."""

import errno
import functools
import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.config import Config
from asyndbt_mpi.log import reader
from asyndbt_mpi.log.annotate import add_stationarity
from asyndbt_mpi.log.chain import remove_log
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.merge import merge
from asyndbt_mpi.log.reader import Log, Stationarity
from asyndbt_mpi.log.storage import publish as creation
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import Event, EventKind, Iteration, Record
from tests.log.crash import crash
from tests.log.simulated_run import (
    SHAPES,
    VOCABULARY,
    WORKERS,
    Run,
    configuration,
    not_in,
    start_of,
)

ITERATIONS = 40
Folder = Path
Cut = tuple[int, str, int]
"""How many records the writer is given, how it ends, and how many iterations a kill costs."""


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
        z0 = start_of(log.committed, config, records)
        return Writer(path, config, SHAPES, WORKERS, VOCABULARY, "virtual", z0, continues=log)


def write_rest(path: Path, config: Config, records: Sequence[Record], cut: Cut) -> None:
    """Write what the log lacks of the first so many records, then end as the cut says."""
    upto, end, lost = cut
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
    committed = int(writer.file.attrs["committed"])
    writer.file.attrs.modify("committed", np.int64(max(0, committed - lost)))
    writer.file.close()  # and no word about its status


def write_chain(path: Path, key: tuple[str, str | int, str], cuts: Sequence[Cut]) -> None:
    config, records = run_of(key)
    for cut in cuts:
        write_rest(path, config, records, cut)
    write_rest(path, config, records, (len(records), "finished", 0))


def assert_same(log: Log, expected: Log) -> None:
    """The same rows, except that more iterates may be there where log.iterates leaves out."""
    assert log.committed == expected.committed
    assert log.vocabulary == expected.vocabulary
    assert log.descriptions == expected.descriptions
    for column in itertools.chain(*expected.groups.values()):
        found, due = log[column.path], expected[column.path]
        assert found.dtype == due.dtype
        assert len(found) == log.count(column.path)
        if column.iterate:
            found = np.where(np.isnan(due), np.nan, found)
        np.testing.assert_array_equal(found, due, column.path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return tmp_path_factory.mktemp("segments")


@pytest.fixture(scope="module")
def one_file(folder: Folder) -> Callable[[tuple[str, str | int, str]], Path]:
    """The log that nothing interrupted."""

    @functools.cache
    def write(key: tuple[str, str | int, str]) -> Path:
        path = folder / f"{'-'.join(map(str, key))}.h5"
        write_chain(path, key, [])
        return path

    return write


cuts = st.lists(
    st.tuples(st.integers(0, 130), st.sampled_from(["killed", "interrupted"]), st.integers(0, 9)),
    min_size=1,
    max_size=4,
)
keys = st.tuples(
    st.sampled_from(["l1", "l2sq"]), st.sampled_from(["all", 1, 6]),
    st.sampled_from(["none", "gzip", "lzf"]),
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(key=keys, cuts=cuts)
def test_a_chain_is_the_log_of_one_file(
    folder: Folder,
    one_file: Callable[[tuple[str, str | int, str]], Path],
    key: tuple[str, str | int, str],
    cuts: list[Cut],
) -> None:
    path = folder / "chain.h5"
    remove_log(path)
    (folder / "joined.h5").unlink(missing_ok=True)
    write_chain(path, key, cuts)
    with Log(one_file(key)) as expected:
        with Log(path) as log:
            assert log.segments == len(log.files) == len(cuts) + 1
            assert_same(log, expected)
        assert verify(path).violations == []
        merge(path, folder / "joined.h5")
        with Log(folder / "joined.h5") as log, Log(path) as chain:
            assert len(log.files) == 1
            assert log.segments == len(cuts) + 1
            assert_same(log, expected)
            np.testing.assert_array_equal(log["iteration/z"], chain["iteration/z"])
    assert verify(folder / "joined.h5").violations == []


CUTS: list[Cut] = [(40, "killed", 2), (70, "interrupted", 0), (100, "killed", 0)]


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A log of four files."""
    write_chain(tmp_path / "run.h5", PLAIN, CUTS)
    return tmp_path / "run.h5"


def test_attributes_are_those_of_the_whole(chain: Path) -> None:
    with Log(chain) as log:
        assert (log.committed, log.status, log.segments) == (ITERATIONS, "finished", 4)
        assert [each.path for each in log.files] == [
            str(chain), *(f"{chain}.{number}" for number in (1, 2, 3))
        ]  # fmt: skip
        assert log.next_segment == f"{chain}.4"
        assert log.committed_rows["event"] == log.length("event/kind")
        assert log.committed_rows["iteration"] == ITERATIONS


def test_blocks_cross_the_files(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Log(chain) as log:
        z = log["iteration/z"]
        monkeypatch.setattr(reader, "BLOCK_BYTES", 7 * z[0].nbytes)
        blocks = list(log.blocks("iteration/z"))
        assert [start for start, _ in blocks] == [0, 7, 14, 21, 28, 35]
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), z)
        for start, stop in itertools.combinations(range(0, 42, 3), 2):
            np.testing.assert_array_equal(log.rows("iteration/z", start, stop), z[start:stop])
        assert log.rows("iteration/z", 5, 5).shape == (0, 3, 5)
        assert log.rows("iteration/z", 50, 60).shape == (0, 3, 5)


def test_planes_of_an_earlier_file_are_dropped_in_a_later_one(chain: Path) -> None:
    with Log(chain) as log:
        taken_over = 0
        for before, after in itertools.pairwise(log.files):
            end = before.first_rows["plane"] + before.committed_rows["plane"]
            taken_over += end - after.first_rows["plane"]
        assert taken_over > 0
        dropped, created = log["plane/dropped"], log["plane/created"]
        starts = [each.first_rows["iteration"] for each in log.files[1:]]
        later = [((created < start) & (dropped.max(axis=1) >= start)).any() for start in starts]
        assert any(later)


def test_each_file_alone_keeps_the_contract(chain: Path) -> None:
    for path in (chain, *(Path(f"{chain}.{number}") for number in (1, 2, 3))):
        with h5py.File(path, "r") as file:
            rows = file.attrs["committed_rows"]
            assert file.attrs["committed"] <= rows["iteration"]
            assert len(file["iteration/z"]) >= file.attrs["committed"] + 1
            for group in rows.dtype.names:
                for name, dataset in file[group].items():
                    assert len(dataset) >= rows[group], name


def test_a_segment_is_not_a_log(chain: Path, tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"run\.h5\.2: is segment 2 of .*run\.h5: give that$"):
        Log(f"{chain}.2")
    shutil.copy(f"{chain}.2", tmp_path / "other.h5")
    with pytest.raises(LogError, match=r"other\.h5: is segment 2 of a log: give its first file$"):
        Log(tmp_path / "other.h5")


def test_a_segment_that_was_killed_as_it_began_is_no_part(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    write_rest(path, config, records, (60, "killed", 1))
    (tmp_path / ".run.h5.1.0123.new").write_bytes(b"half a file")
    with Log(path) as log:
        assert len(log.files) == 1
    write_rest(path, config, records, (len(records), "finished", 0))
    assert sorted(each.name for each in tmp_path.glob("[!.]*")) == ["run.h5", "run.h5.1"]
    with Log(path) as log:
        assert (log.segments, log.committed) == (2, ITERATIONS)


def test_of_two_that_begin_at_the_same_time_one_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there are no locks."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    synchronise = creation.synchronise

    def other_first(made: Path) -> None:
        monkeypatch.setattr(creation, "synchronise", synchronise)
        write_chain(path, PLAIN, [])
        synchronise(made)

    monkeypatch.setattr(creation, "synchronise", other_first)
    with pytest.raises(FileExistsError, match=r"run\.h5"):
        open_writer(path, config, records)
    assert verify(path).violations == []
    assert [each.name for each in tmp_path.iterdir()] == ["run.h5"]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(creation.os, "link", refuse)
    write_chain(tmp_path / "run.h5", PLAIN, CUTS)
    assert verify(tmp_path / "run.h5").violations == []
    with pytest.raises(FileExistsError):
        creation.settle(tmp_path / "run.h5.1", tmp_path / "run.h5")


def test_a_segment_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    write_rest(path, config, records, (60, "killed", 1))
    with Log(path) as log:
        for expected in (None, FileExistsError):
            arguments = (path, config, SHAPES, WORKERS, VOCABULARY, "mpi", Run(config).z0)
            if expected is None:
                Writer(*arguments, continues=log).close("interrupted")
                continue
            with pytest.raises(expected, match=r"run\.h5\.1"):
                Writer(*arguments, continues=log)
    assert not list(tmp_path.glob(".*"))


def test_segments_of_another_log_are_noticed(chain: Path) -> None:
    chain.unlink()
    with pytest.raises(FileExistsError, match=r"left of another log.*run\.h5\.1"):
        open_writer(chain, *run_of(PLAIN))
    write_chain(other := chain.with_name("other.h5"), PLAIN, [])
    with h5py.File(other, "r+") as file:
        file.attrs["seed"] = 8
    other.rename(chain)
    with pytest.raises(LogError, match=r"run\.h5\.1: does not continue .*run\.h5$"):
        Log(chain)
    remove_log(chain)
    assert not list(chain.parent.iterdir())


def test_a_gap_in_a_chain_is_noticed(chain: Path) -> None:
    shutil.move(f"{chain}.3", f"{chain}.2")
    with pytest.raises(LogError, match=r"run\.h5\.2: does not continue .*run\.h5\.1$"):
        Log(chain)


def test_a_damaged_segment_is_an_error(chain: Path) -> None:
    segment = chain.with_name("run.h5.2")
    segment.write_bytes(segment.read_bytes()[:5000])
    with pytest.raises(LogError, match=r"run\.h5\.2: cannot be read: .*truncated"):
        Log(chain)


def test_rows_that_do_not_count_any_more(chain: Path) -> None:
    """A run that goes on beyond its end leaves what came after it behind."""
    config, records = run_of(PLAIN)
    with Log(chain) as log:
        begins_in = log.files[2].first_rows["event"]
        left, before = begins_in - 5, log["event/time"]
        writer = Writer(
            chain, config, SHAPES, WORKERS, VOCABULARY, "virtual", records[-1].z
            if isinstance(records[-1], Iteration) else Run(config).z0,
            continues=log, counted={"event": left},
        )  # fmt: skip
    writer.write(Event(EventKind.RETURNED, 1, -1, ITERATIONS, 99.0))
    writer.close("finished")
    with Log(chain) as log:
        np.testing.assert_array_equal(log["event/time"], [*before[:left], 99.0])
        np.testing.assert_array_equal(log.rows("event/time", left - 1), [before[left - 1], 99.0])
        assert log.committed == ITERATIONS
    merge(chain)
    with Log(chain) as log:
        np.testing.assert_array_equal(log["event/time"], [*before[:left], 99.0])


def test_a_reader_beside_the_writer_of_the_last_segment(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    write_rest(path, config, records, (60, "interrupted", 0))
    with Log(path) as log:
        rest = list(not_in(log, records))
        before = log.committed
    with open_writer(path, config, records) as writer:
        with Log(path) as log:
            assert (log.status, log.committed, log.segments) == ("running", before, 2)
        writer.write_all(rest[:50])
        writer.flush()
        with Log(path) as log:
            assert log.committed > before
            assert len(log["iteration/z"]) == log.committed + 1
        assert verify(path).violations == []
        writer.write_all(rest[50:])


def test_descriptions_are_kept_until_a_worker_says_another(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    write_rest(path, config, records, (60, "interrupted", 0))
    writer = open_writer(path, config, records)
    writer.write(Event(EventKind.HELLO, 2, -1, 9, 9.0, text="another host"))
    writer.close("interrupted")
    with Log(path) as log:
        assert log.descriptions == ["host1, cpu", "another host", "host3, cpu", "host4, cpu"]


def test_models_are_kept_until_a_worker_names_another(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    named = [
        replace(record, model=f"a{record.worker}")
        if isinstance(record, Event) and record.kind is EventKind.HELLO
        else record
        for record in records
    ]
    write_rest(path, config, named, (60, "interrupted", 0))
    writer = open_writer(path, config, named)
    writer.write(Event(EventKind.HELLO, 2, -1, 9, 9.0, text="another host", model="b"))
    writer.close("interrupted")
    with Log(path) as log:
        assert log.models == ["a1", "b", "a3", "a4"]
        hellos = [event for event in events(log) if event.kind is EventKind.HELLO]
        assert {event.model for event in hellos} == set(log.models)
        assert all(event.model == log.models[event.worker - 1] for event in hellos)
    merge(path)
    with Log(path) as log:
        assert log.models == ["a1", "b", "a3", "a4"]


def test_a_run_that_goes_on_may_be_longer(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config = configuration(run={"iterations": 20, "seed": 7})
    records = list(Run(config).records(20))
    with Writer(path, config, SHAPES, WORKERS, VOCABULARY, "virtual", Run(config).z0) as writer:
        writer.write_all(records)
    write_rest(path, *run_of(PLAIN), (1000, "finished", 0))
    with Log(path) as log:
        assert (log.config.run.iterations, log.committed) == (40, 40)
    assert verify(path).violations == []


# ---------------------------------------------------------------- joining them


def test_merging_in_place(
    chain: Path, one_file: Callable[[tuple[str, str | int, str]], Path]
) -> None:
    mode = chain.stat().st_mode
    assert merge(chain) == f"{chain}: 4 files joined, {ITERATIONS} iterations"
    assert [each.name for each in chain.parent.iterdir()] == ["run.h5"]
    assert chain.stat().st_mode == mode
    with Log(chain) as log, Log(one_file(PLAIN)) as expected:
        assert_same(log, expected)
        assert (log.segments, len(log.files), log.status) == (4, 1, "finished")
        assert log.next_segment == f"{chain}.4"
    assert verify(chain).violations == []
    assert merge(chain) == f"{chain}: is one file, there is nothing to join"


def test_what_a_kill_of_merging_leaves_is_ignored(chain: Path) -> None:
    kept = {each: each.read_bytes() for each in chain.parent.iterdir() if each != chain}
    merge(chain)
    for path, content in kept.items():
        path.write_bytes(content)
    with Log(chain) as log:
        assert (log.committed, len(log.files)) == (ITERATIONS, 1)


def test_a_joined_log_can_be_continued(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    for upto in (40, 80):
        write_rest(path, config, records, (upto, "interrupted", 0))
    merge(path)
    write_rest(path, config, records, (len(records), "finished", 0))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run.h5", "run.h5.2"]
    with Log(path) as log:
        assert (log.segments, log.committed) == (3, ITERATIONS)
    assert verify(path).violations == []
    merge(path)
    assert [each.name for each in tmp_path.iterdir()] == ["run.h5"]


def test_a_run_that_is_not_over_is_joined_into_another_file(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    for upto in (40, 80):
        write_rest(path, config, records, (upto, "killed", 1))
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    with pytest.raises(LogError, match=r"the run is not over, or was killed; .*--output"):
        merge(path)
    merge(path, tmp_path / "copies" / "joined.h5")
    with pytest.raises(LogError, match=r"joined\.h5: is there already"):
        merge(path, tmp_path / "copies" / "joined.h5")
    shutil.move(tmp_path / "copies" / "joined.h5", joined := tmp_path / "joined.h5")
    assert {each: each.read_bytes() for each in before} == before
    with Log(joined) as log, Log(path) as expected:
        assert log.status == "running"
        assert_same(log, expected)
    assert verify(joined).violations == []


def test_rows_left_out_take_no_room_in_a_joined_log(tmp_path: Path) -> None:
    write_chain(tmp_path / "run.h5", ("l1", 6, "gzip"), CUTS)
    merge(tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5", "r") as file:
        assert file["report/p"].compression == "gzip"
        kept = np.isfinite(file["iteration/z"][:, 0, 0]).sum()
        assert file["iteration/z"].id.get_num_chunks() == kept < ITERATIONS / 2


def test_nothing_is_added_to_several_files(chain: Path) -> None:
    numbers = np.arange(3)
    found = Stationarity("exact", numbers, *(np.ones(3) for _ in "pqzl"))
    with pytest.raises(LogError, match=r"has 4 segments: asyndbt merge it first$"):
        add_stationarity(chain, found)
    merge(chain)
    add_stationarity(chain, found)
    with Log(chain) as log:
        assert log.stationarity is not None


def test_what_was_added_before_the_run_went_on_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    write_rest(path, config, records, (60, "finished", 0))
    add_stationarity(path, Stationarity("exact", np.arange(3), *(np.ones(3) for _ in "pqzl")))
    write_rest(path, config, records, (len(records), "finished", 0))
    for _ in range(2):
        with Log(path) as log:
            assert log.stationarity is not None
            assert log.stationarity.iteration.tolist() == [0, 1, 2]
        merge(path)


# ---------------------------------------------------------------- kills, and analysis


def test_kills_at_random_moments_leave_whole_logs(tmp_path: Path) -> None:
    counts = crash(tmp_path, kills=15)
    assert counts.files > 5
    assert counts.iterations > 100


def test_analysis_reads_a_chain_like_one_file(
    chain: Path, one_file: Callable[[tuple[str, str | int, str]], Path]
) -> None:
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, scaling
from asyndbt_mpi.log.reader import Log
for path in sys.argv[2:]:
    with Log(path) as log:
        print(scaling.cumulative(log, "llm_calls", np.arange(0, 40, 3)).tolist())
"""
    analysis = Path(__file__).parents[2] / "analysis"
    command = [sys.executable, "-c", script, analysis, chain, one_file(PLAIN)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    of_chain, of_one = done.stdout.splitlines()
    assert of_chain == of_one
    for name in ("convergence", "timing"):
        tables = []
        for path in (chain, one_file(PLAIN)):
            output = chain.parent / f"{name}-{len(tables)}"
            arguments = [path, "-o", f"{output}.png" if name == "convergence" else output]
            subprocess.run([sys.executable, analysis / f"{name}.py", *arguments], check=True)
            table = output.with_suffix(".csv")
            tables.append(table.read_text().replace(str(path), "") if table.exists() else "")
        assert tables[0] == tables[1]
