"""Rank 1 begins a long message and then stops, until rank 0 has heard of rank 2.

    OMPI_MCA_btl=tcp,self mpiexec -n 3 python -m tests.faults.half_sent FIFO

Between nodes, as over TCP here, the rest of a long message is sent only when its sender calls MPI.
"""

import os
import sys

import numpy as np

from asyndbt_mpi.protocol.messages import Costs, Report, Shapes
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.transport.mpi import WORLD, Channel

SHAPES = Shapes(positions=100, words=100, classes=2, pool=5)


def report(number: int) -> Report:
    """One of 80 kB, more than is sent along with the announcement of a message."""
    p, q = np.full((100, 100), 0.01), np.full((2, 5), 0.2)
    return Report(number, 0, 1.0, 0.0, 0.0, Costs(), 0.0, p, q, np.ones(1))


def main(fifo: str) -> None:
    """Rank 0 says whom it hears, in order."""
    channel = Channel(WORLD, Codec(SHAPES))
    if channel.rank == 1:
        channel.send(0, report(1))
        channel.send(0, report(2))
        with open(fifo, "rb") as opened:
            opened.read()  # outside of MPI, until rank 0 has been here
    elif channel.rank == 2:
        WORLD.recv(source=0)
        channel.send(0, report(3))
    else:
        while not channel.is_heard(1):
            pass
        WORLD.send(None, 2)
        heard: list[tuple[int, int]] = []
        while len(heard) < 3:
            arrived = channel.receive()
            assert arrived is not None
            message = channel.codec.decode(arrived[1])
            assert isinstance(message, Report)
            heard.append((arrived[0], message.number))
            if len(heard) == 1:
                assert not channel.is_heard(1)
                os.close(os.open(fifo, os.O_WRONLY))
        print("heard", heard)
    assert channel.close(30.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
