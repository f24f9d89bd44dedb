"""What a curious rank 0 can know of the steps of workers, for the attacks of membership.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.algorithm.additive import EXPLORED
from asyndbt_mpi.algorithm.coupling import latin_hypercube
from asyndbt_mpi.algorithm.estimator import sample
from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.blackbox import Answer, AnyQuery, DataSizes, Query
from asyndbt_mpi.protocol.gradients import Sampled
from asyndbt_mpi.protocol.messages import Split
from asyndbt_mpi.protocol.sampling import Draws
from asyndbt_mpi.protocol.worker import Workers


@dataclass(frozen=True)
class Step:
    """A step of a worker, of the upper or the lower level.

    Its batch are training rows, of the numbers ``rows`` (B,). ``words`` (I, M) and
    ``demonstrations`` (I, U) are those of its samples, ``losses`` (I,) what the worker has heard of
    them. ``tokens`` were read for it; None if a cache knew some of the answers.
    """

    worker: int
    rows: IntArray
    words: IntArray
    demonstrations: IntArray
    losses: FloatArray
    tokens: int | None


class Overheard(Sampled):
    """The gradients of ``workers``, with the steps that they were asked for.

    This listens within the workers. Yet rank 0 can work out all of it if it has the losses: it
    knows the seed, what it has sent, and how many rows the configuration gives each worker, and
    the same program then draws the same rows, words and demonstrations (the tests let it). The
    losses of samples are in the log. With `log.private` they are not, and rank 0 has to find those
    by which p has moved as it has; that it can do so perfectly is assumed here. With noise they
    are the noisy ones.
    """

    def __init__(self, workers: Workers) -> None:
        gradients = workers.gradients
        assert isinstance(gradients, Sampled)
        sizes = workers.shapes, workers.data_sizes
        super().__init__(workers.config, *sizes, gradients.estimator)
        self.steps: list[Step] = []

    def upper(
        self,
        indices: IntArray,
        p: FloatArray,
        q: FloatArray,
        queries: Sequence[AnyQuery],
        answers: Sequence[Answer],
    ) -> tuple[FloatArray, FloatArray]:
        """As `Gradients`."""
        self._keep(queries, answers)
        return super().upper(indices, p, q, queries, answers)

    def lower(
        self,
        indices: IntArray,
        p: FloatArray,
        queries: Sequence[AnyQuery],
        answers: Sequence[Answer],
    ) -> FloatArray:
        """As `Gradients`."""
        self._keep(queries, answers)
        return super().lower(indices, p, queries, answers)

    def _keep(self, queries: Sequence[AnyQuery], answers: Sequence[Answer]) -> None:
        for query, answer in zip(queries, answers, strict=True):
            assert isinstance(query, Query)
            tokens = answer.prompt_tokens if answer.calls == answer.prompts else None
            prompts = query.rows, query.words, query.demonstrations
            self.steps.append(Step(query.worker, *prompts, answer.losses, tokens))


def drawn(
    log: Log, worker: int, sizes: Mapping[int, DataSizes]
) -> tuple[list[IntArray], IntArray, BoolArray]:
    """The batches (B,) of the reports of ``worker`` in ``log``, and the words (n, I, M) drawn.

    They follow from the seed and the p before. Where the last array is True, the worker has put
    a word that its model takes for the best in place of the one drawn; here it is the most
    probable one.
    """
    of_worker, config, shapes = log["report/worker"] == worker, log.config, log.shapes
    numbers, after = log["report/seq"][of_worker].tolist(), log["report/p"][of_worker]
    first = np.full((1, *after.shape[1:]), 1 / shapes.words)
    batch = {worker: min(config.estimator.batch, sizes[worker].rows[Split.TRAIN])}
    draws = Draws(config.run.seed, config.estimator.samples, batch, sizes, latin_hypercube)
    of_step = Purpose.UPPER_STEP, (shapes.positions, shapes.classes)
    batches, words, replaced = [], [], []
    for number, p in zip(numbers, np.concatenate((first, after[:-1])), strict=True):
        [rows], (uniform, _) = draws.for_step([(worker, number)], *of_step)
        chosen = sample(p[None], uniform)[0]
        generator = stream(config.run.seed, worker, number, Purpose.EXPLORATION)
        explored = generator.random(chosen.shape) < EXPLORED
        batches.append(rows)
        words.append(np.where(explored, p.argmax(axis=1), chosen))
        replaced.append(explored)
    return batches, np.array(words), np.array(replaced)
