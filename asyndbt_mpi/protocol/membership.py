"""Who takes part in a run: which workers count, and who owes an answer since when."""

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray


class Membership:
    """The workers 1..R as the server sees them.

    Attributes
    ----------
    live : array (R,)
        Workers that count: all at first, also those that have not said hello yet.
    count : how many are live
    joined : live workers that have said hello
    working : live workers that have not been told to stop
    lost : workers that died or fell silent, and may come back
    restarting : lost workers that were told to start afresh, and have not said hello yet
    """

    def __init__(self, workers: int) -> None:
        self.live: BoolArray = np.ones(workers, dtype=bool)
        self.count = workers
        self.joined: set[int] = set()
        self.working = set(range(1, workers + 1))
        self.lost: set[int] = set()
        self.restarting: set[int] = set()
        # At first everybody owes a hello. Lists: they are touched with every message.
        self._owed = [1] * (workers + 1)
        self._silent_since = [0.0] * (workers + 1)

    @property
    def awaits_hellos(self) -> bool:
        """Whether somebody who counts has not said hello yet."""
        return len(self.joined) < self.count

    def is_live(self, worker: int) -> bool:
        """Whether ``worker`` counts."""
        return bool(self.live[worker - 1])

    def leave(self, worker: int) -> None:
        """``worker`` counts no more."""
        self.live[worker - 1] = False
        self.count -= 1
        self.joined.discard(worker)
        self.working.discard(worker)

    def come_back(self, worker: int) -> None:
        """A lost ``worker`` counts again."""
        self.lost.discard(worker)
        self.restarting.discard(worker)
        self.live[worker - 1] = True
        self.count += 1
        self.working.add(worker)

    def asked(self, worker: int, time: float) -> None:
        """``worker`` owes one more answer."""
        if not self._owed[worker]:
            self._silent_since[worker] = time
        self._owed[worker] += 1

    def heard(self, worker: int, time: float) -> None:
        """``worker`` has answered."""
        self._owed[worker] -= 1
        self._silent_since[worker] = time

    def starts_afresh(self, worker: int, time: float) -> None:
        """``worker`` was told to forget everything: all it owes is a hello."""
        self.restarting.add(worker)
        self._owed[worker] = 1
        self._silent_since[worker] = time

    def wait_from(self, time: float) -> None:
        """Nobody could answer before ``time``: the run stood still until then."""
        self._silent_since = [max(since, time) for since in self._silent_since]

    def overdue(self, time: float, seconds: float) -> list[tuple[int, float]]:
        """Live workers that owe an answer for more than ``seconds``, and for how long."""
        return [
            (worker, time - self._silent_since[worker])
            for worker in sorted(self.working)
            if self._owed[worker] and time - self._silent_since[worker] > seconds
        ]
