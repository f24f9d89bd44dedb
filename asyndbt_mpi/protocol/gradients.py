"""Where a worker's gradients come from: sampled prompts, or a black box with a closed form."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from asyndbt_mpi.algorithm.estimator import (
    Estimator,
    EstimatorFactory,
    Model,
    estimator,
    sample,
)
from asyndbt_mpi.algorithm.random import Purpose
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.blackbox import (
    Answer,
    AnyQuery,
    DataSizes,
    ExactAnswer,
    ExactQuery,
    Query,
)
from asyndbt_mpi.protocol.messages import Shapes, Split
from asyndbt_mpi.protocol.sampling import Draws

Keys = Sequence[tuple[int, int]]
"""(worker, number of its assignment), of each worker that takes a step."""


class Gradients(Protocol):
    """What to ask the black box for a step of some workers, and the gradients its answers give.

    p, q are (W, M, N), (W, U, V); ``indices`` (W,) are the workers' places in the stack.
    """

    @property
    def state(self) -> list[FloatArray]:
        """As `Estimator.state`."""
        ...

    @property
    def model(self) -> Model | None:
        """The model of the loss, if there is one."""
        ...

    def prompts(self, worker: int) -> int:
        """How many prompts a step of ``worker`` scores, one for each row."""
        ...

    def best(self, index: int, rank: int) -> tuple[IntArray, IntArray]:
        """The words (M,) and demonstrations (U,) of ``rank`` 0, 1, ... by a worker's model."""
        ...

    def ask_upper(
        self, indices: IntArray, keys: Keys, p: FloatArray, q: FloatArray
    ) -> Sequence[AnyQuery]:
        """A query for each worker, for a step on p and q."""
        ...

    def ask_lower(self, keys: Keys, p: FloatArray, k: IntArray) -> Sequence[AnyQuery]:
        """A query for each worker, for a step on p at the demonstrations ``k`` (W, U)."""
        ...

    def upper(
        self,
        indices: IntArray,
        p: FloatArray,
        q: FloatArray,
        queries: Sequence[AnyQuery],
        answers: Sequence[Answer],
    ) -> tuple[FloatArray, FloatArray]:
        """Gradients in p and in q; both at the old (p, q), from the same samples, eq. (27)."""
        ...

    def lower(
        self,
        indices: IntArray,
        p: FloatArray,
        queries: Sequence[AnyQuery],
        answers: Sequence[Answer],
    ) -> FloatArray:
        """Gradient in p."""
        ...


class Sampled:
    """Gradients that an ``estimator`` makes of the losses of I prompts, drawn from p and q."""

    def __init__(
        self,
        config: Config,
        shapes: Shapes,
        data_sizes: Mapping[int, DataSizes],
        estimator: Estimator,
    ) -> None:
        self.estimator = estimator
        self.samples = config.estimator.samples
        self._batch = {
            worker: min(config.estimator.batch, held.rows[Split.TRAIN])
            for worker, held in data_sizes.items()
        }
        self.model = estimator if isinstance(estimator, Model) else None
        seed, couple = config.run.seed, estimator.couple
        self._draws = Draws(seed, self.samples, self._batch, data_sizes, couple)
        self._allowed = allowed_demonstrations(shapes, data_sizes)

    @property
    def state(self) -> list[FloatArray]:
        """What the estimator has learnt."""
        return self.estimator.state

    def prompts(self, worker: int) -> int:
        """I on each row of its batch."""
        return self.samples * self._batch[worker]

    def best(self, index: int, rank: int) -> tuple[IntArray, IntArray]:
        """As `Gradients`."""
        assert self.model
        return self.model.best(index, self._allowed[index], rank)

    def ask_upper(self, indices: IntArray, keys: Keys, p: FloatArray, q: FloatArray) -> list[Query]:
        """As `Gradients`."""
        sizes = p.shape[1], q.shape[1]
        rows, (for_words, for_shown) = self._draws.for_step(keys, Purpose.UPPER_STEP, sizes)
        words, shown = sample(p, for_words), sample(q, for_shown)
        if self.model:
            generators = self._draws.streams(keys, Purpose.EXPLORATION)
            self.model.explore(indices, self._allowed[indices], words, shown, generators)
        return _queries(keys, rows, words, shown)

    def ask_lower(self, keys: Keys, p: FloatArray, k: IntArray) -> list[Query]:
        """As `Gradients`: the same demonstrations in all I prompts."""
        rows, (for_words,) = self._draws.for_step(keys, Purpose.LOWER_STEP, (p.shape[1],))
        return _queries(keys, rows, sample(p, for_words), np.repeat(k[:, None], self.samples, 1))

    def upper(
        self,
        indices: IntArray,
        p: FloatArray,
        q: FloatArray,
        queries: Sequence[AnyQuery],
        answers: Sequence[Answer],
    ) -> tuple[FloatArray, FloatArray]:
        """As `Gradients`."""
        return self.estimator.upper(indices, p, q, *_samples(queries, answers))

    def lower(
        self,
        indices: IntArray,
        p: FloatArray,
        queries: Sequence[AnyQuery],
        answers: Sequence[Answer],
    ) -> FloatArray:
        """As `Gradients`."""
        return self.estimator.lower(indices, p, *_samples(queries, answers))


class Exact:
    """The gradients of the expected loss, which the black box knows; nothing is drawn.

    Parameters
    ----------
    pool : V
    """

    def __init__(self, pool: int) -> None:
        self._pool = pool

    @property
    def state(self) -> list[FloatArray]:
        """Nothing is learnt."""
        return []

    def prompts(self, worker: int) -> int:
        """One expected loss."""
        return 1

    @property
    def model(self) -> None:
        """None: nothing is learnt."""
        return None

    def best(self, index: int, rank: int) -> tuple[IntArray, IntArray]:
        """There is none."""
        raise TypeError("exact gradients have no model")

    def ask_upper(
        self, indices: IntArray, keys: Keys, p: FloatArray, q: FloatArray
    ) -> list[ExactQuery]:
        """As `Gradients`."""
        return self._ask(keys, p, q)

    def _ask(self, keys: Keys, p: FloatArray, q: FloatArray) -> list[ExactQuery]:
        each = zip(keys, p, q, strict=True)
        return [ExactQuery(worker, words, shown) for (worker, _), words, shown in each]

    def ask_lower(self, keys: Keys, p: FloatArray, k: IntArray) -> list[ExactQuery]:
        """As `Gradients`: all mass of q is on k."""
        return self._ask(keys, p, np.eye(self._pool)[k])

    def upper(
        self,
        indices: IntArray,
        p: FloatArray,
        q: FloatArray,
        queries: Sequence[AnyQuery],
        answers: Sequence[Answer],
    ) -> tuple[FloatArray, FloatArray]:
        """As `Gradients`."""
        exact = [_exact(answer) for answer in answers]
        return (
            np.array([answer.p_gradient for answer in exact]),
            np.array([answer.q_gradient for answer in exact]),
        )

    def lower(
        self,
        indices: IntArray,
        p: FloatArray,
        queries: Sequence[AnyQuery],
        answers: Sequence[Answer],
    ) -> FloatArray:
        """As `Gradients`."""
        return np.array([_exact(answer).p_gradient for answer in answers])


def allowed_demonstrations(shapes: Shapes, data_sizes: Mapping[int, DataSizes]) -> BoolArray:
    """Which of V demonstrations of each class each worker has; (W, U, V)."""
    pool = np.array([held.pool for held in data_sizes.values()])[..., None]
    allowed: BoolArray = np.arange(shapes.pool) < pool
    return allowed


def gradients(
    config: Config,
    shapes: Shapes,
    data_sizes: Mapping[int, DataSizes],
    own_estimator: EstimatorFactory | None = None,
) -> Gradients:
    """What the configuration names, for the workers that hold ``data_sizes``.

    ``own_estimator`` makes the estimator in its place, if it is given.
    """
    if config.estimator.name == "exact":
        return Exact(shapes.pool)
    p_shape = len(data_sizes), shapes.positions, shapes.words
    q_shape = len(data_sizes), shapes.classes, shapes.pool
    if own_estimator:
        return Sampled(config, shapes, data_sizes, own_estimator(p_shape, q_shape))
    named = estimator(config.estimator.name, p_shape, q_shape)
    return Sampled(config, shapes, data_sizes, named)


def _queries(
    keys: Keys, rows: Sequence[IntArray], words: IntArray, demonstrations: IntArray
) -> list[Query]:
    return [
        Query(worker, Split.TRAIN, rows[index], words[index], demonstrations[index])
        for index, (worker, _) in enumerate(keys)
    ]


def _samples(
    queries: Sequence[AnyQuery], answers: Sequence[Answer]
) -> tuple[IntArray, IntArray, FloatArray]:
    """Words (W, I, M), demonstrations (W, I, U) and losses (W, I) of the samples."""
    asked = [query for query in queries if isinstance(query, Query)]
    return (
        np.array([query.words for query in asked]),
        np.array([query.demonstrations for query in asked]),
        np.array([answer.losses for answer in answers]),
    )


def _exact(answer: Answer) -> ExactAnswer:
    assert isinstance(answer, ExactAnswer), "a black box without a closed form"
    return answer
