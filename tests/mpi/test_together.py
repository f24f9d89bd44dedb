"""What all ranks find out together."""

from collections.abc import Callable

import numpy as np
import pytest
from mpi4py import MPI

from asyndbt_mpi.protocol.messages import Shapes
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.transport.mpi import Channel, StartError
from asyndbt_mpi.transport.together import Together

TOGETHER = Together(MPI.COMM_WORLD)
TOLD = 77
"""Tag with which the others tell the rank that stopped that they have given up."""


@pytest.mark.mpi(min_size=3)
def test_the_first_rank_that_is_not_ok_speaks() -> None:
    rank = MPI.COMM_WORLD.Get_rank()
    assert TOGETHER.agree(True) == (True, False)
    assert TOGETHER.agree(rank == 0) == (False, rank == 1)


@pytest.mark.mpi(min_size=2)
def test_workers_of_a_node_share_its_cores() -> None:
    comm = MPI.COMM_WORLD
    local, cores = TOGETHER.node_share()
    assert cores >= 1
    gathered = np.empty(comm.Get_size(), int)
    comm.Allgather(np.array([local]), gathered)
    # All on one machine here: workers are numbered 0, 1, ...
    assert gathered[1:].tolist() == list(range(comm.Get_size() - 1))


@pytest.mark.mpi(min_size=3)
def test_the_nodes_are_those_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
    monkeypatch.setenv("SLURM_NODEID", str(rank // 2))
    assert TOGETHER.node_share()[0] == (rank % 2 if rank > 1 else 0)
    workers = TOGETHER.workers_of_node()
    if rank == 0:
        assert workers == MPI.COMM_NULL
    else:
        assert workers.Get_size() == (1 if rank == 1 else min(2, size - rank // 2 * 2))


@pytest.mark.mpi(min_size=2)
def test_texts_of_all_ranks_are_gathered_in_order() -> None:
    rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
    found = TOGETHER.gather_texts("é" * 1000 * rank)
    assert found == (["é" * 1000 * other for other in range(size)] if rank == 0 else [])


@pytest.mark.mpi(min_size=3)
def test_every_rank_hears_the_first_that_has_something_to_say() -> None:
    rank = MPI.COMM_WORLD.Get_rank()
    assert TOGETHER.first_text("") == ""
    assert TOGETHER.first_text(f"é {rank}" if rank else "") == "é 1"


STEPS: dict[str, Callable[[Together, MPI.Intracomm], object]] = {
    "agree": lambda together, _: together.agree(True),
    "gather_texts": lambda together, _: together.gather_texts("text"),
    "first_text": lambda together, _: together.first_text("text"),
    "node_share": lambda together, _: together.node_share(),
    "workers_of_node": lambda together, _: together.workers_of_node(),
    "channel": lambda _, comm: Channel(comm, Codec(Shapes(4, 6, 2, 3)), patience=0.2),
}


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("step", STEPS)
def test_nobody_waits_without_end_for_a_rank_that_stops_between_two_steps(step: str) -> None:
    # Of its own, for what is given up stays in the way of what comes after it.
    comm = MPI.COMM_WORLD.Dup()
    together, rank, last = Together(comm, 0.2), comm.Get_rank(), comm.Get_size() - 1
    together.wait_for_all()
    told = np.zeros(1)
    if rank == last:
        for other in range(last):
            MPI.COMM_WORLD.Recv(told, other, TOLD)
        return
    with pytest.raises(StartError, match="stopped in the middle of the start"):
        STEPS[step](together, comm)
    MPI.COMM_WORLD.Send(told, last, TOLD)
