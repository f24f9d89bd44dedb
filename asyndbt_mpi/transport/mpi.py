"""Typed messages between MPI ranks.

Messages travel as buffers by non-blocking sends on a duplicate of the world communicator;
receives are matched probes, so that any rank's message is received as soon as it has arrived, and
of one that is too long MPI keeps the beginning at most. Workers listen to rank 0 alone. A waiting
rank backs off and sleeps instead of spinning on a core.

Under an MPI library with user-level failure mitigation (Open MPI's `mpiexec --with-ft ulfm`) rank
0 learns of ranks that died. After a death MPI_Finalize may hang, so all ranks then leave through
`leave`, without it.

Importing this module starts MPI, or raises a `launcher.Misfit` if that would end the process.
"""

import atexit
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import mpi4py
import numpy as np

from asyndbt_mpi.protocol.messages import MalformedMessage, Message
from asyndbt_mpi.protocol.wire import Buffer, Codec
from asyndbt_mpi.transport.launcher import Misfit, aborts, launched

# Otherwise mpi4py would start MPI before the library's name is known.
mpi4py.rc(initialize=False, finalize=True)
from mpi4py import MPI as MPI  # noqa: E402 (together.py takes it from here, when MPI has started)


def library() -> str:
    """The MPI library that was loaded, with its version."""
    name, version = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, version))}"


if not MPI.Is_initialized():
    if aborts(os.environ, library()):
        raise Misfit(launched(os.environ), library())
    MPI.Init_thread()

WORLD = MPI.COMM_WORLD
SERVER = 0
COPY = 1
"""Tag of what one worker shows another; all other messages have 0."""
SPIN_SECONDS = 5e-3
"""Seconds for which a wait only yields the core, so that the latency of sleep does not slow down a
fast black box; after that it sleeps."""
SLEEP_SHARE = 1 / 16
SHORTEST_SLEEP, LONGEST_SLEEP = 5e-5, 5e-3
STANDSTILL_SECONDS = 0.25
"""Seconds; if two checks are further apart, this process was stopped or otherwise busy."""
ARRIVAL_SECONDS = 1e-3
"""Seconds in which any message of a run arrives completely, unless its sender has stopped."""
MOST_DROPPED = 1024
"""Messages of barred ranks that are dropped before the others have their turn; also those of the
discarded that are looked at in a turn."""
NOTHING: Buffer = np.empty(0, np.uint8)
MOST_READ = 2**20
"""Bytes of a message that is too long, if it is still read, whole, to free what MPI has of it: Open
MPI 5.0.11 writes beyond the end of a shorter buffer. Of longer ones MPI has but the beginning."""
LEAVING: list[bool] = []
"""Whether this process is to `leave` when Python ends."""
ABANDONED: list[object] = []
"""Abandoned collectives, and their buffers, to which MPI may still write."""


class StartError(RuntimeError):
    """The ranks cannot start together, with the reason; only an abort then ends them all."""


class ServerDied(RuntimeError):
    """Rank 0 is gone, and with it the run."""


class TooLong(MalformedMessage):
    """A message from ``rank`` is too long, and is discarded."""

    def __init__(self, rank: int, length: int, most: int) -> None:
        # MPI knows no number for what it cannot count.
        written = f"{length} bytes" if length >= 0 else "unknown length"
        super().__init__(f"a message of {written} is too long: the limit is {most} bytes")
        self.rank = rank


class Channel:
    """Typed messages between ranks.

    Parameters
    ----------
    comm
        Duplicated, so that the messages never meet another library's.
    clock
        Seconds that the run's clock shows now; rank 0's counts.
    patience
        Seconds to wait for the other ranks, which open their channels together.

    Raises
    ------
    StartError
        Some rank did not take part within ``patience``.

    Attributes
    ----------
    barred : ranks whose messages are dropped
    """

    def __init__(
        self, comm: MPI.Intracomm, codec: Codec, clock: float = 0.0, patience: float = math.inf
    ) -> None:
        self.comm, duplicated = comm.Idup()
        complete(comm, duplicated, patience)
        self.codec = codec
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()
        shown = np.array([clock])
        complete(self.comm, self.comm.Ibcast(shown, SERVER), patience, shown)
        self._started = time.perf_counter() - float(shown[0])
        self._fault_tolerant = survives_deaths()
        # Ranks whose death has not been handled yet, and all that are known to be gone.
        self.dead: list[int] = []
        self.gone: set[int] = set()
        # A send's buffer must live until the send is complete.
        self._sends: list[tuple[MPI.Request, Buffer]] = []
        # By rank, the last that was shown to it and that it has perhaps not taken.
        self._copies: dict[int, tuple[MPI.Request, Buffer]] = {}
        self._status = MPI.Status()
        self.barred: set[int] = set()
        server = self.rank == SERVER
        self._source = MPI.ANY_SOURCE if server else SERVER
        self._longest = codec.longest_to_server if server else codec.longest_to_worker
        # Messages that are too long: not read yet, being read, and too long to be read. Those that
        # are not read stay matched, or they would be found again and again.
        self._unread: deque[tuple[MPI.Message, int]] = deque()
        self._discarded: deque[tuple[MPI.Request, Buffer]] = deque()
        self._refused: list[MPI.Message] = []
        # Messages that have begun to arrive, by rank: the rest may never come.
        self._arriving: dict[int, tuple[MPI.Request, Buffer]] = {}
        self._turn = 0

    def now(self) -> float:
        """Seconds of the run's clock: which all ranks started together."""
        return time.perf_counter() - self._started

    def send(self, rank: int, message: Message) -> None:
        """Start to send ``message``; returns at once. Nothing is sent to the dead."""
        buffer = self.codec.encode(message)
        self._complete_sends()
        if rank in self.gone:
            return
        try:
            self._sends.append((self.comm.Isend((buffer, MPI.BYTE), rank), buffer))
        except MPI.Exception as error:
            self._notice(error)

    def show(self, ranks: Iterable[int], message: Message) -> None:
        """Start to send a copy of ``message`` to other workers, to be taken by `shown`.

        One that has not taken the last copy does not get this one: what is under way is bounded.
        """
        for rank in ranks:
            if rank in self.gone or not self._is_taken(rank):
                continue
            buffer = self.codec.encode(message)
            try:
                # Synchronous: complete when it was received, not when MPI has stored it somewhere.
                request = self.comm.Issend((buffer, MPI.BYTE), rank, COPY)
                self._copies[rank] = request, buffer
            except MPI.Exception as error:
                self._notice(error)

    def _is_taken(self, rank: int) -> bool:
        if rank in self._copies and self._is_complete(self._copies[rank][0]):
            del self._copies[rank]
        return rank not in self._copies

    def _has_shown_all(self) -> bool:
        """Whether all copies were taken; takes those of the others, who wait for that as well."""
        if self.rank == SERVER:
            return True
        for _ in self.shown():
            pass
        return all(map(self._is_taken, list(self._copies)))

    def shown(self) -> Iterator[tuple[int, Message]]:
        """What other workers have shown this one since, as (rank, message)."""
        for rank in set(range(1, self.size)) - {self.rank} - self.gone:
            # One by one: of any rank, MPI tells nothing more once one has died.
            try:
                matched = self.comm.Improbe(rank, COPY, self._status)
            except MPI.Exception as error:
                self._notice(error)
                continue
            if matched is not None:
                buffer: Buffer = np.empty(self._status.Get_elements(MPI.BYTE), np.uint8)
                matched.Recv((buffer, MPI.BYTE))
                yield rank, self.codec.decode(buffer)

    def poll(self) -> tuple[int, Buffer] | None:
        """A message that has arrived, as (rank, buffer), or None; also lets MPI progress sends.

        Raises
        ------
        TooLong
            The message is discarded.
        """
        try:
            self._read_unread()
            return self._receive()
        except MPI.Exception as error:
            self._notice(error)
            return None

    def _receive(self) -> tuple[int, Buffer] | None:
        for rank in list(self._arriving):
            if found := self._arrived(rank):
                return found
        # Asked for any rank's message, MPI may return one of a rank whose last is still arriving.
        for _ in range(0 if self._arriving else MOST_DROPPED):
            found = self._next(self._source)
            if found is None or found[0] not in self.barred:
                return found
        # Or a barred rank sends endlessly, and only its messages would ever be found.
        for _ in range(1, self.size if self.rank == SERVER else 1):
            self._turn = self._turn % (self.size - 1) + 1
            if self._turn not in self.barred and self._turn not in self._arriving:
                found = self._next(self._turn)
                if found is not None:
                    return found
        return None

    def _next(self, source: int) -> tuple[int, Buffer] | None:
        """The next message from ``source``; None if it has not arrived completely."""
        status = self._status
        matched = self.comm.Improbe(source, MPI.ANY_TAG, status)
        if matched is None:
            return None
        rank, length = status.Get_source(), status.Get_elements(MPI.BYTE)
        if not 0 <= length <= self._longest:
            self._discard(matched, length)
            if rank in self.barred:
                return rank, NOTHING
            raise TooLong(rank, length, self._longest)
        buffer: Buffer = np.empty(length, np.uint8)
        self._arriving[rank] = matched.Irecv((buffer, MPI.BYTE)), buffer
        until = time.perf_counter() + ARRIVAL_SECONDS
        while (found := self._arrived(rank)) is None and time.perf_counter() < until:
            pass
        return found

    def _discard(self, matched: MPI.Message, length: int) -> None:
        if 0 <= length <= MOST_READ:
            self._unread.append((matched, length))
            self._read_unread()
        else:
            self._refused.append(matched)

    def _read_unread(self) -> None:
        """Release what was read, the next few in turn, and go on with about `MOST_READ` bytes."""
        if not self._discarded and not self._unread:
            return
        for _ in range(min(len(self._discarded), MOST_DROPPED)):
            request, buffer = self._discarded.popleft()
            if not self._is_complete(request):
                self._discarded.append((request, buffer))
        reading = sum(len(buffer) for _, buffer in self._discarded)
        while self._unread and reading < MOST_READ:
            matched, length = self._unread.popleft()
            buffer = np.empty(length, np.uint8)
            request = matched.Irecv([buffer, MPI.BYTE])
            if not self._is_complete(request):
                self._discarded.append((request, buffer))
                reading += length

    def _arrived(self, rank: int) -> tuple[int, Buffer] | None:
        """The message of ``rank`` that began to arrive, if it is complete by now."""
        request, buffer = self._arriving[rank]
        try:
            whole = bool(request.Test())
        except MPI.Exception:
            del self._arriving[rank]  # it died meanwhile
            raise
        if not whole:
            return None
        del self._arriving[rank]
        return rank, buffer

    def is_heard(self, rank: int) -> bool:
        """Whether a complete message from ``rank`` can be received."""
        if rank in self._arriving:
            return False
        try:
            return bool(self.comm.Iprobe(rank, MPI.ANY_TAG))
        except MPI.Exception as error:
            self._notice(error)
            return False

    def _notice(self, error: MPI.Exception) -> None:
        """Turn MPI's error that a process has failed into entries of ``dead`` and ``gone``."""
        if not self._fault_tolerant or error.Get_error_class() != MPI.ERR_PROC_FAILED:
            raise error
        failed = died(self.comm)
        self.comm.Ack_failed(len(failed))
        new = [rank for rank in failed if rank not in self.gone]
        self.dead += new
        self.gone.update(new)
        if SERVER in self.gone:
            raise ServerDied("rank 0, the server, died") from error

    def receive(self, until: Callable[[], bool] = lambda: False) -> tuple[int, Buffer] | None:
        """Wait for a message; None if ``until`` became true first."""
        for _ in backoff():
            arrived = self.poll()
            if arrived is not None:
                return arrived
            if until():
                return None
        raise AssertionError("backoff never ends")

    def _complete_sends(self) -> None:
        """Release the buffers of completed sends."""
        self._sends = [pair for pair in self._sends if not self._is_complete(pair[0])]

    def _is_complete(self, request: MPI.Request) -> bool:
        try:
            return bool(request.Test())
        except MPI.Exception as error:
            self._notice(error)
            return True  # to a rank that is gone

    def close(self, deadline: float) -> bool:
        """Disconnect from all ranks once every send is complete, within ``deadline`` seconds.

        Messages that still arrive are discarded, as their senders are closing, too.
        """
        barrier: MPI.Request | None = None
        for _ in backoff_for(deadline):
            with suppress(TooLong):
                self.poll()
            self._complete_sends()
            if not self._has_shown_all():
                continue
            if not self._sends and self._fault_tolerant:
                # A barrier would never complete after a death. Ranks that leave count as gone.
                if self.rank != SERVER or len(self.gone) == self.size - 1:
                    return True
            elif not self._sends and barrier is None:
                barrier = self.comm.Ibarrier()
            if barrier is not None and barrier.Test():
                self.comm.Free()
                return True
        return False


def survives_deaths() -> bool:
    """Whether the launcher lets a run continue when one of its processes dies."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable", "") in ("1", "true")  # noqa: SIM112


def leave(code: int) -> int:
    """End this rank with exit code ``code``, after `Channel.close`; returns if MPI can end."""
    if survives_deaths():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def leave_at_exit() -> None:
    """Have this process `leave` when Python ends, with code 1 after an uncaught error."""
    LEAVING.append(True)
    atexit.register(lambda: leave(int(hasattr(sys, "last_type"))))


def backoff() -> Iterator[None]:
    """Yields at growing intervals: after yielding the core at first, then after sleeps.

    A sleep is a fixed share of the wait so far: an event is noticed late by no more than that
    share, and a long wait costs almost nothing.
    """
    started = time.perf_counter()
    while True:
        yield
        waited = time.perf_counter() - started
        if waited < SPIN_SECONDS:
            os.sched_yield()
        else:
            time.sleep(min(max(waited * SLEEP_SHARE, SHORTEST_SLEEP), LONGEST_SLEEP))


def backoff_for(seconds: float) -> Iterator[None]:
    """Like `backoff`, for ``seconds`` in which this process did not stand still."""
    spent, last = 0.0, time.perf_counter()
    for _ in backoff():
        yield
        now = time.perf_counter()
        spent, last = spent + min(now - last, STANDSTILL_SECONDS), now
        if spent > seconds:
            return


def died(comm: MPI.Intracomm) -> list[int]:
    """The ranks of ``comm`` that are known to have died."""
    failed, group = comm.Get_failed(), comm.Get_group()
    ranks = sorted(map(int, failed.Translate_ranks(range(failed.Get_size()), group)))
    group.Free()
    failed.Free()
    return ranks


@contextmanager
def deaths_told(comm: MPI.Intracomm) -> Iterator[None]:
    """Turn MPI's error that a process has failed into a `StartError` that names it."""
    try:
        yield
    except MPI.Exception as error:
        if not survives_deaths() or error.Get_error_class() != MPI.ERR_PROC_FAILED:
            raise
        raise StartError(f"{names(died(comm))} died during the start") from error


def names(ranks: Iterable[int]) -> str:
    """The ``ranks`` in words."""
    numbers = [str(rank) for rank in sorted(ranks)]
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(numbers)}"


def complete(comm: MPI.Intracomm, request: MPI.Request, seconds: float, *buffers: object) -> None:
    """Wait for a collective call of ``comm``, whose ``buffers`` MPI uses until then.

    Raises
    ------
    StartError
        It is not complete after ``seconds``, as some rank has stopped; or one has died.
    """
    with deaths_told(comm):
        for _ in backoff_for(seconds):
            if request.Test():
                return
    ABANDONED.append((request, *buffers))
    raise StartError(f"a rank stopped in the middle of the start, {seconds:g} seconds ago")
