import numpy as np

from asyndbt_mpi.algorithm.coupling import latin_hypercube


def test_each_stratum_of_each_row_holds_one_sample() -> None:
    coupled = latin_hypercube(np.random.default_rng(0).random((3, 8, 5)))
    assert ((coupled >= 0) & (coupled < 1)).all()
    strata = np.sort(np.floor(8 * coupled).astype(int), axis=1)
    np.testing.assert_array_equal(strata, np.broadcast_to(np.arange(8)[:, None], strata.shape))


def test_a_sample_alone_is_uniform_and_its_rows_independent() -> None:
    """Over the unit square, in 8 by 8 cells; the standard error of a frequency is 0.0006."""
    coupled = latin_hypercube(np.random.default_rng(1).random((40_000, 4, 2)))
    for sample in range(4):
        cells = np.floor(8 * coupled[:, sample]).astype(int)
        frequencies = np.bincount(8 * cells[:, 0] + cells[:, 1], minlength=64) / 40_000
        np.testing.assert_allclose(frequencies, 1 / 64, atol=0.004)


def test_the_largest_draw_stays_below_one() -> None:
    assert latin_hypercube(np.full((2, 1), np.nextafter(1.0, 0.0))).max() < 1.0
