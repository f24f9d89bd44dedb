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
    STATIONARITY = 7
    EXPLORATION = 8


class Streams:
    """One generator that is set to stream after stream.

    To set it takes a quarter of the time that a new generator takes, which counts where a
    thousand workers draw a few numbers each.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=(0, 0))
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def at(self, seed: int, worker: int, number: int, purpose: Purpose) -> np.random.Generator:
        """The generator at the start of the stream with this key; good until the next call.

        The key is (seed, worker) and the counter starts at (0, number, purpose, 0), which leaves
        each stream 2^64 blocks of four numbers before it could meet another.
        """
        self._state["state"]["key"][:] = seed, worker
        self._state["state"]["counter"][:] = 0, number, purpose, 0
        self._bits.state = self._state
        return self._generator


def stream(seed: int, worker: int, number: int, purpose: Purpose) -> np.random.Generator:
    """A generator of its own for the stream with this key."""
    return Streams().at(seed, worker, number, purpose)
