"""Typed messages between MPI ranks, and what all ranks find out together.

Messages travel as buffers by non-blocking sends on a duplicate of the world communicator;
receives are matched probes, so that a message of any rank is taken as soon as it is there, and no
byte of one that is longer than any may be. Workers listen to rank 0 alone.
A rank that waits backs off and sleeps instead of spinning on a core.

Under an MPI library with user-level failure mitigation (Open MPI's `mpiexec --with-ft ulfm`) rank
0 hears of ranks that died. After a death MPI_Finalize may hang: there all ranks leave by `leave`,
without it.

Importing this module starts MPI, or raises a `launcher.Misfit` where that would end the process.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b

import mpi4py
import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.protocol.messages import MalformedMessage, Message
from asyndbt_mpi.protocol.wire import Buffer, Codec
from asyndbt_mpi.transport.launcher import Misfit, aborts, launched, node_name

# Else mpi4py would start MPI before the library can be told by its name.
mpi4py.rc(initialize=False, finalize=True)
from mpi4py import MPI  # noqa: E402


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
SPIN_SECONDS = 5e-3
"""A wait shorter than this only yields the core, so that a fast black box is not held up by the
latency of sleep; a longer one sleeps."""
SLEEP_SHARE = 1 / 16
SHORTEST_SLEEP, LONGEST_SLEEP = 5e-5, 5e-3
CLOCK_ROUNDS = 5
PRESENT = 1
"""Tag with which ranks say that they are there."""
LONGEST_READING = 2**26
"""Bytes that a rank may have to say when all are asked."""
MOST_DROPPED = 64
"""Messages of those who are barred that are dropped before the others have their turn."""
NOTHING: Buffer = np.empty(0, np.uint8)
_ABANDONED: list[object] = []
"""Collectives that were left, and their buffers: MPI may still write to these."""


class StartError(RuntimeError):
    """The ranks cannot start together; says who does not do its part."""


class ServerDied(RuntimeError):
    """Rank 0 is gone, and with it the run."""


class TooLong(MalformedMessage):
    """A message of ``rank`` is longer than any may be, and was not received."""

    def __init__(self, rank: int, length: int, most: int) -> None:
        # MPI knows no number for what it cannot count.
        said = f"of {length} bytes" if length >= 0 else "of a length that cannot be told"
        super().__init__(f"a message {said} is no message: the longest has {most}")
        self.rank = rank


class Channel:
    """Typed messages between ranks.

    Parameters
    ----------
    comm
        Duplicated, so that the messages never meet another library's.

    Attributes
    ----------
    barred : ranks whose messages are dropped
    """

    def __init__(self, comm: MPI.Intracomm, codec: Codec) -> None:
        self.comm = comm.Dup()
        self.codec = codec
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()
        self._started = time.perf_counter()
        self._fault_tolerant = survives_deaths()
        # Ranks whose death nobody has taken notice of yet, and all that are known to be gone.
        self.dead: list[int] = []
        self.gone: set[int] = set()
        # A send's buffer must live until the send is complete.
        self._sends: list[tuple[MPI.Request, Buffer]] = []
        self._status = MPI.Status()
        self.barred: set[int] = set()
        server = self.rank == SERVER
        self._source = MPI.ANY_SOURCE if server else SERVER
        self._longest = codec.longest_to_server if server else codec.longest_to_worker
        # What is not received stays matched, or it would be found again and again.
        self._refused: list[MPI.Message] = []
        self._turn = 0

    def now(self) -> float:
        """Seconds of the run's clock: since the channel was opened, which all ranks do together."""
        return time.perf_counter() - self._started

    def go_on_from(self, seconds: float) -> None:
        """Set the clock of all ranks, which call this together, to rank 0's ``seconds``."""
        clock = np.array([seconds])
        self.comm.Bcast(clock, SERVER)
        self._started = time.perf_counter() - float(clock[0])

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

    def poll(self) -> tuple[int, Buffer] | None:
        """A message that is there, as (rank, buffer), or None; MPI also goes on with sends.

        Raises
        ------
        TooLong
            The message has been taken out of the way, but not received.
        """
        try:
            return self._receive()
        except MPI.Exception as error:
            self._notice(error)
            return None

    def _receive(self) -> tuple[int, Buffer] | None:
        for _ in range(MOST_DROPPED):
            found = self._next(self._source)
            if found is None or found[0] not in self.barred:
                return found
        # Somebody who is barred sends without end, and would be all that is ever found.
        for _ in range(1, self.size):
            self._turn = self._turn % (self.size - 1) + 1
            if self._turn not in self.barred:
                found = self._next(self._turn)
                if found is not None:
                    return found
        return None

    def _next(self, source: int) -> tuple[int, Buffer] | None:
        """The next message of ``source``, whoever it is of."""
        status = self._status
        matched = self.comm.Improbe(source, MPI.ANY_TAG, status)
        if matched is None:
            return None
        rank, length = status.Get_source(), status.Get_elements(MPI.BYTE)
        if not 0 <= length <= self._longest:
            self._refused.append(matched)
            if rank in self.barred:
                return rank, NOTHING
            raise TooLong(rank, length, self._longest)
        buffer: Buffer = np.empty(length, np.uint8)
        matched.Recv((buffer, MPI.BYTE))
        return rank, buffer

    def is_heard(self, rank: int) -> bool:
        """Whether a message of ``rank`` is there to be received."""
        try:
            return bool(self.comm.Iprobe(rank, MPI.ANY_TAG))
        except MPI.Exception as error:
            self._notice(error)
            return False

    def _notice(self, error: MPI.Exception) -> None:
        """Turn MPI's error that a process has failed into entries of ``dead`` and ``gone``."""
        if not self._fault_tolerant or error.Get_error_class() != MPI.ERR_PROC_FAILED:
            raise error
        failed, group = self.comm.Get_failed(), self.comm.Get_group()
        self.comm.Ack_failed(failed.Get_size())
        ranks = failed.Translate_ranks(range(failed.Get_size()), group)
        new = sorted({int(rank) for rank in ranks} - self.gone)
        self.dead += new
        self.gone.update(new)
        group.Free()
        failed.Free()
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
        """Let go of the buffers of sends that are complete."""
        self._sends = [pair for pair in self._sends if not self._is_complete(pair[0])]

    def _is_complete(self, request: MPI.Request) -> bool:
        try:
            return bool(request.Test())
        except MPI.Exception as error:
            self._notice(error)
            return True  # to a rank that is gone

    def close(self, deadline: float) -> bool:
        """Part from all ranks once every send is complete, within ``deadline`` seconds.

        Messages that still arrive are discarded: whoever sent them is on its way here too.
        """
        end = time.perf_counter() + deadline
        barrier: MPI.Request | None = None
        for _ in backoff():
            with suppress(TooLong):
                self.poll()
            self._complete_sends()
            if not self._sends and self._fault_tolerant:
                # A barrier would never be complete after a death. Who leaves is seen to be gone.
                if self.rank != SERVER or len(self.gone) == self.size - 1:
                    return True
            elif not self._sends and barrier is None:
                barrier = self.comm.Ibarrier()
            if barrier is not None and barrier.Test():
                self.comm.Free()
                return True
            if time.perf_counter() > end:
                return False
        raise AssertionError("backoff never ends")


def survives_deaths() -> bool:
    """Whether the launcher was told to let a run go on when one of its processes dies."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable", "") in ("1", "true")  # noqa: SIM112


def leave(code: int) -> int:
    """End this rank with exit code ``code``, after `Channel.close`; returns where MPI can end."""
    if survives_deaths():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def backoff() -> Iterator[None]:
    """Yields at growing intervals: after yielding the core at first, then after sleeps.

    A sleep is a fixed share of the wait so far: what comes late is noticed late by no more
    than that share, and a long wait costs next to nothing.
    """
    started = time.perf_counter()
    while True:
        yield
        waited = time.perf_counter() - started
        if waited < SPIN_SECONDS:
            os.sched_yield()
        else:
            time.sleep(min(max(waited * SLEEP_SHARE, SHORTEST_SLEEP), LONGEST_SLEEP))


# ---------------------------------------------------------------- all ranks together


def agree(comm: MPI.Intracomm, ok: bool) -> tuple[bool, bool]:
    """Whether every rank is ok, and whether this rank is the one that should say what is not."""
    first_bad = np.array([comm.Get_size() if ok else comm.Get_rank()])
    lowest = np.empty_like(first_bad)
    comm.Allreduce(first_bad, lowest, MPI.MIN)
    return bool(lowest[0] == comm.Get_size()), bool(lowest[0] == comm.Get_rank())


def from_server(value: int) -> int:
    """Rank 0's ``value``, on every rank."""
    shared = np.array([value])
    WORLD.Bcast(shared, SERVER)
    return int(shared[0])


def wait_for_all(comm: MPI.Intracomm, seconds: float = math.inf) -> None:
    """Return once every rank has called this; who is early leaves its core to the others.

    Raises
    ------
    StartError
        At rank 0: some had not after ``seconds``, or do something else. Then nothing goes on but
        by an abort.
    """
    here = np.zeros(1, np.uint8)
    if comm.Get_rank() == SERVER:
        _call_the_roll(comm, here, seconds)
    else:
        _ABANDONED.append((comm.Isend((here, MPI.BYTE), SERVER, PRESENT), here))
    barrier = comm.Ibarrier()
    for _ in backoff():
        if barrier.Test():
            return


def _call_the_roll(comm: MPI.Intracomm, here: Buffer, seconds: float) -> None:
    """Hear of every other rank that it is there."""
    missing, status = set(range(1, comm.Get_size())), MPI.Status()
    end = time.perf_counter() + seconds
    for _ in backoff():
        while missing and comm.Iprobe(MPI.ANY_SOURCE, PRESENT, status):
            rank, length = status.Get_source(), status.Get_elements(MPI.BYTE)
            if length != len(here):
                raise StartError(f"rank {rank} sent {length} bytes to say that it is there, not 1")
            comm.Recv((here, MPI.BYTE), rank, PRESENT)
            missing.discard(rank)
        if not missing:
            return
        if time.perf_counter() > end:
            who = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, sorted(missing)))}"
            raise StartError(f"{who} took no part in the start for {seconds:g} seconds")


def node_share(comm: MPI.Intracomm) -> tuple[int, int]:
    """This worker's number among the workers on its node (from 0), and its share of cores.

    Cores are those that the process may run on, divided by the workers of the node that may
    run on the same ones; at least 1. Rank 0 hardly computes and is not counted.
    """
    rank = comm.Get_rank()
    mine = sorted(os.sched_getaffinity(0))
    nodes, cores = _everyones(comm, node_name()), _everyones(comm, f"{node_name()} {mine}")
    before = int((nodes[SERVER + 1 : rank] == nodes[rank]).sum())
    sharing = int((cores[SERVER + 1 :] == cores[rank]).sum())
    return before, max(1, len(mine) // max(1, sharing))


def _everyones(comm: MPI.Intracomm, token: str) -> NDArray[np.int64]:
    """A digest of every rank's ``token``, in order of rank."""
    everyones = np.empty(comm.Get_size(), np.int64)
    comm.Allgather(_digest(token), everyones)
    return everyones


def _digest(token: str) -> NDArray[np.int64]:
    return np.frombuffer(blake2b(token.encode(), digest_size=8).digest(), np.int64)


def workers_of_node(comm: MPI.Intracomm) -> MPI.Comm:
    """The workers of this rank's node among themselves; rank 0 gets the null communicator."""
    rank, nodes = comm.Get_rank(), _everyones(comm, node_name())
    first_of_node = int(np.argmax(nodes == nodes[rank]))
    return comm.Split(MPI.UNDEFINED if rank == SERVER else first_of_node, rank)


def alike(comm: MPI.Comm, token: str, until: Callable[[], bool] = lambda: False) -> int:
    """How many ranks of ``comm``, this one included, gave the same ``token``; 0 for none.

    Ranks may come late: those that are there sleep. Where one has died, or ``until`` became true
    first, it is 1, for nobody knows.
    """
    own = _digest(token)
    everyone = np.empty(comm.Get_size(), np.int64)
    try:
        request = comm.Iallgather(own, everyone)
        for _ in backoff():
            if request.Test():
                break
            if until():
                _ABANDONED.append((request, own, everyone))
                return 1
    except MPI.Exception:
        if not survives_deaths():
            raise
        everyone = own  # the server will notice
    return int((everyone == own[0]).sum()) if token else 0


def gather_texts(comm: MPI.Intracomm, text: str) -> list[str]:
    """Every rank's ``text``, in order of rank, at rank 0; nothing at the others."""
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = np.empty(comm.Get_size(), np.int64)
    comm.Allgather(np.array([len(own)]), lengths)
    wrong = np.flatnonzero((lengths < 0) | (lengths > LONGEST_READING))
    if len(wrong):
        raise StartError(f"rank {wrong[0]} has {lengths[wrong[0]]} bytes to say")
    ends = lengths.cumsum()
    everything = np.empty(ends[-1] if comm.Get_rank() == SERVER else 0, np.uint8)
    comm.Gatherv(own, (everything, (lengths, ends - lengths)), SERVER)
    if comm.Get_rank() != SERVER:
        return []
    return [part.tobytes().decode() for part in np.split(everything, ends[:-1])]


def clock_offsets(comm: MPI.Intracomm) -> list[float]:
    """Every rank's wall clock less that of rank 0, in seconds, at rank 0; nothing at the others.

    Of some rounds there and back the fastest counts, in whose middle the other clock was read:
    so it is known to half of that round (Cristian, Distributed Computing 3, 1989).
    """
    clock = np.zeros(1)
    if comm.Get_rank() != SERVER:
        for _ in range(CLOCK_ROUNDS):
            comm.Recv(clock, SERVER)
            clock[0] = time.time()
            comm.Send(clock, SERVER)
        return []
    offsets = [0.0]
    for rank in range(1, comm.Get_size()):
        rounds = []
        for _ in range(CLOCK_ROUNDS):
            sent = time.time()
            comm.Send(clock, rank)
            comm.Recv(clock, rank)
            back = time.time()
            rounds.append((back - sent, float(clock[0]) - (sent + back) / 2))
        offsets.append(min(rounds)[1])
    return offsets
