"""The short form of `python -m tests.log.power`."""

from pathlib import Path
from unittest import mock

import pytest

from asyndbt_mpi.log.storage.journal import JournaledFile
from tests.log.power import Checker, kills, power_cuts, record

pytestmark = pytest.mark.long


@pytest.mark.parametrize("sync_every", [0.0, 3.0])
def test_a_kill_at_moments_of_a_run_that_is_resumed(tmp_path: Path, sync_every: float) -> None:
    recording = record(tmp_path / "run.h5", sync_every, commits=2)
    counts = kills(recording, Checker(tmp_path / "found.h5", recording, 20), every=5)
    assert sum(counts.cases.values()) > 50


def test_a_power_cut_after_every_fsync(tmp_path: Path) -> None:
    recording = record(tmp_path / "run.h5", 2.0, commits=3)
    counts = power_cuts(recording, Checker(tmp_path / "found.h5", recording, 50), most=12)
    assert set(counts.cases) == {"as committed last", "an earlier commit"}


def test_without_fsyncs_a_power_cut_is_found_out(tmp_path: Path) -> None:
    """The test can fail: pages that are put in place before the journal is on the disk."""
    with mock.patch.object(JournaledFile, "settle", settle_at_once):
        recording = record(tmp_path / "run.h5", 1.0, commits=2)
    checker = Checker(tmp_path / "found.h5", recording, 10**9)
    with pytest.raises((AssertionError, ValueError, OSError)):
        power_cuts(recording, checker, most=60)


def settle_at_once(file: JournaledFile, settle=JournaledFile.settle) -> None:  # type: ignore[no-untyped-def]
    """As `settle`, with a single fsync at its end."""
    file.synchronises = False
    settle(file)
    file.synchronises = True
    file._synchronise()
