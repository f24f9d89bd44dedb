"""The last act of a run: which prompts are scored on the test split, and by whom."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.messages import Candidate, EvaluationRequest, Split
from asyndbt_mpi.protocol.race import Prompt


def own_tests(config: Config) -> tuple[Candidate, ...]:
    """What each worker tests, in this order; the first that are done also test the untuned prompt.

    The calibrated untuned prompt is among them because its scores depend on the worker's training
    rows; a function has no scores.
    """
    own = Candidate.TUNED, Candidate.RANDOM, Candidate.CONSENSUS
    return own if config.llm.is_function else (*own, Candidate.CALIBRATED)


def scorers(config: Config, workers: int) -> int:
    """How many of the workers score the untuned prompt: an honest majority of those that may lie.

    With f liars 2f + 1, which are one where nobody lies.
    """
    return 2 * config.defence.tolerated(workers) + 1


def number_of_tests(config: Config, workers: int) -> int:
    """Of all workers together, if the run makes any."""
    if not (config.run.evaluate_every and config.task.test):
        return 0
    return len(own_tests(config)) * workers + scorers(config, workers)


class FinalTests:
    """Hands out the test evaluations.

    Each worker scores its tuned prompt, random demonstrations of its own, the consensus words with
    its own tuned demonstrations and, if its scores can be calibrated, the untuned prompt with
    calibrated scores. The untuned prompt as it is has the same scores everywhere: it is enough that
    the workers score it that are first done, one or, where some may lie, a majority of honest ones.

    Parameters
    ----------
    own : what each worker tests, in this order; see `own_tests`
    untuned : the prompt without words and demonstrations
    sharing : how many workers score that; see `scorers`
    """

    def __init__(
        self, iteration: int, own: Sequence[Candidate], untuned: Prompt, sharing: int
    ) -> None:
        self._iteration = iteration
        self._candidates = own
        self._untuned = untuned
        self._own: dict[int, deque[EvaluationRequest]] = {}
        self._left = sharing
        self._sharing: set[int] = set()

    def enter(self, worker: int, tuned: Prompt, random: Prompt, consensus: Prompt) -> None:
        """The prompts of ``worker``, once it is known which one is best."""
        prompts = {
            Candidate.TUNED: tuned,
            Candidate.RANDOM: random,
            Candidate.CONSENSUS: consensus,
            Candidate.CALIBRATED: self._untuned,
        }
        self._own[worker] = deque(self._request(each, prompts[each]) for each in self._candidates)

    def has(self, worker: int) -> bool:
        """Whether ``worker`` has entered."""
        return worker in self._own

    def _request(self, candidate: Candidate, prompt: Prompt) -> EvaluationRequest:
        return EvaluationRequest(self._iteration, Split.TEST, candidate, *prompt)

    def next(self, worker: int) -> EvaluationRequest | None:
        """The next prompt that ``worker`` is to score; None when it may stop."""
        own = self._own.get(worker)
        if own is None:
            return None  # it joined after the iterations were over
        if own:
            return own.popleft()
        if not self._left or worker in self._sharing:
            return None
        self._left -= 1
        self._sharing.add(worker)
        return self._request(Candidate.UNTUNED, self._untuned)

    def give_back(self, requests: list[EvaluationRequest]) -> None:
        """Of the ``requests`` that a worker left unanswered, another may take the shared one."""
        self._left += sum(
            request.split is Split.TEST and request.candidate is Candidate.UNTUNED
            for request in requests
        )


def draw_demonstrations(q: FloatArray, seed: int, worker: int) -> IntArray:
    """One demonstration of each class, uniform over those with positive ``q`` (U, V); (U,)."""
    generator = stream(seed, worker, 0, Purpose.RANDOM_DEMONSTRATIONS)
    return np.array([generator.choice(np.flatnonzero(row > 0)) for row in q])
