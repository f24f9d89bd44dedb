"""The lock beside a log: nobody else's file, and nothing that leads elsewhere."""

import errno
import os
from pathlib import Path

import pytest

from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.storage.lock import LogLock, is_being_written, was_killed


def test_a_lock_is_held_and_released(tmp_path: Path) -> None:
    lock = LogLock(tmp_path / "run.h5")
    assert (tmp_path / ".run.h5.lock").stat().st_mode & 0o777 == 0o600
    assert is_being_written(tmp_path / "run.h5")
    with pytest.raises(LogError, match="another process is writing"):
        LogLock(tmp_path / "run.h5")
    assert not was_killed(tmp_path / "run.h5")
    lock.release()
    assert list(tmp_path.iterdir()) == []
    assert not was_killed(tmp_path / "run.h5")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_place_of_the_lock_is_refused_and_not_followed(
    tmp_path: Path, there: bool
) -> None:
    target = tmp_path / "elsewhere"
    if there:
        target.write_text("kept")
    link = tmp_path / ".run.h5.lock"
    link.symlink_to(target)
    with pytest.raises(LogError, match=r"run\.h5\.lock is a symbolic link: remove it"):
        LogLock(tmp_path / "run.h5")
    assert target.exists() == there
    assert link.is_symlink()
    assert not is_being_written(tmp_path / "run.h5")


def test_a_pipe_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".run.h5.lock")
    with pytest.raises(LogError, match="is not a regular file"):
        LogLock(tmp_path / "run.h5")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give files away")
def test_another_users_lock_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / ".run.h5.lock"
    lock.touch()
    os.chown(lock, 65534, 65534)
    with pytest.raises(LogError, match="belongs to another user"):
        LogLock(tmp_path / "run.h5")


@pytest.mark.parametrize("machine", ["this", "another", ""])
def test_a_kill_is_certain_only_on_the_machine_of_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr("asyndbt_mpi.log.storage.lock._machine", lambda: "this")
    left = tmp_path / ".run.h5.lock"
    left.write_text(machine)
    left.chmod(0o600)
    assert was_killed(tmp_path / "run.h5") == (machine == "this")


def test_a_lock_is_held_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.pwrite", full)
    lock = LogLock(tmp_path / "run.h5")
    assert is_being_written(tmp_path / "run.h5")
    lock.release()
