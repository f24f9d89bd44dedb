import itertools

import numpy as np

from asyndbt_mpi.algorithm.random import Purpose, stream


def test_a_stream_is_a_function_of_its_key() -> None:
    key = (7, 3, 12, Purpose.DELAY)
    np.testing.assert_array_equal(stream(*key).random(100), stream(*key).random(100))


def test_streams_of_different_keys_differ_and_are_uncorrelated() -> None:
    keys = itertools.product((0, 1), (1, 2), (0, 1), (Purpose.UPPER_STEP, Purpose.LOWER_STEP))
    draws = np.array([stream(*key).random(2000) for key in keys])
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 0.1


def test_a_long_stream_does_not_run_into_the_next_number() -> None:
    long = stream(0, 1, 0, Purpose.UPPER_STEP).random(100_000)
    following = stream(0, 1, 1, Purpose.UPPER_STEP).random(10)
    assert not np.isin(following, long).any()
