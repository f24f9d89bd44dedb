"""The MPI driver: rank 0 runs the server, every other rank a worker.

Messages travel as buffers by non-blocking sends on a duplicate of the world communicator;
receives are matched probes, so that a message of any worker is taken as soon as it is there.
A rank that waits backs off and sleeps instead of spinning on a core.

Under an MPI library with user-level failure mitigation (Open MPI's `mpiexec --with-ft ulfm`) the
server hears of ranks that died, and goes on without them. After a death MPI_Finalize may hang:
there all ranks leave by `leave`, without it.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import numpy as np
from mpi4py import MPI

from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.messages import (
    Failure,
    Hello,
    MalformedMessage,
    Message,
    Reset,
    Restore,
    Stop,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.records import Output, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.wire import Buffer, Codec
from asyndbt_mpi.protocol.worker import Completed, Workers
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.replay import Replay

WORLD = MPI.COMM_WORLD
SERVER = 0
SPIN_SECONDS = 5e-3
"""A wait shorter than this only yields the core, so that a fast black box is not held up by the
latency of sleep; a longer one sleeps."""
SLEEP_SHARE = 1 / 16
SHORTEST_SLEEP, LONGEST_SLEEP = 5e-5, 5e-3
TICK_SECONDS = 0.25
"""How often the server looks at its workers' silence and at the budget of seconds."""
STOP_SECONDS = 2.5
"""How long a worker that was signalled waits for the server's stop before it reports itself."""


class Sink(Protocol):
    """Where the server's records go."""

    def write(self, records: list[Record]) -> None:
        """Take the records of one step."""
        ...

    def idle(self) -> None:
        """Use a moment in which the server waits; called over and over."""
        ...


class Interrupted(Exception):
    """The process was asked to end by a signal."""


class ServerDied(RuntimeError):
    """Rank 0 is gone, and with it the run."""


class Channel:
    """Typed messages between ranks.

    Parameters
    ----------
    comm
        Duplicated, so that the messages never meet another library's.
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
        """A message that is there, as (rank, buffer), or None; MPI also goes on with sends."""
        try:
            return self._receive()
        except MPI.Exception as error:
            self._notice(error)
            return None

    def _receive(self) -> tuple[int, Buffer] | None:
        status = self._status
        matched = self.comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)
        if matched is None:
            return None
        # Received whole, however long: a matched receive into a shorter buffer crashes Open MPI 5.
        buffer: Buffer = np.empty(status.Get_count(MPI.BYTE), np.uint8)
        matched.Recv((buffer, MPI.BYTE))
        if self.rank == SERVER:
            # No worker has anything longer to say; what is gets cut, and decoding then refuses it.
            buffer = buffer[: self.codec.longest + 1]
        return status.Get_source(), buffer

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


@contextmanager
def signals_noted(signals: Sequence[signal.Signals]) -> Iterator[list[signal.Signals]]:
    """Collect the ``signals`` instead of dying of them; for all that comes before `work`, too."""
    received: list[signal.Signals] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))

    previous = {number: signal.signal(number, note) for number in signals}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- server


def serve(
    channel: Channel,
    server: Server,
    sink: Sink,
    signalled: Sequence[signal.Signals] = (),
    earlier: Replay | None = None,
) -> bool:
    """Run the server until it has finished; False if one was ``signalled`` before.

    A worker whose message is malformed is excluded, one that died or is silent for too long is
    lost, and the run goes on without it. Errors of the server are raised; the caller then closes
    the log and calls `stop_all`. ``earlier`` is what a resumed run goes on from.
    """
    next_tick = time.perf_counter() + TICK_SECONDS

    def waiting() -> bool:
        sink.idle()
        return bool(signalled or channel.dead or time.perf_counter() > next_tick)

    while not server.finished and not signalled:
        arrived = channel.receive(until=waiting)
        due = time.perf_counter() > next_tick
        if due:
            next_tick = time.perf_counter() + TICK_SECONDS
        for output in _outputs(channel, server, arrived, due, earlier):
            for destination, message in output.messages:
                if earlier is None or not earlier.holds(destination, message):
                    channel.send(destination, message)
            sink.write(output.records)
    return server.finished


def _outputs(
    channel: Channel,
    server: Server,
    arrived: tuple[int, Buffer] | None,
    tick: bool,
    earlier: Replay | None,
) -> Iterator[Output]:
    """What comes of a message that arrived, of deaths, and of the mere time."""
    if arrived is not None:
        yield _take(channel, server, *arrived, earlier)
    while channel.dead:
        yield server.lose(channel.dead.pop(0), "its process died", channel.now())
    if tick:
        yield server.tick(channel.now())


def _take(
    channel: Channel, server: Server, worker: int, buffer: Buffer, earlier: Replay | None
) -> Output:
    try:
        message = channel.codec.decode(buffer)
        if not isinstance(message, ToServer):
            raise MalformedMessage(f"{type(message).__name__} is not for the server")
        if earlier is not None and isinstance(message, Hello):
            answers = earlier.greet(worker, message)
            if answers is not None:
                return Output([(worker, answer) for answer in answers])
        return server.receive(worker, message, channel.now())
    except MalformedMessage as error:
        return server.exclude(worker, str(error), channel.now())


def stop_all(channel: Channel, server: Server) -> None:
    """Tell the workers to stop, whatever they are doing; those that have stopped are beyond it."""
    for worker in range(1, server.workers + 1):
        channel.send(worker, Stop())


# ---------------------------------------------------------------- worker


def work(
    channel: Channel,
    prepare: Callable[[], tuple[Workers, BlackBox]],
    delays: Delays,
    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    signalled: Sequence[signal.Signals] = (),
) -> None:
    """Run a worker until the server says stop; its errors are the server's to show.

    ``prepare`` loads what the worker needs; it is called here so that a failure to load
    reaches the server like any other. The ``signals`` end it, also if it was ``signalled`` before.

    Raises
    ------
    ServerDied
        There is nobody left to work for.
    """
    with _signals_raised(signals):
        try:
            if signalled:
                raise Interrupted(signalled[0].name)
            workers, black_box = prepare()
            _say_hello(channel, workers, black_box)
            while not workers.stopped:
                _serve_assignment(channel, workers, black_box, delays)
            return
        except ServerDied:
            raise
        except Interrupted as error:
            reason = f"stopped by {error} (on {socket.gethostname()})"
            # If the whole job was signalled, the server is about to say stop.
            if _await_stop(channel, STOP_SECONDS):
                return
        except Exception as error:
            what = f"{type(error).__name__}: {error}".replace("\n", " ")
            reason = f"{what} (on {socket.gethostname()})\n{traceback.format_exc()}"
    channel.send(SERVER, Failure(reason))
    _await_stop(channel, float("inf"))


def _say_hello(channel: Channel, workers: Workers, black_box: BlackBox) -> None:
    host, description = socket.gethostname(), black_box.descriptions[channel.rank]
    channel.send(SERVER, workers.hello(channel.rank, f"{host}: {description}"))


def _serve_assignment(
    channel: Channel, workers: Workers, black_box: BlackBox, delays: Delays
) -> None:
    arrived = channel.receive()
    assert arrived is not None
    message = channel.codec.decode(arrived[1])
    assert isinstance(message, ToWorker)
    if isinstance(message, Restore):
        delays.skip(message.answers)
    [query] = workers.receive([(channel.rank, message)])
    if query is None:
        if isinstance(message, Reset):
            _say_hello(channel, workers, black_box)
        return
    started = time.perf_counter()
    [answer] = black_box.answer([query])
    pause = delays.draw()
    if pause:
        time.sleep(pause)
    seconds = time.perf_counter() - started
    completed = Completed(channel.rank, answer, seconds, channel.now())
    channel.send(SERVER, *workers.answer([completed]))


def _await_stop(channel: Channel, seconds: float) -> bool:
    """Discard messages until a `Stop`; False if none came within ``seconds``."""
    end = time.perf_counter() + seconds
    while True:
        arrived = channel.receive(until=lambda: time.perf_counter() > end)
        if arrived is None:
            return False
        if isinstance(channel.codec.decode(arrived[1]), Stop):
            return True


@contextmanager
def _signals_raised(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Turn the ``signals`` into `Interrupted`, which also ends a long computation."""

    def interrupt(number: int, _: FrameType | None) -> None:
        # Once: a second signal would break into the orderly end that the first one starts.
        for other in previous:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    previous = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- the node


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


def node_share(comm: MPI.Intracomm) -> tuple[int, int]:
    """This worker's number among the workers on its node (from 0), and its share of cores.

    Cores are those that the process may run on, divided by the workers of the node that may
    run on the same ones; at least 1. Rank 0 hardly computes and is not counted.
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    mine = sorted(os.sched_getaffinity(0))
    # A digest of the affinity, and whether the rank computes.
    own = np.array([hash(tuple(mine)), int(comm.Get_rank() != SERVER)])
    everyone = np.empty((node.Get_size(), 2), own.dtype)
    node.Allgather(own, everyone)
    workers_before = int(everyone[: node.Get_rank(), 1].sum())
    sharing = int(everyone[everyone[:, 0] == own[0], 1].sum())
    node.Free()
    return workers_before, max(1, len(mine) // max(1, sharing))
