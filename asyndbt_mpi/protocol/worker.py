"""The workers: state machines that turn assignments into queries, and answers into reports.

    queries = workers.receive([(worker, message), ...])    # what to ask the black box
    replies = workers.answer([Completed(...), ...])        # what to send to the server

They never send, wait, read a clock or call a language model themselves. One object holds all the
workers of a process, and moves those that have something to do at once: one under MPI, up to
all of them in a simulation. What a worker does depends on its own state and messages alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.algorithm import kernels
from asyndbt_mpi.algorithm.estimator import EstimatorFactory, estimator, sample
from asyndbt_mpi.algorithm.lower_level import worker_step
from asyndbt_mpi.algorithm.optimizer import OPTIMIZERS
from asyndbt_mpi.algorithm.random import Purpose
from asyndbt_mpi.algorithm.simplex import project
from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.blackbox import (
    AnyQuery,
    Completed,
    DataSizes,
    ExactAnswer,
    ExactQuery,
    Query,
)
from asyndbt_mpi.protocol.divergence import Step
from asyndbt_mpi.protocol.messages import (
    Assignment,
    CostBounds,
    EvaluationReport,
    EvaluationRequest,
    Hello,
    LowerAssignment,
    LowerReport,
    Report,
    Reset,
    Restore,
    Shapes,
    Split,
    Stop,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.sampling import Draws

Asking = TypeVar("Asking", Assignment, LowerAssignment, EvaluationRequest)


@dataclass(slots=True)
class _Asked(Generic[Asking]):
    """A message under way, and what was asked for it: words (I, M), demonstrations (I, U)."""

    message: Asking
    words: IntArray
    demonstrations: IntArray


_Finished: TypeAlias = tuple[Completed, _Asked[Asking]]


class Workers:
    """Data holders, each with its p (M, N) and q (U, V), and the step (19), (20) on them.

    Parameters
    ----------
    holdings : by number of the worker (from 1), which with the seed keys its randomness
        How many demonstrations and queries the worker's black box has.
    own_estimator : makes the estimator, in place of the one that the configuration names

    Attributes
    ----------
    p, q : arrays (W, M, N), (W, U, V), in the order of ``data_sizes``
    stopped : every worker was told to stop
    """

    def __init__(
        self,
        config: Config,
        shapes: Shapes,
        data_sizes: dict[int, DataSizes],
        own_estimator: EstimatorFactory | None = None,
    ) -> None:
        self.config = config
        self.own_estimator = own_estimator
        self.shapes = shapes
        self.samples = config.estimator.samples
        self.exact = config.estimator.name == "exact"
        self.lower_step_size = config.steps.lower_p
        self.data_sizes = data_sizes
        self.batch = {
            worker: min(config.estimator.batch, held.rows[Split.TRAIN])
            for worker, held in data_sizes.items()
        }
        self._index = {worker: index for index, worker in enumerate(data_sizes)}
        pool = np.array([held.pool for held in data_sizes.values()])[..., None]  # (W, U, 1)
        allowed = np.arange(shapes.pool) < pool
        shape = len(data_sizes), shapes.positions, shapes.words
        self.p: FloatArray = np.full(shape, 1.0 / shapes.words)
        self.q: FloatArray = allowed / pool
        if not self.exact:
            p_shape, q_shape = self.p.shape, self.q.shape
            self.estimator = (
                own_estimator(p_shape, q_shape)
                if own_estimator
                else estimator(config.estimator.name, p_shape, q_shape)
            )
        couple = None if self.exact else self.estimator.couple
        self.draws = Draws(config.run.seed, self.samples, self.batch, data_sizes, couple)
        optimizer = OPTIMIZERS[config.steps.optimizer]
        self.p_optimizer = optimizer(config.steps.p, self.p.shape)
        self.q_optimizer = optimizer(config.steps.q, self.q.shape, allowed)
        # The newest realisation k of each worker's q, and the estimation that it is of.
        self._k = np.zeros(self.q.shape[:2], dtype=np.int64)
        self._k_of = np.full(len(data_sizes), -1)
        self._asked: dict[int, _Asked[Any]] = {}
        self._working = set(data_sizes)

    @property
    def stopped(self) -> bool:
        """Every worker was told to stop."""
        return not self._working

    def hello(self, worker: int, description: str, digest: str = "") -> Hello:
        """The first message of ``worker`` to the server; ``digest`` of its language model."""
        held = self.data_sizes[worker]
        prompts = 1 if self.exact else self.samples * self.batch[worker]
        rows = held.rows[Split.VALIDATION], held.rows[Split.TEST]
        assignment, validation, test = (held.most_calls(n) for n in (prompts, *rows))
        cost_bounds = CostBounds(
            assignment, validation, test, held.prompt_tokens, held.completion_tokens
        )
        return Hello(self.q[self._index[worker]].copy(), description, cost_bounds, digest)

    # ------------------------------------------------------------ state

    def _states(self) -> list[NDArray[Any]]:
        """Everything about the workers that changes; each array has a row for each of them."""
        learnt = [] if self.exact else self.estimator.state
        moments = [*self.p_optimizer.state, *self.q_optimizer.state]
        return [self.p, self.q, *moments, *learnt, self._k, self._k_of]

    def state(self, worker: int) -> FloatArray:
        """All that the next answers of ``worker`` depend on, besides what it is sent; flat."""
        index = self._index[worker]
        return np.concatenate([array[index].ravel() for array in self._states()])

    def restore(self, worker: int, state: FloatArray) -> None:
        """Give ``worker`` a `state`.

        Raises
        ------
        ValueError
            It has another length: it is of a worker with another configuration.
        """
        index = self._index[worker]
        arrays = self._states()
        ends = np.cumsum([array[index].size for array in arrays])
        if len(state) != ends[-1]:
            raise ValueError(f"a state of {len(state)} numbers, {ends[-1]} are due")
        for array, values in zip(arrays, np.split(state, ends[:-1]), strict=True):
            array[index] = values.reshape(array[index].shape)

    def start_afresh(self, worker: int, p: FloatArray, q: FloatArray | None = None) -> None:
        """Have ``worker`` begin with ``p`` (M, N), and with ``q`` (U, V) if it is given."""
        held = {worker: self.data_sizes[worker]}
        fresh = Workers(self.config, self.shapes, held, self.own_estimator)
        self.restore(worker, fresh.state(worker))
        self.p[self._index[worker]] = p
        if q is not None:
            allowed = fresh.q[0] > 0  # it has no other demonstrations to show
            self.q[self._index[worker]] = q if not q[~allowed].any() else project(q, allowed)

    def receive(self, messages: Sequence[tuple[int, ToWorker]]) -> list[AnyQuery | None]:
        """Start on a message for each of several workers; None where there is nothing to ask."""
        for worker, message in messages:
            if worker in self._asked:
                raise RuntimeError("a new assignment came before the last one was answered")
            if isinstance(message, Stop):
                self._working.discard(worker)
            elif isinstance(message, Reset):
                self.start_afresh(worker, message.p)
            elif isinstance(message, Restore):
                self.restore(worker, message.state)
        ask: dict[type, Callable[..., Sequence[AnyQuery | None]]] = {
            Assignment: self._ask_upper,
            LowerAssignment: self._ask_lower,
            EvaluationRequest: self._ask_evaluation,
            **dict.fromkeys((Stop, Reset, Restore), lambda messages: [None] * len(messages)),
        }
        return _by_kind(messages, [type(message) for _, message in messages], ask)

    def answer(self, completed: Sequence[Completed]) -> list[ToServer]:
        """Finish the assignments whose answers have come; a reply to each.

        Raises
        ------
        Diverged
            A step would lead to numbers that are not finite.
        """
        asked: list[_Asked[Any]] = []
        for each in completed:
            if each.worker not in self._asked:
                raise RuntimeError("an answer came without an assignment")
            asked.append(self._asked.pop(each.worker))
        step: dict[type, Callable[..., list[ToServer]]] = {
            Assignment: self._step,
            LowerAssignment: self._lower_step,
            EvaluationRequest: _evaluation_reports,
        }
        together = list(zip(completed, asked, strict=True))
        return _by_kind(together, [type(each.message) for each in asked], step)

    # ------------------------------------------------------------ upper level

    def _ask_upper(self, messages: Sequence[tuple[int, Assignment]]) -> list[AnyQuery]:
        members = self._members(worker for worker, _ in messages)
        p, q = self.p[members], self.q[members]
        if self.exact:
            return self._ask_exactly(messages, p, q, np.empty((len(messages), 0, 0), dtype=int))
        rows, (for_words, for_demonstrations) = self.draws.for_step(
            [(worker, message.number) for worker, message in messages],
            Purpose.UPPER_STEP,
            (p.shape[1], q.shape[1]),
        )
        return self._ask(messages, rows, sample(p, for_words), sample(q, for_demonstrations))

    def _step(self, together: Sequence[_Finished[Assignment]]) -> list[ToServer]:
        members = self._members(done.worker for done, _ in together)
        p, q = self.p[members], self.q[members]
        # Both gradients are taken at the old (p, q), from the same samples, eq. (27).
        p_gradient, q_gradient = (
            _exact_gradients(together)
            if self.exact
            else self.estimator.upper(members, p, q, *_samples(together))
        )
        dual_gradient = np.array([asked.message.dual_gradient for _, asked in together])
        when = f" after the step of iteration {together[0][1].message.iteration}"
        with Step("p", "steps.p or algorithm.dual_bound", when):
            p = self.p_optimizer.step(p, p_gradient + dual_gradient, members)  # (19), (23)
        with Step("q", "steps.q", when):
            q = self.q_optimizer.step(q, q_gradient, members)  # (20), (24)
        self.p[members], self.q[members] = p, q
        losses = _losses(together)
        p_norms, q_norms = _norms(p_gradient), _norms(q_gradient)
        return [
            Report(
                asked.message.number, asked.message.iteration, losses[row], p_norms[row],
                q_norms[row], done.costs, done.sent_time, p[row], q[row], done.answer.losses,
            )
            for row, (done, asked) in enumerate(together)
        ]  # fmt: skip

    # ------------------------------------------------------------ lower level

    def _ask_lower(self, messages: Sequence[tuple[int, LowerAssignment]]) -> list[AnyQuery]:
        members = self._members(worker for worker, _ in messages)
        p = np.array([message.p for _, message in messages])
        self._realise(messages)
        k = self._k[members][:, None]
        if self.exact:
            shown = np.zeros_like(self.q[members])
            np.put_along_axis(shown, k[:, 0, :, None], 1.0, axis=-1)
            return self._ask_exactly(messages, p, shown, k)
        rows, (for_words,) = self.draws.for_step(
            [(worker, message.number) for worker, message in messages],
            Purpose.LOWER_STEP,
            (p.shape[1],),
        )
        return self._ask(messages, rows, sample(p, for_words), np.repeat(k, self.samples, axis=1))

    def _realise(self, messages: Sequence[tuple[int, LowerAssignment]]) -> None:
        """Draw the demonstrations k: one realisation of q for all rounds of an estimation."""
        new = [
            (worker, message.estimation)
            for worker, message in messages
            if self._k_of[self._index[worker]] != message.estimation
        ]
        if not new:
            return
        drawing = self._members(worker for worker, _ in new)
        self._k[drawing] = self.draws.demonstrations(self.q[drawing], new)
        self._k_of[drawing] = [estimation for _, estimation in new]

    def _lower_step(self, together: Sequence[_Finished[LowerAssignment]]) -> list[ToServer]:
        p = np.array([asked.message.p for _, asked in together])
        dual_gradient = np.array([asked.message.dual_gradient for _, asked in together])
        if self.exact:
            gradient, _ = _exact_gradients(together)
        else:
            members = self._members(done.worker for done, _ in together)
            gradient = self.estimator.lower(members, p, *_samples(together))
        when = f" after a step of estimate {together[0][1].message.estimation}"
        with Step("phi", "steps.lower_p, algorithm.penalty or steps.rho", when):
            p = worker_step(p, gradient, dual_gradient, self.lower_step_size)  # (8), (11)
        losses = _losses(together)
        return [
            LowerReport(
                asked.message.number, asked.message.estimation, losses[row], done.costs, p[row],
                asked.demonstrations[0], done.answer.losses,
            )
            for row, (done, asked) in enumerate(together)
        ]  # fmt: skip

    # ------------------------------------------------------------ both levels

    def _ask(
        self,
        messages: Sequence[tuple[int, Asking]],
        rows: list[IntArray],
        words: IntArray,
        demonstrations: IntArray,
    ) -> list[AnyQuery]:
        queries: list[AnyQuery] = []
        for index, (worker, message) in enumerate(messages):
            self._asked[worker] = _Asked(message, words[index], demonstrations[index])
            queries.append(
                Query(worker, Split.TRAIN, rows[index], words[index], demonstrations[index])
            )
        return queries

    def _ask_exactly(
        self,
        messages: Sequence[tuple[int, Asking]],
        p: FloatArray,
        q: FloatArray,
        demonstrations: IntArray,
    ) -> list[AnyQuery]:
        no_words = np.empty((0, p.shape[1]), dtype=np.int64)
        queries: list[AnyQuery] = []
        for index, (worker, message) in enumerate(messages):
            self._asked[worker] = _Asked(message, no_words, demonstrations[index])
            queries.append(ExactQuery(worker, p[index], q[index]))
        return queries

    def _members(self, workers: Iterable[int]) -> IntArray:
        """Where the ``workers`` are in the stack."""
        return np.array([self._index[worker] for worker in workers])

    # ------------------------------------------------------------ evaluation

    def _ask_evaluation(self, messages: Sequence[tuple[int, EvaluationRequest]]) -> list[AnyQuery]:
        queries: list[AnyQuery] = []
        for worker, message in messages:
            words, demonstrations = message.words[None], message.demonstrations[None]
            self._asked[worker] = _Asked(message, words, demonstrations)
            rows = np.arange(self.data_sizes[worker].rows[message.split])
            queries.append(Query(worker, message.split, rows, words, demonstrations))
        return queries


def state_length(
    config: Config, shapes: Shapes, own_estimator: EstimatorFactory | None = None
) -> int:
    """Numbers of a worker's state, the same for all workers of a run."""
    rows = dict.fromkeys(Split, 1)
    some = DataSizes(np.ones(shapes.classes, dtype=np.int64), rows)
    return len(Workers(config, shapes, {1: some}, own_estimator).state(1))


def _evaluation_reports(together: Sequence[_Finished[EvaluationRequest]]) -> list[ToServer]:
    return [
        EvaluationReport(
            asked.message.iteration, asked.message.split, asked.message.candidate,
            float(done.answer.losses[0]), float(done.answer.accuracies[0]), done.costs,
        )
        for done, asked in together
    ]  # fmt: skip


def _samples(together: Sequence[_Finished[Any]]) -> tuple[IntArray, IntArray, FloatArray]:
    """Words (W, I, M), demonstrations (W, I, U) and losses (W, I) of the samples."""
    return (
        np.array([asked.words for _, asked in together]),
        np.array([asked.demonstrations for _, asked in together]),
        np.array([done.answer.losses for done, _ in together]),
    )


def _exact_gradients(together: Sequence[_Finished[Any]]) -> tuple[FloatArray, FloatArray]:
    """Gradients in p (W, M, N) and in q (W, U, V) that the black box knew."""
    exact = [done.answer for done, _ in together if isinstance(done.answer, ExactAnswer)]
    return (
        np.array([answer.p_gradient for answer in exact]),
        np.array([answer.q_gradient for answer in exact]),
    )


def _losses(together: Sequence[_Finished[Any]]) -> list[float]:
    losses = np.array([done.answer.losses for done, _ in together])
    means: list[float] = (np.add.reduce(losses, axis=1) / losses.shape[1]).tolist()
    return means


def _norms(gradients: FloatArray) -> list[float]:
    """Euclidean norm of each matrix (W, rows, n)."""
    norms: list[float] = kernels.norms(np.ascontiguousarray(gradients)).tolist()
    return norms


def _by_kind(
    items: Sequence[Any],
    kinds: Sequence[type],
    do: Mapping[type, Callable[[list[Any]], Sequence[Any]]],
) -> list[Any]:
    """Results for ``items`` in their order, worked out for all of one kind together."""
    if len(set(kinds)) == 1:
        return list(do[kinds[0]](list(items)))
    results: dict[int, Any] = {}
    for kind in dict.fromkeys(kinds):
        rows = [row for row, each in enumerate(kinds) if each is kind]
        results |= zip(rows, do[kind]([items[row] for row in rows]), strict=True)
    return [results[row] for row in range(len(items))]
