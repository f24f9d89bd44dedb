"""A bell that wakes the ranks of one machine: MPI itself has no wait that sleeps.

Whoever has sent a message rings at its receiver: an empty datagram to the socket at which that
sleeps. A ring carries nothing: one that is lost, late or a stranger's costs a moment, for MPI is
asked in any case. Sockets have abstract names (Linux), which leave no files behind.
"""

import contextlib
import select
import socket
from collections.abc import Iterable


class Bell:
    """The bell of one rank.

    Parameters
    ----------
    run : a number that other runs on this machine do not have
    callers : ranks whose messages this one waits for

    Attributes
    ----------
    is_enough : all ``callers`` are on this machine, so that a rank can sleep until it is rung at;
        known once each was rung at
    """

    def __init__(self, run: int, rank: int, callers: Iterable[int]) -> None:
        self._name = f"\0asyndbt-{run:x}-"
        self._unknown = set(callers)
        self._far: set[int] = set()
        self.is_enough = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(f"{self._name}{rank}")
        self._rung = select.poll()
        self._rung.register(self._socket, select.POLLIN)

    def ring(self, rank: int) -> None:
        """Wake ``rank``, if it is on this machine."""
        if rank in self._far:
            return
        try:
            self._socket.sendto(b"", f"{self._name}{rank}")
        except BlockingIOError:  # it has been rung at so often that it cannot be asleep
            pass
        except OSError:  # there is no such socket here
            self._far.add(rank)
            self.is_enough = False
            return
        if self._unknown:
            self._unknown.discard(rank)
            self.is_enough = not (self._unknown or self._far)

    def sleep(self, seconds: float) -> None:
        """Sleep until somebody rings, for ``seconds`` at most."""
        if self._rung.poll(1e3 * seconds):
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._socket.recv(1)

    def close(self) -> None:
        """Nobody is heard any more."""
        self._socket.close()
