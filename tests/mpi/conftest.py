"""Helpers of the tests that run under mpiexec; every rank runs every test of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mpi4py import MPI


@pytest.fixture(autouse=True)
def _together() -> Iterator[None]:
    """Start and end every test with all ranks, so that one test cannot run into the next."""
    MPI.COMM_WORLD.Barrier()
    yield
    MPI.COMM_WORLD.Barrier()


@pytest.fixture
def shared_path(mpi_tmp_path: Path) -> Path:
    """A folder that all ranks share."""
    return mpi_tmp_path
