"""What workers draw at random: rows, words and demonstrations, each keyed by seed and purpose."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    couple : makes the uniforms (W, I, n) of an estimator's samples out of independent ones
    """

    def __init__(
        self,
        seed: int,
        samples: int,
        batch: Mapping[int, int],
        data_sizes: Mapping[int, DataSizes],
        couple: Callable[[FloatArray], FloatArray],
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
        most = max(held)
        of_each = len(keys), for_all_samples + most
        uniform = np.empty(of_each) if min(held) == most else np.full(of_each, 2.0)
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
            for_samples.append(self._couple(drawn))
        return rows, for_samples

    def streams(
        self, keys: Sequence[tuple[int, int]], purpose: Purpose
    ) -> Iterator[np.random.Generator]:
        """A generator for each key, good until the next is asked for."""
        for worker, number in keys:
            yield self._streams.at(self._seed, worker, number, purpose)


class Realisations:
    """The demonstrations k of a stack of workers: one realisation of q for a whole estimate of phi.

    Attributes
    ----------
    k : array (W, U), the newest of each worker
    """

    def __init__(self, seed: int, workers: int, classes: int) -> None:
        self.k: IntArray = np.zeros((workers, classes), dtype=np.int64)
        self._estimation: IntArray = np.full(workers, -1, dtype=np.int64)
        self._seed = seed
        self._streams = Streams()

    @property
    def state(self) -> list[NDArray[Any]]:
        """k, and the estimate that it was drawn for; each array has a row for each worker."""
        return [self.k, self._estimation]

    def draw(self, indices: IntArray, keys: Sequence[tuple[int, int]], q: FloatArray) -> IntArray:
        """The k of the workers at ``indices`` (W,), drawn where they have an older estimate's.

        ``keys`` are (worker, estimation); ``q`` is that of the whole stack.
        """
        rows = zip(indices.tolist(), keys, strict=True)
        new = {index: key for index, key in rows if self._estimation[index] != key[1]}
        if new:
            drawing = list(new)
            uniform = np.empty((len(new), 1, q.shape[1]))
            for row, (worker, estimation) in enumerate(new.values()):
                purpose = Purpose.LOWER_DEMONSTRATIONS
                self._streams.at(self._seed, worker, estimation, purpose).random(out=uniform[row])
            self.k[drawing] = sample(q[drawing], uniform)[:, 0]
            self._estimation[drawing] = [estimation for _, estimation in new.values()]
        return self.k.take(indices, axis=0)
