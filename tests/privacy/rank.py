"""One rank of `asyndbt`, all of whose bytes that leave it are recorded.

    mpiexec -n 3 python -m tests.privacy.rank FOLDER run CONFIG ...

FOLDER gets, of each rank, `sent.N`: every byte that it hands to MPI; `written.N`: the path of every
file that it opens for writing, and the command of every process that it starts; `removed.N.M`: a
copy of every file that it removes; `calls.N`: the names of the calls that sent something. A call
that could send something and is not known here is an error. PLANT in the environment names
something that a worker does on purpose, of `PLANTS`.
"""

import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mpi4py
import numpy as np

mpi4py.rc(initialize=False, finalize=True)
from mpi4py import MPI  # noqa: E402

SILENT = {
    *("Get_rank", "Get_size", "Get_group", "Improbe", "Iprobe", "Recv", "Ibarrier", "Free"),
    *("Get_failed", "Ack_failed", "Abort"),
}
"""Calls that send nothing of the caller's."""

SENT_FIRST = {"Isend", "Issend", "Ibcast", "Igatherv", "Iallgather", "Iallreduce"}
"""Calls whose first argument is what is sent."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND
FOREIGN = ("/dev/null", "/dev/shm", "/proc/", "/dev/tty")


class Recorded(MPI.Intracomm):
    """A communicator that notes every byte that it is given to send."""

    def __getattribute__(self, name: str) -> Any:
        given = super().__getattribute__(name)
        if name in SENT_FIRST:
            return lambda buffer, *rest: given(noted(name, buffer), *rest)
        if name == "Create_group":
            return lambda *arguments: Recorded(given(*arguments))
        if name.startswith("_") or name in SILENT or name == "Idup":
            return given
        raise AssertionError(f"{name} is not known to send nothing")


def noted(name: str, buffer: Any) -> Any:
    array = buffer[0] if isinstance(buffer, tuple | list) else buffer
    with sent.open("ab") as file, calls.open("a") as names:
        file.write(np.ascontiguousarray(array).tobytes())
        names.write(f"{name}\n")
    return buffer


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what is opened for writing, and keep what is removed."""
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, str | bytes) and (flags & WRITING or set(mode or "") & set("wax+")):
            note(os.path.abspath(os.fsdecode(path)))
    elif event == "os.remove" and arguments[1] == -1:
        keep(Path(os.fsdecode(arguments[0])))
    elif event in ("subprocess.Popen", "os.posix_spawn", "os.exec", "socket.connect"):
        note(f"{event}: {arguments!r}")


def note(line: str) -> None:
    os.write(written, f"{line}\n".encode())


def keep(path: Path) -> None:
    if path.is_file() and not str(path).startswith(FOREIGN):
        number = len(list(folder.glob(f"removed.{rank}.*")))
        shutil.copyfile(path, folder / f"removed.{rank}.{number}")


# ---------------------------------------------------------------- what is planted


def first_row() -> str:
    """The text of a row of this worker."""
    text: str = box().data[rank].train[0].texts["text"]
    return text


def box() -> Any:
    """This worker's black box."""
    return boxes[-1]


def send_text() -> None:
    """In the description that a hello has."""
    box().descriptions[rank] = first_row()


def send_tokens() -> None:
    """As numbers, in place of the losses of a report."""
    from asyndbt_mpi.protocol.messages import Report
    from asyndbt_mpi.protocol.wire import Codec

    tokens = box().model.model._tokens([first_row()])[0][8:16]
    original = Codec.encode

    def encode(self: Codec, message: Any) -> Any:
        buffer = original(self, message)
        if isinstance(message, Report):
            told = np.array(tokens, dtype="<i8").view(np.uint8)
            buffer[-len(told) :] = told
        return buffer

    Codec.encode = encode  # type: ignore[method-assign]


def show_tokens() -> None:
    print(f"tokens: {box().model.model._tokens([first_row()])[0]}", file=sys.stderr)


def warn_of_text() -> None:
    warnings.warn(f"cannot read {first_row()[8:15]} well", stacklevel=2)


def write_file() -> None:
    """Beside the log."""
    Path("notes.txt").write_text(first_row())


def write_temporary() -> None:
    """And remove it."""
    handle, name = tempfile.mkstemp()
    os.write(handle, first_row().encode("utf-16-le"))
    os.close(handle)
    os.remove(name)


def write_elsewhere() -> None:
    Path(tempfile.gettempdir(), "..", "..", "elsewhere.txt").write_text("whatever")


def fail() -> None:
    """One worker as a library that quotes, as text and as numbers, and one as the template."""

    def in_a_library(texts: Sequence[str]) -> Any:
        try:
            raise KeyError(texts[0])
        except KeyError as error:
            raise ValueError(f"cannot read {texts[0]!r}: {list(map(ord, texts[0]))}") from error

    def in_the_template(row: Any, words: Any) -> Any:
        raise LookupError(row)

    if rank == 1:
        box().model.model._tokens = in_a_library
    else:
        box().template.render = in_the_template


def fail_at_request() -> None:
    """As a library that quotes what it could not send."""

    def at_request(sent: Any) -> Any:
        raise ValueError(f"cannot send {sent!r}")

    box().model.model._client._post = at_request


def connect() -> None:
    """To another address than that of the server of models."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.connect(("127.0.0.1", 9))


PLANTS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        *(send_text, send_tokens, show_tokens, warn_of_text, write_file, write_temporary),
        *(write_elsewhere, fail, fail_at_request, connect),
    )
}
boxes: list[Any] = []


def plant(what: Sequence[Callable[[], None]]) -> None:
    """Have it done once the black box is there."""
    from asyndbt_mpi.task.prompts import PromptBlackBox

    make = PromptBlackBox.__init__

    def made(self: Any, *arguments: Any) -> None:
        make(self, *arguments)
        boxes.append(self)
        for each in what:
            each()

    PromptBlackBox.__init__ = made  # type: ignore[method-assign]


if __name__ == "__main__":
    MPI.Init_thread()
    rank = MPI.COMM_WORLD.Get_rank()
    folder = Path(sys.argv.pop(1))
    sent, calls = folder / f"sent.{rank}", folder / f"calls.{rank}"
    written = os.open(folder / f"written.{rank}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    MPI.COMM_WORLD = Recorded(MPI.COMM_WORLD)

    from asyndbt_mpi import cli

    if rank:
        plant([PLANTS[name] for name in os.environ["PLANT"].split()])
    sent.touch()
    calls.touch()
    sys.addaudithook(watch)
    cli.main()
