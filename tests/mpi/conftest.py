"""Helpers of the tests that run under mpiexec; every rank runs every test of this folder."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mpi4py import MPI


@pytest.fixture(autouse=True)
def _together() -> Iterator[None]:
    """Start and end every test with all ranks, so that one test cannot run into the next."""
    _meet()
    yield
    _meet()


def _meet() -> None:
    """A barrier at which nobody keeps a core busy that rank 0 needs to look at a log."""
    met = MPI.COMM_WORLD.Ibarrier()
    while not met.Test():
        time.sleep(0.005)


@pytest.fixture
def shared_path(mpi_tmp_path: Path) -> Path:
    """A folder that all ranks share."""
    return mpi_tmp_path
