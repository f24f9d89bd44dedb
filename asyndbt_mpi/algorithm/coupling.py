"""Samples that cover each row's distribution evenly, in place of independent ones."""

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray

HIGH_BITS = 2.0**26
"""Half of a double's 53 bits order the samples, the other half places them."""


def latin_hypercube(uniform: FloatArray) -> FloatArray:
    """Couple I independent samples so that each I-th of the unit interval holds one of them.

    Every row is stratified by its own permutation (McKay, Beckman & Conover, 1979): a single
    sample is still uniform in all rows, and independent between them, but two samples tend to
    differ. A model fitted to the losses learns more from them; a score function with a
    leave-one-out baseline would be biased.

    Parameters
    ----------
    uniform : array (..., I, rows) in [0, 1), independent

    Returns
    -------
    array of that shape
    """
    scaled = uniform * HIGH_BITS
    whole = np.floor(scaled)
    stratum = whole.argsort(axis=-2).argsort(axis=-2)
    coupled: FloatArray = (stratum + (scaled - whole)) / uniform.shape[-2]
    return coupled
