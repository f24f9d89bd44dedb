"""What workers ask of their black boxes, and what comes back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.inputs.sections import Calibration
from asyndbt_mpi.protocol.messages import Candidate, Costs, Split


@dataclass(frozen=True, slots=True)
class DataSizes:
    """How much data a worker holds; its texts stay with the black box.

    ``pool`` (U,) counts the demonstrations of each class; ``rows`` counts each split's queries.
    Calibration adds at most ``references`` to the prompts on a split's rows. The rest is the most
    that its black box may call for so many prompts, and the most tokens that such a call reads and
    writes.
    """

    pool: IntArray
    rows: dict[Split, int]
    references: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(Split, 0))
    most_calls: Callable[[int], int] = lambda prompts: prompts
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Query:
    """Score I prompts of ``worker``, each on the same B rows of a split.

    ``words`` (I, M) and ``demonstrations`` (I, U) are indices, `WITHOUT` for none;
    ``rows`` (B,) are row numbers of the worker's ``split``. ``calibration`` is that of the task
    unless it is given.
    """

    worker: int
    split: Split
    rows: IntArray
    words: IntArray
    demonstrations: IntArray
    calibration: Calibration | None = None


@dataclass(slots=True)
class Answer:
    """Loss (1) and accuracy of each prompt, (I,) each, averaged over the rows asked for.

    ``prompts`` were asked for, counting each row; ``calls`` of them were paid for, and the answers
    to the ``unrecognised`` named no label. Of a language model: the ``log_probabilities``
    (I, B, U) behind them, the rows' ``labels`` (B,), and the ``bias`` (I, U) that calibration took
    off, if it did. Of an answer that is read from a log there may be the ``row_losses`` (I, B)
    alone.
    """

    losses: FloatArray
    accuracies: FloatArray
    calls: int
    prompt_tokens: int
    prompts: int = field(default=0, kw_only=True)
    completion_tokens: int = field(default=0, kw_only=True)
    unrecognised: int = field(default=0, kw_only=True)
    log_probabilities: FloatArray | None = field(default=None, kw_only=True)
    labels: IntArray | None = field(default=None, kw_only=True)
    bias: FloatArray | None = field(default=None, kw_only=True)
    row_losses: FloatArray | None = field(default=None, kw_only=True)


def calibration_of(candidate: Candidate, split: Split, configured: Calibration) -> Calibration:
    """How the scores of a kind of prompt are calibrated; the untuned one is tested both ways."""
    if split is Split.TEST and candidate is Candidate.UNTUNED:
        return "none"
    if candidate is Candidate.CALIBRATED and configured == "none":
        return "batch"
    return configured


@dataclass(slots=True)
class ExactQuery:
    """The expected loss of ``worker`` under p (M, N) and q (U, V), and its gradients there.

    Only a black box with a closed form can answer it.
    """

    worker: int
    p: FloatArray
    q: FloatArray


@dataclass(slots=True)
class ExactAnswer(Answer):
    """The expected loss as the only one (1,), and its derivatives in p (M, N) and q (U, V)."""

    p_gradient: FloatArray
    q_gradient: FloatArray


AnyQuery: TypeAlias = Query | ExactQuery


@dataclass(slots=True)
class Completed:
    """The black box's answer to ``worker``.

    ``compute_seconds`` is what it took, ``sent_time`` the run's clock when the reply is sent.
    """

    worker: int
    answer: Answer
    compute_seconds: float
    sent_time: float

    @property
    def costs(self) -> Costs:
        """As they are told to the server."""
        answer = self.answer
        return Costs(
            answer.calls,
            answer.prompt_tokens,
            self.compute_seconds,
            answer.prompts,
            answer.completion_tokens,
            answer.unrecognised,
        )


class BlackBox(Protocol):
    """What answers the workers of one process: a language model with their data, or a function.

    Known only by its answers. ``data_sizes``, ``descriptions`` and ``digests`` (of language
    models, "" for none) are by number of the worker.
    """

    data_sizes: dict[int, DataSizes]
    descriptions: dict[int, str]
    digests: dict[int, str]

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        """Answer each query; the same query always gets the same answer.

        The queries are of different workers, and all exact or all sampled.
        """
        ...
