"""Requests spaced evenly in time, where a server limits how many it takes in a minute."""

import threading
import time
from collections.abc import Callable


class Pace:
    """Lets one request begin every ``60 / per_minute`` seconds, whichever thread sends it.

    Spaced, and not let through in bursts: servers count over windows of their own, which a burst
    at the end of one and a burst at the start of the next may both fall into.

    Parameters
    ----------
    per_minute : float
        0 for no limit.
    clock, sleep : callables
        Seconds that never go back, and how to let some pass.
    """

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free = clock()

    def wait(self) -> None:
        """Return when the caller's turn has come."""
        if not self._interval:
            return
        with self._lock:
            now = self._clock()
            turn = max(self._free, now)
            self._free = turn + self._interval
        if turn > now:
            self._sleep(turn - now)
