"""Who takes part in a run: which workers count, and who owes an answer since when."""

from collections import Counter

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray

MOST_RETURNS = 5
"""How often a worker may be lost and come back: each time the others may have waited for it."""
MOST_NOISE = 16
"""Messages of a worker that was told to start afresh, which it may have sent before it heard."""
MOST_HELD_UP = 100
"""How many times as long as it works a run may be held up by one worker, beyond the time-out."""


class Membership:
    """The workers 1..R as the server sees them.

    Attributes
    ----------
    live : array (R,)
        Workers that count: all at first, also those that have not said hello yet.
    count : how many are live
    needed : how many have to be, for the run to go on
    joined : live workers that have said hello
    working : live workers that have not been told to stop
    lost : workers that died or fell silent, and may come back
    restarting : lost workers that were told to start afresh, and have not said hello yet
    barred : workers that were told to stop for good, and are not listened to any more
    returns : how often each worker was taken back
    """

    def __init__(self, workers: int, needed: int = 1) -> None:
        self.live: BoolArray = np.ones(workers, dtype=bool)
        self.count = workers
        self.needed = needed
        self.joined: set[int] = set()
        self.working = set(range(1, workers + 1))
        self.lost: set[int] = set()
        self.restarting: set[int] = set()
        self.barred: set[int] = set()
        self.returns: Counter[int] = Counter()
        self._noise: Counter[int] = Counter()
        # At first everybody owes a hello. Lists: they are touched with every message.
        self._owed = [1] * (workers + 1)
        self._silent_since = [0.0] * (workers + 1)
        # Seconds for which the run had nothing to do but wait for a few, by worker, and the others.
        self._held_up = [0.0] * (workers + 1)
        self._worked = 0.0
        self._looked = 0.0
        self._waits_from = 0.0

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
        self.returns[worker] += 1
        self._noise[worker] = 0
        self._owed[worker] = 1
        self._held_up[worker] = 0.0
        self._silent_since[worker] = time

    def is_noise(self, worker: int) -> bool:
        """Count a message of ``worker`` that says nothing; whether that are too many."""
        self._noise[worker] += 1
        return self._noise[worker] > MOST_NOISE

    def excuse(self, seconds: float) -> None:
        """Nobody was listened to for ``seconds``: that is nobody's silence."""
        self._silent_since = [since + seconds for since in self._silent_since]
        self._looked += seconds

    def wait_from(self, time: float) -> None:
        """Nobody could answer before ``time``: the run stood still until then."""
        self._silent_since = [max(since, time) for since in self._silent_since]
        self._waits_from = self._looked = time

    def shortage(self, time: float, patience: float) -> str | None:
        """Why fewer workers are left than are ``needed``; None if it is not so.

        For ``patience`` seconds from `wait_from` on the lost count as well: they may come back.
        """
        waits = time - self._waits_from <= patience
        if self.count + (len(self.lost) if waits else 0) >= self.needed:
            return None
        return f"{self.count} workers are left, algorithm.min_workers is {self.needed}"

    @property
    def gone(self) -> str:
        """Who does not count any more."""
        lost = sorted(self.lost)
        excluded = sorted({*(1 + np.flatnonzero(~self.live)).tolist()} - self.lost)
        kinds = {"excluded for good": excluded, "lost": lost}
        return "; ".join(
            f"{kind}: {', '.join(map(str, who))}" for kind, who in kinds.items() if who
        )

    def overdue(self, time: float, seconds: float) -> list[tuple[int, str]]:
        """Live workers that keep the others waiting for too long, and how.

        That is those that owe an answer for more than ``seconds``; and those for which a majority
        waited, over the whole run, for longer than that and a hundred times what it worked.
        """
        self._account(time)
        most = seconds + MOST_HELD_UP * self._worked
        late = []
        for worker in sorted(self.working):
            silent = time - self._silent_since[worker]
            if self._owed[worker] and silent > seconds:
                late.append((worker, f"silent for {silent:.0f} seconds"))
            elif self._held_up[worker] > most:
                held_up = f"the others waited for it for {self._held_up[worker]:.0f} seconds"
                late.append((worker, f"{held_up}, in which they worked for {self._worked:.0f}"))
        return late

    def _account(self, time: float) -> None:
        """Put the seconds since the last look down to work, or to the few that all wait for."""
        passed, self._looked = time - self._looked, time
        # Who has not said hello may be loading a model. Where no majority waits, nobody can say
        # who is slow and who is quick.
        few = [worker for worker in self.joined & self.working if self._owed[worker]]
        if few and 2 * len(few) < self.count:
            for worker in few:
                self._held_up[worker] += passed
        else:
            self._worked += passed
