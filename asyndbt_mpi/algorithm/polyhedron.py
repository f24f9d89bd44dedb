"""Cutting planes that approximate "h_i <= epsilon", and their duals: eqs. (14)-(16), (28)-(33).

Plane l bounds, for each position i at which it was cut,

    sum_v a_i^l(v) . p_i^(v) + b_i^l . z_i + c_i^l <= 0.

All planes are in arrays of fixed capacity, so that memory stays bounded in runs of any length.
"""

from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.algorithm import kernels
from asyndbt_mpi.algorithm.lower_level import Distance, residual_gradient
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray

ONLY: IntArray = np.zeros(1, dtype=np.int64)
"""Index of a single matrix in a stack of one."""


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane as it was cut; rows of a, b, c are 0 where ``positions`` is False.

    a is (R, M, N) (int8 for the l1 distance, whose planes are signs), b (M, N), c (M,).
    """

    identifier: int
    created: int
    positions: BoolArray
    a: np.ndarray
    b: FloatArray
    c: FloatArray


@dataclass(frozen=True, slots=True)
class Drop:
    """Position ``position`` of plane ``identifier`` was dropped."""

    identifier: int
    position: int


def cut(
    p: FloatArray,
    z: FloatArray,
    phi_p: FloatArray,
    phi_z: FloatArray,
    h: FloatArray,
    tolerance: float,
    distance: Distance,
) -> tuple[BoolArray, np.ndarray, FloatArray, FloatArray]:
    """The plane through the current point, for every position with h_i > epsilon.

    h is convex in (p, z), so its tangent at the current point lies below it: the plane is
    h_i - epsilon > 0 here and <= 0 wherever h_i <= epsilon; it removes no feasible point.

    Returns
    -------
    positions (M,), a (R, M, N), b (M, N), c (M,).
    """
    positions = h > tolerance
    mask = positions[:, None]
    a = residual_gradient(p, phi_p, distance) * mask  # (31)
    b = residual_gradient(z, phi_z, distance) * mask  # (32)
    c = np.where(
        positions,
        h - tolerance - np.einsum("vij,vij->i", a, p) - np.einsum("ij,ij->i", b, z),
        0.0,
    )  # (33), with the epsilon of (30): without it the plane would cut 0 < h <= epsilon (D2)
    return positions, a.astype(np.int8) if distance == "l1" else a, b, c


class Polyhedron:
    """The planes in force and their duals.

    Attributes
    ----------
    dual : array (capacity, M), lambda_i^l in [0, bound]; 0 wherever ``active`` is not
    active : array (capacity, M) of bool
    identifier : array (capacity,), -1 where the slot is free
    slots : array, those that hold a plane, oldest first
    """

    def __init__(
        self, workers: int, positions: int, words: int, capacity: int, distance: Distance
    ) -> None:
        self.distance: Distance = distance
        # Positions first, so that for each of them the planes' words are contiguous.
        # Signs fit into a byte, which saves most of the time, as it is spent reading them.
        coefficient = np.int8 if distance == "l1" else np.float64
        self.a = np.zeros((workers, positions, capacity, words), dtype=coefficient)
        self.b = np.zeros((positions, capacity, words), dtype=coefficient)
        self.c = np.zeros((capacity, positions))
        self.dual = np.zeros((capacity, positions))
        self.active = np.zeros((capacity, positions), dtype=bool)
        self.identifier: IntArray = np.full(capacity, -1, dtype=np.int64)
        self.created = 0
        # sum_v a^l(v) . p^(v), updated by the moves of p: an iteration then costs S rows, not R.
        self._worker_terms = np.zeros((capacity, positions))
        # All slots up to the last one in use; free ones between are zero. A view needs no copy,
        # and new planes fill the gaps first.
        self._used = slice(0, 0)
        self.slots: IntArray = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.slots)

    def dual_gradients(self, workers: IntArray) -> FloatArray:
        """sum_l lambda^l a^l(v), the one array that (19) needs of all planes; (workers, M, N).

        ``workers`` are indices from 0.
        """
        return kernels.weigh_planes(self.a, workers, self.dual[self._used])

    def consensus_gradient(self) -> FloatArray:
        """sum_l lambda^l b^l of (21); (M, N)."""
        gradient: FloatArray = kernels.weigh_planes(self.b[None], ONLY, self.dual[self._used])[0]
        return gradient  # (25)

    def move_workers(self, workers: IntArray, changes: FloatArray) -> None:
        """Account for moves of p: ``workers`` (from 0) moved by ``changes`` (workers, M, N)."""
        kernels.apply_planes(self.a, workers, changes, self._worker_terms[self._used])

    def values(self, z: FloatArray) -> FloatArray:
        """Left-hand side of every plane at the newest p and ``z``; (capacity, M)."""
        used = self._used
        values = np.zeros_like(self.dual)
        values[used] = self._worker_terms[used] + self.c[used]
        kernels.apply_planes(self.b[None], ONLY, z[None], values[used])
        return values

    def add(
        self,
        p: FloatArray,
        z: FloatArray,
        phi_p: FloatArray,
        phi_z: FloatArray,
        h: FloatArray,
        tolerance: float,
        iteration: int,
    ) -> tuple[Plane | None, list[Drop]]:
        """Cut off the current point where h > epsilon; the duals start at 0.

        If no slot is free, the plane with the smallest duals is dropped.

        Returns
        -------
        the new plane, or None if h <= epsilon everywhere; and what was dropped for it.
        """
        self._refresh(p)
        positions, a, b, c = cut(p, z, phi_p, phi_z, h, tolerance, self.distance)
        if not positions.any():
            return None, []
        dropped: list[Drop] = []
        if len(self) == len(self.identifier):
            smallest = self.slots[np.argmin(self.dual[self.slots].sum(axis=1))]
            dropped = self._drop(smallest, self.active[smallest].copy())
        slot = int(np.flatnonzero(self.identifier < 0)[0])
        plane = Plane(self.created, iteration, positions, a, b, c)
        self.created += 1
        self.a[:, :, slot], self.b[:, slot], self.c[slot] = a, b, c
        self.dual[slot] = 0.0
        self.active[slot] = positions
        self.identifier[slot] = plane.identifier
        self._find_slots()
        self._worker_terms[slot] = np.einsum("vij,vij->i", a, p)
        return plane, dropped

    def drop_slack(self, before: FloatArray, threshold: float) -> list[Drop]:
        """Drop positions whose dual is below ``threshold`` both now and ``before`` (capacity, M).

        Call this before a new plane is added, so that a new plane is never dropped.
        """
        slack = self.active & (self.dual < threshold) & (before < threshold)
        return [drop for slot in self.slots for drop in self._drop(slot, slack[slot])]

    def _drop(self, slot: int, positions: BoolArray) -> list[Drop]:
        drops = [Drop(int(self.identifier[slot]), int(i)) for i in np.flatnonzero(positions)]
        self.active[slot, positions] = False
        for array in (self.c, self.dual, self._worker_terms):
            array[slot, positions] = 0
        self.b[positions, slot] = 0
        self.a[:, positions, slot] = 0
        if not self.active[slot].any():
            self.identifier[slot] = -1  # a plane without positions frees its slot
            self._find_slots()
        return drops

    def _find_slots(self) -> None:
        used = np.flatnonzero(self.identifier >= 0)
        self.slots = used[np.argsort(self.identifier[used])]
        self._used = slice(0, int(used.max(initial=-1)) + 1)

    def _refresh(self, p: FloatArray) -> None:
        """Recompute the worker terms from scratch, to remove accumulated rounding errors."""
        terms = self._worker_terms[self._used]
        terms[:] = 0.0
        kernels.apply_planes(self.a, np.arange(len(p)), p, terms)
