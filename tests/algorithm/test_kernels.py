import subprocess
import sys

import numpy as np
import pytest

from asyndbt_mpi.algorithm import kernels
from asyndbt_mpi.algorithm.types import FloatArray


def test_nothing_is_compiled_before_it_is_needed() -> None:
    """Analyses and `asyndbt show` do without: to load the compiler takes half a second."""
    program = (
        "import sys, asyndbt_mpi.cli, asyndbt_mpi.log.reader; sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_kernels_without_a_folder_to_keep_them_in(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    compiler = numba.njit

    def nowhere(kernel, cache: bool = False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available for file")
        return compiler(kernel, **options)

    monkeypatch.setattr(numba, "njit", nowhere)
    norms = kernels.compiled(lambda x: x.sum())
    assert norms(np.ones(3)) == 3.0


def test_kernels_without_room_to_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    compiler = numba.njit

    class Full:
        def compile(self, signature: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        numba, "njit", lambda kernel, cache=False, **o: Full() if cache else compiler(kernel, **o)
    )
    assert kernels.compiled(lambda x: x.sum())(np.ones(3)) == 3.0


@pytest.mark.parametrize("length", [0, 1, 3, 100])
@pytest.mark.parametrize(
    ("number", "inside"),
    [
        (-2.0, True),
        (5.0, True),
        (np.nextafter(-2.0, -3.0), False),
        (np.nextafter(5.0, 6.0), False),
        (np.nan, False),
        (np.inf, False),
        (-np.inf, False),
    ],
)
def test_a_number_out_of_range_is_found_wherever_it_is(
    number: float, inside: bool, length: int
) -> None:
    numbers = np.linspace(-2.0, 5.0, length)
    assert kernels.within(numbers, -2.0, 5.0)
    for place in range(length):
        changed = numbers.copy()
        changed[place] = number
        assert kernels.within(changed, -2.0, 5.0) == inside


def test_indices_out_of_range_are_found() -> None:
    assert kernels.within(np.array([0, 3, 1]), 0.0, 3.0)
    assert not kernels.within(np.array([0, 4, 1]), 0.0, 3.0)
    assert not kernels.within(np.array([0, 3, -1]), 0.0, 3.0)


@pytest.mark.parametrize("coefficient", [np.int8, np.float64])
@pytest.mark.parametrize("used", [0, 1, 3])
def test_sums_over_planes(coefficient: type, used: int) -> None:
    generator = np.random.default_rng(used)
    planes = generator.integers(-1, 2, (4, 5, 3, 7)).astype(coefficient)
    of = np.array([3, 1])
    dual, x = generator.random((used, 5)), generator.random((2, 5, 7))
    weighed = np.einsum("lm,wmln->wmn", dual, planes[of][:, :, :used])
    np.testing.assert_allclose(kernels.weigh_planes(planes, of, dual), weighed, atol=1e-12)
    terms: FloatArray = generator.random((used, 5))
    applied = terms + np.einsum("wmln,wmn->lm", planes[of][:, :, :used], x)
    kernels.apply_planes(planes, of, x, terms)
    np.testing.assert_allclose(terms, applied, atol=1e-12)
