import numpy as np
import pytest
from mpi4py import MPI

from asyndbt_mpi.protocol.messages import (
    Assignment,
    EvaluationRequest,
    Failure,
    Shapes,
    Stop,
)
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.transport.mpi import Channel, TooLong, library

SHAPES = Shapes(positions=75, words=100, classes=2, pool=50)
_UNFINISHED: list[MPI.Request] = []
"""Sends that nobody receives."""


@pytest.fixture
def channel():
    made = Channel(MPI.COMM_WORLD, Codec(SHAPES))
    yield made
    assert made.close(30.0)


def dual_gradient(rank: int, number: int) -> np.ndarray:
    return np.full((75, 100), rank + number / 1000)


@pytest.mark.mpi(min_size=2)
def test_messages_arrive_whole_and_in_order_however_busy_the_receiver(channel: Channel) -> None:
    count = 50
    if channel.rank != 0:
        for number in range(count):
            channel.send(0, Assignment(number, channel.rank, dual_gradient(channel.rank, number)))
        return
    following = dict.fromkeys(range(1, channel.size), 0)
    while any(number < count for number in following.values()):
        rank, buffer = channel.receive()
        message = channel.codec.decode(buffer)
        assert (message.iteration, message.number) == (rank, following[rank])
        np.testing.assert_array_equal(message.dual_gradient, dual_gradient(rank, message.number))
        following[rank] += 1


@pytest.mark.mpi(min_size=2)
def test_a_buffer_may_be_changed_as_soon_as_it_was_sent(channel: Channel) -> None:
    if channel.rank == 0:
        array = np.zeros((75, 100))
        for rank in range(1, channel.size):
            array[:] = rank
            channel.send(rank, Assignment(1, 0, array))
        array[:] = np.nan
        return
    _, buffer = channel.receive()
    assert (channel.codec.decode(buffer).dual_gradient == channel.rank).all()


@pytest.mark.mpi(min_size=2)
def test_kinds_are_told_apart_by_content_not_by_order(channel: Channel) -> None:
    sent = [
        Stop(),
        EvaluationRequest(3, 1, 0, np.arange(75), np.arange(2)),
        Failure("worker 1: broken"),
        Assignment(1, 2, dual_gradient(0, 0)),
    ]
    if channel.rank == 0:
        for rank in range(1, channel.size):
            for message in sent[rank % 4 :] + sent[: rank % 4]:
                channel.send(rank, message)
        return
    received = [type(channel.codec.decode(channel.receive()[1])) for _ in sent]
    start = channel.rank % 4
    assert received == [type(message) for message in sent[start:] + sent[:start]]


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("length", [1, 300_000_000, 3_000_000_000], ids=["byte", "300 MB", "3 GB"])
def test_a_message_that_is_too_long_is_refused_at_once_and_holds_up_nobody(length: int) -> None:
    """It is sent out of one byte that is sent over and over; so much is never allocated."""
    comm = MPI.COMM_WORLD.Dup()
    channel = Channel(comm, Codec(SHAPES))
    more = channel.codec.longest_to_server if length == 1 else 0
    request = None
    if channel.rank == 1:
        block = MPI.BYTE.Create_hvector(1000, 1, 0) if length > 1 else MPI.BYTE
        count = length // 1000 if length > 1 else more + 1
        kind = block.Create_hvector(count, 1, 0).Commit()
        request = channel.comm.Isend([np.zeros(1, np.uint8), 1, kind], 0)
        channel.send(0, Stop())
    elif channel.rank == 2:
        channel.send(0, Stop())
    elif channel.rank == 0:
        heard, refused = [], []
        while not (heard and refused):
            try:
                heard.append(channel.receive()[0])
            except TooLong as error:
                refused.append(error.rank)
                channel.barred.add(error.rank)
        assert (heard, refused) == ([2], [1])
    assert comm.Get_size() >= 3
    MPI.COMM_WORLD.Barrier()
    if request is not None:
        request.Cancel()
        _UNFINISHED.append(request)


@pytest.mark.mpi(min_size=3)
def test_a_flood_of_one_who_is_barred_starves_nobody(channel: Channel) -> None:
    if channel.rank == 1:
        for _ in range(2000):
            channel.send(0, Stop())
    MPI.COMM_WORLD.Barrier()
    if channel.rank == 2:
        channel.send(0, Failure("heard"))
    if channel.rank == 0:
        channel.barred.add(1)
        assert channel.receive()[0] == 2
        assert channel.is_heard(1)
        while channel.is_heard(1):
            assert channel.poll() is None


@pytest.mark.mpi(min_size=3)
def test_workers_listen_to_the_server_alone(channel: Channel) -> None:
    last = channel.size - 1
    if channel.rank == last:
        for rank in range(1, last):
            channel.send(rank, Stop())
    MPI.COMM_WORLD.Barrier()
    if channel.rank == 0:
        for rank in range(1, last):
            channel.send(rank, Assignment(1, 0, dual_gradient(0, 0)))
    elif channel.rank < last:
        assert isinstance(channel.codec.decode(channel.receive()[1]), Assignment)
        assert channel.poll() is None


@pytest.mark.mpi(min_size=2)
def test_waiting_can_be_given_up(channel: Channel) -> None:
    asked = []
    assert channel.receive(until=lambda: len(asked) > 3 or bool(asked.append(0))) is None


@pytest.mark.mpi(min_size=2)
def test_its_messages_do_not_meet_those_of_the_world(channel: Channel) -> None:
    rank, size = channel.rank, channel.size
    number, other = np.array([rank]), np.empty(1, int)
    request = MPI.COMM_WORLD.Isend(number, (rank + 1) % size)
    assert channel.poll() is None
    MPI.COMM_WORLD.Recv(other, (rank - 1) % size)
    request.Wait()
    assert other[0] == (rank - 1) % size


@pytest.mark.mpi
def test_the_library_has_a_name_and_a_version() -> None:
    name, _, version = library().rpartition(" ")
    assert name
    assert version[0].isdecimal()
