"""A few of the faults, as part of every test run; `make faults` has them all."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.faults import scenarios
from tests.helpers import ASYNDBT, MPIEXEC, ROOT, mpiexec, needs_mpiexec, start

pytestmark = [needs_mpiexec, pytest.mark.timeout(400)]


@pytest.mark.parametrize(
    "fault",
    [
        scenarios.kill_all_but_one,
        scenarios.kill_too_many,
        scenarios.exception_in_a_worker,
        scenarios.excluded_below_min_workers,
        scenarios.off_the_simplex,
        scenarios.without_ulfm,
        scenarios.stopped_and_back,
        scenarios.signalled,
    ],
)
def test_a_run_gets_over_it(fault, tmp_path: Path) -> None:
    outcome = fault(tmp_path / "run")
    assert (outcome.lost, outcome.repeated) == (0, 0)


def test_a_run_gets_over_kills_at_random_moments(tmp_path: Path) -> None:
    outcome = scenarios.random_kills(tmp_path / "run", kills=4)
    assert (outcome.lost, outcome.repeated) == (0, 0)


def test_who_stops_in_the_middle_of_a_message_holds_up_nobody(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "tests.faults.half_sent", str(fifo)]
    done = start(mpiexec(3, command), ROOT, OMPI_MCA_btl="tcp,self")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "heard [(2, 3), (1, 1), (1, 2)]" in done.stdout


@pytest.mark.parametrize(("length", "bursts"), [(20_000, 20), (200_000, 4)])
def test_nothing_is_kept_of_a_flood_of_messages_that_are_too_long(length: int, bursts: int) -> None:
    """Over TCP the first are sent at once, of the second 64 KiB before they are taken."""
    flood = [sys.executable, "-m", "tests.faults.too_long", str(length), str(bursts)]
    done = start(mpiexec(4, flood), ROOT, OMPI_MCA_btl="tcp,self")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"refused (\d+) of (\d+), heard (.*), grew by (\d+) MiB", done.stdout)
    assert found
    refused, sent, heard, grown = found.groups()
    assert 2 * int(refused) == int(sent)
    assert heard == "[2, 3]"
    assert int(grown) < 60, "of at least 120 MiB that were stored on the way"


@pytest.mark.parametrize("missing", [0, 2])
def test_a_rank_that_never_comes_is_not_waited_for_without_end(
    missing: int, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    run = [*ASYNDBT, "run", "synthetic", "--set", "run.worker_timeout=2"]
    blocked = [sys.executable, "-c", f"open({str(fifo)!r})"]
    parts = [["-n", "2", *run], ["-n", "1", *blocked]]
    first, second = parts[::-1] if missing == 0 else parts
    assert MPIEXEC is not None
    done = start([MPIEXEC, *first, ":", *second], tmp_path)
    assert done.returncode != 0
    assert "MPI has not started for" in done.stderr
