"""What a run may do to the files that lie where its log goes."""

import errno
import fcntl
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from asyndbt_mpi.commands.simulate import simulate
from asyndbt_mpi.config import ConfigurationError, load
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.log.errors import LogWriteError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.storage import publish as creation
from asyndbt_mpi.log.storage.lock import Locked, has_locks, is_being_written, take
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import SECONDS_BETWEEN_BATCHES, Writer
from asyndbt_mpi.protocol.records import Event, EventKind
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.view.progress import Progress
from asyndbt_mpi.view.sink import LogAndProgress
from tests.helpers import ROOT

WORKERS = 3


def job(path: Path, iterations: int = 3, overwrite: bool = False, resume: bool = False) -> Job:
    settings = (f"run.iterations={iterations}",)
    return Job.of(Request("synthetic", settings, str(path), overwrite, False, resume), WORKERS)


def open_log(made: Job) -> Writer:
    server = Server(made.config, made.materials.shapes, made.workers)
    return made.open_log("virtual", server.algorithm.z)


def open_next(path: Path, log: Log) -> Writer:
    return job(path, 12, resume=True).reopen_log(log, {})


def contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log that was resumed twice."""
    whole = tmp_path / "run.h5"
    simulate(job(whole))
    for iterations in (6, 9):
        simulate(job(whole, iterations, resume=True), resuming=True)
    return whole


@pytest.fixture
def others(path: Path) -> dict[str, bytes]:
    """Files beside the log whose names begin like its own."""
    folder = path.parent
    (folder / "run.h5.20261122").write_bytes(path.read_bytes())
    (folder / "run.h5.7").write_text("dear to somebody")
    (folder / "run.h5.007").write_text("dear to somebody")
    with h5py.File(folder / "run.h5.8", "w") as file:
        file["measured"] = [1, 2]
    names = "run.h5.20261122", "run.h5.7", "run.h5.007", "run.h5.8"
    return {name: (folder / name).read_bytes() for name in names}


# ---------------------------------------------------------------- what is deleted


def test_a_new_run_deletes_nothing(path: Path, others: dict[str, bytes]) -> None:
    before = contents(path.parent)
    expected = r"run\.h5 already exists; give another --output"
    with pytest.raises(ConfigurationError, match=expected):
        job(path)
    assert contents(path.parent) == before
    command = [sys.executable, "-m", "asyndbt_mpi", "simulate", "synthetic", "--output", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert contents(path.parent) == before
    path.unlink()
    simulate(job(path))
    assert contents(path.parent) == others | {"run.h5": path.read_bytes()}
    assert verify(path).violations == []


def test_overwriting_deletes_the_log_alone(path: Path, others: dict[str, bytes]) -> None:
    simulate(job(path, overwrite=True))
    assert contents(path.parent) == others | {"run.h5": path.read_bytes()}
    with Log(path) as log:
        assert (log.starts, log.committed) == (1, 3)


def text(path: Path) -> None:
    path.write_text("dear to somebody")


def measurements(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["measured"] = [1, 2]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/null")


def dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def link_to_a_log(path: Path) -> None:
    simulate(job(path.with_name("theirs.h5")))
    path.symlink_to("theirs.h5")


def half_a_log(path: Path) -> None:
    simulate(job(path))
    path.write_bytes(path.read_bytes()[:5000])


def _untouched(path: Path) -> tuple[int, int, int]:
    """What tells a file from one that was written or put in its place; not when it was read."""
    found = path.lstat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize(
    "make", [text, measurements, pipe, device, dangling_link, link_to_a_log, half_a_log]
)
def test_only_a_log_is_overwritten(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "run.h5"
    made = job(path, overwrite=True)
    make(path)
    before = _untouched(path)
    expected = (
        r"run\.h5: is not an asyndbt log, and only logs are replaced: delete it, or give another"
    )
    if make in (pipe, device):
        expected = r"run\.h5': is a pipe or a device; name a file"
    with pytest.raises(ConfigurationError, match=rf"^(--overwrite|run\.output).*{expected}"):
        job(path, overwrite=True)
    with pytest.raises(ConfigurationError, match="is not an asyndbt log"):
        open_log(made)  # it has come there in the meantime
    assert _untouched(path) == before
    assert {each.name for each in tmp_path.iterdir()} <= {"run.h5", "theirs.h5"}


def test_a_link_that_leads_nowhere_is_there_already(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    dangling_link(path)
    with pytest.raises(ConfigurationError, match="already exists"):
        job(path)


def test_a_run_does_not_go_on_beside_a_link(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    link_to_a_log(path)
    before = contents(tmp_path)
    with pytest.raises(ConfigurationError, match=r"^--resume: .*run\.h5: is a link"):
        job(path, 12, resume=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("fails", ["reserve", "replace"])
def test_the_old_log_stays_until_the_new_one_is_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = contents(path.parent)
    if fails == "reserve":
        monkeypatch.setattr("asyndbt_mpi.log.storage.journal.reserve", fail)
    else:
        monkeypatch.setattr(creation, "synchronise", fail)
    with pytest.raises((ConfigurationError, LogWriteError), match="No space left on device"):
        open_log(job(path, overwrite=True))
    assert contents(path.parent) == before


# ---------------------------------------------------------------- who writes


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_jobs_on_one_log(path: Path, overwrite: bool) -> None:
    with Log(path) as log, open_next(path, log):
        before = contents(path.parent)
        assert ".run.h5.lock" in before
        with pytest.raises(ConfigurationError, match=r"^another process is writing .*run\.h5$"):
            open_log(job(path, overwrite=True)) if overwrite else open_next(path, log)
        assert contents(path.parent) == before
    assert sorted(contents(path.parent)) == ["run.h5"]


def test_a_log_that_grew_after_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with open_log(job(path)) as writer:
        log = Log(path)
        writer.write(Event(EventKind.REPORT, 1, 1, 0, 0.0))
    with log, pytest.raises(ConfigurationError, match="another process has written it just now"):
        open_next(path, log)
    assert list(contents(tmp_path)) == ["run.h5"]


KILLED = """
import os, signal, sys
from tests.commands.test_log_files import job, open_log
from pathlib import Path
writer = open_log(job(Path(sys.argv[1])))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT)
    assert sorted(contents(tmp_path)) == [".run.h5.lock", "run.h5"]
    simulate(job(path, resume=True), resuming=True)
    assert sorted(contents(tmp_path)) == ["run.h5"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    path = tmp_path / "run.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer = open_log(job(path))
        assert not is_being_written(path)
        assert not has_locks(tmp_path)
    # Nothing is left that would look like a lock after a kill.
    assert list(contents(tmp_path)) == ["run.h5"]
    writer.close("finished")


def test_a_lock_on_a_file_that_was_removed_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another process does that ends between this one's look at the file and its lock."""
    file, flock = tmp_path / "lock", fcntl.flock
    removed: list[bool] = []

    def removed_first(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(True)
            file.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", removed_first)
    lock = take(file)
    assert lock is not None
    assert removed
    with pytest.raises(Locked):
        take(file)
    lock.release()
    lock.release()
    again = take(file)
    assert again is not None
    again.release()


def test_a_hidden_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.with_name(".run.h5.lock").mkdir()
    with pytest.raises(ConfigurationError, match=r"run\.h5 cannot be written: .*lock"):
        open_log(job(path))
    assert not is_being_written(path)


# ---------------------------------------------------------------- what is written when


def test_answers_are_logged_when_the_server_is_idle(tmp_path: Path) -> None:
    path, clock = tmp_path / "run.h5", [0.0]
    with open_log(job(path)) as writer, Progress(load("synthetic"), WORKERS) as progress:
        writer.clock = lambda: clock[0]
        writer.flush()
        sink = LogAndProgress(writer, progress)

        def logged() -> int:
            sink.idle()
            with Log(path) as log:
                return len(log["event/kind"])

        sink.write([Event(EventKind.REPORT, 1, 1, 0, 0.0)])
        assert logged() == 0
        clock[0] += SECONDS_BETWEEN_BATCHES
        sink.write([Event(EventKind.REPORT, 2, 1, 0, 0.0)])
        with Log(path) as log:
            assert len(log["event/kind"]) == 0, "an iteration may follow at once"
        assert logged() == 2


def test_the_user_hears_where_a_lost_worker_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        open_log(job(tmp_path / "run.h5")) as writer,
        Progress(load("synthetic"), WORKERS) as progress,
    ):
        sink = LogAndProgress(writer, progress)
        sink.write([Event(EventKind.HELLO, 1, -1, 0, 0.0, text="node7: cuda:1, float32")])
        sink.write([Event(EventKind.LOST, 1, -1, 0, 1.0, text="its process died")])
        sink.write([Event(EventKind.RETURNED, 2, -1, 0, 1.0)])
    said = capsys.readouterr().err
    assert "worker 1 (node7: cuda:1, float32) is lost: its process died\n" in said
    assert "worker 2 is back, and starts afresh\n" in said


def test_the_digest_of_the_data(tmp_path: Path) -> None:
    path, made = tmp_path / "run.h5", job(tmp_path / "run.h5")
    z = Server(made.config, made.materials.shapes, made.workers).algorithm.z
    arguments = (made.config, made.materials.shapes, WORKERS, made.materials.vocabulary)
    with Writer(path, *arguments, "virtual", z, data_digest="0123abcd"):
        pass
    with Log(path) as log:
        assert log.data_digest == "0123abcd"
        with Writer.resumed(log, made.config, data_digest="4567cdef"):
            pass
    with Log(path) as log:
        assert log.data_digest == "4567cdef"
    with h5py.File(path, "r+") as file:
        del file.attrs["data_digest"]
    with Log(path) as log:
        assert log.data_digest == ""
