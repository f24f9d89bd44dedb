"""What the server has to tell: everything a log needs, as it happens.

Nobody changes the arrays of a record after it was made.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.polyhedron import Drop, Plane
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.protocol.messages import (
    Candidate,
    CostBounds,
    Costs,
    EvaluationReport,
    Hello,
    LowerReport,
    Report,
    RowLosses,
    RowScores,
    Split,
    ToWorker,
)


class EventKind(IntEnum):
    """What happened at the server; in this order the events determine a whole run.

    EVALUATION is the answer to one on the validation split, TEST on the test split, RACE on the
    rows of the race. EXCLUDED is for what a worker sent, and for good, DROPPED for what it sent
    before that (`defence.strikes`); LOST for one that died or fell silent. If it is heard of again
    it has RETURNED and is told to start afresh, which its next HELLO says that it did. With
    CLOSING (of worker 0) the iterations are over: what follows belongs to that end of the run.
    RESUMED (of worker 0) is where another process went on, after leaving behind an end of the run
    that had the event's costs; its number is that of the calls that were under way when the run
    stopped, and may have been paid for.
    """

    HELLO = 0
    REPORT = 1
    LOWER_REPORT = 2
    EVALUATION = 3
    EXCLUDED = 4
    LOST = 5
    RETURNED = 6
    TEST = 7
    CLOSING = 8
    RESUMED = 9
    RACE = 10
    DROPPED = 11


EVENT_OF = {
    Split.VALIDATION: EventKind.EVALUATION,
    Split.TEST: EventKind.TEST,
    Split.RACE: EventKind.RACE,
}
"""What the answer to an evaluation is, by its split."""

SPLIT_OF = {kind: split for split, kind in EVENT_OF.items()}
"""The split of each kind of event that has a row of /evaluation."""


@dataclass(slots=True)
class Event:
    """``worker``'s message arrived, or it was excluded, while iteration ``iteration`` was open.

    ``number`` is the number of the assignment that the message answers, or the iteration of the
    evaluation, -1 if none. ``losses`` (I,), or one with its ``accuracy``, are what the black box
    answered: all that the worker's next state depends on, besides what it was sent. ``bias`` (U,)
    and ``rows`` are those of the report of an evaluation; its ``prompt`` is known of an event that
    was read from a log. A hello says the worker's ``cost_bounds``, and the digest of its ``model``.
    """

    kind: EventKind
    worker: int
    number: int
    iteration: int
    time: float
    costs: Costs = field(default_factory=Costs)
    sent_time: float = 0.0
    losses: FloatArray | None = None
    accuracy: float = float("nan")
    text: str = ""
    cost_bounds: CostBounds | None = None
    model: str = ""
    bias: FloatArray | None = None
    rows: RowScores | RowLosses | None = None
    prompt: tuple[IntArray, IntArray] | None = None


@dataclass(slots=True)
class UsedReport:
    """A report and the moment at which an iteration used it."""

    worker: int
    report: Report
    used_time: float


@dataclass(frozen=True, slots=True)
class Estimation:
    """One estimate of phi at the end of an iteration, and what it did to the polyhedron.

    k (R, U) is -1 for workers that took no part; phi_p (R, M, N), phi_z (M, N), h (M,).
    """

    iteration: int
    k: IntArray
    phi_p: FloatArray
    phi_z: FloatArray
    h: FloatArray
    calls: int
    prompt_tokens: int
    plane: Plane | None
    drops: list[Drop]


@dataclass(slots=True)
class Iteration:
    """A committed iteration: its number (from 0), the iterates after it, and what it used.

    z (M, N), and the workers' mean gradient of g (M, N) by which it moved, 0 where it is not
    known; active (R,) and delay (R,) per worker; planes (L,) and duals (L, M) after (22),
    before the estimation that may follow.
    """

    number: int
    z: FloatArray
    gradient: FloatArray
    active: BoolArray
    delay: IntArray
    time: float
    objective: float
    reports: list[UsedReport]
    planes: IntArray
    duals: FloatArray
    estimation: Estimation | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A prompt's accuracy and mean loss on a split; worker 0 stands for the consensus.

    words (M,) and demonstrations (U,) are what was scored, -1 for none; ``bias`` (U,) and ``rows``
    are those of the worker's report.
    """

    iteration: int
    worker: int
    split: Split
    candidate: Candidate
    accuracy: float
    loss: float
    words: IntArray
    demonstrations: IntArray
    calls: int
    prompt_tokens: int
    time: float
    bias: FloatArray
    rows: RowScores | RowLosses | None = None

    @property
    def losses(self) -> FloatArray:
        """Of each row (B,); a function's is that of its only one."""
        return np.array([self.loss]) if self.rows is None else self.rows.losses


Record: TypeAlias = Event | Iteration | Evaluation


@dataclass(slots=True)
class Output:
    """What a step of the server at ``time`` gives its driver: messages to send, records to log."""

    time: float
    messages: list[tuple[int, ToWorker]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


def hello_event(worker: int, hello: Hello, iteration: int, time: float) -> Event:
    """The event that ``hello`` arrived."""
    return Event(
        EventKind.HELLO, worker, -1, iteration, time,
        text=hello.description, cost_bounds=hello.cost_bounds, model=hello.digest,
    )  # fmt: skip


def answer_event(
    worker: int, report: Report | LowerReport | EvaluationReport, iteration: int, time: float
) -> Event:
    """The event that ``report`` arrived, with all that the black box had answered."""
    if isinstance(report, EvaluationReport):
        return Event(
            EVENT_OF[report.split], worker, report.iteration, iteration, time, report.costs,
            losses=np.array([report.loss]), accuracy=report.accuracy, bias=report.bias,
            rows=report.rows,
        )  # fmt: skip
    kind, sent_time = EventKind.LOWER_REPORT, 0.0
    if isinstance(report, Report):
        kind, sent_time = EventKind.REPORT, report.sent_time
    return Event(
        kind, worker, report.number, iteration, time, report.costs, sent_time, report.losses
    )
