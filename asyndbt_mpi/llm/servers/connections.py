"""What a connection is allowed: where it leads, how long an answer takes, how much arrives.

The HTTP libraries bound each single wait, and neither the waits together nor the bytes: a server
that sends a header line a second, or one "please wait" after the other, would never be done with.
So their connections are wrapped, which sees every byte, whatever it is part of.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

MOST_BYTES = 2**22
"""Of an answer, with its headers; a list of some thousand models has less."""

MOST_ERROR_BYTES = 2**18
"""Of one that says no: the library reads it without a limit to its values."""


class TooLong(Exception):
    """An answer has more than `MOST_BYTES`, or `MOST_ERROR_BYTES`."""


class TooLate(Exception):
    """An answer is not complete in time."""


class Exchange(threading.local):
    """The request that a thread has under way: when it must be over, and what may still arrive."""

    until = 0.0
    most = 0
    bytes_left = 0

    def begin(self, seconds: float) -> None:
        """From now on, for so long."""
        self.until = time.monotonic() + seconds
        self.most = self.bytes_left = MOST_BYTES

    def refused(self) -> None:
        """The answer under way says no."""
        most = min(self.most, MOST_ERROR_BYTES)
        self.bytes_left -= self.most - most
        self.most = most

    def wait(self, seconds: float | None) -> float:
        """How long a single wait may take.

        Raises
        ------
        TooLate
            There is no time left.
        """
        left = self.until - time.monotonic()
        if left <= 0:
            raise TooLate
        return left if seconds is None else min(left, seconds)

    def count(self, arrived: int) -> None:
        """Raise `TooLong` if so many bytes more are too many."""
        self.bytes_left -= arrived
        if self.bytes_left < 0:
            raise TooLong(f"the answer is longer than {self.most} bytes")


def guard(client: Any, exchange: Exchange, check: Callable[[str, int], None]) -> None:
    """Wrap all connections that an HTTP ``client`` makes from now on, also those by proxies.

    ``check`` is called with the host and port of each before it is made, and may raise.
    """
    # Neither library has a public way that keeps proxies.
    for transport in {client._transport, *client._mounts.values()} - {None}:
        transport._pool._network_backend = _Backend(
            transport._pool._network_backend, exchange, check
        )


class _Backend:
    """Makes connections, as the library's own one does."""

    def __init__(self, own: Any, exchange: Exchange, check: Callable[[str, int], None]) -> None:
        self._own = own
        self._exchange = exchange
        self._check = check

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> "_Stream":
        self._check(host, port)
        seconds = self._exchange.wait(timeout)
        stream = self._own.connect_tcp(host=host, port=port, timeout=seconds, **options)
        return _Stream(stream, self._exchange)


class _Stream:
    """A connection."""

    def __init__(self, own: Any, exchange: Exchange) -> None:
        self._own = own
        self._exchange = exchange

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        found: bytes = self._own.read(max_bytes, self._exchange.wait(timeout))
        self._exchange.count(len(found))
        return found

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._own.write(buffer, self._exchange.wait(timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_Stream":
        seconds = self._exchange.wait(timeout)
        return _Stream(self._own.start_tls(ssl_context, server_hostname, seconds), self._exchange)

    def close(self) -> None:
        self._own.close()

    def get_extra_info(self, info: str) -> Any:
        return self._own.get_extra_info(info)
