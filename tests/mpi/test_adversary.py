"""What honest ranks show the malicious ones: the last report of everybody, and never a queue."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from mpi4py import MPI

from asyndbt_mpi.protocol.messages import Costs, Failure, Report, Shapes
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.transport.mpi import SERVER, Channel

SHAPES = Shapes(positions=75, words=100, classes=2, pool=50)
LAST = MPI.COMM_WORLD.Get_size() - 1
HONEST = range(1, LAST)
SECONDS = 30.0
pytestmark = pytest.mark.mpi(min_size=3)


def report(rank: int, number: int) -> Report:
    """Too long for MPI to store it at the receiver's."""
    p, q = np.full((75, 100), rank / 10), np.full((2, 50), 0.02)
    return Report(number, 0, 0.5, 0.0, 0.0, Costs(), 0.0, p, q, np.array([0.5]))


def until(holds: Callable[[], bool]) -> None:
    """Let MPI go on until ``holds``, for some time at most."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end


def test_colluders_see_the_last_report_of_all_the_honest() -> None:
    channel = Channel(MPI.COMM_WORLD, Codec(SHAPES))
    newest: dict[int, Report] = {}

    def is_seen() -> bool:
        for rank, message in channel.shown():
            assert isinstance(message, Report)
            newest[rank] = message
        return set(newest) == set(HONEST)

    if channel.rank in HONEST:
        channel.show([LAST], report(channel.rank, 7))
    elif channel.rank == LAST:
        until(is_seen)
        assert all(message.number == 7 for message in newest.values())
        assert all((message.p == rank / 10).all() for rank, message in newest.items())
    assert channel.close(SECONDS)


def test_who_does_not_look_is_not_sent_more_and_holds_nobody_up() -> None:
    channel = Channel(MPI.COMM_WORLD, Codec(SHAPES))
    if channel.rank in HONEST:
        for number in range(100):
            channel.show([LAST], report(channel.rank, number))
        channel.send(SERVER, Failure("has shown"))
    elif channel.rank == SERVER:
        for _ in HONEST:  # the server hears of them, and passes it on
            assert channel.receive(lambda: False) is not None
        channel.send(LAST, Failure("all have shown"))
    else:
        assert channel.receive(lambda: False) is not None, "copies are no messages to a worker"
        seen = list(channel.shown())
        assert sorted(rank for rank, _ in seen) == list(HONEST)
        assert all(isinstance(each, Report) and each.number == 0 for _, each in seen)
    assert channel.close(SECONDS)


def test_nobody_waits_for_one_who_never_looks() -> None:
    """Closing takes what is left."""
    channel = Channel(MPI.COMM_WORLD, Codec(SHAPES))
    if channel.rank in HONEST:
        channel.show([LAST], report(channel.rank, 0))
    assert channel.close(SECONDS)
