"""The messages between server and workers, and their layout on the wire.

A message is one contiguous buffer: a header of a fixed dtype, then the arrays of its kind, in
the order of its fields. Nothing is ever pickled, for unpickling would let a malicious worker
run code on the server; whatever does not have exactly the length, the kind and the finite
numbers that are due is refused (D6).
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.algorithm.types import FloatArray, IntArray

Buffer: TypeAlias = NDArray[np.uint8]

MAGIC = 0xA5DB
WITHOUT = -1
"""As a word or demonstration index: the prompt has none."""

LONGEST_TEXT = 16_384


class MalformedMessage(ValueError):
    """A received buffer is not a message; says what was expected."""


class Split(IntEnum):
    """Which of a worker's rows a prompt is scored on."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


class Candidate(IntEnum):
    """What kind of prompt an evaluation is of."""

    TUNED = 0
    UNTUNED = 1
    RANDOM = 2
    CONSENSUS = 3


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes that both sides know: positions M, words N, classes U, pool V."""

    positions: int
    words: int
    classes: int
    pool: int


# What a simulation makes by the hundred thousand is not frozen: to freeze it takes longer.

# ---------------------------------------------------------------- server to worker


@dataclass(slots=True)
class Assignment:
    """Do one upper step (19), (20). ``force`` (M, N) is sum_l lambda^l a^l(v)."""

    number: int
    iteration: int
    force: FloatArray


@dataclass(slots=True)
class LowerAssignment:
    """Do one lower step (8) on the scratch copy ``p`` under ``force``, both (M, N).

    ``estimation`` numbers the estimation of phi this belongs to and keys its demonstrations,
    which stay the same over its rounds.
    """

    number: int
    estimation: int
    p: FloatArray
    force: FloatArray


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Score one prompt, given by its indices, on a whole split.

    ``words`` (M,) and ``demonstrations`` (U,) hold indices, or `WITHOUT` throughout.
    """

    iteration: int
    split: Split
    candidate: Candidate
    words: IntArray
    demonstrations: IntArray


@dataclass(frozen=True, slots=True)
class Stop:
    """End; no more messages follow."""


# ---------------------------------------------------------------- worker to server


@dataclass(slots=True)
class Costs:
    """What an answer of the black box cost."""

    calls: int = 0
    prompt_tokens: int = 0
    compute_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hello:
    """The worker is ready. ``q`` (U, V) is uniform over its demonstrations, 0 elsewhere."""

    q: FloatArray
    description: str


@dataclass(slots=True)
class Report:
    """The worker's variables after an upper step: p (M, N), q (U, V)."""

    number: int
    iteration: int
    loss: float
    grad_p_norm: float
    grad_q_norm: float
    costs: Costs
    sent_time: float
    p: FloatArray
    q: FloatArray


@dataclass(slots=True)
class LowerReport:
    """The scratch copy after one lower step: p (M, N), and the demonstrations k (U,)."""

    number: int
    estimation: int
    loss: float
    costs: Costs
    p: FloatArray
    k: IntArray


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Mean loss and accuracy of the prompt that was asked for."""

    iteration: int
    split: Split
    candidate: Candidate
    loss: float
    accuracy: float
    costs: Costs


@dataclass(frozen=True, slots=True)
class Failure:
    """The worker cannot go on; ``text`` is for the person who started the run."""

    text: str


ToWorker: TypeAlias = Assignment | LowerAssignment | EvaluationRequest | Stop
ToServer: TypeAlias = Hello | Report | LowerReport | EvaluationReport | Failure
Message: TypeAlias = ToWorker | ToServer

# ---------------------------------------------------------------- the wire

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
)

HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("kind", "<u4"),
        ("number", "<i8"),
        ("iteration", "<i8"),
        ("split", "<i4"),
        ("candidate", "<i4"),
        ("calls", "<i8"),
        ("prompt_tokens", "<i8"),
        ("compute_seconds", "<f8"),
        ("sent_time", "<f8"),
        ("loss", "<f8"),
        ("accuracy", "<f8"),
        ("grad_p_norm", "<f8"),
        ("grad_q_norm", "<f8"),
    ]
)


def _arrays(kind: type, shapes: Shapes) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and type of the arrays that follow the header."""
    fragment, demonstrations = (shapes.positions, shapes.words), (shapes.classes, shapes.pool)
    layouts: dict[type, list[tuple[str, tuple[int, ...], str]]] = {
        Assignment: [("force", fragment, "<f8")],
        LowerAssignment: [("p", fragment, "<f8"), ("force", fragment, "<f8")],
        EvaluationRequest: [
            ("words", fragment[:1], "<i8"),
            ("demonstrations", demonstrations[:1], "<i8"),
        ],
        Hello: [("q", demonstrations, "<f8")],
        Report: [("p", fragment, "<f8"), ("q", demonstrations, "<f8")],
        LowerReport: [("p", fragment, "<f8"), ("k", demonstrations[:1], "<i8")],
    }
    return layouts.get(kind, [])


class Codec:
    """Encodes and decodes messages of one run, whose ``shapes`` fix every length."""

    def __init__(self, shapes: Shapes) -> None:
        self.layouts = [_arrays(kind, shapes) for kind in KINDS]
        self.longest = LONGEST_TEXT + max(
            HEADER.itemsize + sum(8 * int(np.prod(shape)) for _, shape, _ in layout)
            for layout in self.layouts
        )

    def encode(self, message: Message) -> Buffer:
        """One buffer that holds the whole message, independent of the message's arrays."""
        kind = KINDS.index(type(message))
        header = np.zeros(1, HEADER)
        header["magic"], header["kind"] = MAGIC, kind
        text = b""
        match message:
            case Hello(description=written) | Failure(text=written):
                text = written.encode()[:LONGEST_TEXT]
            case Assignment() | Report():
                header["number"], header["iteration"] = message.number, message.iteration
            case LowerAssignment() | LowerReport():
                header["number"], header["iteration"] = message.number, message.estimation
            case EvaluationRequest() | EvaluationReport():
                header["iteration"] = message.iteration
                header["split"], header["candidate"] = message.split, message.candidate
        if isinstance(message, Report | LowerReport | EvaluationReport):
            header["loss"] = message.loss
            header["calls"] = message.costs.calls
            header["prompt_tokens"] = message.costs.prompt_tokens
            header["compute_seconds"] = message.costs.compute_seconds
        if isinstance(message, Report):
            header["grad_p_norm"], header["grad_q_norm"] = message.grad_p_norm, message.grad_q_norm
            header["sent_time"] = message.sent_time
        if isinstance(message, EvaluationReport):
            header["accuracy"] = message.accuracy
        parts = [header.view(np.uint8)]
        for name, _, dtype in self.layouts[kind]:
            array = np.ascontiguousarray(getattr(message, name), dtype)
            parts.append(array.reshape(-1).view(np.uint8))
        parts.append(np.frombuffer(text, np.uint8))
        return np.concatenate(parts)

    def decode(self, buffer: Buffer) -> Message:
        """The message in ``buffer``; its arrays are views of it.

        Raises
        ------
        MalformedMessage
            Wrong magic, kind or length, or a number that is not finite.
        """
        if len(buffer) < HEADER.itemsize:
            raise MalformedMessage(f"{len(buffer)} bytes are less than a header")
        header = buffer[: HEADER.itemsize].view(HEADER)[0]
        if header["magic"] != MAGIC or header["kind"] >= len(KINDS):
            raise MalformedMessage(
                f"magic {header['magic']:#x} and kind {header['kind']} are not those of a message"
            )
        kind = KINDS[header["kind"]]
        arrays, rest = self._split(kind, self.layouts[header["kind"]], buffer[HEADER.itemsize :])
        return _build(kind, header, arrays, rest)

    @staticmethod
    def _split(
        kind: type, layout: list[tuple[str, tuple[int, ...], str]], body: Buffer
    ) -> tuple[dict[str, np.ndarray], Buffer]:
        due = sum(8 * int(np.prod(shape)) for _, shape, _ in layout)
        has_text = kind in (Hello, Failure)
        if len(body) < due or (len(body) > due and not has_text):
            raise MalformedMessage(
                f"{kind.__name__} carries {len(body)} bytes of arrays, {due} are due"
            )
        arrays: dict[str, np.ndarray] = {}
        start = 0
        for name, shape, dtype in layout:
            end = start + 8 * int(np.prod(shape))
            arrays[name] = body[start:end].view(dtype).reshape(shape)
            if dtype == "<f8" and not np.isfinite(arrays[name]).all():
                raise MalformedMessage(f"{kind.__name__}.{name} holds a NaN or an infinity")
            start = end
        return arrays, body[start:]


def _check_numbers(kind: type, header: np.void) -> None:
    """Refuse what is not finite or is negative where it cannot be.

    An accuracy may be NaN: a synthetic task classifies nothing.
    """
    for name in ("loss", "grad_p_norm", "grad_q_norm", "sent_time", "compute_seconds"):
        if not np.isfinite(header[name]):
            raise MalformedMessage(f"{kind.__name__}.{name} is {header[name]}")
    for name in ("calls", "prompt_tokens", "compute_seconds"):
        if header[name] < 0:
            raise MalformedMessage(f"{kind.__name__}.{name} is {header[name]}")


def _build(kind: type, header: np.void, arrays: dict[str, np.ndarray], rest: Buffer) -> Message:
    number, iteration = int(header["number"]), int(header["iteration"])
    loss = float(header["loss"])
    costs = Costs(
        int(header["calls"]), int(header["prompt_tokens"]), float(header["compute_seconds"])
    )
    if kind is Assignment:
        return Assignment(number, iteration, **arrays)
    if kind is LowerAssignment:
        return LowerAssignment(number, iteration, **arrays)
    if kind is Stop:
        return Stop()
    if kind is Failure:
        return Failure(rest.tobytes().decode(errors="replace"))
    if kind is Hello:
        return Hello(arrays["q"], rest.tobytes().decode(errors="replace"))
    _check_numbers(kind, header)
    if kind is Report:
        return Report(
            number,
            iteration,
            loss,
            float(header["grad_p_norm"]),
            float(header["grad_q_norm"]),
            costs,
            float(header["sent_time"]),
            arrays["p"],
            arrays["q"],
        )
    if kind is LowerReport:
        return LowerReport(number, iteration, loss, costs, **arrays)
    try:
        split, candidate = Split(int(header["split"])), Candidate(int(header["candidate"]))
    except ValueError as error:
        raise MalformedMessage(f"{kind.__name__}: {error}") from error
    if kind is EvaluationRequest:
        return EvaluationRequest(iteration, split, candidate, **arrays)
    return EvaluationReport(iteration, split, candidate, loss, float(header["accuracy"]), costs)
