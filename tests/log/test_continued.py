"""The log of a run that was resumed is the log of a run that was not."""

import errno
import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.analysis.arrivals import cumulative
from asyndbt_mpi.config import Config
from asyndbt_mpi.log import reader
from asyndbt_mpi.log.annotate import add_stationarity
from asyndbt_mpi.log.errors import LogError, LogWriteError
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.file import remove_log
from asyndbt_mpi.log.integrity import damage
from asyndbt_mpi.log.reader import Log, Stationarity
from asyndbt_mpi.log.storage import publish as creation
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import Event, EventKind
from tests.helpers import plot
from tests.log.continued import (
    CUTS,
    ITERATIONS,
    PLAIN,
    Cut,
    kill,
    open_writer,
    run_of,
    write_chain,
    write_rest,
)
from tests.log.crash import crash
from tests.log.simulated_run import (
    SHAPES,
    VOCABULARY,
    WORKERS,
    Run,
    configuration,
    not_in,
)

Folder = Path


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
    return tmp_path_factory.mktemp("continued")


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
    st.tuples(st.integers(0, 130), st.sampled_from(["killed", "interrupted"])),
    min_size=1,
    max_size=4,
)
keys = st.tuples(
    st.sampled_from(["l1", "l2sq"]), st.sampled_from(["all", 1, 6]),
    st.sampled_from(["none", "gzip", "lzf"]),
)  # fmt: skip


@pytest.mark.long
@settings(max_examples=9, deadline=None)
@given(key=keys, cuts=cuts)
def test_a_continued_log_is_the_log_of_one_go(
    folder: Folder,
    one_file: Callable[[tuple[str, str | int, str]], Path],
    key: tuple[str, str | int, str],
    cuts: list[Cut],
) -> None:
    path = folder / "chain.h5"
    remove_log(path)
    write_chain(path, key, cuts)
    with Log(one_file(key)) as expected:
        with Log(path) as log:
            assert log.starts == len(cuts) + 1
            assert_same(log, expected)
        assert verify(path).violations == []


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A log that was continued three times."""
    write_chain(tmp_path / "run.h5", PLAIN, CUTS)
    return tmp_path / "run.h5"


def test_attributes_are_those_of_the_whole(chain: Path) -> None:
    with Log(chain) as log:
        assert (log.committed, log.status, log.starts) == (ITERATIONS, "finished", 4)
        assert log.committed_rows["event"] == log.length("event/kind")
        assert log.committed_rows["iteration"] == ITERATIONS


def test_rows_in_blocks(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        creation.settle(tmp_path / "run.h5", tmp_path / "run.h5")


def resume(path: Path, config: Config, counted: dict[str, int] | None = None) -> Writer:
    with Log(path) as log:
        return Writer.resumed(log, config, counted)


def test_rows_that_do_not_count_any_more(chain: Path) -> None:
    """A run that goes on beyond its end leaves what came after it behind."""
    config, _ = run_of(PLAIN)
    with Log(chain) as log:
        before, accuracies = log["event/time"], log["evaluation/accuracy"]
    left = len(before) - 5
    with resume(chain, config, {"event": left, "evaluation": 3}) as writer:
        writer.write(Event(EventKind.RETURNED, 1, -1, ITERATIONS, 99.0))
    with Log(chain) as log:
        np.testing.assert_array_equal(log["event/time"], [*before[:left], 99.0])
        np.testing.assert_array_equal(log.rows("event/time", left - 1), [before[left - 1], 99.0])
        np.testing.assert_array_equal(log["evaluation/accuracy"], accuracies[:3])
        assert log.committed == ITERATIONS
        assert list(damage(log)) == []


@pytest.mark.long
@settings(max_examples=6, deadline=None)
@given(data=st.data(), steps=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_checksums_after_rows_were_cut(
    folder: Folder, data: st.DataObject, steps: list[int]
) -> None:
    """Wherever in a batch, or in how many of them."""
    path = folder / "cut.h5"
    remove_log(path)
    config, records = run_of(PLAIN)
    writer, rest = open_writer(path, config, records), iter(records)
    for step in steps:
        writer.write_all(itertools.islice(rest, step))
        writer.flush()
    writer.close("interrupted")
    for _ in range(2):
        with Log(path) as log:
            expected = {name: log[f"event/{name}"] for name in ("time", "text", "losses")}
            rows = log.committed_rows
        counted = {name: data.draw(st.integers(0, rows[name])) for name in ("event", "evaluation")}
        kill(resume(path, config, counted))
        with Log(path) as log:
            assert (log.committed_rows, log.status) == (rows | counted, "running")
            for name, values in expected.items():
                np.testing.assert_array_equal(log[f"event/{name}"], values[: counted["event"]])
            assert list(damage(log)) == []
        resume(path, config).close("interrupted")  # of a closed log more is asked
        with Log(path) as log:
            assert list(damage(log)) == []


def test_a_log_that_was_read_before_the_run_was_resumed(chain: Path) -> None:
    """It reads what still counts, and never old rows beside new ones."""
    config, _ = run_of(PLAIN)
    with Log(chain) as log, Log(chain) as unread:
        assert log.status == "finished"
        before, z = log["event/time"], log["iteration/z"]
        with resume(chain, config) as writer:
            np.testing.assert_array_equal(log["event/time"], before)
            writer.write(Event(EventKind.RETURNED, 1, -1, ITERATIONS, 99.0))
            writer.flush()
            np.testing.assert_array_equal(log["event/time"], before)
    with Log(chain) as log, Log(chain) as unread:
        with resume(chain, config, {"event": len(before) - 5}) as writer:
            for _ in range(9):
                writer.write(Event(EventKind.RETURNED, 1, -1, ITERATIONS, 99.0))
            writer.flush()
            for each in (log, unread):
                np.testing.assert_array_equal(each["iteration/z"], z)
                with pytest.raises(
                    LogError, match=r"was resumed since .* /event/time no longer count"
                ):
                    each["event/time"]
                assert [line for line in damage(each) if "was resumed since" in line]
        resume(chain, config).close("interrupted")
        for each in (log, unread):
            with pytest.raises(LogError, match="was resumed since it was opened"):
                each.rows("iteration/z")


def test_a_run_is_not_resumed_by_a_link(chain: Path) -> None:
    link = chain.with_name("link.h5")
    link.symlink_to(chain)
    before = chain.read_bytes()
    with Log(link) as log, pytest.raises(LogError, match=r"link\.h5: is a link; name the log"):
        Writer.resumed(log, run_of(PLAIN)[0])
    assert chain.read_bytes() == before
    assert sorted(each.name for each in chain.parent.iterdir()) == ["link.h5", "run.h5"]


def test_a_log_whose_batches_are_damaged_is_not_resumed(chain: Path) -> None:
    with h5py.File(chain, "r+") as file:
        rows = file["batch/rows"][:]
        rows["event"] = 0
        file["batch/rows"][:] = rows
    before = chain.read_bytes()
    with Log(chain) as log, pytest.raises(LogError, match="is damaged; asyndbt verify tells where"):
        Writer.resumed(log, run_of(PLAIN)[0])
    assert chain.read_bytes() == before


def test_a_disk_that_is_full_leaves_the_log_as_it_was(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = chain.read_bytes()
    monkeypatch.setattr("asyndbt_mpi.log.storage.journal.reserve", fail)
    with Log(chain) as log, pytest.raises(LogWriteError, match="No space left on device"):
        Writer.resumed(log, run_of(PLAIN)[0])
    assert chain.read_bytes() == before


def test_a_log_that_is_killed_again_and_again_does_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    sizes = []
    write_rest(path, config, records, (60, "killed"))
    for _ in range(5):
        kill(resume(path, config))
        sizes.append(path.stat().st_size)
    assert len(set(sizes)) == 1


def test_a_reader_beside_the_writer_of_a_resumed_run(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    write_rest(path, config, records, (60, "interrupted"))
    with Log(path) as log:
        rest = list(not_in(log, records))
        before = log.committed
    with open_writer(path, config, records) as writer:
        with Log(path) as log:
            assert (log.status, log.committed, log.starts) == ("running", before, 2)
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
    write_rest(path, config, records, (60, "interrupted"))
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
    write_rest(path, config, named, (61, "interrupted"))
    writer = open_writer(path, config, named)
    writer.write(Event(EventKind.HELLO, 2, -1, 9, 9.0, text="another host", model="b"))
    writer.close("interrupted")
    with Log(path) as log:
        assert log.models == ["a1", "b", "a3", "a4"]
        hellos = [event for event in events(log) if event.kind is EventKind.HELLO]
        assert {event.model for event in hellos} == set(log.models)
        assert all(event.model == log.models[event.worker - 1] for event in hellos)


def test_a_run_that_goes_on_may_be_longer(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config = configuration(run={"iterations": 20, "seed": 7})
    records = list(Run(config).records(20))
    with Writer(path, config, SHAPES, WORKERS, VOCABULARY, "virtual", Run(config).z0) as writer:
        writer.write_all(records)
    write_rest(path, *run_of(PLAIN), (1000, "finished"))
    with Log(path) as log:
        assert (log.config.run.iterations, log.committed) == (40, 40)
    assert verify(path).violations == []


def test_what_was_added_before_the_run_went_on_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    config, records = run_of(PLAIN)
    write_rest(path, config, records, (60, "finished"))
    add_stationarity(path, Stationarity("exact", np.arange(3), *(np.ones(3) for _ in "pqzl")))
    write_rest(path, config, records, (len(records), "finished"))
    with Log(path) as log:
        assert log.stationarity is not None
        assert log.stationarity.iteration.tolist() == [0, 1, 2]
    assert verify(path).violations == []


# ---------------------------------------------------------------- kills, and analysis


@pytest.mark.long
def test_kills_at_random_moments_leave_whole_logs(tmp_path: Path) -> None:
    counts = crash(tmp_path, kills=10)
    assert counts.resumed > 2
    assert counts.iterations > 100


@pytest.mark.long
def test_analysis_reads_a_continued_log_like_another(
    chain: Path,
    one_file: Callable[[tuple[str, str | int, str]], Path],
) -> None:
    calls = []
    for path in (chain, one_file(PLAIN)):
        with Log(path) as log:
            calls.append(cumulative(log, "llm_calls", np.arange(0, 40, 3)).tolist())
    assert calls[0] == calls[1]
    for name in ("convergence", "timing"):
        tables = []
        for path in (chain, one_file(PLAIN)):
            output = chain.parent / f"{name}-{len(tables)}"
            assert plot(name, path, "-o", output).returncode == 0
            table = output.with_suffix(".csv")
            tables.append(table.read_text().replace(str(path), "") if table.exists() else "")
        assert tables[0] == tables[1]
