"""When a request may be sent, where a server limits how many it takes or asks for a pause."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


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


LONGEST = 31 * 86400.0
"""Seconds: nobody means a longer pause."""


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait (RFC 9110, 10.2.3), 0 if it does not say, or nonsense."""
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            seconds = _seconds_until(headers.get("retry-after", "0"))
    except (OverflowError, TypeError, ValueError):  # also of dates that no calendar has
        return 0.0
    return seconds if 0 < seconds <= LONGEST else 0.0


def _seconds_until(text: str) -> float:
    """Of a number of seconds, or of an HTTP date."""
    try:
        return float(text)
    except ValueError:
        date = parsedate_to_datetime(text)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return (date - datetime.now(UTC)).total_seconds()
