"""The layout of messages on the wire.

A message is one contiguous buffer: a header of fixed size, then the arrays of its kind, then
text if it has any. Nothing is ever pickled, for unpickling would let a malicious worker run code
on the server; whatever does not have exactly the length, the kind and the finite numbers that
are due is refused (D6).
"""

import math
import struct
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.protocol.messages import (
    Assignment,
    Candidate,
    Costs,
    EvaluationReport,
    EvaluationRequest,
    Failure,
    Hello,
    LowerAssignment,
    LowerReport,
    MalformedMessage,
    Message,
    Needs,
    Report,
    Reset,
    Restore,
    Shapes,
    Split,
    Stop,
)

Buffer: TypeAlias = NDArray[np.uint8]

MAGIC = 0xA5DB
REAL, INTEGER = np.dtype("<f8"), np.dtype("<i8")
LONGEST_TEXT = 16_384
DIGEST = np.dtype("S64")
"""ASCII characters, with zeros behind them."""
MOST_COUNTED = 2**40
"""Of calls, tokens or seconds in one message; sums over a run then fit into 64 bits."""

KINDS: tuple[type, ...] = (
    Assignment,
    LowerAssignment,
    EvaluationRequest,
    Stop,
    Hello,
    Report,
    LowerReport,
    EvaluationReport,
    Failure,
    Reset,
    Restore,
)
NUMBER = {kind: number for number, kind in enumerate(KINDS)}
WITH_TEXT = (Hello, Failure)


class Header(NamedTuple):
    """What stands before the arrays; a kind leaves what it does not need at 0.

    ``iteration`` is an estimation's number in messages of the lower level.
    """

    magic: int = MAGIC
    kind: int = 0
    number: int = 0
    iteration: int = 0
    split: int = 0
    candidate: int = 0
    prompts: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unrecognised: int = 0
    compute_seconds: float = 0.0
    sent_time: float = 0.0
    loss: float = 0.0
    accuracy: float = 0.0
    grad_p_norm: float = 0.0
    grad_q_norm: float = 0.0


HEADER = struct.Struct("<IIqqiiqqqqqdddddd")
"""The fields of `Header`, in their order."""


class Array(NamedTuple):
    """An array of a message: the field's name, shape and type, and where it starts."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int


class Layout(NamedTuple):
    """The arrays of a kind of message, and the bytes up to the end of the last one."""

    arrays: list[Array]
    length: int


class Codec:
    """Encodes and decodes messages of one run, whose ``shapes`` fix every length."""

    def __init__(self, shapes: Shapes) -> None:
        self.layouts = [_layout(kind, shapes) for kind in KINDS]
        self.longest = LONGEST_TEXT + max(layout.length for layout in self.layouts)

    def encode(self, message: Message) -> Buffer:
        """One buffer that holds the whole message, independent of the message's arrays."""
        header = _header(message)
        if isinstance(message, Hello) and len(message.digest) > DIGEST.itemsize:
            raise ValueError(f"a digest of more than {DIGEST.itemsize} characters")
        arrays, length = self.layouts[header.kind]
        rest = _rest(message)
        buffer: Buffer = np.empty(length + len(rest), np.uint8)
        HEADER.pack_into(buffer.data, 0, *header)
        for name, shape, dtype, start in arrays:
            np.ndarray(shape, dtype, buffer, start)[...] = getattr(message, name)
        if rest:
            buffer[length:] = np.frombuffer(rest, np.uint8)
        return buffer

    def decode(self, buffer: Buffer) -> Message:
        """The message in ``buffer``; its arrays are views of it.

        Raises
        ------
        MalformedMessage
            Wrong magic, kind or length, or a number that is not finite.
        """
        if len(buffer) < HEADER.size:
            raise MalformedMessage(f"{len(buffer)} bytes are less than a header")
        header = Header(*HEADER.unpack_from(buffer.data))
        if header.magic != MAGIC or header.kind >= len(KINDS):
            raise MalformedMessage(
                f"magic {header.magic:#x} and kind {header.kind} are not those of a message"
            )
        kind = KINDS[header.kind]
        layout, length = self.layouts[header.kind]
        text = LONGEST_TEXT if kind in WITH_TEXT else 0
        if kind is not Restore and not length <= len(buffer) <= length + text:
            raise MalformedMessage(
                f"{kind.__name__} carries {len(buffer) - HEADER.size} bytes of arrays, "
                f"{length - HEADER.size} are due"
            )
        arrays: dict[str, np.ndarray] = {}
        for name, shape, dtype, start in layout:
            arrays[name] = array = np.ndarray(shape, dtype, buffer, start)
            if dtype is REAL and not np.isfinite(array).all():
                raise MalformedMessage(f"{kind.__name__}.{name} holds a NaN or an infinity")
        return _build(kind, header, arrays, buffer[length:])


def _layout(kind: type, shapes: Shapes) -> Layout:
    fragment, demonstrations = (shapes.positions, shapes.words), (shapes.classes, shapes.pool)
    losses = (shapes.samples,)
    fields: dict[type, list[tuple[str, tuple[int, ...], np.dtype]]] = {
        Assignment: [("force", fragment, REAL)],
        LowerAssignment: [("p", fragment, REAL), ("force", fragment, REAL)],
        EvaluationRequest: [
            ("words", fragment[:1], INTEGER),
            ("demonstrations", demonstrations[:1], INTEGER),
        ],
        Reset: [("p", fragment, REAL)],
        Hello: [("q", demonstrations, REAL), ("digest", (), DIGEST)],
        Report: [("p", fragment, REAL), ("q", demonstrations, REAL), ("losses", losses, REAL)],
        LowerReport: [
            ("p", fragment, REAL),
            ("k", demonstrations[:1], INTEGER),
            ("losses", losses, REAL),
        ],
    }
    arrays = []
    end = HEADER.size
    for name, shape, dtype in fields.get(kind, []):
        arrays.append(Array(name, shape, dtype, end))
        end += dtype.itemsize * math.prod(shape)
    return Layout(arrays, end)


def _rest(message: Message) -> bytes:
    """What stands behind the arrays of fixed size."""
    match message:
        case Hello(description=text) | Failure(text=text):
            return text.encode()[:LONGEST_TEXT]
        case Restore(state=state):
            return state.astype(REAL, copy=False).tobytes()
        case _:
            return b""


def _header(message: Message) -> Header:
    number = NUMBER[type(message)]
    match message:
        case Assignment():
            return Header(MAGIC, number, message.number, message.iteration)
        case LowerAssignment():
            return Header(MAGIC, number, message.number, message.estimation)
        case Report():
            return Header(
                MAGIC, number, message.number, message.iteration, 0, 0,
                *_counts(message.costs), message.costs.compute_seconds,
                message.sent_time, message.loss, 0.0, message.grad_p_norm, message.grad_q_norm,
            )  # fmt: skip
        case LowerReport():
            return Header(
                MAGIC, number, message.number, message.estimation, 0, 0,
                *_counts(message.costs), message.costs.compute_seconds,
                0.0, message.loss,
            )  # fmt: skip
        case EvaluationRequest():
            return Header(MAGIC, number, 0, message.iteration, message.split, message.candidate)
        case EvaluationReport():
            return Header(
                MAGIC, number, 0, message.iteration, message.split, message.candidate,
                *_counts(message.costs), message.costs.compute_seconds,
                0.0, message.loss, message.accuracy,
            )  # fmt: skip
        case Hello(needs=needs):
            return Header(
                MAGIC, number, needs.assignment, needs.validation, 0, 0,
                0, needs.test, needs.prompt_tokens, needs.completion_tokens,
            )  # fmt: skip
        case Restore():
            return Header(MAGIC, number, message.answers)
        case Failure():
            return Header(MAGIC, number, int(message.refuses))
        case _:
            return Header(kind=number)


def _counts(costs: Costs) -> tuple[int, int, int, int, int]:
    tokens = costs.prompt_tokens, costs.completion_tokens
    return costs.prompts, costs.calls, *tokens, costs.unrecognised


def _text(rest: Buffer) -> str:
    """Text that HDF5 can hold, whatever the bytes are."""
    return rest.tobytes().decode(errors="replace").replace("\0", " ")


def _check_numbers(kind: type, header: Header) -> None:
    """Refuse what is not finite or is negative where it cannot be.

    An accuracy may be NaN: a synthetic task classifies nothing.
    """
    for name in ("loss", "grad_p_norm", "grad_q_norm", "sent_time", "compute_seconds"):
        if not math.isfinite(getattr(header, name)):
            raise MalformedMessage(f"{kind.__name__}.{name} is {getattr(header, name)}")
    counts = "prompts", "calls", "prompt_tokens", "completion_tokens", "unrecognised"
    for name in (*counts, "compute_seconds"):
        if not 0 <= getattr(header, name) <= MOST_COUNTED:
            raise MalformedMessage(f"{kind.__name__}.{name} is {getattr(header, name)}")


def _build(kind: type, header: Header, arrays: dict[str, np.ndarray], rest: Buffer) -> Message:
    number, iteration = header.number, header.iteration
    if kind is Assignment:
        return Assignment(number, iteration, **arrays)
    if kind is LowerAssignment:
        return LowerAssignment(number, iteration, **arrays)
    if kind is Stop:
        return Stop()
    if kind is Failure:
        return Failure(_text(rest), bool(number))
    if kind is Reset:
        return Reset(**arrays)
    if kind is Restore:
        if len(rest) % REAL.itemsize:
            raise MalformedMessage(f"Restore carries {len(rest)} bytes, whole numbers are due")
        return Restore(number, np.frombuffer(rest.tobytes(), REAL))
    _check_numbers(kind, header)
    if kind is Hello:
        if not 0 <= min(number, iteration) <= max(number, iteration) <= MOST_COUNTED:
            raise MalformedMessage(f"Hello needs {number} and {iteration} calls")
        needs = Needs(
            number, iteration, header.calls, header.prompt_tokens, header.completion_tokens
        )
        digest = _text(np.frombuffer(arrays["digest"].item(), np.uint8))
        return Hello(arrays["q"], _text(rest), needs, digest)
    if not (math.isnan(header.accuracy) or 0 <= header.accuracy <= 1):
        raise MalformedMessage(f"{kind.__name__}.accuracy is {header.accuracy}")
    costs = Costs(
        header.calls,
        header.prompt_tokens,
        header.compute_seconds,
        header.prompts,
        header.completion_tokens,
        header.unrecognised,
    )
    if kind is Report:
        norms = header.grad_p_norm, header.grad_q_norm
        sampled = arrays["p"], arrays["q"], arrays["losses"]
        return Report(
            number, iteration, header.loss, *norms, costs, header.sent_time, *sampled
        )  # fmt: skip
    if kind is LowerReport:
        return LowerReport(number, iteration, header.loss, costs, **arrays)
    try:
        split, candidate = Split(header.split), Candidate(header.candidate)
    except ValueError as error:
        raise MalformedMessage(f"{kind.__name__}: {error}") from error
    if kind is EvaluationRequest:
        return EvaluationRequest(iteration, split, candidate, **arrays)
    return EvaluationReport(iteration, split, candidate, header.loss, header.accuracy, costs)
