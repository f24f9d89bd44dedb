"""Counter-based randomness: a stream is a pure function of what it is for.

Every draw is keyed by (seed, worker, assignment number, purpose), so that a worker's step is
a function of its state and its assignment alone: replay and resume are exact, workers are
independent, and nothing depends on the order in which ranks happen to run.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is used for; part of its key."""

    UPPER_STEP = 0
    LOWER_STEP = 1
    LOWER_DEMONSTRATIONS = 2
    DELAY = 3
    SPLIT = 4
    RANDOM_DEMONSTRATIONS = 5
    BLACK_BOX = 6


def stream(seed: int, worker: int, number: int, purpose: Purpose) -> np.random.Generator:
    """Generator of the stream with this key.

    The key is (seed, worker) and the counter starts at (0, number, purpose, 0), which leaves
    each stream 2^64 blocks of four numbers before it could meet another.
    """
    bits = np.random.Philox(key=(seed, worker), counter=(0, number, int(purpose), 0))
    return np.random.Generator(bits)
