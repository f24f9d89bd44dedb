"""What requests to a server have cost, and a limit on how many may be paid for."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.servers.failures import Unusable

MOST_ADDED = 2**17
"""Tokens that a server may add to a request, as a system prompt or as thoughts; a count that is
still larger is none."""

LIKELY = "it may add a long system prompt, or ignore max_tokens"
"""Why a server counts more tokens than a request can have."""


@dataclass(frozen=True, slots=True)
class Most:
    """The most tokens that a request can read and write: what was set aside for it."""

    prompt_tokens: int
    completion_tokens: int


class Account:
    """What some requests have cost so far; at most ``most`` of them may ever count.

    ``each`` is the most that any of them can cost, so that the budget has set aside ``most`` times
    as much; None if that is not known yet: then no request is charged more than it can cost.
    ``before`` is another account whose costs are carried over.

    Attributes
    ----------
    calls, prompt_tokens, completion_tokens : int
    unmetered : int
        Answers that did not say what they cost, or said what cannot be: they count as much as they
        can have cost.
    exceeding : int
        Answers that cost more than was set aside for them.
    """

    def __init__(
        self, most: int, each: Most | None = None, before: "Account | None" = None
    ) -> None:
        self.calls: int = before.calls if before else 0
        self.prompt_tokens: int = before.prompt_tokens if before else 0
        self.completion_tokens: int = before.completion_tokens if before else 0
        self.unmetered: int = before.unmetered if before else 0
        self.exceeding: int = before.exceeding if before else 0
        self._each = each
        self._most = most
        self._open = 0
        self._closed = False
        self._doubted = False
        self._lock = threading.Lock()

    def reserve(self) -> None:
        """Make room for a request, before it is sent.

        Raises
        ------
        ModelError
            It might be one too many, or the account is closed or overdrawn.
        """
        with self._lock:
            if overdrawn := self._overdrawn():
                raise ModelError(overdrawn)
            if self._closed:
                raise ModelError("the request was cancelled")
            if self.calls + self._open >= self._most:
                raise ModelError(
                    f"the server answered {self.calls} requests, too many of them unusably: only"
                    f" {self._most} may be paid for here; check the server, or raise llm.timeout"
                )
            self._open += 1

    def release(self) -> None:
        """End a request that cost nothing."""
        with self._lock:
            self._open -= 1

    def charge(self, answer: Mapping[str, Any] | str, most: Most) -> None:
        """End a request that counts, by the usage in its ``answer``, or else by the ``most``.

        Without an answer (then it is a text), too: it may have been billed all the same.

        Raises
        ------
        Unusable
            This answer's counts alone would overdraw the account, for the first time: it may be
            one that is rotten, and counts as the ``most``.
        ModelError
            All requests so far have cost more than was set aside for as many as there may be.
        """
        known = answer if isinstance(answer, Mapping) else {}
        usage = known.get("usage")
        usage = usage if isinstance(usage, Mapping) else {}
        # No prompt has no tokens: a server that says so does not count.
        read = count(usage.get("prompt_tokens"), most.prompt_tokens) or None
        written = count(usage.get("completion_tokens"), most.completion_tokens) if read else None
        with self._lock:
            self._open -= 1
            self.calls += 1
            self.unmetered += bool(known.get("choices")) and (read is None or written is None)
            exceeds = (read or 0) > most.prompt_tokens or (written or 0) > most.completion_tokens
            self.exceeding += exceeds
            if exceeds and self._each is None:
                read, written = most.prompt_tokens, most.completion_tokens
            before = self.prompt_tokens, self.completion_tokens
            self.prompt_tokens += most.prompt_tokens if read is None else read
            self.completion_tokens += most.completion_tokens if written is None else written
            overdrawn = self._overdrawn()
            if not overdrawn:
                return
            if self._doubted or not exceeds:
                raise ModelError(overdrawn)
            self._doubted = True
            self.prompt_tokens = before[0] + most.prompt_tokens
            self.completion_tokens = before[1] + most.completion_tokens
            if self._overdrawn():
                raise ModelError(overdrawn)
        raise Unusable(overdrawn)

    def _overdrawn(self) -> str:
        """What to say if more was spent than set aside; "" if not."""
        if self._each is None:
            return ""
        for what, spent, each in (
            ("read", self.prompt_tokens, self._each.prompt_tokens),
            ("written", self.completion_tokens, self._each.completion_tokens),
        ):
            if spent > self._most * each:
                return (
                    f"the server reports having {what} {spent} tokens in {self.calls} requests,"
                    f" but only {self._most * each} were reserved for {self._most}: {LIKELY}"
                )
        return ""

    def close(self) -> None:
        """Let no further request begin: nobody waits for its answer any more."""
        with self._lock:
            self._closed = True


def count(number: Any, most: int) -> int | None:
    """A number of tokens; None if it is none, or more than a request of at most ``most`` has."""
    known = isinstance(number, int) and not isinstance(number, bool)
    return number if known and 0 <= number <= most + MOST_ADDED else None
