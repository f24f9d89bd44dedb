"""Where the ranks of a node run: who shares a GPU with whom."""

import warnings

import pytest
import torch
from mpi4py import MPI

from asyndbt_mpi.assemble import Place
from asyndbt_mpi.commands import run as launch
from asyndbt_mpi.config import parse
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.local import device
from asyndbt_mpi.transport.together import Together

COMM = MPI.COMM_WORLD
RANK, WORKERS = COMM.Get_rank(), COMM.Get_size() - 1
pytestmark = pytest.mark.mpi(min_size=3)


def place(patch: pytest.MonkeyPatch, gpus: int, **llm: str) -> Place:
    """This rank's place on a node with so many GPUs."""

    def choose(name: str, local_rank: int) -> torch.device:
        assert RANK, "the server asks for a device"
        if not gpus:
            raise ModelError("there is none")
        return torch.device("cuda", local_rank % gpus)

    patch.setattr(device, "choose", choose)
    patch.setattr(device, "identity", lambda chosen: f"GPU-{chosen.index}")
    return launch._place(parse({"llm": llm}, "test"), WORKERS, Together(launch.WORLD))


def test_workers_on_one_gpu_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = place(monkeypatch, 1)
    assert RANK == 0 or (found.local_rank, found.on_gpu) == (RANK - 1, WORKERS)
    assert RANK == 0 or found.sharing == WORKERS


def test_workers_take_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    found = place(monkeypatch, 2)
    neighbours = len(range(found.local_rank % 2, WORKERS, 2))
    assert RANK == 0 or found.on_gpu == neighbours


def test_nobody_waits_for_who_gets_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = place(monkeypatch, 0 if RANK == WORKERS else 1)
    assert RANK == 0 or found.on_gpu == (0 if RANK == WORKERS else WORKERS - 1)


@pytest.mark.parametrize("llm", [{"backend": "synthetic"}, {"device": "cpu"}])
def test_nobody_asks_for_a_gpu_in_vain(
    monkeypatch: pytest.MonkeyPatch, llm: dict[str, str]
) -> None:
    found = place(monkeypatch, 1, **llm)
    assert RANK == 0 or found.on_gpu == 0


def test_the_server_does_not_wait_for_the_workers_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> str:
        COMM.Barrier()  # until the server is through
        return ""

    monkeypatch.setattr(launch, "gpu_of", slow)
    launch._place(parse({}, "test"), WORKERS, Together(launch.WORLD))
    if RANK == 0:
        COMM.Barrier()


def test_a_workers_warnings_say_whose_they_are() -> None:
    match = r"^worker 3 on node7: full$"
    with pytest.warns(UserWarning, match=match), launch._warnings_signed("worker 3 on node7"):
        warnings.warn("full", stacklevel=1)
