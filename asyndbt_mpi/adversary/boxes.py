"""Black boxes of malicious workers, which then follow the protocol on the wrong answers."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.protocol.blackbox import Answer, AnyQuery, BlackBox, ExactAnswer, ExactQuery
from asyndbt_mpi.protocol.messages import Split

NO_ACCURACY = np.array([np.nan])


class Flipped:
    """Gives ``members`` losses of the opposite sign, except on the test rows.

    It is what flipped labels are to a function, which has none.
    """

    def __init__(self, box: BlackBox, members: Collection[int]) -> None:
        self.box, self.members = box, members
        self.data_sizes, self.descriptions = box.data_sizes, box.descriptions
        self.digests = box.digests

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        """See `BlackBox`."""
        answers = self.box.answer(queries)
        return [self._flipped(*each) for each in zip(queries, answers, strict=True)]

    def _flipped(self, query: AnyQuery, answer: Answer) -> Answer:
        if query.worker not in self.members or _is_test(query):
            return answer
        if isinstance(answer, ExactAnswer):
            gradients = -answer.p_gradient, -answer.q_gradient
            answer = replace(answer, p_gradient=gradients[0], q_gradient=gradients[1])
        return replace(answer, losses=-answer.losses)


class Invented:
    """Answers ``members`` out of nothing where they take steps: losses uniform below ``strength``.

    So they cost neither calls nor time. Evaluations are of the other ``box``, since a prompt's
    scores concern nobody but the worker itself.
    """

    def __init__(self, box: BlackBox, members: Collection[int], seed: int, strength: float) -> None:
        self.box, self.members = box, members
        self.seed, self.strength = seed, strength
        self.data_sizes, self.descriptions = box.data_sizes, box.descriptions
        self.digests = box.digests

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        """See `BlackBox`."""
        asked = [query for query in queries if not self._invents(query)]
        found = iter(self.box.answer(asked) if asked else [])
        return [self._answer(each) if self._invents(each) else next(found) for each in queries]

    def _invents(self, query: AnyQuery) -> bool:
        steps = isinstance(query, ExactQuery) or query.split is Split.TRAIN
        return steps and query.worker in self.members

    def _answer(self, query: AnyQuery) -> Answer:
        if isinstance(query, ExactQuery):
            draw = self._generator(query.worker, query.p, query.q).uniform
            gradients = draw(0, self.strength, query.p.shape), draw(0, self.strength, query.q.shape)
            return ExactAnswer(draw(0, self.strength, 1), NO_ACCURACY, 0, 0, *gradients)
        generator = self._generator(query.worker, query.words, query.demonstrations, query.rows)
        samples = len(query.words)
        losses = generator.uniform(0, self.strength, samples)
        return Answer(losses, np.repeat(NO_ACCURACY, samples), 0, 0)

    def _generator(self, worker: int, *asked: np.ndarray) -> np.random.Generator:
        """Keyed by what is asked, so that the same query always gets the same answer."""
        digest = blake2b(b"".join(array.tobytes() for array in asked), digest_size=7).digest()
        return stream(self.seed, worker, int.from_bytes(digest), Purpose.INVENTION)


def _is_test(query: AnyQuery) -> bool:
    return not isinstance(query, ExactQuery) and query.split is Split.TEST
