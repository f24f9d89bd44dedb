"""Folders that cannot be written, files that others hold, and what the environment says."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from tests.helpers import ROOT
from tests.log.continued import CUTS, PLAIN, write_chain
from tests.log.simulated_run import SHAPES, VOCABULARY, WORKERS, Run, configuration, write_log

WRITE_AND_READ = """
import sys
from pathlib import Path
from asyndbt_mpi.log.verify import verify
from tests.log.continued import CUTS, PLAIN, write_chain
write_chain(Path(sys.argv[1]), PLAIN, CUTS)
print(verify(sys.argv[1]).violations)
"""

HOLD = """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, getattr(fcntl, sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""

LOCKS = ["LOCK_SH", "LOCK_EX"]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )


def new_writer(path: Path) -> Writer:
    start = Run(configuration())
    return Writer(path, start.config, SHAPES, WORKERS, VOCABULARY, "virtual", start.z0)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that not even root can write."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    write_chain(folder / "chain.h5", PLAIN, CUTS)
    (folder / "folder").mkdir()
    binding = ["mount", "--bind", folder, folder]
    remounting = ["mount", "-o", "remount,ro,bind", folder]
    if os.geteuid() and not os.chmod(folder, 0o555):
        yield folder
        os.chmod(folder, 0o755)
        return
    for command in (binding, remounting):
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a folder cannot be made read-only here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_read_only_folder(read_only: Path) -> None:
    for place in ("run.h5", "new/run.h5"):
        with pytest.raises(OSError, match=r"(Read-only file system|Permission denied).*read-only"):
            new_writer(read_only / place)
    with Log(read_only / "chain.h5") as log:
        assert log.starts == len(CUTS) + 1  # reading needs no more than it
        with pytest.raises(OSError, match=r"(Read-only file system|Permission denied)"):
            Writer.resumed(log, log.config)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        new_writer(tmp_path / "file" / "run.h5")


def test_folders_are_made(tmp_path: Path) -> None:
    new_writer(tmp_path / "a" / "b" / "run.h5").close("finished")
    assert [each.name for each in (tmp_path / "a" / "b").iterdir()] == ["run.h5"]


@pytest.mark.long
@pytest.mark.parametrize("value", ["TRUE", "FALSE", "BEST_EFFORT"])
def test_what_the_environment_says_of_locks_does_not_matter(tmp_path: Path, value: str) -> None:
    done = run("-c", WRITE_AND_READ, tmp_path / "run.h5", HDF5_USE_FILE_LOCKING=value)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_the_environment_stays_as_it_is() -> None:
    code = "import asyndbt_mpi.log, os; print(os.environ['HDF5_USE_FILE_LOCKING'])"
    assert run("-c", code, HDF5_USE_FILE_LOCKING="TRUE").stdout == "TRUE\n"


@pytest.mark.long
@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("value", ["", "TRUE"])
def test_a_viewer_that_holds_a_lock_disturbs_nobody(tmp_path: Path, lock: str, value: str) -> None:
    path = tmp_path / "run.h5"
    write_log(path, configuration(), iterations=10)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), lock],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with path.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        code = WRITE_AND_READ.replace("CUTS)", "[])")  # goes on with what is there
        environment = {"HDF5_USE_FILE_LOCKING": value} if value else {}
        done = run("-c", code, path, **environment)
        assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
    with Log(path) as log:
        assert (log.starts, log.committed) == (2, 40)


def test_a_lock_on_the_file_that_is_written(tmp_path: Path) -> None:
    path, start = tmp_path / "run.h5", Run(configuration())
    with new_writer(path) as writer, path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for record in start.records(5):
            writer.write(record)
        writer.flush()
        with Log(path) as log:
            assert log.committed == 5
