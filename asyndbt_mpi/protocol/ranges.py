"""The range of every number that a message or a log holds: one table for both.

Within them sums and squares over a run stay finite, and a projection onto the simplex exact.
"""

import math
from typing import NamedTuple

import numpy as np


class Range(NamedTuple):
    """From ``least`` to ``most``, both included; both are float, also in ranges of integers."""

    least: float
    most: float

    def holds(self, number: float) -> bool:
        """Whether ``number`` is within; NaN is not."""
        return self.least <= number <= self.most

    def holds_all(self, numbers: np.ndarray) -> bool:
        """Whether every one of ``numbers`` is within; NaN is not.

        Without the compiler, which viewers of a log need not load; messages have `kernels.within`.
        """
        # A NaN is the minimum and the maximum of whatever it is among.
        least, most = np.minimum.reduce(numbers, axis=None), np.maximum.reduce(numbers, axis=None)
        return bool(self.least <= least and most <= self.most)

    def outside(self, numbers: np.ndarray) -> np.ndarray:
        """Where ``numbers`` are not within; NaN is not."""
        found: np.ndarray = ~((numbers >= self.least) & (numbers <= self.most))
        return found

    def __str__(self) -> str:
        return f"[{self.least:g}, {self.most:g}]"


SAME_MEAN = 1e-9
"""How far a mean may be from that of its parts, relative to it if that is more than 1."""

COUNT = Range(0.0, 2.0**40)
"""Of calls, tokens, prompts or seconds; sums over a run then fit into 64 bits."""

ORDINAL = Range(0.0, 2.0**53)
"""Numbers of iterations, assignments, estimations."""

LOSS = Range(0.0, 1e100)
"""A mean negative log-probability."""

FREE_LOSS = Range(-1e100, 1e100)
"""The loss of a function that stands for a language model: it has no least value."""

PROBABILITY = Range(0.0, 1.0)

LOG_PROBABILITY = Range(-1e100, 1e-6)
"""Of a label, or of its mean probability over some rows; up to a model's rounding."""

MASS = Range(-1e3, 1e3)
"""An entry of p or q as a worker sends it. Its own steps end on the simplex; what lies off it is
projected, which is exact to 1e-12 for numbers of this size (D6)."""

RANGES = {
    "number": ORDINAL,
    "iteration": ORDINAL,
    "estimation": ORDINAL,
    "answers": ORDINAL,
    "rank": ORDINAL,
    "choice": Range(0.0, 2.0**31 - 2.0),
    "halvings": Range(0.0, 62.0),
    "prompts": COUNT,
    "calls": COUNT,
    "prompt_tokens": COUNT,
    "completion_tokens": COUNT,
    "unrecognised": COUNT,
    "compute_seconds": COUNT,
    "time": COUNT,
    "sent_time": COUNT,
    "grad_p_norm": Range(0.0, 1e150),
    "grad_q_norm": Range(0.0, 1e150),
    "accuracy": PROBABILITY,
    "bias": LOG_PROBABILITY,
    "log_probabilities": LOG_PROBABILITY,
    "p": MASS,
    "q": MASS,
    "dual_gradient": Range(-1e150, 1e150),
    "precision": COUNT,
    "information": Range(-1e115, 1e115),
    "trust": PROBABILITY,
    "state": Range(-math.inf, math.inf),
}
"""By the name of a message's field. Losses depend on the backend, indices on a run's shapes."""
