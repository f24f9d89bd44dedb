"""The worker: a state machine that turns an assignment into a query, and its answer into a report.

    query = worker.receive(message)        # what to ask the black box
    reply = worker.answer(answer, ...)     # what to send to the server

It never sends, waits, reads a clock or calls a language model itself.
"""

from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.algorithm.estimator import ESTIMATORS, sample
from asyndbt_mpi.algorithm.lower_level import worker_step
from asyndbt_mpi.algorithm.optimizer import OPTIMIZERS
from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.blackbox import Answer, Holdings, Query
from asyndbt_mpi.protocol.messages import (
    Assignment,
    Costs,
    EvaluationReport,
    EvaluationRequest,
    Hello,
    LowerAssignment,
    LowerReport,
    Report,
    Shapes,
    Split,
    Stop,
    ToServer,
    ToWorker,
)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """An assignment with the prompts drawn for it: words (I, M), demonstrations (I, U)."""

    message: Assignment | LowerAssignment | EvaluationRequest
    words: IntArray
    demonstrations: IntArray


class Worker:
    """One data holder: its p (M, N) and q (U, V), and the step (19), (20) on them.

    Parameters
    ----------
    worker : int
        Number from 1; with the seed it keys all of the worker's randomness.
    holdings : Holdings
        How many demonstrations and queries the worker's black box has.
    """

    def __init__(self, config: Config, shapes: Shapes, worker: int, holdings: Holdings) -> None:
        self.worker = worker
        self.holdings = holdings
        self.seed = config.run.seed
        self.samples = config.estimator.samples
        self.batch = min(config.estimator.batch, holdings.rows[Split.TRAIN])
        self.gradient = ESTIMATORS[config.estimator.name]
        self.lower_step_size = config.steps.lower_p
        allowed = np.arange(shapes.pool) < holdings.pool[:, None]
        self.p: FloatArray = np.full((shapes.positions, shapes.words), 1.0 / shapes.words)
        self.q: FloatArray = allowed / holdings.pool[:, None]
        optimizer = OPTIMIZERS[config.steps.optimizer]
        self.p_optimizer = optimizer(config.steps.p)
        self.q_optimizer = optimizer(config.steps.q, allowed)
        self.stopped = False
        self._drawn: _Drawn | None = None

    def hello(self, description: str) -> Hello:
        """The first message to the server."""
        return Hello(self.q, description)

    def receive(self, message: ToWorker) -> Query | None:
        """Start on an assignment; None if there is nothing to ask (the run is over)."""
        if self._drawn is not None:
            raise RuntimeError("a new assignment came before the last one was answered")
        match message:
            case Assignment():
                return self._ask_upper(message)
            case LowerAssignment():
                return self._ask_lower(message)
            case EvaluationRequest():
                return self._ask_evaluation(message)
            case Stop():
                self.stopped = True
                return None

    def answer(self, answer: Answer, compute_seconds: float, sent_time: float) -> ToServer:
        """Finish the assignment with the black box's answer.

        ``compute_seconds`` is what the answer took, ``sent_time`` the run's clock now.
        """
        if self._drawn is None:
            raise RuntimeError("an answer came without an assignment")
        drawn, self._drawn = self._drawn, None
        costs = Costs(answer.calls, answer.prompt_tokens, compute_seconds)
        match drawn.message:
            case Assignment():
                return self._step(drawn.message, drawn, answer.losses, costs, sent_time)
            case LowerAssignment():
                return self._lower_step(drawn.message, drawn, answer.losses, costs)
            case EvaluationRequest(iteration=iteration, split=split, candidate=candidate):
                loss, accuracy = float(answer.losses[0]), float(answer.accuracies[0])
                return EvaluationReport(iteration, split, candidate, loss, accuracy, costs)

    # ------------------------------------------------------------ upper level

    def _ask_upper(self, message: Assignment) -> Query:
        generator = stream(self.seed, self.worker, message.number, Purpose.UPPER_STEP)
        rows = self._draw_rows(generator)
        words = sample(self.p, self.samples, generator)
        demonstrations = sample(self.q, self.samples, generator)
        self._drawn = _Drawn(message, words, demonstrations)
        return Query(Split.TRAIN, rows, words, demonstrations)

    def _step(
        self, message: Assignment, drawn: _Drawn, losses: FloatArray, costs: Costs, sent_time: float
    ) -> Report:
        # Both gradients are taken at the old (p, q), from the same samples, eq. (27).
        p_gradient = self.gradient(self.p, drawn.words, losses)
        q_gradient = self.gradient(self.q, drawn.demonstrations, losses)
        self.p = self.p_optimizer.step(self.p, p_gradient + message.force)  # (19), (23)
        self.q = self.q_optimizer.step(self.q, q_gradient)  # (20), (24)
        return Report(
            number=message.number,
            iteration=message.iteration,
            loss=float(losses.mean()),
            grad_p_norm=float(np.linalg.norm(p_gradient)),
            grad_q_norm=float(np.linalg.norm(q_gradient)),
            costs=costs,
            sent_time=sent_time,
            p=self.p,
            q=self.q,
        )

    # ------------------------------------------------------------ lower level

    def _ask_lower(self, message: LowerAssignment) -> Query:
        # The demonstrations k are one realisation of q for all rounds of an estimation.
        realisation = stream(
            self.seed, self.worker, message.estimation, Purpose.LOWER_DEMONSTRATIONS
        )
        k = sample(self.q, 1, realisation)
        generator = stream(self.seed, self.worker, message.number, Purpose.LOWER_STEP)
        rows = self._draw_rows(generator)
        words = sample(message.p, self.samples, generator)
        demonstrations = np.repeat(k, self.samples, axis=0)
        self._drawn = _Drawn(message, words, demonstrations)
        return Query(Split.TRAIN, rows, words, demonstrations)

    def _lower_step(
        self, message: LowerAssignment, drawn: _Drawn, losses: FloatArray, costs: Costs
    ) -> LowerReport:
        gradient = self.gradient(message.p, drawn.words, losses)
        p = worker_step(message.p, gradient, message.force, self.lower_step_size)  # (8), (11)
        loss = float(losses.mean())
        return LowerReport(
            message.number, message.estimation, loss, costs, p, drawn.demonstrations[0]
        )

    # ------------------------------------------------------------ evaluation

    def _ask_evaluation(self, message: EvaluationRequest) -> Query:
        words, demonstrations = message.words[None], message.demonstrations[None]
        self._drawn = _Drawn(message, words, demonstrations)
        rows = np.arange(self.holdings.rows[message.split])
        return Query(message.split, rows, words, demonstrations)

    def _draw_rows(self, generator: np.random.Generator) -> IntArray:
        return generator.permutation(self.holdings.rows[Split.TRAIN])[: self.batch]
