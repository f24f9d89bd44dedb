"""Estimate of the lower level's solution by K rounds of projected gradient, eqs. (4)-(13).

The consensus problem min sum_v g_v(p^(v)) s.t. p^(v) = z is approached through its augmented
Lagrangian (7), from the current p^(v) and z with rho = 0. The iterates are a scratch copy; the
workers' own variables do not change. The robust term psi * ||p - z||_1 (RSA; Li et al., AAAI 2019)
bounds the influence of a single worker on z.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from asyndbt_mpi.algorithm.aggregation import PLAIN, Aggregation
from asyndbt_mpi.algorithm.simplex import check_finite, project
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray

Distance = Literal["l1", "l2sq"]


@dataclass(frozen=True, slots=True)
class LowerSteps:
    """Step sizes and weights of the lower level: eta_z, eta_rho, mu and psi."""

    z: float
    rho: float
    penalty: float
    robust_weight: float


@dataclass(slots=True)
class LowerLevel:
    """Scratch iterates of one estimation.

    p, rho are (R, M, N), z is (M, N); ``live`` (R,) marks the workers that still count (D5). What
    they pull z by in (12) becomes one by the ``aggregation``.
    """

    p: FloatArray
    z: FloatArray
    rho: FloatArray
    live: BoolArray
    steps: LowerSteps
    aggregation: Aggregation = PLAIN

    @classmethod
    def start(
        cls,
        p: FloatArray,
        z: FloatArray,
        live: BoolArray,
        steps: LowerSteps,
        aggregation: Aggregation = PLAIN,
    ) -> "LowerLevel":
        """Round 0: the current p and z, and rho = 0."""
        return cls(p.copy(), z.copy(), np.zeros_like(p), live, steps, aggregation)

    def dual_gradients(self, workers: IntArray) -> FloatArray:
        """What (11) adds to each worker's own gradient of g; (len(workers), M, N).

        ``workers`` are indices from 0.

        rho + mu (p - z) + psi sign(p - z): the sign is that of the penalty's subgradient in
        p, which pulls p towards z; the published (8) prints it the other way round (D1).

        Raises
        ------
        FloatingPointError
            They are not finite.
        """
        gap = self.p[workers] - self.z
        dual_gradients: FloatArray = self.steps.robust_weight * np.sign(gap)
        dual_gradients += self.rho[workers]
        gap *= self.steps.penalty
        dual_gradients += gap
        check_finite(dual_gradients)
        return dual_gradients

    def solve(self, gradients: FloatArray, rounds: int, number: int = 0) -> None:
        """``rounds`` of (8)-(10) at constant ``gradients`` (R, M, N) of every g_v.

        The first is that ``number`` of the run; see `server_step`.

        For a linear g each of the three is exact with eta_p = 1 / mu, eta_z = 1 / (mu R) and
        eta_rho = mu: the alternating direction method of multipliers (Boyd et al., 2011).

        Raises
        ------
        FloatingPointError
            The iterates are not finite.
        """
        live = np.flatnonzero(self.live)
        step = 1.0 / self.steps.penalty
        self.steps = replace(self.steps, z=step / max(len(live), 1), rho=self.steps.penalty)
        for each in range(number, number + rounds):
            towards = self.dual_gradients(live)
            self.p[live] = worker_step(self.p[live], gradients[live], towards, step)  # (8)
            self.server_step(each)

    def server_step(self, number: int = 0) -> None:
        """After the workers' step (8): z by (9), (12), then rho by (10), (13).

        ``number``, of the round in the run, keys what is random in the aggregation.

        Raises
        ------
        FloatingPointError
            They are not finite.
        """
        # Indexing by a mask copies, which is unnecessary while all are live.
        live = slice(None) if self.live.all() else self.live
        p, rho = self.p[live], self.rho[live]
        gap = self.z - p
        robust = self.steps.robust_weight * np.sign(gap).sum(axis=0)
        if self.aggregation.is_mean or not len(p):
            gradient = self.steps.penalty * gap.sum(axis=0) + robust - rho.sum(axis=0)  # (12)
        else:
            pulls = self.steps.penalty * gap - rho
            gradient = len(p) * self.aggregation.mean(pulls, number) + robust
        self.z = project(self.z - self.steps.z * gradient)  # (9)
        self.rho[live] = rho + self.steps.rho * (p - self.z)  # (10), (13)
        check_finite(self.rho)


def worker_step(
    p: FloatArray, gradient: FloatArray, dual_gradient: FloatArray, step_size: float
) -> FloatArray:
    """The workers' moves on their scratch copies, eq. (8); all arrays (..., M, N)."""
    return project(p - step_size * (gradient + dual_gradient))  # (8), (11)


def residual(
    p: FloatArray, z: FloatArray, phi_p: FloatArray, phi_z: FloatArray, distance: Distance
) -> FloatArray:
    """h_i of eq. (5): distance of ({p_i^(v)}, z_i) from its estimate phi_i, per position.

    p, phi_p are (R, M, N), z, phi_z are (M, N); the result is (M,).
    """
    if distance == "l1":
        per_position: FloatArray = np.abs(p - phi_p).sum(axis=(0, 2)) + np.abs(z - phi_z).sum(
            axis=1
        )
    else:
        per_position = ((p - phi_p) ** 2).sum(axis=(0, 2)) + ((z - phi_z) ** 2).sum(axis=1)
    return per_position


def residual_gradient(x: FloatArray, phi: FloatArray, distance: Distance) -> FloatArray:
    """Derivative of h in one of its arguments ``x`` (p or z), eqs. (31), (32); shape of x."""
    derivative: FloatArray = np.sign(x - phi) if distance == "l1" else 2.0 * (x - phi)
    return derivative
