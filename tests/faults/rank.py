"""One rank of `asyndbt run`, which notes its process and every question that it is asked.

    mpiexec -n 4 python -m tests.faults.rank FOLDER run CONFIG ...

FOLDER gets a file with the process number of each rank, and of each worker a ledger: a line for
each message that asks its black box something. Both are made before anything else can fail.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpi4py import MPI

from asyndbt_mpi import cli
from asyndbt_mpi.protocol.messages import (
    Assignment,
    EvaluationRequest,
    LowerAssignment,
    Report,
)
from asyndbt_mpi.protocol.records import EVENT_OF, EventKind
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.protocol.worker import Workers

FAIL_AT = "FAIL_AT"
"""Environment: at so many questions the rank named by FAIL_RANK raises."""

MISBEHAVES = "MISBEHAVES"
"""Environment: reports of the rank named by FAIL_RANK are cut "short", or has a "p" of its own."""


def key(worker: int, message: Any) -> str | None:
    """What an event about the answer says, too: kind, worker and number."""
    match message:
        case Assignment():
            kind, number = EventKind.REPORT, message.number
        case LowerAssignment():
            kind, number = EventKind.LOWER_REPORT, message.number
        case EvaluationRequest():
            kind, number = EVENT_OF[message.split], message.iteration
        case _:
            return None
    return f"{kind.name} {worker} {number}"


def keep_ledger(path: Path) -> None:
    """Have the workers of this process note what they are asked."""
    ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    original = Workers.receive
    asked = 0

    def receive(self: Workers, messages: Sequence[tuple[int, Any]]) -> Any:
        nonlocal asked
        for worker, message in messages:
            line = key(worker, message)
            if line:
                os.write(ledger, f"{line}\n".encode())
                asked += 1
        if asked == int(os.environ.get(FAIL_AT, -1)) and os.environ["FAIL_RANK"] == str(rank):
            raise ZeroDivisionError("as asked for")
        return original(self, messages)

    Workers.receive = receive  # type: ignore[method-assign]


def misbehave(how: str) -> None:
    """Have this process send other reports than it should."""
    original = Codec.encode

    def encode(self: Codec, message: Any) -> Any:
        if not isinstance(message, Report):
            return original(self, message)
        if how == "short":  # but not the first: who has paid for nothing leaves no log
            return original(self, message)[: -8 if message.iteration else None]
        return original(self, replace(message, p=message.p * 0.0 + 5.0))

    Codec.encode = encode  # type: ignore[method-assign]


if __name__ == "__main__":
    rank = MPI.COMM_WORLD.Get_rank()
    folder = Path(sys.argv.pop(1))
    (folder / f"pid.{rank}").write_text(str(os.getpid()))
    if rank:  # the server's workers, in a resumed run, are asked nothing that costs anything
        keep_ledger(folder / f"ledger.{rank}")
    if MISBEHAVES in os.environ and os.environ["FAIL_RANK"] == str(rank):
        misbehave(os.environ[MISBEHAVES])
    cli.main()
