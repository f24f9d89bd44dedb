"""The writer: nothing is lost or changed, and whatever ends the run leaves a good file."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import pytest

from asyndbt_mpi.config import Config
from asyndbt_mpi.log.checksums import seal
from asyndbt_mpi.log.errors import LogError, LogWriteError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import LARGEST_BATCH, SECONDS_BETWEEN_BATCHES, Writer
from asyndbt_mpi.protocol.records import Evaluation, Event, EventKind, Iteration, Record, UsedReport
from tests.helpers import ROOT
from tests.log.simulated_run import SHAPES, VOCABULARY, WORKERS, Run, configuration, write_log

DEADLINE = 60.0


class Clock:
    """Shows the time that it was set to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def open_writer(path: Path, run: Run, clock: Callable[[], float] = time.monotonic) -> Writer:
    return Writer(path, run.config, SHAPES, WORKERS, VOCABULARY, "virtual", run.z0, clock)


Kind = TypeVar("Kind", Event, Evaluation, Iteration)


def of_kind(records: Iterable[Record], kind: type[Kind]) -> list[Kind]:
    return [record for record in records if isinstance(record, kind)]


# ---------------------------------------------------------------- what goes in comes out


@pytest.fixture(scope="module", params=["l1", "l2sq"])
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Log, list[Record]]:
    """A log and the records that went into it.

    The server's arrays move on after a record was made, so each record is frozen as it was.
    """
    path = tmp_path_factory.mktemp("written") / "new" / "folder" / "run.h5"
    tolerance = 0.25 if request.param == "l1" else 0.001
    config = configuration(algorithm={"lower_distance": request.param, "tolerance": tolerance})
    records = write_log(path, config)
    return Log(path), records


def test_iterations_come_back(written: tuple[Log, list[Record]]) -> None:
    log, records = written
    iterations = of_kind(records, Iteration)
    for name in ("active", "delay", "time", "objective"):
        expected = [getattr(iteration, name) for iteration in iterations]
        np.testing.assert_array_equal(log[f"iteration/{name}"], expected)
    start = Run(log.config).z0
    np.testing.assert_array_equal(log["iteration/z"], [start, *(i.z for i in iterations)])


def test_reports_come_back(written: tuple[Log, list[Record]]) -> None:
    log, records = written
    used = [(i.number, each) for i in of_kind(records, Iteration) for each in i.reports]
    assert log["report/iteration"].tolist() == [number for number, _ in used]
    fields: dict[str, Callable[[UsedReport], object]] = {
        "worker": lambda u: u.worker,
        "used_time": lambda u: u.used_time,
        "seq": lambda u: u.report.number,
        "read_iteration": lambda u: u.report.iteration,
        "p": lambda u: u.report.p,
        "q": lambda u: u.report.q,
        "loss": lambda u: u.report.loss,
        "grad_p_norm": lambda u: u.report.grad_p_norm,
        "grad_q_norm": lambda u: u.report.grad_q_norm,
        "sent_time": lambda u: u.report.sent_time,
        "prompts": lambda u: u.report.costs.prompts,
        "llm_calls": lambda u: u.report.costs.calls,
        "prompt_tokens": lambda u: u.report.costs.prompt_tokens,
        "compute_seconds": lambda u: u.report.costs.compute_seconds,
    }
    for name, value in fields.items():
        np.testing.assert_array_equal(log[f"report/{name}"], [value(each) for _, each in used])


def test_planes_and_estimates_come_back(written: tuple[Log, list[Record]]) -> None:
    log, records = written
    estimations = [i.estimation for i in of_kind(records, Iteration) if i.estimation]
    fields = {"llm_calls": "calls"}
    for name in ("iteration", "k", "phi_p", "phi_z", "h", "llm_calls", "prompt_tokens"):
        expected = [getattr(each, fields.get(name, name)) for each in estimations]
        np.testing.assert_array_equal(log[f"lower/{name}"], expected)
    planes = [each.plane for each in estimations if each.plane]
    assert len(planes) > 3
    fields = {"id": "identifier"}
    for name in ("id", "created", "positions", "a", "b", "c"):
        expected = [getattr(plane, fields.get(name, name)) for plane in planes]
        np.testing.assert_array_equal(log[f"plane/{name}"], expected)
    dropped = np.full((len(planes), SHAPES.positions), -1)
    for each in estimations:
        for drop in each.drops:
            dropped[drop.identifier, drop.position] = each.iteration
    assert (dropped >= 0).any()
    np.testing.assert_array_equal(log["plane/dropped"], dropped)


def test_duals_come_back(written: tuple[Log, list[Record]]) -> None:
    log, records = written
    rows = [
        (i.number, plane, dual)
        for i in of_kind(records, Iteration)
        for plane, dual in zip(i.planes, i.duals, strict=True)
    ]
    assert log["dual/iteration"].tolist() == [row[0] for row in rows]
    assert log["dual/plane"].tolist() == [row[1] for row in rows]
    np.testing.assert_array_equal(log["dual/value"], [row[2] for row in rows])


def test_evaluations_and_events_come_back(written: tuple[Log, list[Record]]) -> None:
    log, records = written
    evaluations, events = of_kind(records, Evaluation), of_kind(records, Event)
    fields = {"llm_calls": "calls"}
    for name in (
        "iteration", "worker", "split", "candidate", "accuracy", "loss", "words",
        "demonstrations", "llm_calls", "prompt_tokens", "time",
    ):  # fmt: skip
        expected = [getattr(each, fields.get(name, name)) for each in evaluations]
        np.testing.assert_array_equal(log[f"evaluation/{name}"], expected)
    for name in ("kind", "worker", "number", "iteration", "time", "text"):
        expected = [getattr(each, name) for each in events]
        assert log[f"event/{name}"].tolist() == expected
    assert "died, signal 9" in log["event/text"]


def test_text_and_configuration_come_back(written: tuple[Log, list[Record]]) -> None:
    log, _ = written
    assert log.vocabulary == VOCABULARY
    assert log.descriptions == [f"host{worker}, cpu" for worker in range(1, WORKERS + 1)]
    tolerance = log.config.algorithm.tolerance
    assert log.config == configuration(
        algorithm={"lower_distance": log.config.algorithm.lower_distance, "tolerance": tolerance}
    )


def test_a_configuration_larger_than_an_object_header_fits(tmp_path: Path) -> None:
    config = configuration(prompt={"vocabulary": [f"word{number}" for number in range(20_000)]})
    write_log(tmp_path / "run.h5", config, iterations=1)
    with Log(tmp_path / "run.h5") as log:
        assert log.config == config


# ---------------------------------------------------------------- when it is written


def test_batches_by_time_and_by_number(tmp_path: Path) -> None:
    path, clock, run = tmp_path / "run.h5", Clock(), Run(configuration())

    def committed() -> int:
        with Log(path) as log:
            return log.committed

    with open_writer(path, run, clock) as writer:
        records = run.records()

        def write_iterations(number: int) -> None:
            for _ in range(number):
                record: Record | None = None
                while not isinstance(record, Iteration):
                    record = next(records)
                    writer.write(record)

        write_iterations(LARGEST_BATCH - 1)
        assert committed() == 0
        write_iterations(1)
        assert committed() == LARGEST_BATCH
        write_iterations(2)
        clock.now += 0.4 * SECONDS_BETWEEN_BATCHES
        writer.flush_if_due()
        assert committed() == LARGEST_BATCH
        clock.now += 0.65 * SECONDS_BETWEEN_BATCHES
        writer.flush_if_due()
        assert committed() == LARGEST_BATCH + 2
        write_iterations(1)
        assert committed() == LARGEST_BATCH + 2
        clock.now += SECONDS_BETWEEN_BATCHES
        writer.write(Event(EventKind.REPORT, 1, 1, 0, 0.0))
        writer.flush_if_due()
        assert committed() == LARGEST_BATCH + 3
        clock.now += SECONDS_BETWEEN_BATCHES
        write_iterations(1)  # its events alone cause no batch: it is committed at once
        assert committed() == LARGEST_BATCH + 4
        write_iterations(1)
        writer.flush()
        assert committed() == LARGEST_BATCH + 5


def test_large_iterates_make_small_batches(tmp_path: Path) -> None:
    run = Run(configuration())
    shapes = type(SHAPES)(positions=100, words=3000, classes=2, pool=4)
    z0 = np.full((100, 3000), 1 / 3000)
    words = [str(number) for number in range(3000)]
    with Writer(tmp_path / "run.h5", run.config, shapes, WORKERS, words, "mpi", z0) as writer:
        assert 1 <= writer.batch < 5


def test_rows_that_are_not_committed_do_not_count(tmp_path: Path) -> None:
    run = Run(configuration())
    with open_writer(tmp_path / "run.h5", run, Clock()) as writer:
        for record in run.records(9):
            writer.write(record)
        writer.flush()
        # A count that is behind the rows, as that of another writer may be.
        writer.file.attrs.modify("committed", np.int64(7))
        seal(writer.file)
        writer._commit()
        with Log(tmp_path / "run.h5") as log:
            assert log.status == "running"
            assert len(log["iteration/z"]) == 8
            assert len(log["iteration/time"]) == 7
            assert log["report/iteration"].max() == 6
            assert log["dual/iteration"].max() == 6
            assert log["plane/created"].tolist() == [3]  # the one of iteration 7 is not counted
            assert log["lower/iteration"].tolist() == [3]
            assert log["evaluation/iteration"].max() == 1
            assert log["event/iteration"].max() == 9
        assert verify(tmp_path / "run.h5").violations == []
        writer.file.attrs.modify("committed", np.int64(9))


def test_drops_that_are_not_committed_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    write_log(path, configuration())
    with h5py.File(path, "r+") as file:
        last = int(file["plane/dropped"][:].max())
        file.attrs["committed"] = last
        file.attrs["status"] = "running"
        seal(file)
    with Log(path) as log:
        assert -1 <= log["plane/dropped"].max() < last
    assert verify(path).violations == []


KILLED = """
import sys
from asyndbt_mpi.log.writer import Writer
from tests.log.simulated_run import SHAPES, VOCABULARY, WORKERS, Run, configuration
run = Run(configuration())
with Writer(sys.argv[1], run.config, SHAPES, WORKERS, VOCABULARY, "mpi", run.z0) as writer:
    for record in run.records():
        writer.write(record)
"""


@pytest.mark.long
@pytest.mark.parametrize("iterations", [100, 400])
def test_a_killed_run_leaves_a_whole_log(tmp_path: Path, iterations: int) -> None:
    path = tmp_path / "run.h5"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], cwd=ROOT)
    try:
        deadline = time.monotonic() + DEADLINE
        while committed_so_far(path) < iterations:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    with Log(path) as log:
        assert log.committed >= iterations
        assert log.status == "running"
    found = verify(path)
    assert found.violations == []
    assert "was killed" in found.notes[-1]


def committed_so_far(path: Path) -> int:
    """Read beside the writer, as anybody may."""
    try:
        with Log(path) as log:
            reports = len(log["report/p"])
            assert len(log["iteration/z"]) == log.committed + 1
            assert reports == log["iteration/active"].sum()
            return log.committed
    except LogError:
        return -1  # not made yet


# ---------------------------------------------------------------- settings


def test_every_nth_iterate_and_the_last(tmp_path: Path) -> None:
    paths = {}
    for iterates in ("all", 6):
        paths[iterates] = tmp_path / f"{iterates}.h5"
        write_log(paths[iterates], configuration(log={"iterates": iterates}))
    with Log(paths["all"]) as full, Log(paths[6]) as sparse:
        for path in ("iteration/z", "report/p", "report/q"):
            after = full["report/iteration"] if path != "iteration/z" else np.arange(-1, 40)
            kept = np.isin(after, [-1, 5, 11, 17, 23, 29, 35, 39])
            assert kept.any()
            np.testing.assert_array_equal(sparse[path][kept], full[path][kept])
            assert np.isnan(sparse[path][~kept]).all()
        np.testing.assert_array_equal(sparse["plane/a"], full["plane/a"])
    with h5py.File(paths[6], "r") as file:
        assert file["iteration/z"].id.get_num_chunks() == 8  # rows left out take no room
        assert file["iteration/z"].id.get_storage_size() == 8 * 8 * 3 * 5


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_compression(tmp_path: Path, compression: str) -> None:
    write_log(tmp_path / "plain.h5", configuration())
    write_log(tmp_path / "small.h5", configuration(log={"compression": compression}))
    with h5py.File(tmp_path / "small.h5", "r") as file:
        assert file["report/p"].compression == compression
        assert file["report/p"].shuffle
        assert file["report/loss"].compression is None
    with Log(tmp_path / "plain.h5") as plain, Log(tmp_path / "small.h5") as small:
        np.testing.assert_array_equal(plain["report/p"], small["report/p"])
    assert verify(tmp_path / "small.h5").violations == []


def test_a_log_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    write_log(path, configuration(), iterations=2)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"run\.h5"):
        open_writer(path, Run(configuration()))
    assert path.read_bytes() == before


def test_an_exception_interrupts(tmp_path: Path) -> None:
    path, run = tmp_path / "run.h5", Run(configuration())

    def interrupted_run() -> None:
        with open_writer(path, run) as writer:
            for record in run.records(5):
                writer.write(record)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    with Log(path) as log:
        assert (log.status, log.committed) == ("interrupted", 5)
    assert verify(path).violations == []


def test_closing_by_hand_settles_the_status(tmp_path: Path) -> None:
    path, run = tmp_path / "run.h5", Run(configuration())
    with open_writer(path, run) as writer:
        writer.close("interrupted")
    with Log(path) as log:
        assert (log.status, log.committed) == ("interrupted", 0)
    assert verify(path).violations == []


def test_one_second_of_a_fast_run_costs_little(tmp_path: Path) -> None:
    """An alarm for gross mistakes only; the measured figure is some 60 microseconds."""
    run = Run(Config())
    records = list(run.records(200))
    with open_writer(tmp_path / "run.h5", run) as writer:
        start = time.process_time()
        for record in records:
            writer.write(record)
        writer.flush()
        assert (time.process_time() - start) / 200 < 2e-3


# ---------------------------------------------------------------- when there is no room

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
from tests.log.test_writer import write_until_full
print(write_until_full(sys.argv[1]))
"""


def write_until_full(path: str) -> str:
    """Write to ``path`` until that fails, and close; what the error says."""
    run = Run(configuration())
    writer = open_writer(Path(path), run)

    def write_all() -> None:
        for record in run.records():
            writer.write(record)

    with pytest.raises(LogWriteError) as caught:
        write_all()
    with pytest.raises(LogWriteError):
        writer.flush()
    writer.close("finished")
    writer.close("finished")
    return str(caught.value)


def assert_safe(path: Path, message: str, reason: str) -> None:
    with Log(path) as log:
        assert log.committed > 10  # fewer in a batch, and so in the file, on a busy machine
        assert log.status == "interrupted"
        safe = f"{log.committed} iterations are safe in it"
        assert message == f"{path}: cannot be written ({reason}); {safe}"
    assert verify(path).violations == []


@pytest.mark.long
def test_a_limit_on_the_size_leaves_a_whole_log(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")
    assert_safe(path, done.stdout.strip(), "File too large")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_a_whole_log(small_disk: Path) -> None:
    path = small_disk / "run.h5"
    message = write_until_full(str(path))
    assert_safe(path, message, "No space left on device")


def test_no_room_for_the_beginning_leaves_no_file(small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(5 << 19))
    with pytest.raises(LogWriteError, match="No space left on device"):
        open_writer(small_disk / "run.h5", Run(configuration()))
    assert [each.name for each in small_disk.iterdir()] == ["other"]


def test_a_beginning_that_fails_leaves_no_file(tmp_path: Path) -> None:
    run = Run(configuration())
    with pytest.raises(TypeError):
        Writer(tmp_path / "run.h5", run.config, SHAPES, WORKERS, ["a"] * 9, "mpi", run.z0)
    assert list(tmp_path.iterdir()) == []


def test_another_failure_leaves_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Unable to write\nmore about it")

    path, run = tmp_path / "run.h5", Run(configuration())
    writer = open_writer(path, run)
    records = run.records(5)
    for _ in range(3):
        while not isinstance(record := next(records), Iteration):
            writer.write(record)
        writer.write(record)
    writer.flush()
    writer.write_all(records)
    monkeypatch.setattr(writer._tables, "enter_drops", fail)  # in the midst of a batch
    monkeypatch.setattr(writer, "_drops", [(0, 0, 0)])
    expected = r"run\.h5: cannot be written \(Unable to write\); 3 iterations are safe in it$"
    with pytest.raises(LogWriteError, match=expected):
        writer.close("finished")
    writer.close("finished")
    assert not writer.file
    with Log(path) as log:
        assert (log.status, log.committed) == ("interrupted", 3)
    assert verify(path).violations == []
