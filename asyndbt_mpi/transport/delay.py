"""Artificial delays, to study stragglers: seconds added to every assignment."""

import numpy as np

from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.config import Delay

PARETO_SHAPE = 2.0
"""Tail index of the Pareto law: a finite mean, an infinite variance."""


class DelayModel:
    """Draws the delays of one worker from its own stream.

    Independent streams matter: if workers shared theirs, stragglers would all come at once and
    the number of active workers would make no difference.
    """

    def __init__(self, delay: Delay, seed: int, worker: int, workers: int) -> None:
        self.delay = delay
        self.seed = seed
        self.worker = worker
        self.factor = delay.slow_factor if worker > workers - delay.slow_workers else 1.0
        self._drawn = 0

    def draw(self) -> float:
        """Seconds to add to the worker's next assignment; mean `delay.mean`, times its factor."""
        if self.delay.model == "none":
            return 0.0
        self._drawn += 1
        generator = stream(self.seed, self.worker, self._drawn, Purpose.DELAY)
        return self.factor * self.delay.mean * self._unit(generator)

    def _unit(self, generator: np.random.Generator) -> float:
        """A draw of mean 1."""
        if self.delay.model == "lognormal":
            # The mean of exp(sigma * x) is exp(sigma^2 / 2) for a standard normal x.
            return float(generator.lognormal(-(self.delay.sigma**2) / 2, self.delay.sigma))
        if self.delay.model == "pareto":
            smallest = (PARETO_SHAPE - 1) / PARETO_SHAPE
            return float(smallest * (1.0 + generator.pareto(PARETO_SHAPE)))
        return 1.0
