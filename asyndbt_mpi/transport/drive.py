"""The MPI driver: rank 0 runs the server, every other rank a worker, until the run is over."""

import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from asyndbt_mpi.adversary.colluders import Colluders
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.protocol.blackbox import BlackBox, Completed
from asyndbt_mpi.protocol.messages import (
    Failure,
    Hello,
    MalformedMessage,
    Reset,
    Restore,
    Stop,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.noise import AskedTooOften
from asyndbt_mpi.protocol.records import Output, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.wire import Buffer
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.interruption import Interrupted
from asyndbt_mpi.transport.mpi import SERVER, Channel, ServerDied, TooLong
from asyndbt_mpi.transport.replay import Replay

TICK_SECONDS = 0.25
"""Seconds between checks of the workers' silence and of the budget of seconds."""
STOP_SECONDS = 2.5
"""Seconds that a signalled worker waits for the server's stop before it reports itself."""


class Sink(Protocol):
    """Where the server's records go."""

    def write(self, records: list[Record]) -> None:
        """Take the records of one step."""
        ...

    def idle(self) -> None:
        """Use a moment in which the server waits; called repeatedly."""
        ...


# ---------------------------------------------------------------- server


def serve(
    channel: Channel,
    server: Server,
    sink: Sink,
    signalled: Sequence[signal.Signals] = (),
    earlier: Replay | None = None,
) -> bool:
    """Run the server until it has finished; False if it was ``signalled`` before.

    A worker whose messages are malformed is excluded, one that died or is silent for too long is
    lost, and the run continues without it. Errors of the server are raised; the caller then closes
    the log and calls `stop_all`. ``earlier`` is the state from which a resumed run continues.
    """
    next_tick = listened = time.perf_counter()
    channel.barred = server.members.barred

    def listen() -> bool:
        """Note that the queue is being checked; whether it is time to tick."""
        nonlocal listened
        now = time.perf_counter()
        if now - listened > TICK_SECONDS:  # this process or its disk stood still: no worker's fault
            server.members.excuse(now - listened)
        listened = now
        return now > next_tick

    def waiting() -> bool:
        sink.idle()
        return listen() or bool(signalled or channel.dead)

    while not server.finished and not signalled:
        arrived = _receive(channel, waiting)
        due = listen()
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
    arrived: tuple[int, Buffer | TooLong] | None,
    tick: bool,
    earlier: Replay | None,
) -> Iterator[Output]:
    """The server's outputs after an arrival, after deaths, and as time passes."""
    if arrived is not None:
        yield _take(channel, server, *arrived, earlier)
    while channel.dead:
        yield server.lose(channel.dead.pop(0), "its process died", channel.now())
    if tick:
        yield server.tick(channel.now(), channel.is_heard)
        if earlier is not None:
            yield earlier.settle(channel.now())


def _receive(channel: Channel, until: Callable[[], bool]) -> tuple[int, Buffer | TooLong] | None:
    try:
        return channel.receive(until)
    except TooLong as error:
        return error.rank, error


def _take(
    channel: Channel,
    server: Server,
    worker: int,
    buffer: Buffer | TooLong,
    earlier: Replay | None,
) -> Output:
    try:
        if isinstance(buffer, TooLong):
            raise buffer
        message = channel.codec.decode(buffer)
        if not isinstance(message, ToServer):
            raise MalformedMessage(f"{type(message).__name__} is not for the server")
        if earlier is not None and isinstance(message, Hello):
            answers = earlier.greet(worker, message)
            if answers is not None:
                return Output(channel.now(), [(worker, answer) for answer in answers])
        return server.receive(worker, message, channel.now())
    except MalformedMessage as error:
        return server.strike(worker, str(error), channel.now())


def stop_all(channel: Channel, server: Server) -> None:
    """Tell the workers to stop, whatever they are doing, except those that have stopped."""
    for worker in range(1, server.workers + 1):
        channel.send(worker, Stop())


# ---------------------------------------------------------------- worker


def work(
    channel: Channel,
    prepare: Callable[[], tuple[Workers, BlackBox]],
    delays: Delays,
    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    signalled: Sequence[signal.Signals] = (),
    colluders: Colluders | None = None,
) -> None:
    """Run a worker until the server says stop; the server shows its errors.

    ``prepare`` loads what the worker needs; it is called here so that a failure to load reaches the
    server like any other. The ``signals`` end it, also if it was ``signalled`` before. The worker
    may be one of the ``colluders``.

    Raises
    ------
    ServerDied
        Rank 0 is gone.
    """
    refuses = False
    with _signals_raised(signals):
        try:
            if signalled:
                raise Interrupted(signalled[0].name)
            workers, black_box = prepare()
            _say_hello(channel, workers, black_box)
            while not workers.stopped:
                _serve_assignment(channel, workers, black_box, delays, colluders)
            return
        except ServerDied:
            raise
        except Interrupted as error:
            reason = f"stopped by {error} (on {socket.gethostname()})"
            # If the whole job was signalled, the server will soon say stop.
            if _await_stop(channel, STOP_SECONDS):
                return
        except ConfigurationError as error:
            reason, refuses = str(error), True
        except AskedTooOften as error:
            reason = str(error)
        except Exception as error:
            what = f"{type(error).__name__}: {error}".replace("\n", " ")
            reason = f"{what} (on {socket.gethostname()})\n{traceback.format_exc()}"
    channel.send(SERVER, Failure(reason, refuses))
    _await_stop(channel, float("inf"))


def _say_hello(channel: Channel, workers: Workers, black_box: BlackBox) -> None:
    rank = channel.rank
    description = f"{socket.gethostname()}: {black_box.descriptions[rank]}"
    channel.send(SERVER, workers.hello(rank, description, black_box.digests[rank]))


def _serve_assignment(
    channel: Channel,
    workers: Workers,
    black_box: BlackBox,
    delays: Delays,
    colluders: Colluders | None,
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
    [reply] = workers.answer([completed])
    if colluders is not None:
        reply = _told(channel, colluders, reply)
    channel.send(SERVER, reply)


def _told(channel: Channel, colluders: Colluders, reply: ToServer) -> ToServer:
    """What this worker sends in place of ``reply``; the honest let the colluders see theirs."""
    if channel.rank not in colluders.members:
        if colluders.look_at_others:
            channel.show(colluders.members, reply)
        return reply
    for worker, message in channel.shown():
        assert isinstance(message, ToServer)
        colluders.report(worker, message)
    return colluders.report(channel.rank, reply)


def _await_stop(channel: Channel, seconds: float) -> bool:
    """Discard messages until a `Stop`; False if none came within ``seconds``."""
    end = time.perf_counter() + seconds
    while True:
        arrived = channel.receive(until=lambda: time.perf_counter() > end)
        if arrived is None:
            return False
        if isinstance(channel.codec.decode(arrived[1]), Stop):
            return True


# ---------------------------------------------------------------- signals


@contextmanager
def signals_noted(signals: Sequence[signal.Signals]) -> Iterator[list[signal.Signals]]:
    """Collect the ``signals`` instead of dying from them; also used before `work`."""
    received: list[signal.Signals] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))

    previous = {number: signal.signal(number, note) for number in signals}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _signals_raised(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Turn the ``signals`` into `Interrupted`, which also ends a long computation."""

    def interrupt(number: int, _: FrameType | None) -> None:
        # Once: a second signal would interrupt the clean shutdown that the first one starts.
        for other in previous:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    previous = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
