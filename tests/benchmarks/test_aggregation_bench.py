"""The benchmark of single aggregations: its liars are strong, and no stronger than can be."""

import numpy as np
from aggregation import ATTACKS, SPREADS, WORDS, honest, lies, moved


def test_a_mean_is_moved_by_the_share_and_a_rule_by_less() -> None:
    for concentration in SPREADS.values():
        for share in (0.2, 0.4):
            of_mean = moved(("mean", "none"), share, concentration, 0)
            assert share < of_mean <= 2 * share  # no two rows of the simplex are further apart
            assert moved(("trimmed_mean", "nnm"), share, concentration, 0) < 1.05 * of_mean
    assert moved(("mean", "none"), 0.0, SPREADS["apart"], 0) == 0.0


def test_lies_are_on_the_simplex_and_of_those_who_collude() -> None:
    p = honest(14, SPREADS["alike"], np.random.default_rng(3))
    np.testing.assert_allclose(p.sum(axis=-1), 1.0)
    for attack, strength in ATTACKS:
        told = lies(p, 6, attack, strength, 3)
        assert told.shape == (6, *p.shape[1:])
        np.testing.assert_allclose(told.sum(axis=-1), 1.0)
        assert (told >= 0).all()
    agreed = lies(p, 6, "same_value", 1.0, 3)
    np.testing.assert_array_equal(agreed[:, :, 0], 1.0)
    assert p.shape[-1] == WORDS
