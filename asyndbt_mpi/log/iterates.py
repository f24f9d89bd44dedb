"""A log's iterates in the order of the iterations: its rows, and the planes in force."""

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.log.reader import Log

BLOCK_BYTES = 1 << 23


class InOrder:
    """Rows of one dataset; asked for one after the other, they are read a block at a time."""

    def __init__(self, log: Log, path: str) -> None:
        self.log = log
        self.path = path
        self.start = 0
        self.block = log.rows(path, 0, 1)
        self.step = max(1, BLOCK_BYTES // max(1, self.block.nbytes))

    def __getitem__(self, row: int) -> np.ndarray:
        if not self.start <= row < self.start + len(self.block):
            self.start = row
            self.block = self.log.rows(self.path, row, row + self.step)
        found: np.ndarray = self.block[row - self.start]
        return found


class Planes:
    """The planes that take part in an iteration, oldest first, and their duals before it.

    identifier (L,); a (L, R, M, N); b (L, M, N); c, dual (L, M).
    """

    def __init__(self, log: Log) -> None:
        self.created, self.positions = log["plane/created"], log["plane/positions"]
        self.dropped = log["plane/dropped"]
        self.changes = {*self.created.tolist(), *np.unique(self.dropped).tolist()}
        self.dual_plane, self.dual_value = log["dual/plane"], log["dual/value"]
        self.dual_ends = np.searchsorted(log["dual/iteration"], np.arange(log.committed + 1))
        self.logged_a, self.logged_b = InOrder(log, "plane/a"), InOrder(log, "plane/b")
        self.logged_c = log["plane/c"]
        positions, words = log.shapes.positions, log.shapes.words
        self.identifier: IntArray = np.zeros(0, dtype=np.int64)
        self.a: FloatArray = np.zeros((0, log.workers, positions, words))
        self.b: FloatArray = np.zeros((0, positions, words))
        self.c: FloatArray = np.zeros((0, positions))
        self.dual: FloatArray = np.zeros((0, positions))

    def active(self, iteration: int) -> BoolArray:
        """Positions that count in ``iteration``; (L, M)."""
        dropped = self.dropped[self.identifier]
        active: BoolArray = self.positions[self.identifier] & (
            (dropped < 0) | (dropped >= iteration)
        )
        return active

    def consensus_gradient(self) -> FloatArray:
        """sum_l lambda^l b^l of (21); (M, N)."""
        gradient: FloatArray = (self.dual[:, :, None] * self.b).sum(axis=0)  # (25)
        return gradient

    def worker_gradients(self) -> FloatArray:
        """sum_l lambda^l a^l(v) of (19) for every worker; (R, M, N)."""
        dual_gradients: FloatArray = np.einsum("li,lvij->vij", self.dual, self.a)
        return dual_gradients

    def values(self, p: FloatArray, z: FloatArray) -> FloatArray:
        """Left-hand side of every plane at p (R, M, N) and z (M, N); (L, M)."""
        values: FloatArray = (
            np.einsum("lvij,vij->li", self.a, p) + np.einsum("lij,ij->li", self.b, z) + self.c
        )
        return values

    def read_duals(self, iteration: int) -> None:
        """The duals become those that the log has for ``iteration``; 0 where it has none."""
        self.dual = np.zeros_like(self.dual)
        index = {plane: index for index, plane in enumerate(self.identifier.tolist())}
        for row in range(self.dual_ends[iteration], self.dual_ends[iteration + 1]):
            plane = int(self.dual_plane[row])
            if plane in index:
                self.dual[index[plane]] = self.dual_value[row]

    def end(self, iteration: int) -> None:
        """Let go of what ``iteration`` dropped, and take in the plane that it made."""
        if iteration not in self.changes:
            return
        active = self.active(iteration + 1)
        stays = active.any(axis=1)
        self.identifier, self.a, self.b = self.identifier[stays], self.a[stays], self.b[stays]
        self.c, self.dual = self.c[stays], np.where(active, self.dual, 0.0)[stays]
        for plane in np.flatnonzero(self.created == iteration).tolist():
            self.identifier = np.append(self.identifier, plane)
            self.a = np.concatenate([self.a, self.logged_a[plane][None]])
            self.b = np.concatenate([self.b, self.logged_b[plane][None]])
            self.c = np.concatenate([self.c, self.logged_c[plane][None]])
            self.dual = np.concatenate([self.dual, np.zeros_like(self.c[:1])])
