"""Rank 1 floods rank 0 with messages that are too long; rank 0 says what that takes of memory.

    OMPI_MCA_btl=tcp,self mpiexec -n 4 python -m tests.faults.too_long LENGTH BURSTS

It is heard for half of the bursts, and excluded then. The next burst is sent when the last was
taken, for what MPI stores of one before rank 0 can look at it is not measured here.
"""

import os
import sys

import numpy as np

from asyndbt_mpi.protocol.messages import Shapes, Stop
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.transport.mpi import MPI, WORLD, Channel, TooLong

SHAPES = Shapes(positions=3, words=4, classes=2, pool=5)
BURST = 500
"""Messages that rank 1 sends without waiting."""


def resident() -> float:
    """The memory of this process in MiB."""
    with open("/proc/self/statm") as opened:
        return int(opened.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def flood(channel: Channel, length: int, bursts: int) -> None:
    """Send as many bursts, all out of the same bytes."""
    block = np.zeros(1000, np.uint8)
    kind = MPI.BYTE.Create_contiguous(1000).Create_hvector(length // 1000, 1, 0).Commit()
    for _ in range(bursts):
        MPI.Request.Waitall([channel.comm.Isend([block, 1, kind], 0) for _ in range(BURST)])
        WORLD.send(None, 0)
        WORLD.recv(source=0)


def listen(channel: Channel, bursts: int) -> None:
    """Take everything; the others are to be heard meanwhile."""
    before, most = resident(), 0.0
    heard: set[int] = set()
    refused = 0
    for burst in range(bursts):
        if burst == bursts // 2:
            channel.barred.add(1)
        sent = WORLD.irecv(source=1)
        while not sent.test()[0] or channel.is_heard(1) or channel._discarded:
            try:
                arrived = channel.poll()
            except TooLong as error:
                refused += error.rank == 1
            else:
                heard.update(arrived[:1] if arrived else ())
            most = max(most, resident() - before)
        WORLD.send(None, 1)
    print(f"refused {refused} of {bursts * BURST}, heard {sorted(heard)}, grew by {most:.0f} MiB")


def main(length: int, bursts: int) -> None:
    """Every rank's part."""
    channel = Channel(WORLD, Codec(SHAPES))
    assert length > channel.codec.longest_to_server
    if channel.rank == 0:
        listen(channel, bursts)
    elif channel.rank == 1:
        flood(channel, length, bursts)
    else:
        channel.send(0, Stop())
    assert channel.close(60.0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
