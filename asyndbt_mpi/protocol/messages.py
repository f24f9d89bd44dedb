"""The messages between server and workers."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray

WITHOUT = -1
"""As a word or demonstration index: the prompt has none."""


class MalformedMessage(ValueError):
    """What a worker sent is no message, or answers nothing; says what was expected."""


class Split(IntEnum):
    """Which of a worker's rows a prompt is scored on."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    RACE = 3
    """The validation rows and then the training rows, the classes of each spread evenly."""


class Candidate(IntEnum):
    """What kind of prompt an evaluation is of."""

    TUNED = 0
    UNTUNED = 1
    RANDOM = 2
    CONSENSUS = 3
    CALIBRATED = 4
    """The untuned prompt, with calibrated scores; those of UNTUNED never are."""
    MODEL = 5
    """One of the best by the worker's model of the loss."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes that both sides know: positions M, words N, classes U, pool V, samples I."""

    positions: int
    words: int
    classes: int
    pool: int
    samples: int = 1


NOTHING: FloatArray = np.empty(0)
"""In place of an array that a run's messages do not carry."""


def _nothing() -> FloatArray:
    return NOTHING


# What a simulation makes by the hundred thousand is not frozen: to freeze it takes longer.

# ---------------------------------------------------------------- server to worker


@dataclass(slots=True)
class Assignment:
    """Do one upper step (19), (20). ``dual_gradient`` (M, N) is sum_l lambda^l a^l(v).

    ``precision`` and ``information`` (M, N) are what the others know of words, `NOTHING` where
    that is not pooled.
    """

    number: int
    iteration: int
    dual_gradient: FloatArray
    precision: FloatArray = field(default_factory=_nothing)
    information: FloatArray = field(default_factory=_nothing)


@dataclass(slots=True)
class LowerAssignment:
    """Do one lower step (8) on the scratch copy ``p`` under ``dual_gradient``, both (M, N).

    ``estimation`` numbers the estimation of phi this belongs to and keys its demonstrations,
    which stay the same over its rounds.
    """

    number: int
    estimation: int
    p: FloatArray
    dual_gradient: FloatArray


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Score one prompt, given by its indices, on a split.

    ``words`` (M,) and ``demonstrations`` (U,) hold indices, or `WITHOUT` throughout. A prompt of
    the worker's model is given by its ``rank``, 0 for the best, until it is known. Of a split's
    rows the first are scored, those that are left after so many ``halvings``; see
    `race.first_rows`.
    """

    iteration: int
    split: Split
    candidate: Candidate
    words: IntArray
    demonstrations: IntArray
    rank: int = 0
    halvings: int = 0

    @property
    def is_of_model(self) -> bool:
        """Whether only the worker can say which prompt it is."""
        return self.candidate is Candidate.MODEL and bool((self.words == WITHOUT).all())


@dataclass(frozen=True, slots=True)
class Stop:
    """End; no more messages follow."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget everything, begin with ``p`` (M, N), and say hello again."""

    p: FloatArray


@dataclass(frozen=True, slots=True)
class Restore:
    """Go on from ``state``, after ``answers`` answers: the run is one that is resumed."""

    answers: int
    state: FloatArray


# ---------------------------------------------------------------- worker to server


@dataclass(frozen=True, slots=True)
class CostBounds:
    """The most that answers of a worker can cost.

    Calls for an assignment, and for a prompt on the validation split, on the test split and on all
    rows of the race; how many rows these are, 1 of a function; tokens of the prompt and of the
    answer for each call.
    """

    assignment: int = 0
    validation: int = 0
    test: int = 0
    race: int = 0
    race_rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Costs:
    """What an answer of the black box cost; a cache may have known some of the ``prompts``.

    The answers to the ``unrecognised`` of them named no label.
    """

    calls: int = 0
    prompt_tokens: int = 0
    compute_seconds: float = 0.0
    prompts: int = 0
    completion_tokens: int = 0
    unrecognised: int = 0


@dataclass(frozen=True, slots=True)
class Hello:
    """The worker is ready. ``q`` (U, V) is uniform over its demonstrations, 0 elsewhere.

    ``digest`` is that of its language model, "" if not known. With `log.private` there is no q;
    ``choice`` numbers its most probable demonstrations.
    """

    q: FloatArray
    description: str
    cost_bounds: CostBounds = CostBounds()
    digest: str = ""
    choice: int = field(default=WITHOUT, kw_only=True)


@dataclass(slots=True)
class Report:
    """The worker's variables after an upper step: p (M, N), q (U, V).

    ``losses`` (I,) are those of the samples, ``loss`` is their mean. What it knows of words by
    them is ``precision``, ``information`` (M, N) and ``trust`` (G,), all `NOTHING` where that is
    not pooled. With `log.private` there is no q; ``choice`` numbers its most probable
    demonstrations, and all losses are their mean.
    """

    number: int
    iteration: int
    loss: float
    grad_p_norm: float
    grad_q_norm: float
    costs: Costs
    sent_time: float
    p: FloatArray
    q: FloatArray
    losses: FloatArray
    precision: FloatArray = field(default_factory=_nothing)
    information: FloatArray = field(default_factory=_nothing)
    trust: FloatArray = field(default_factory=_nothing)
    choice: int = field(default=WITHOUT, kw_only=True)


@dataclass(slots=True)
class LowerReport:
    """The scratch copy after one lower step: p (M, N), the demonstrations k (U,), losses (I,).

    With `log.private` there is no k, and all losses are their mean.
    """

    number: int
    estimation: int
    loss: float
    costs: Costs
    p: FloatArray
    k: IntArray
    losses: FloatArray


@dataclass(frozen=True, slots=True)
class RowLosses:
    """The losses (B,) of a worker's own rows: all that others learn of them."""

    losses: FloatArray

    def __len__(self) -> int:
        return len(self.losses)


@dataclass(frozen=True, slots=True)
class RowScores:
    """Of the test rows, which all workers share.

    The right labels (B,), and the log-probabilities (B, U) of all labels.
    """

    labels: IntArray
    log_probabilities: FloatArray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def losses(self) -> FloatArray:
        """Of each row, (B,)."""
        losses: FloatArray = -self.log_probabilities[np.arange(len(self.labels)), self.labels]
        return losses


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Mean loss and accuracy of a prompt, and which it is: ``words`` and ``demonstrations``.

    ``bias`` (U,) is what its scores were calibrated by, 0 if they were not; ``rows`` are those
    that were scored, None of a function. With `log.private` ``demonstrations`` are the number of
    the choice, for each class, and the losses of a worker's own rows are all their mean.
    """

    iteration: int
    split: Split
    candidate: Candidate
    loss: float
    accuracy: float
    costs: Costs
    bias: FloatArray
    words: IntArray
    demonstrations: IntArray
    rows: RowScores | RowLosses | None = None

    @property
    def losses(self) -> FloatArray:
        """Of each row (B,); a function's is that of its only one."""
        return np.array([self.loss]) if self.rows is None else self.rows.losses


@dataclass(frozen=True, slots=True)
class Failure:
    """The worker cannot go on; ``text`` is for the person who started the run.

    ``refuses`` says that the run is not to be made as it is, rather than without the worker.
    """

    text: str
    refuses: bool = False


ToWorker: TypeAlias = Assignment | LowerAssignment | EvaluationRequest | Stop | Reset | Restore
ToServer: TypeAlias = Hello | Report | LowerReport | EvaluationReport | Failure
Message: TypeAlias = ToWorker | ToServer
