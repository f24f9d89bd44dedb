"""Steps on the simplex: plain and Adam (then projected), and mirror descent.

An optimizer moves one variable, or a stack of variables of one shape whose members take their steps
at different times: ``x`` and ``gradient`` belong to ``members``. The result of a member's step
does not depend on the others in the stack.  A step to numbers that are not finite raises a
FloatingPointError.
"""

from types import EllipsisType
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm import kernels
from asyndbt_mpi.algorithm.simplex import check_finite, not_finite, project_in_place
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray

Members: TypeAlias = IntArray | EllipsisType
"""Indices into the stack, or ``...`` for all members."""


def of(members: Members, stack: BoolArray) -> BoolArray:
    """The rows of ``stack`` that belong to ``members``."""
    return stack if isinstance(members, EllipsisType) else stack.take(members, axis=0)


class Sgd:
    """x <- proj(x - eta * gradient).

    Parameters
    ----------
    step_size : eta
    shape : of the variable (rows, n), or of the stack (members, rows, n)
    allowed : array of that shape, optional; entries that may carry mass
    """

    def __init__(
        self, step_size: float, shape: tuple[int, ...], allowed: BoolArray | None = None
    ) -> None:
        self.step_size = step_size
        self.allowed = allowed

    @property
    def state(self) -> list[FloatArray]:
        """What changes from step to step; each array has a row for each member of the stack."""
        return []

    def step(self, x: FloatArray, gradient: FloatArray, members: Members = ...) -> FloatArray:
        """One plain step, projected."""
        return self._projected(x - self.step_size * gradient, members)

    def _projected(self, moved: FloatArray, members: Members) -> FloatArray:
        project_in_place(moved, None if self.allowed is None else of(members, self.allowed))
        return moved


class Adam(Sgd):
    """Adam (Kingma & Ba, 2015), then the projection; parameters as of `Sgd`."""

    first_decay = 0.9
    second_decay = 0.999
    stabiliser = 1e-8

    def __init__(
        self, step_size: float, shape: tuple[int, ...], allowed: BoolArray | None = None
    ) -> None:
        super().__init__(step_size, shape, allowed)
        stack = int(np.prod(shape[:-2]))
        self.first = np.zeros((stack, *shape[-2:]))
        self.second = np.zeros_like(self.first)
        # The decays to the power of the steps that each member has taken.
        self.powers = np.ones((stack, 2))
        self._everyone = np.arange(stack)

    @property
    def state(self) -> list[FloatArray]:
        """The moments, and the correction for their start at 0."""
        return [self.first, self.second, self.powers]

    def step(self, x: FloatArray, gradient: FloatArray, members: Members = ...) -> FloatArray:
        """One step scaled by the moments of past gradients, projected."""
        stack = -1, *x.shape[-2:]
        moved, finite = kernels.adam(
            x.reshape(stack),
            gradient.reshape(stack),
            self._everyone if isinstance(members, EllipsisType) else members,
            self.first,
            self.second,
            self.powers,
            self.step_size,
            (self.first_decay, self.second_decay),
            self.stabiliser,
        )
        # Dividing by an infinite square would silently stop the variable.
        if not finite:
            raise not_finite()
        return self._projected(moved.reshape(x.shape), members)


LEAST = 1e-12
"""Mass of an entry that a multiplicative step may move: from 0 it would never come back."""


class Mirror(Sgd):
    """Entropic mirror descent: x <- x * exp(-eta * gradient), rows normalised; as of `Sgd`."""

    def step(self, x: FloatArray, gradient: FloatArray, members: Members = ...) -> FloatArray:
        """One multiplicative step; every allowed entry keeps some mass."""
        exponent = -self.step_size * gradient
        exponent = exponent - exponent.max(axis=-1, keepdims=True)
        check_finite(exponent)
        weighted = x * np.exp(exponent)
        # A row can underflow only if all its mass is where the gradient is worst.
        total = weighted.sum(axis=-1, keepdims=True)
        moved = np.where(total > 0, weighted / np.where(total > 0, total, 1.0), x)
        floor = LEAST if self.allowed is None else LEAST * of(members, self.allowed)
        moved = np.maximum(moved, floor)
        moved /= moved.sum(axis=-1, keepdims=True)
        return moved


OPTIMIZERS: dict[str, type[Sgd]] = {"sgd": Sgd, "adam": Adam, "mirror": Mirror}
