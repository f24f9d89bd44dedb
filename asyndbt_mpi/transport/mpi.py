"""The MPI driver: rank 0 runs the server, every other rank a worker.

Messages travel as buffers by non-blocking sends on a duplicate of the world communicator;
receives are matched probes, so that a message of any worker is taken as soon as it is there.
A rank that waits backs off and sleeps instead of spinning on a core.
"""

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import numpy as np
from mpi4py import MPI

from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.messages import (
    Failure,
    MalformedMessage,
    Message,
    Stop,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.records import Record
from asyndbt_mpi.protocol.server import Output, Server
from asyndbt_mpi.protocol.wire import Buffer, Codec
from asyndbt_mpi.protocol.worker import Completed, Workers
from asyndbt_mpi.transport.delay import Delays

WORLD = MPI.COMM_WORLD
SERVER = 0
SPIN_SECONDS = 5e-3
"""A wait shorter than this only yields the core, so that a fast black box is not held up by the
latency of sleep; a longer one sleeps."""
SLEEP_SHARE = 1 / 16
SHORTEST_SLEEP, LONGEST_SLEEP = 5e-5, 5e-3
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
        # A send's buffer must live until the send is complete.
        self._sends: list[tuple[MPI.Request, Buffer]] = []
        self._status = MPI.Status()

    def now(self) -> float:
        """Seconds since the channel was opened, which all ranks do together."""
        return time.perf_counter() - self._started

    def send(self, rank: int, message: Message) -> None:
        """Start to send ``message``; returns at once."""
        buffer = self.codec.encode(message)
        self._complete_sends()
        self._sends.append((self.comm.Isend((buffer, MPI.BYTE), rank), buffer))

    def poll(self) -> tuple[int, Buffer] | None:
        """A message that is there, as (rank, buffer), or None; MPI also goes on with sends."""
        status = self._status
        matched = self.comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)
        if matched is None:
            return None
        # Received whole, however long: a matched receive into a shorter buffer crashes Open MPI 5.
        buffer: Buffer = np.empty(status.Get_count(MPI.BYTE), np.uint8)
        matched.Recv((buffer, MPI.BYTE))
        # None of the protocol's is longer; what is gets cut, and decoding then refuses it.
        return status.Get_source(), buffer[: self.codec.longest + 1]

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
        self._sends = [pair for pair in self._sends if not pair[0].Test()]

    def close(self, deadline: float) -> bool:
        """Meet all ranks once every send is complete, within ``deadline`` seconds.

        Messages that still arrive are discarded: whoever sent them is on its way here too.
        """
        end = time.perf_counter() + deadline
        barrier: MPI.Request | None = None
        for _ in backoff():
            self.poll()
            self._complete_sends()
            if barrier is None and not self._sends:
                barrier = self.comm.Ibarrier()
            if barrier is not None and barrier.Test():
                self.comm.Free()
                return True
            if time.perf_counter() > end:
                return False
        raise AssertionError("backoff never ends")


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


# ---------------------------------------------------------------- server


def serve(channel: Channel, server: Server, sink: Sink) -> bool:
    """Run the server until it has finished; True if so, False if a signal ended it.

    A worker whose message is malformed is excluded and the run goes on without it. Errors of
    the server and of workers are raised; the caller then closes the log and calls `stop_all`.
    """
    with _signals_noted() as signalled:

        def waiting() -> bool:
            sink.idle()
            return bool(signalled)

        while not server.finished:
            arrived = None if signalled else channel.receive(until=waiting)
            if arrived is None:
                return False
            worker, buffer = arrived
            output = _take(channel, server, worker, buffer)
            for destination, message in output.messages:
                channel.send(destination, message)
            sink.write(output.records)
    return True


def _take(channel: Channel, server: Server, worker: int, buffer: Buffer) -> Output:
    try:
        message = channel.codec.decode(buffer)
        if not isinstance(message, ToServer):
            raise MalformedMessage(f"{type(message).__name__} is not for the server")
        return server.receive(worker, message, channel.now())
    except MalformedMessage as error:
        return server.exclude(worker, str(error), channel.now())


def stop_all(channel: Channel, server: Server) -> None:
    """Tell the workers to stop, whatever they are doing."""
    for worker, message in server.interrupt(channel.now()).messages:
        channel.send(worker, message)


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- worker


def work(channel: Channel, prepare: Callable[[], tuple[Workers, BlackBox]], delays: Delays) -> None:
    """Run a worker until the server says stop; its errors are the server's to show.

    ``prepare`` loads what the worker needs; it is called here so that a failure to load
    reaches the server like any other.
    """
    with _signals_raised():
        try:
            workers, black_box = prepare()
            host, description = socket.gethostname(), black_box.descriptions[channel.rank]
            channel.send(SERVER, workers.hello(channel.rank, f"{host}: {description}"))
            while not workers.stopped:
                _serve_assignment(channel, workers, black_box, delays)
            return
        except Interrupted as error:
            reason = f"worker {channel.rank} on {socket.gethostname()}: stopped by {error}"
            # If the whole job was signalled, the server is about to say stop.
            if _await_stop(channel, STOP_SECONDS):
                return
        except Exception as error:
            where = f"worker {channel.rank} on {socket.gethostname()}"
            reason = f"{where}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
    channel.send(SERVER, Failure(reason))
    _await_stop(channel, float("inf"))


def _serve_assignment(
    channel: Channel, workers: Workers, black_box: BlackBox, delays: Delays
) -> None:
    arrived = channel.receive()
    assert arrived is not None
    message = channel.codec.decode(arrived[1])
    assert isinstance(message, ToWorker)
    [query] = workers.receive([(channel.rank, message)])
    if query is None:
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
def _signals_raised() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted`, which also ends a long computation."""

    def interrupt(number: int, _: FrameType | None) -> None:
        # Once: a second signal would break into the orderly end that the first one starts.
        for other in previous:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    previous = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
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
