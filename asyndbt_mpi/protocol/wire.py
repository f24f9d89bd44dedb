"""The layout of messages on the wire.

A message is one contiguous buffer: a header of fixed size, then the arrays of its kind, then
text if it has any. Nothing is ever pickled, for unpickling would let a malicious worker run code
on the server; whatever does not have exactly the length and the kind that are due, or a number
outside its range, is refused (D6).
"""

import math
import struct
from dataclasses import fields
from typing import NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.algorithm import kernels
from asyndbt_mpi.algorithm.pooling import SPREADS
from asyndbt_mpi.protocol.messages import (
    WITHOUT,
    Assignment,
    Candidate,
    CostBounds,
    Costs,
    EvaluationReport,
    EvaluationRequest,
    Failure,
    Hello,
    LowerAssignment,
    LowerReport,
    MalformedMessage,
    Message,
    Report,
    Reset,
    Restore,
    RowLosses,
    RowScores,
    Shapes,
    Split,
    Stop,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.ranges import FREE_LOSS, LOSS, RANGES, SAME_MEAN, Range
from asyndbt_mpi.protocol.scoring import is_normalised, scored

Buffer: TypeAlias = NDArray[np.uint8]

MAGIC = 0xA5DB
REAL, INTEGER = np.dtype("<f8"), np.dtype("<i8")
LONGEST_TEXT = 16_384
DIGEST = np.dtype("S64")
"""ASCII characters, with zeros behind them."""

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
COSTS = [field.name for field in fields(Costs)]
COST_BOUNDS = [field.name for field in fields(CostBounds)]


class Header(NamedTuple):
    """What stands before the arrays; a kind leaves what it does not need at 0.

    ``iteration`` is an estimation's number in messages of the lower level; ``number`` counts the
    rows of an evaluation's report. A request for one has its rank and halvings in ``number`` and
    ``prompts``. A hello and a report have the number of their choice, plus one, in ``split``.
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
    """Encodes and decodes messages of one run, whose ``shapes`` fix every length.

    Parameters
    ----------
    state : numbers of a worker's state; see `Workers.state`
    free_losses : losses have no least value, as those of a synthetic task
    rows : the most that an evaluation can be of; a function has none
    pools : reports and assignments carry what workers know of words
    private : q and demonstrations stay with the workers; see `private`

    Attributes
    ----------
    longest_to_server, longest_to_worker : bytes of the longest message of each direction
    """

    def __init__(
        self,
        shapes: Shapes,
        state: int = 0,
        free_losses: bool = True,
        rows: int = 0,
        pools: bool = False,
        private: bool = False,
    ) -> None:
        self.shapes = shapes
        self.private = private
        self._pooled = ("precision", "information") if pools else ()
        self.loss = FREE_LOSS if free_losses else LOSS
        self.rows = 0 if free_losses else rows
        self.row_bytes = INTEGER.itemsize + REAL.itemsize * shapes.classes
        self.layouts = [_layout(kind, shapes, state, pools, private) for kind in KINDS]
        self.longest_to_server = self._longest(get_args(ToServer))
        self.longest_to_worker = self._longest(get_args(ToWorker))

    def _longest(self, kinds: tuple[type, ...]) -> int:
        return max(self.layouts[NUMBER[kind]].length + self._longest_rest(kind) for kind in kinds)

    def _longest_rest(self, kind: type) -> int:
        """Bytes that can stand behind the arrays of fixed size."""
        if kind is EvaluationReport:
            return self.rows * self.row_bytes
        return LONGEST_TEXT if kind in WITH_TEXT else 0

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
            Wrong magic, kind or length, or a number outside its range.
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
        rest = self._longest_rest(kind)
        if kind is EvaluationReport:  # its length is known, too
            if not 0 <= header.number <= self.rows:
                raise MalformedMessage(f"{header.number} rows were scored, of at most {self.rows}")
            row = self.row_bytes if header.split == Split.TEST else REAL.itemsize
            length, rest = length + header.number * row, 0
        if not length <= len(buffer) <= length + rest:
            raise MalformedMessage(
                f"{kind.__name__} carries {len(buffer) - HEADER.size} bytes of arrays, "
                f"{length - HEADER.size} are due"
            )
        arrays: dict[str, np.ndarray] = {}
        for name, shape, dtype, start in layout:
            arrays[name] = np.ndarray(shape, dtype, buffer, start)
        message = _build(kind, header, arrays, buffer[self.layouts[header.kind].length :])
        self._check(message)
        return message

    def _check(self, message: Message) -> None:
        """Refuse what no rank of this run can have meant.

        Of a synthetic task, which classifies nothing, an accuracy may be NaN.
        """
        match message:
            case Report():
                _within(message, "number", "iteration", "grad_p_norm", "grad_q_norm", "sent_time")
                _all_within(message, "p", *self._pooled, *self._pooled and ("trust",))
                self._check_q(message)
                self._check_losses(message)
                _check_costs(message)
            case LowerReport():
                _within(message, "number", "estimation")
                _all_within(message, "p")
                if not self.private:
                    _check_indices(message, "k", message.k, self.shapes.pool)
                self._check_losses(message)
                _check_costs(message)
            case EvaluationReport():
                _within(message, "iteration")
                _hold(message, "loss", self.loss, message.loss)
                if self.loss is LOSS or not math.isnan(message.accuracy):
                    _within(message, "accuracy")
                _check_costs(message)
                self._check_prompt(message)
                self._check_scores(message)
            case Hello(cost_bounds=cost_bounds):
                self._check_q(message)
                for name in COST_BOUNDS:
                    _hold(message, name, RANGES["calls"], getattr(cost_bounds, name))
            case Assignment():
                _within(message, "number", "iteration")
                _all_within(message, "dual_gradient", *self._pooled)
            case LowerAssignment():
                _within(message, "number", "estimation")
                _all_within(message, "p", "dual_gradient")
            case EvaluationRequest():
                _within(message, "iteration", "rank", "halvings")
                self._check_prompt(message)
            case Reset():
                _all_within(message, "p")
            case Restore():
                _within(message, "answers")
                if not np.isfinite(message.state).all():
                    raise MalformedMessage("Restore.state holds a NaN or an infinity")
            case Stop() | Failure():
                pass

    def _check_prompt(self, message: EvaluationRequest | EvaluationReport) -> None:
        words, shown = message.words, message.demonstrations
        if (words != WITHOUT).any():
            _check_indices(message, "words", words, self.shapes.words)
        if self.private:
            choice = int(shown[0])
            if not (
                (shown == choice).all() and (choice == WITHOUT or RANGES["choice"].holds(choice))
            ):
                raise MalformedMessage(
                    f"{type(message).__name__}.demonstrations {shown.tolist()} are no choice"
                )
        elif (shown != WITHOUT).any():
            _check_indices(message, "demonstrations", shown, self.shapes.pool)

    def _check_q(self, message: Hello | Report) -> None:
        if self.private:
            _within(message, "choice")
        else:
            _all_within(message, "q")

    def _check_losses(self, message: Report | LowerReport) -> None:
        losses, loss = message.losses, message.loss
        _hold(message, "loss", self.loss, loss)
        if not _holds_all(self.loss, losses):
            raise _outside(message, "losses", "holds a number", self.loss)
        mean = float(np.add.reduce(losses)) / len(losses)
        if abs(loss - mean) > SAME_MEAN * max(1.0, abs(mean)):
            raise MalformedMessage(
                f"{type(message).__name__}.loss is {loss:g}, the mean of its losses {mean:g}"
            )

    def _check_scores(self, message: EvaluationReport) -> None:
        """Refuse a bias that is no mean, and rows that do not give the loss and the accuracy."""
        _all_within(message, "bias")
        if message.bias.any() and not is_normalised(message.bias):
            raise MalformedMessage("EvaluationReport.bias is not that of mean probabilities")
        rows = message.rows
        if (rows is None) != (self.rows == 0):
            scored_rows = "no rows" if rows is None else f"{len(rows)} rows"
            raise MalformedMessage(f"EvaluationReport has {scored_rows} of {message.split.name}")
        if rows is None:
            return
        if isinstance(rows, RowLosses):
            if not _holds_all(self.loss, rows.losses):
                raise _outside(message, "losses", "holds a number", self.loss)
            self._check_mean(message, "loss", float(rows.losses.mean()))
            return
        due = RANGES["log_probabilities"]
        if not _holds_all(due, rows.log_probabilities):
            raise _outside(message, "log_probabilities", "holds a number", due)
        if not is_normalised(rows.log_probabilities):
            raise MalformedMessage("EvaluationReport.log_probabilities are not normalised")
        _check_indices(message, "labels", rows.labels, self.shapes.classes)
        losses, accuracies = scored(rows.log_probabilities[None], rows.labels)
        self._check_mean(message, "loss", losses[0])
        self._check_mean(message, "accuracy", accuracies[0])

    def _check_mean(self, message: EvaluationReport, name: str, mean: float) -> None:
        reported = getattr(message, name)
        if abs(reported - mean) > SAME_MEAN * max(1.0, abs(mean)):
            raise MalformedMessage(
                f"EvaluationReport.{name} is {reported:g}, but its rows give {mean:g}"
            )


def _layout(kind: type, shapes: Shapes, state: int, pools: bool, private: bool) -> Layout:
    fragment, demonstrations = (shapes.positions, shapes.words), (shapes.classes, shapes.pool)
    q, k = ((0,), (0,)) if private else (demonstrations, demonstrations[:1])
    losses = (shapes.samples,)
    known = fragment if pools else (0,)
    trust = (len(SPREADS) if pools else 0,)
    knowledge = [("precision", known, REAL), ("information", known, REAL)]
    fields: dict[type, list[tuple[str, tuple[int, ...], np.dtype]]] = {
        Assignment: [("dual_gradient", fragment, REAL), *knowledge],
        LowerAssignment: [("p", fragment, REAL), ("dual_gradient", fragment, REAL)],
        EvaluationRequest: [
            ("words", fragment[:1], INTEGER),
            ("demonstrations", demonstrations[:1], INTEGER),
        ],
        Reset: [("p", fragment, REAL)],
        Restore: [("state", (state,), REAL)],
        Hello: [("q", q, REAL), ("digest", (), DIGEST)],
        Report: [
            ("p", fragment, REAL),
            ("q", q, REAL),
            ("losses", losses, REAL),
            *knowledge,
            ("trust", trust, REAL),
        ],
        LowerReport: [
            ("p", fragment, REAL),
            ("k", k, INTEGER),
            ("losses", losses, REAL),
        ],
        EvaluationReport: [
            ("bias", demonstrations[:1], REAL),
            ("words", fragment[:1], INTEGER),
            ("demonstrations", demonstrations[:1], INTEGER),
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
        case EvaluationReport(rows=RowScores(labels, log_probabilities)):
            return labels.astype(INTEGER).tobytes() + log_probabilities.astype(REAL).tobytes()
        case EvaluationReport(rows=RowLosses(losses)):
            return losses.astype(REAL).tobytes()
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
                MAGIC, number, message.number, message.iteration, message.choice + 1, 0,
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
            return Header(
                MAGIC, number, message.rank, message.iteration, message.split, message.candidate,
                message.halvings,
            )  # fmt: skip
        case EvaluationReport():
            rows = 0 if message.rows is None else len(message.rows)
            return Header(
                MAGIC, number, rows, message.iteration, message.split, message.candidate,
                *_counts(message.costs), message.costs.compute_seconds,
                0.0, message.loss, message.accuracy,
            )  # fmt: skip
        case Hello(cost_bounds=cost_bounds):
            return Header(
                MAGIC, number, cost_bounds.assignment, cost_bounds.validation,
                message.choice + 1, 0,
                cost_bounds.race, cost_bounds.test, cost_bounds.prompt_tokens,
                cost_bounds.completion_tokens, cost_bounds.race_rows,
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


def _outside(message: Message, name: str, what: str, due: Range) -> MalformedMessage:
    return MalformedMessage(f"{type(message).__name__}.{name} {what} outside {due}")


def _hold(message: Message, name: str, due: Range, number: float) -> None:
    if not due.holds(number):
        raise _outside(message, name, f"is {number},", due)


def _holds_all(due: Range, numbers: np.ndarray) -> bool:
    return kernels.within(numbers.reshape(-1), due.least, due.most)


def _within(message: Message, *names: str) -> None:
    for name in names:
        _hold(message, name, RANGES[name], getattr(message, name))


def _all_within(message: Message, *names: str) -> None:
    for name in names:
        if not _holds_all(RANGES[name], getattr(message, name)):
            raise _outside(message, name, "holds a number", RANGES[name])


def _check_costs(message: Report | LowerReport | EvaluationReport) -> None:
    costs = message.costs
    for name in COSTS:
        _hold(message, name, RANGES[name], getattr(costs, name))
    if costs.unrecognised > costs.prompts:
        raise MalformedMessage(
            f"{type(message).__name__}.unrecognised is {costs.unrecognised},"
            f" of {costs.prompts} prompts"
        )


def _check_indices(message: Message, name: str, indices: np.ndarray, size: int) -> None:
    if not kernels.within(indices, 0.0, size - 1.0):
        raise MalformedMessage(
            f"{type(message).__name__}.{name} {indices.tolist()} are outside [0, {size})"
        )


def _build(kind: type, header: Header, arrays: dict[str, np.ndarray], rest: Buffer) -> Message:
    number, iteration = header.number, header.iteration
    if kind is Assignment:
        return Assignment(number, iteration, **arrays)
    if kind is LowerAssignment:
        return LowerAssignment(number, iteration, **arrays)
    if kind is Stop:
        return Stop()
    if kind is Failure:
        if number not in (0, 1):
            raise MalformedMessage(f"Failure.refuses is {number}, neither 0 nor 1")
        return Failure(_text(rest), bool(number))
    if kind is Reset:
        return Reset(**arrays)
    if kind is Restore:
        return Restore(number, **arrays)
    if kind is Hello:
        cost_bounds = CostBounds(
            number, iteration, header.calls, header.prompts, header.unrecognised,
            header.prompt_tokens, header.completion_tokens,
        )  # fmt: skip
        digest = _text(np.frombuffer(arrays["digest"].item(), np.uint8))
        return Hello(arrays["q"], _text(rest), cost_bounds, digest, choice=header.split - 1)
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
        numbers = number, iteration, header.loss, *norms, costs, header.sent_time
        return Report(*numbers, *arrays.values(), choice=header.split - 1)
    if kind is LowerReport:
        return LowerReport(number, iteration, header.loss, costs, **arrays)
    try:
        split, candidate = Split(header.split), Candidate(header.candidate)
    except ValueError as error:
        raise MalformedMessage(f"{kind.__name__}: {error}") from error
    if kind is EvaluationRequest:
        return EvaluationRequest(
            iteration, split, candidate, **arrays, rank=number, halvings=header.prompts
        )
    means = header.loss, header.accuracy
    rows: RowScores | RowLosses | None = None
    if number:
        rows = _row_scores(rest, number) if split is Split.TEST else RowLosses(rest.view(REAL))
    prompt = arrays["bias"], arrays["words"], arrays["demonstrations"]
    return EvaluationReport(iteration, split, candidate, *means, costs, *prompt, rows)


def _row_scores(rest: Buffer, rows: int) -> RowScores:
    labels = rest[: rows * INTEGER.itemsize].view(INTEGER)
    return RowScores(labels, rest[rows * INTEGER.itemsize :].view(REAL).reshape(rows, -1))
