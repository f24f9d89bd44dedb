"""Artificial delays, to study stragglers: seconds added to every assignment."""

import numpy as np

from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.inputs.sections import Delay

PARETO_SHAPE = 2.0
"""Tail index of the Pareto law: a finite mean, an infinite variance."""

BLOCK = 256
"""Delays drawn from one stream, since starting a stream takes longer than a draw."""


class Delays:
    """The delays of one worker, drawn from its own streams.

    Independent streams matter: if workers shared one, all would be slow at the same time, and the
    number of active workers would make no difference.

    Parameters
    ----------
    trace : array, under the model "trace": the seconds that are drawn from, with replacement
    """

    def __init__(
        self,
        delay: Delay,
        seed: int,
        worker: int,
        workers: int,
        trace: FloatArray | None = None,
    ) -> None:
        self.delay = delay
        self.seed = seed
        self.worker = worker
        self.factor = delay.slow_factor if worker > workers - delay.slow_workers else 1.0
        self.trace = trace
        self._drawn = 0
        self._block: list[float] = []

    def draw(self) -> float:
        """Seconds to add to the worker's next assignment; mean `delay.mean`, times its factor."""
        if self.delay.model == "none":
            return 0.0
        place = self._drawn % BLOCK
        if place == 0 or not self._block:
            generator = stream(self.seed, self.worker, self._drawn // BLOCK, Purpose.DELAY)
            self._block = (self.factor * self._seconds(generator)).tolist()
        self._drawn += 1
        return self._block[place]

    def skip(self, count: int) -> None:
        """Continue as if the first ``count`` had been drawn."""
        self._drawn, self._block = count, []

    def _seconds(self, generator: np.random.Generator) -> FloatArray:
        """A block of draws for a worker that is not slow; (BLOCK,)."""
        mean, sigma = self.delay.mean, self.delay.sigma
        if self.trace is not None:
            return generator.choice(self.trace, BLOCK)
        if self.delay.model == "lognormal":
            # The mean of exp(sigma * x) is exp(sigma^2 / 2) for a standard normal x.
            return mean * generator.lognormal(-(sigma**2) / 2, sigma, BLOCK)
        if self.delay.model == "pareto":
            smallest = (PARETO_SHAPE - 1) / PARETO_SHAPE
            return mean * smallest * (1.0 + generator.pareto(PARETO_SHAPE, BLOCK))
        return np.full(BLOCK, mean)
