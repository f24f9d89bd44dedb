"""`asyndbt watch` beside runs that have not started, go on, end in any way, or are elsewhere."""

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyndbt_mpi.commands.watch import MOST_FAILURES, Follower
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import Event, EventKind
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.view.course import KILLED, UNSEEN
from asyndbt_mpi.view.watching import Picture
from tests.helpers import ASYNDBT, ROOT, asyndbt, sets, wait_for_iterations

LONG_AGO = 60.0

# A job in a script's background starts with Ctrl-C ignored, and so would its children.
INTERRUPTIBLE = ["env", "--default-signal=INT", *ASYNDBT]


def job(path: Path, *settings: str) -> Job:
    return Job.of(Request("synthetic", settings, str(path), True, False), 3)


def open_log(path: Path, *settings: str) -> Writer:
    made = job(path, *settings)
    server = Server(made.config, made.materials.shapes, made.workers)
    return made.open_log("mpi", server.algorithm.z)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.h5"


@pytest.fixture
def follower(path: Path) -> Follower:
    return Follower(path)


def let_pass(path: Path, seconds: float = LONG_AGO) -> None:
    """As if the log at ``path`` had been written last so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def look(follower: Follower) -> tuple[str, bool]:
    follower.look()
    return follower.state, follower.ended


def test_from_before_the_start_to_the_end(path: Path, follower: Follower) -> None:
    assert look(follower) == ("not started yet", False)
    with open_log(path) as writer:
        assert look(follower) == ("0/3 workers ready", False)
        for worker in (1, 2, 3):
            writer.write(Event(EventKind.HELLO, worker, -1, 0, 1.0))
        writer.flush()
        assert look(follower) == ("running", False)
        let_pass(path)
        assert look(follower) == ("running", False), "its lock is held"
        assert follower.silent >= LONG_AGO
    assert look(follower) == ("finished", True)
    assert (
        follower.verdict
        == f"{path}: finished after 0 iterations; asyndbt show tells what was learnt"
    )


def test_a_run_that_was_interrupted(path: Path, follower: Follower) -> None:
    open_log(path).close("interrupted")
    assert look(follower) == ("interrupted", True)
    assert follower.verdict.endswith(
        "after 0 iterations; to resume it, repeat its command with --resume"
    )


KILL = """
import os, signal, sys
from pathlib import Path
from tests.commands.test_watch import open_log
writer = open_log(Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_was_killed_here(path: Path, follower: Follower) -> None:
    subprocess.run([sys.executable, "-c", KILL, path], cwd=ROOT)
    assert look(follower) == ("0/3 workers ready", False), "it has been written just now"
    let_pass(path)
    assert look(follower) == (KILLED, True)
    assert f"{path}: killed after 0 iterations;" in follower.verdict
    status = asyndbt("status", "synthetic", "--output", str(path), folder=ROOT)
    assert f"{path}: killed, 0 of" in status.stdout


@pytest.fixture
def elsewhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """A log whose writer is on another machine, from which its lock is not seen."""
    with monkeypatch.context() as of_writer:
        of_writer.setattr("asyndbt_mpi.log.storage.lock._machine", lambda: "another machine")
        writer = open_log(path, "run.worker_timeout=100")
    assert writer._lock._lock is not None
    writer._lock._lock.release()
    yield writer
    writer.close("interrupted")


def test_a_run_on_a_machine_whose_lock_is_not_seen(
    path: Path, follower: Follower, elsewhere: Writer
) -> None:
    let_pass(path)
    assert look(follower) == (UNSEEN, False)
    elsewhere.write(Event(EventKind.HELLO, 1, -1, 0, 1.0))
    elsewhere.flush()
    assert look(follower) == ("1/3 workers ready", False), "it lives"
    let_pass(path, 1000)
    assert look(follower) == (UNSEEN, True), "by now it would have lost a worker"
    assert "nothing written for 16:40" in follower.verdict


def test_a_run_that_is_resumed(path: Path, follower: Follower) -> None:
    settings = "run.iterations=40", "log.sync_every=0"
    assert (
        asyndbt("simulate", "synthetic", *sets(*settings), "-o", str(path), folder=ROOT).returncode
        == 0
    )
    first = look_at(follower)
    more = "run.iterations=60", "log.sync_every=0"
    again = "simulate", "synthetic", *sets(*more), "-o", str(path), "--resume"
    assert asyndbt(*again, folder=ROOT).returncode == 0
    second = look_at(follower)
    assert (first.course.committed, second.course.committed) == (40, 60)
    with Log(path) as log:
        calls = log["event/llm_calls"][log["event/worker"] == 1].sum()
    assert second.course.workers[0].calls == calls


def look_at(follower: Follower) -> Picture:
    follower.look()
    picture = follower.picture
    assert isinstance(picture, Picture)
    return picture


def test_a_log_that_is_replaced_or_removed(path: Path, follower: Follower) -> None:
    with open_log(path, "run.name=first") as writer:
        writer.write(Event(EventKind.HELLO, 1, -1, 0, 1.0))
        writer.flush()
        assert look_at(follower).course.config.run.name == "first"
    with open_log(path, "run.name=second"):
        course = look_at(follower).course
        assert course.config.run.name == "second"
        assert len(course.columns["event/kind"]) == 0
        path.unlink()
        assert look(follower) == ("removed", True)
        assert "was removed" in follower.verdict


def test_what_is_no_log(path: Path, follower: Follower) -> None:
    path.write_bytes(b"noise")
    with pytest.raises(LogError, match="not an HDF5 file"):
        follower.look()


def test_a_log_that_cannot_be_read_for_a_moment(path: Path, follower: Follower) -> None:
    with open_log(path):
        look(follower)
        whole = path.read_bytes()
        path.write_bytes(whole[:100])
        look(follower)
        assert isinstance(follower.picture, Picture), "what was there is still shown"
        path.write_bytes(whole)
        assert look(follower) == ("0/3 workers ready", False)
        path.write_bytes(whole[:100])
        for _ in range(MOST_FAILURES - 1):
            look(follower)
        with pytest.raises(LogError):
            look(follower)
        path.write_bytes(whole)


def test_a_single_picture(tmp_path: Path) -> None:
    assert (
        asyndbt("simulate", "synthetic", *sets("run.iterations=5"), folder=tmp_path).returncode == 0
    )
    once = asyndbt("watch", "--once", "runs/synthetic.h5", folder=tmp_path)
    assert once.returncode == 0
    assert once.stdout.startswith("synthetic (runs/synthetic.h5)\n")
    assert "finished" in once.stdout
    assert "\x1b" not in once.stdout
    absent = asyndbt("watch", "--once", "absent.h5", folder=tmp_path)
    assert (absent.returncode, absent.stdout) == (1, "absent.h5: not started yet\n")
    piped = asyndbt("watch", "absent.h5", folder=tmp_path)
    assert piped.returncode == 2
    assert "--once prints a single picture" in piped.stderr


def in_terminal(path: Path) -> tuple[subprocess.Popen[bytes], int]:
    """`asyndbt watch` with a terminal of its own, and the terminal's other end."""
    ours, theirs = pty.openpty()
    words = [*INTERRUPTIBLE, "watch", path.name]  # a longer line would be broken
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        words,
        cwd=path.parent,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    return process, ours


def read_until(terminal: int, text: str) -> str:
    found = b""
    while text.encode() not in found:
        found += os.read(terminal, 4096)
    return found.decode(errors="replace")


def test_on_a_terminal_it_waits_follows_and_tells_the_end(path: Path) -> None:
    process, terminal = in_terminal(path)
    read_until(terminal, "not started yet")
    with open_log(path):
        read_until(terminal, "0/3 workers ready")
    said = read_until(terminal, "tells what was learnt")
    assert process.wait(60) == 0
    assert "\x1b[?1049l" in said, "the terminal has its own screen back"
    os.close(terminal)


def test_ctrl_c_leaves_it_quietly(path: Path) -> None:
    process, terminal = in_terminal(path)
    read_until(terminal, "not started yet")
    process.send_signal(signal.SIGINT)
    read_until(terminal, "\x1b[?1049l")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    os.close(terminal)


def test_ctrl_c_in_a_simulation_tells_the_command_that_resumes_it(tmp_path: Path) -> None:
    path = tmp_path / "a run.h5"
    words = ["simulate", "synthetic", *sets("run.iterations=2000"), "--output", str(path)]
    process = subprocess.Popen([*INTERRUPTIBLE, *words], stderr=subprocess.PIPE, text=True)
    wait_for_iterations(path, 20, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "\x1b" not in errors
    *_, command, last = filter(None, errors.splitlines())
    assert last == "asyndbt: interrupted", errors
    assert "to resume it: " in command, errors
    told = shlex.split(command.partition("to resume it: ")[2])
    assert told[0] == "asyndbt"
    assert asyndbt(*told[1:], folder=tmp_path).returncode == 0
    with Log(path) as log:
        assert (log.status, log.committed, log.starts) == ("finished", 2000, 2)
