"""The sums and medians of the compiled filter against numpy's, bit for bit."""

import numpy as np
import pytest

from asyndbt_mpi.algorithm import filtering
from asyndbt_mpi.algorithm.kernels import compiled


@compiled
def sum_of(values: np.ndarray) -> float:
    return filtering.pairwise(values, len(values))


@pytest.mark.parametrize("add", [sum_of, lambda values: filtering.pairwise(values, len(values))])
def test_sums_are_added_up_as_numpy_does(add) -> None:
    generator = np.random.default_rng(0)
    for size in (*range(1, 40), *range(120, 140), 255, 256, 257, 300, 1000, 5003):
        values = generator.standard_normal(size) * 10.0 ** generator.integers(-8, 8, size)
        assert add(values) == values.sum(), size


def test_the_order_matters() -> None:
    """Else the test before could not fail."""
    values = np.random.default_rng(1).standard_normal(300)
    assert sum(values.tolist()) != values.sum()


@pytest.mark.parametrize("size", range(1, 9))
def test_medians(size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size)
    assert filtering.median(values) == np.median(values)
