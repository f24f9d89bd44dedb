"""What workers draw at random: rows, words and demonstrations, each keyed by seed and purpose."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from asyndbt_mpi.algorithm.estimator import sample
from asyndbt_mpi.algorithm.random import Purpose, Streams
from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.protocol.blackbox import DataSizes
from asyndbt_mpi.protocol.messages import Split


class Draws:
    """Random draws of several workers, which depend on (seed, worker, number, purpose) alone.

    Parameters
    ----------
    samples : I, prompts of a step
    batch : by worker, rows that each prompt is scored on
    couple : makes the uniforms (W, I, n) of an estimator's samples out of independent ones, if any
    """

    def __init__(
        self,
        seed: int,
        samples: int,
        batch: Mapping[int, int],
        data_sizes: Mapping[int, DataSizes],
        couple: Callable[[FloatArray], FloatArray] | None,
    ) -> None:
        self._seed = seed
        self._samples = samples
        self._batch = batch
        self._data_sizes = data_sizes
        self._couple = couple
        self._streams = Streams()

    def for_step(
        self, keys: Sequence[tuple[int, int]], purpose: Purpose, sizes: tuple[int, ...]
    ) -> tuple[list[IntArray], list[FloatArray]]:
        """Rows to score on for each key (worker, number), and uniforms (W, I, size) per size."""
        held = [self._data_sizes[worker].rows[Split.TRAIN] for worker, _ in keys]
        for_all_samples = self._samples * sum(sizes)
        # 2 where a worker has fewer rows than another: none of its own draws comes after it.
        uniform = np.full((len(keys), for_all_samples + max(held)), 2.0)
        for index, (worker, number) in enumerate(keys):
            generator = self._streams.at(self._seed, worker, number, purpose)
            generator.random(out=uniform[index, : for_all_samples + held[index]])
        # In the order of their uniforms the rows are a random permutation.
        permuted = uniform[:, for_all_samples:].argsort(axis=1)
        rows = [permuted[index, : self._batch[worker]] for index, (worker, _) in enumerate(keys)]
        for_samples = []
        end = 0
        for size in sizes:
            start, end = end, end + self._samples * size
            drawn = uniform[:, start:end].reshape(len(keys), self._samples, size)
            for_samples.append(self._couple(drawn) if self._couple else drawn)
        return rows, for_samples

    def demonstrations(self, q: FloatArray, keys: Sequence[tuple[int, int]]) -> IntArray:
        """One realisation k (W, U) of q (W, U, V) for each key (worker, estimation)."""
        uniform = np.empty((len(keys), 1, q.shape[1]))
        for row, (worker, estimation) in enumerate(keys):
            purpose = Purpose.LOWER_DEMONSTRATIONS
            self._streams.at(self._seed, worker, estimation, purpose).random(out=uniform[row])
        return sample(q, uniform)[:, 0]
