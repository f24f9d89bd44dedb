"""Steps on the simplex: plain and Adam (then projected), and mirror descent."""

import numpy as np

from asyndbt_mpi.algorithm.simplex import project
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray


class Sgd:
    """x <- proj(x - eta * gradient)."""

    def __init__(self, step_size: float, allowed: BoolArray | None = None) -> None:
        self.step_size = step_size
        self.allowed = allowed

    def step(self, x: FloatArray, gradient: FloatArray) -> FloatArray:
        """One plain step, projected."""
        return project(x - self.step_size * gradient, self.allowed)


class Adam:
    """Adam (Kingma & Ba, 2015), then the projection."""

    first_decay = 0.9
    second_decay = 0.999
    stabiliser = 1e-8

    def __init__(self, step_size: float, allowed: BoolArray | None = None) -> None:
        self.step_size = step_size
        self.allowed = allowed
        self.count = 0
        self.first: FloatArray | float = 0.0
        self.second: FloatArray | float = 0.0

    def step(self, x: FloatArray, gradient: FloatArray) -> FloatArray:
        """One step scaled by the moments of past gradients, projected."""
        self.count += 1
        self.first = self.first_decay * self.first + (1 - self.first_decay) * gradient
        self.second = self.second_decay * self.second + (1 - self.second_decay) * gradient**2
        mean = self.first / (1 - self.first_decay**self.count)
        variance = self.second / (1 - self.second_decay**self.count)
        move = self.step_size * mean / (np.sqrt(variance) + self.stabiliser)
        return project(x - move, self.allowed)


class Mirror:
    """Entropic mirror descent: x <- x * exp(-eta * gradient), rows normalised."""

    def __init__(self, step_size: float, allowed: BoolArray | None = None) -> None:
        self.step_size = step_size
        self.allowed = allowed

    def step(self, x: FloatArray, gradient: FloatArray) -> FloatArray:
        """One multiplicative step; what has no mass never gains any."""
        exponent = -self.step_size * gradient
        exponent = exponent - exponent.max(axis=1, keepdims=True)
        weighted = x * np.exp(exponent)
        # A row can underflow only if all its mass sits where the gradient is worst.
        total = weighted.sum(axis=1, keepdims=True)
        moved: FloatArray = np.where(total > 0, weighted / np.where(total > 0, total, 1.0), x)
        return moved


OPTIMIZERS: dict[str, type[Sgd] | type[Adam] | type[Mirror]] = {
    "sgd": Sgd,
    "adam": Adam,
    "mirror": Mirror,
}
