"""Who takes part in a run: which workers count, and who owes an answer since when."""

from collections import Counter
from enum import Enum

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray

MOST_RETURNS = 5
"""How often a worker may be lost and come back: each time the others may have waited for it."""
MOST_NOISE = 16
"""Messages of a worker that was told to start afresh, which it may have sent before it heard."""
MOST_HELD_UP = 100
"""How many times as long as it works a run may be held up by one worker, beyond the time-out; its
returns included."""


class State(Enum):
    """Where a worker is in its life."""

    EXPECTED = "has not said hello yet"
    JOINED = "works"
    STOPPED = "was told to stop, for the run is over"
    LOST = "died or fell silent, and may come back"
    RESTARTING = "was lost, is heard again, and was told to start afresh"
    EXCLUDED = "sent what it must not"
    DISMISSED = "failed, or came back when the run was over"


COUNTED = frozenset({State.EXPECTED, State.JOINED, State.STOPPED})
"""S and tau are about these workers; the others are not waited for."""

BARRED = frozenset({State.STOPPED, State.EXCLUDED, State.DISMISSED})
"""These were told to stop for good, and are not listened to any more."""

NEXT = {
    State.EXPECTED: {State.JOINED, State.LOST, *BARRED},
    State.JOINED: {State.LOST, *BARRED},
    State.STOPPED: set(),
    State.LOST: {State.RESTARTING, State.EXCLUDED, State.DISMISSED},
    State.RESTARTING: {State.JOINED, State.EXCLUDED, State.DISMISSED},
    State.EXCLUDED: set(),
    State.DISMISSED: set(),
}
"""What a worker in each state may become; there is no other way."""


class Membership:
    """The workers 1..R as the server sees them.

    Attributes
    ----------
    live : array (R,)
        Workers that count.
    count : how many are live
    needed : how many have to be, for the run to go on
    barred : those that are not listened to any more
    returns : how often each worker was taken back
    strikes : how many malformed messages each worker has sent
    """

    def __init__(self, workers: int, needed: int = 1) -> None:
        self.live: BoolArray = np.ones(workers, dtype=bool)
        self.count = workers
        self.needed = needed
        self.barred: set[int] = set()
        self.returns: Counter[int] = Counter()
        self.strikes: Counter[int] = Counter()
        everyone = range(1, workers + 1)
        self._state = dict.fromkeys(everyone, State.EXPECTED)
        self._in: dict[State, set[int]] = {state: set() for state in State}
        self._in[State.EXPECTED].update(everyone)
        self._noise: Counter[int] = Counter()
        # At first everybody owes a hello. Lists: they are touched with every message.
        self._owed = [1] * (workers + 1)
        self._silent_since = [0.0] * (workers + 1)
        # Seconds for which a majority waited, by the worker that it waited for, and those of work.
        self._held_up = [0.0] * (workers + 1)
        self._worked = 0.0
        self._looked = 0.0
        self._waits_from = 0.0

    def state(self, worker: int) -> State:
        """Where ``worker`` is in its life."""
        return self._state[worker]

    def become(self, worker: int, state: State) -> None:
        """Let ``worker`` pass into ``state``.

        Raises
        ------
        RuntimeError
            There is no way there from where it is; see `NEXT`.
        """
        before = self._state[worker]
        if state not in NEXT[before]:
            raise RuntimeError(f"worker {worker}: {before.name} cannot become {state.name}")
        self._in[before].discard(worker)
        self._in[state].add(worker)
        self._state[worker] = state
        self.live[worker - 1] = state in COUNTED
        self.count += (state in COUNTED) - (before in COUNTED)
        if state in BARRED:
            self.barred.add(worker)

    def is_live(self, worker: int) -> bool:
        """Whether ``worker`` counts."""
        return self._state[worker] in COUNTED

    @property
    def joined(self) -> set[int]:
        """Those that work."""
        return self._in[State.JOINED]

    def has_greeted(self, worker: int) -> bool:
        """Whether ``worker`` counts and has said hello, or need not any more."""
        return self._state[worker] in (State.JOINED, State.STOPPED)

    @property
    def working(self) -> set[int]:
        """Those that count and were not told to stop."""
        return self._in[State.EXPECTED] | self._in[State.JOINED]

    @property
    def restarting(self) -> set[int]:
        """Those that were told to start afresh, and have not said hello yet."""
        return self._in[State.RESTARTING]

    @property
    def lost(self) -> set[int]:
        """Those that may come back."""
        return self._in[State.LOST] | self._in[State.RESTARTING]

    @property
    def given_up(self) -> set[int]:
        """Those whose processes may still be at work, though nobody waits for them."""
        return self.lost | self._in[State.DISMISSED]

    @property
    def awaits_hellos(self) -> bool:
        """Whether somebody who counts has not said hello yet."""
        return bool(self._in[State.EXPECTED])

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
        self.become(worker, State.RESTARTING)
        self.returns[worker] += 1
        self._noise[worker] = 0
        self._owed[worker] = 1
        self._silent_since[worker] = time

    def note_noise(self, worker: int) -> None:
        """Count a message of ``worker`` that says nothing."""
        self._noise[worker] += 1

    def is_noisy(self, worker: int) -> bool:
        """Whether ``worker`` has sent more that says nothing than can have been on its way."""
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
        kinds = {"excluded for good": self._in[State.EXCLUDED], "lost": self.given_up}
        return "; ".join(
            f"{kind}: {', '.join(map(str, sorted(who)))}" for kind, who in kinds.items() if who
        )

    def overdue(self, time: float, seconds: float) -> list[tuple[int, str]]:
        """Live workers that keep the others waiting for too long, and how.

        That is those that owe an answer for more than ``seconds``; and those for which a majority
        waited, by all the `account`s, for longer than that and a hundred times what it worked. So
        each worker holds up a run for so long at most, and a number of them for that many times.
        """
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

    def account(self, time: float) -> None:
        """Put the seconds since the last call down to work, or to the few that all wait for.

        The run works while at least half of the workers owe an answer: where no majority waits,
        nobody can say who is slow and who is quick. Before everybody has said hello, or is lost,
        nothing is counted: who loads a model holds nobody up, but nor do the others work.
        """
        passed, self._looked = time - self._looked, time
        if self.awaits_hellos:
            return
        owing = [worker for worker in self.joined if self._owed[worker]]
        if 2 * len(owing) >= self.count:
            self._worked += passed
            return
        for worker in owing:
            self._held_up[worker] += passed
