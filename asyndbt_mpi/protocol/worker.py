"""The workers: state machines that turn assignments into queries, and answers into reports.

    queries = workers.receive([(worker, message), ...])    # what to ask the black box
    replies = workers.answer([Completed(...), ...])        # what to send to the server

They never send, wait, read a clock or call a language model themselves. One object holds all the
workers of a process, and moves those that have something to do at once: one under MPI, up to
all of them in a simulation. What a worker does depends on its own state and messages alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.algorithm import kernels
from asyndbt_mpi.algorithm.estimator import EstimatorFactory
from asyndbt_mpi.algorithm.lower_level import worker_step
from asyndbt_mpi.algorithm.optimizer import OPTIMIZERS
from asyndbt_mpi.algorithm.simplex import project
from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.blackbox import (
    Answer,
    AnyQuery,
    Completed,
    DataSizes,
    Query,
    calibration_of,
)
from asyndbt_mpi.protocol.divergence import Step
from asyndbt_mpi.protocol.final_tests import draw_demonstrations
from asyndbt_mpi.protocol.gradients import allowed_demonstrations, gradients
from asyndbt_mpi.protocol.messages import (
    NOTHING,
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
    RowLosses,
    RowScores,
    Shapes,
    Split,
    Stop,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.noise import Noise, most_answers
from asyndbt_mpi.protocol.private import Home, Secrets
from asyndbt_mpi.protocol.race import Prompt, first_rows
from asyndbt_mpi.protocol.sampling import Realisations

Asking = TypeVar("Asking", Assignment, LowerAssignment, EvaluationRequest)


@dataclass(slots=True)
class _Asked(Generic[Asking]):
    """A message in flight, and what the black box was asked for it."""

    message: Asking
    query: AnyQuery


_Finished: TypeAlias = tuple[Completed, _Asked[Asking]]


class Workers:
    """Data holders, each with its p (M, N) and q (U, V), and the step (19), (20) on them.

    Parameters
    ----------
    data_sizes : by number of the worker (from 1), which with the seed keys its randomness
        How many demonstrations and queries the worker's black box has.
    own_estimator : makes the estimator, in place of the one that the configuration names
    home : where the workers keep what they do not tell, with `log.private`

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
        home: Home | None = None,
    ) -> None:
        self.config = config
        self.own_estimator = own_estimator
        self.shapes = shapes
        self.lower_step_size = config.steps.lower_p
        self.data_sizes = data_sizes
        self._index = {worker: index for index, worker in enumerate(data_sizes)}
        allowed = allowed_demonstrations(shapes, data_sizes)
        shape = len(data_sizes), shapes.positions, shapes.words
        self.p: FloatArray = np.full(shape, 1.0 / shapes.words)
        self.q: FloatArray = allowed / allowed.sum(axis=-1, keepdims=True)
        self.gradients = gradients(config, shapes, data_sizes, own_estimator)
        self.realisations = Realisations(config.run.seed, len(data_sizes), shapes.classes)
        optimizer = OPTIMIZERS[config.steps.optimizer]
        self.p_optimizer = optimizer(config.steps.p, self.p.shape)
        self.q_optimizer = optimizer(config.steps.q, self.q.shape, allowed)
        self._pools = config.algorithm.pools
        self._secrets = self._own_secrets(home) if config.log.private else None
        self._noise = self._own_noise() if config.privacy.noise else None
        self._asked: dict[int, _Asked[Any]] = {}
        self._working = set(data_sizes)
        self._ask: dict[type, Callable[..., Sequence[AnyQuery | None]]] = {
            Assignment: self._ask_upper,
            LowerAssignment: self._ask_lower,
            EvaluationRequest: self._ask_evaluation,
            **dict.fromkeys((Stop, Reset, Restore), lambda messages: [None] * len(messages)),
        }
        self._finish: dict[type, Callable[..., list[ToServer]]] = {
            Assignment: self._step,
            LowerAssignment: self._lower_step,
            EvaluationRequest: self._evaluation_reports,
        }

    @property
    def stopped(self) -> bool:
        """Every worker was told to stop."""
        return not self._working

    def hello(self, worker: int, description: str, digest: str = "") -> Hello:
        """The first message of ``worker`` to the server; ``digest`` of its language model."""
        q = self.q[self._index[worker]].copy()
        hello = Hello(q, description, self._cost_bounds(worker), digest)
        return self._secrets.hello(worker, hello) if self._secrets else hello

    def _cost_bounds(self, worker: int) -> CostBounds:
        held = self.data_sizes[worker]
        prompts = self.gradients.prompts(worker)
        prompts += self.config.estimator.losses * held.references[Split.TRAIN]
        judged = Split.VALIDATION, Split.TEST, Split.RACE
        rows = (held.rows[split] + held.references[split] for split in judged)
        assignment, validation, test, race = (held.most_calls(n) for n in (prompts, *rows))
        race_rows = 1 if self.config.llm.is_function else held.rows[Split.RACE]
        tokens = held.prompt_tokens, held.completion_tokens
        return CostBounds(assignment, validation, test, race, race_rows, *tokens)

    def _own_secrets(self, home: Home | None) -> Secrets:
        draw, seed = draw_demonstrations, self.config.run.seed
        random = {worker: draw(self.q[at], seed, worker) for worker, at in self._index.items()}
        return Secrets(random, home)

    def _own_noise(self) -> Noise:
        bounds = {worker: self._cost_bounds(worker) for worker in self.data_sizes}
        most = {worker: most_answers(self.config, each) for worker, each in bounds.items()}
        return Noise(self.config.privacy, most)

    # ------------------------------------------------------------ state

    def _states(self) -> list[NDArray[Any]]:
        """Everything about the workers that changes; each array has a row for each of them."""
        moments = [*self.p_optimizer.state, *self.q_optimizer.state]
        return [self.p, self.q, *moments, *self.gradients.state, *self.realisations.state]

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
        """Start on a message for each of several workers; None where there is nothing to ask.

        Raises
        ------
        AskedTooOften
            With noise, one is asked for more than its guarantee is for.
        """
        for worker, message in messages:
            if worker in self._asked:
                raise RuntimeError("a new assignment came before the last one was answered")
            if isinstance(message, Stop):
                self._working.discard(worker)
            elif isinstance(message, Reset):
                self.start_afresh(worker, message.p)
            elif isinstance(message, Restore):
                self.restore(worker, message.state)
            elif self._noise:
                self._noise.ask(worker)
        return _by_kind(messages, [type(message) for _, message in messages], self._ask)

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
        heard: Sequence[Completed] = completed
        if self._noise:
            kinds = (isinstance(each.message, EvaluationRequest) for each in asked)
            heard = [
                replace(done, answer=self._noise.heard(done.answer, kind))
                for done, kind in zip(completed, kinds, strict=True)
            ]
        together = list(zip(heard, asked, strict=True))
        replies: list[ToServer] = _by_kind(
            together, [type(each.message) for each in asked], self._finish
        )
        if self._noise:
            replies = list(map(self._noise.told, replies))
        if self._secrets is None:
            return replies
        answered = zip(completed, replies, strict=True)
        return self._secrets.told((done.worker, done.answer, reply) for done, reply in answered)

    # ------------------------------------------------------------ upper level

    def _ask_upper(self, messages: Sequence[tuple[int, Assignment]]) -> list[AnyQuery]:
        indices = self._indices(worker for worker, _ in messages)
        p, q = self.p.take(indices, axis=0), self.q.take(indices, axis=0)
        if self._pools and self.gradients.model:
            precision = np.array([message.precision for _, message in messages])
            information = np.array([message.information for _, message in messages])
            self.gradients.model.hear(indices, precision, information)
        return self._note(messages, self.gradients.ask_upper(indices, _keys(messages), p, q))

    def _step(self, together: Sequence[_Finished[Assignment]]) -> list[ToServer]:
        indices = self._indices(done.worker for done, _ in together)
        p, q = self.p.take(indices, axis=0), self.q.take(indices, axis=0)
        p_gradient, q_gradient = self.gradients.upper(indices, p, q, *_exchanged(together))
        dual_gradient = np.array([asked.message.dual_gradient for _, asked in together])
        when = f" after the step of iteration {together[0][1].message.iteration}"
        with Step("p", "steps.p or algorithm.dual_bound", when):
            p = self.p_optimizer.step(p, p_gradient + dual_gradient, indices)  # (19), (23)
        with Step("q", "steps.q", when):
            q = self.q_optimizer.step(q, q_gradient, indices)  # (20), (24)
        self.p[indices], self.q[indices] = p, q
        losses = _losses(together)
        p_norms, q_norms = _norms(p_gradient), _norms(q_gradient)
        known = self._knowledge(indices)
        return [
            Report(
                asked.message.number, asked.message.iteration, losses[row], p_norms[row],
                q_norms[row], done.costs, done.sent_time, p[row], q[row], done.answer.losses,
                *known[row],
            )
            for row, (done, asked) in enumerate(together)
        ]  # fmt: skip

    def _knowledge(self, indices: IntArray) -> list[tuple[FloatArray, ...]]:
        """What each of the workers tells the others of words; see `Report`."""
        model = self.gradients.model
        if not (self._pools and model):
            return [(NOTHING,) * 3] * len(indices)
        return list(zip(*model.knowledge(indices), strict=True))

    # ------------------------------------------------------------ lower level

    def _ask_lower(self, messages: Sequence[tuple[int, LowerAssignment]]) -> list[AnyQuery]:
        indices = self._indices(worker for worker, _ in messages)
        estimations = [(worker, message.estimation) for worker, message in messages]
        k = self.realisations.draw(indices, estimations, self.q)
        p = np.array([message.p for _, message in messages])
        return self._note(messages, self.gradients.ask_lower(_keys(messages), p, k))

    def _lower_step(self, together: Sequence[_Finished[LowerAssignment]]) -> list[ToServer]:
        indices = self._indices(done.worker for done, _ in together)
        p = np.array([asked.message.p for _, asked in together])
        dual_gradient = np.array([asked.message.dual_gradient for _, asked in together])
        gradient = self.gradients.lower(indices, p, *_exchanged(together))
        when = f" after a step of estimate {together[0][1].message.estimation}"
        with Step("phi", "steps.lower_p, algorithm.penalty or steps.rho", when):
            p = worker_step(p, gradient, dual_gradient, self.lower_step_size)  # (8), (11)
        losses, k = _losses(together), self.realisations.k.take(indices, axis=0)
        return [
            LowerReport(
                asked.message.number, asked.message.estimation, losses[row], done.costs, p[row],
                k[row], done.answer.losses,
            )
            for row, (done, asked) in enumerate(together)
        ]  # fmt: skip

    # ------------------------------------------------------------ evaluation

    def _ask_evaluation(self, messages: Sequence[tuple[int, EvaluationRequest]]) -> list[AnyQuery]:
        queries = []
        for worker, message in messages:
            split = message.split
            rows = np.arange(first_rows(self.data_sizes[worker].rows[split], message.halvings))
            words, demonstrations = self._prompt(worker, message)
            kind = message.candidate, split, self.config.task.calibration
            prompt = words[None], demonstrations[None], calibration_of(*kind)
            queries.append(Query(worker, split, rows, *prompt))
        return self._note(messages, queries)

    def _prompt(self, worker: int, message: EvaluationRequest) -> Prompt:
        """The words (M,) and demonstrations (U,) to score."""
        if message.is_of_model:
            return self.gradients.best(self._index[worker], message.rank)
        if self._secrets:
            return message.words, self._secrets.choices[worker].of(message.demonstrations)
        return message.words, message.demonstrations

    def _evaluation_reports(
        self, together: Sequence[_Finished[EvaluationRequest]]
    ) -> list[ToServer]:
        return [
            EvaluationReport(
                asked.message.iteration, asked.message.split, asked.message.candidate,
                float(done.answer.losses[0]), float(done.answer.accuracies[0]), done.costs,
                np.zeros(self.shapes.classes) if done.answer.bias is None else done.answer.bias[0],
                *_prompt(asked.query), _rows(done.answer, asked.message.split),
            )
            for done, asked in together
        ]  # fmt: skip

    # ------------------------------------------------------------ all of them

    def _note(
        self, messages: Sequence[tuple[int, Asking]], queries: Sequence[AnyQuery]
    ) -> list[AnyQuery]:
        """Remember what is asked for each message until it is answered."""
        for (worker, message), query in zip(messages, queries, strict=True):
            self._asked[worker] = _Asked(message, query)
        return list(queries)

    def _indices(self, workers: Iterable[int]) -> IntArray:
        """Where the ``workers`` are in the stack."""
        return np.array([self._index[worker] for worker in workers])


def state_length(
    config: Config, shapes: Shapes, own_estimator: EstimatorFactory | None = None
) -> int:
    """Numbers of a worker's state, the same for all workers of a run."""
    rows = dict.fromkeys(Split, 1)
    some = DataSizes(np.ones(shapes.classes, dtype=np.int64), rows)
    return len(Workers(config, shapes, {1: some}, own_estimator).state(1))


def _prompt(query: AnyQuery) -> Prompt:
    """The only one."""
    assert isinstance(query, Query)
    return query.words[0], query.demonstrations[0]


def _rows(answer: Answer, split: Split) -> RowScores | RowLosses | None:
    """Of the only prompt; None of a function."""
    if answer.row_losses is not None:
        return RowLosses(answer.row_losses[0])
    if answer.labels is None or answer.log_probabilities is None:
        return None
    scores = RowScores(answer.labels, answer.log_probabilities[0])
    return scores if split is Split.TEST else RowLosses(scores.losses)


def _keys(messages: Sequence[tuple[int, Assignment | LowerAssignment]]) -> list[tuple[int, int]]:
    return [(worker, message.number) for worker, message in messages]


def _exchanged(together: Sequence[_Finished[Any]]) -> tuple[list[AnyQuery], list[Answer]]:
    return [asked.query for _, asked in together], [done.answer for done, _ in together]


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
