"""Requests to a server that speaks OpenAI's API: sent again where that helps, and counted.

What an error says never quotes a prompt, which is private, nor the key.
"""

import json
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import openai
import tenacity

from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.key import OPENAI_URL, read_key, variable_of
from asyndbt_mpi.llm.pace import Pace

T = TypeVar("T")

AGAIN = {408, 409, 429}
"""Statuses that may pass, besides those from 500 on."""

UNLISTED = {404, 405, 501}
"""Statuses of a server that does not list its models."""

FILTERED = {"content_filter", "data_inspection_failed"}
"""Codes with which Azure and DashScope refuse a prompt because of what it says (status 400)."""

HEADERS = {
    *("host", "accept", "accept-encoding", "connection", "user-agent"),
    *("content-type", "content-length"),
    "x-stainless-raw-response",  # the library itself looks for it
}
"""All that a server is told besides the key."""

NO_KEY = "none"
"""In place of a key, without which the library sends nothing."""

LONGEST_WAIT = 600.0
"""Seconds: a server that wants a longer pause has run out of a quota."""

MESSAGE = 200
"""Characters of a server's message that are passed on."""

QUOTED_TEXT, QUOTED_KEY = 16, 4
"""Characters in a row that are taken for a quotation of a prompt, or of the key."""

_BACKOFF = tenacity.wait_exponential(multiplier=0.5, max=60) + tenacity.wait_random(0, 1)


class Refused(ModelError):
    """The server does not take a request as it is (status 400 or 422)."""


class Unusable(Exception):
    """An answer that cannot be read; the request is worth another attempt."""


class Filtered(Exception):
    """The server does not answer because of what the prompt says; asking again would not help."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go and how patiently: the keys of the same names of the [llm] table."""

    model: str
    base_url: str
    key_variable: str
    api: Literal["chat", "completion"]
    timeout: float
    attempts: int


class Account:
    """What some requests have cost so far; at most ``most`` of them may ever count.

    ``before`` is another one whose costs are carried over.
    """

    def __init__(self, most: int, before: "Account | None" = None) -> None:
        self.calls: int = before.calls if before else 0
        self.prompt_tokens: int = before.prompt_tokens if before else 0
        self.completion_tokens: int = before.completion_tokens if before else 0
        self._most = most
        self._open = 0
        self._closed = False
        self._lock = threading.Lock()

    def reserve(self) -> None:
        """Make room for a request, before it is sent.

        Raises
        ------
        ModelError
            It might be one too many, or the account is closed.
        """
        with self._lock:
            if self._closed:
                raise ModelError("the request was called off")
            if self.calls + self._open >= self._most:
                raise ModelError(
                    f"the server answered {self.calls} requests and too many of them unusably:"
                    f" only {self._most} may be paid for here; see that it is well, or raise"
                    " llm.timeout"
                )
            self._open += 1

    def settle(self, counts: bool) -> None:
        """End a request that room was made for."""
        with self._lock:
            self._open -= 1
            self.calls += counts

    def add_tokens(self, usage: Any) -> None:
        """Add what an answer's ``usage`` says, if it has one."""
        if isinstance(usage, Mapping):
            with self._lock:
                self.prompt_tokens += _count(usage.get("prompt_tokens"))
                self.completion_tokens += _count(usage.get("completion_tokens"))

    def close(self) -> None:
        """Let no further request begin: nobody waits for its answer any more."""
        with self._lock:
            self._closed = True


class _Again(Exception):
    """An attempt failed in a way that may pass, ``told`` seconds from now or later."""

    def __init__(self, reason: str, told: float = 0.0) -> None:
        super().__init__(reason)
        self.told = told


class Client:
    """Sends requests and reads their answers, from any number of threads.

    Raises
    ------
    ModelError
        There is no key, or the environment variable does not hold one.
    """

    def __init__(
        self, endpoint: Endpoint, pace: Pace, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.endpoint = endpoint
        url = endpoint.base_url or OPENAI_URL
        # Without what may stand before an "@": a password.
        self.server = urlsplit(url).netloc.rpartition("@")[2] or url
        self._key = read_key(endpoint.base_url, endpoint.key_variable)
        self._pace = pace
        self._sleep = sleep
        self._reached = False
        self._thread = threading.local()
        try:
            self._library = library = openai.OpenAI(
                api_key=self._key or NO_KEY,
                base_url=url,
                timeout=endpoint.timeout,
                max_retries=0,
                http_client=openai.DefaultHttpxClient(
                    event_hooks={"request": [self._strip], "response": [self._begun]}
                ),
            )
        except Exception as error:  # whatever its own library raises of an address
            raise ModelError(f"llm.base_url = {self.server!r}: is no address") from error
        chat = endpoint.api == "chat"
        resource: Any = library.chat.completions if chat else library.completions
        self._create = resource.with_raw_response.create

    def ask(
        self, body: Mapping[str, Any], text: str, read: Callable[[Any], T], account: Account
    ) -> T:
        """Send a request until its answer can be read.

        Parameters
        ----------
        body : what the API's function takes, besides the model
        text : the prompt in it
        read : takes the answer's first choice; raises `Unusable` if it cannot

        Raises
        ------
        Filtered
            The server does not answer this prompt.
        Refused, ModelError
            Another attempt would not help, or all were in vain.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.endpoint.attempts),
            retry=tenacity.retry_if_exception_type(_Again),
            wait=_pause,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            found: T = retrying(self._attempt, body, text, read, account)
        except _Again as last:
            number = self.endpoint.attempts
            raise ModelError(
                f"{self.server}: gave up after {number} attempt{'s' if number > 1 else ''},"
                f" the last: {last}"
            ) from None
        return found

    def models(self) -> list[str] | None:
        """Names of the models that the server offers, None if it does not list them.

        One request, without another attempt, that no server takes money for.

        Raises
        ------
        ModelError
            The server is not reached, does not take the key, or is not well.
        """
        self._thread.status = None
        try:
            response = self._library.models.with_raw_response.list()
            return _names(response.http_response.content)
        except openai.APITimeoutError:
            seconds = self.endpoint.timeout
            raise ModelError(f"{self.server}: no answer within {seconds:g} s") from None
        except openai.APIConnectionError as error:
            failure = self._of_connection(error)
            if isinstance(failure, _Again):
                failure = ModelError(f"{self.server}: {failure}")
            raise failure from None
        except openai.APIStatusError as error:
            if error.status_code in UNLISTED:
                return None
            raise ModelError(str(self._of_status(error, ""))) from None

    def _attempt(
        self, body: Mapping[str, Any], text: str, read: Callable[[Any], T], account: Account
    ) -> T:
        self._pace.wait()
        account.reserve()
        self._thread.status = None
        late = False
        try:
            response = self._create(model=self.endpoint.model, **body)
            content: bytes = response.http_response.content
        except openai.APITimeoutError:
            late = True  # and may be billed all the same
            raise _Again(f"no answer within {self.endpoint.timeout:g} s (llm.timeout)") from None
        except openai.APIConnectionError as error:
            raise self._of_connection(error) from None
        except openai.APIStatusError as error:
            raise self._of_status(error, text) from None
        finally:
            account.settle(late or self._thread.status == 200)
        try:
            return read(_first_choice(content, account))
        except Unusable as error:
            raise _Again(str(error)) from None

    def _strip(self, request: Any) -> None:
        """Called before a request is sent: takes off what the library found in the environment.

        OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS are not meant for any server.
        """
        for name in set(request.headers) - HEADERS:
            del request.headers[name]
        request.headers["authorization"] = f"Bearer {self._key or NO_KEY}"

    def _begun(self, response: Any) -> None:
        """Called when an answer begins, which may yet break off."""
        self._reached = True
        self._thread.status = response.status_code

    def _of_connection(self, error: openai.APIConnectionError) -> Exception:
        kind = type(error.__cause__).__name__
        if kind == "ConnectError" and not self._reached:
            return ModelError(f"cannot connect to {self.server}: check llm.base_url")
        broken = self._thread.status is not None
        return _Again("the answer broke off" if broken else f"connection error ({kind})")

    def _of_status(self, error: openai.APIStatusError, text: str) -> Exception:
        status = error.status_code
        if error.code in FILTERED:
            return Filtered()
        said = _without(_message(error), text, self._key)
        if status in AGAIN or status >= 500:
            told = retry_after(error.response.headers)
            if told > LONGEST_WAIT:
                return ModelError(
                    f"{self.server} answered {status} and wants a pause of {told:.0f} s: {said}"
                )
            return _Again(f"{status}: {said}", told)
        kind = Refused if status in (400, 422) else ModelError
        return kind(f"{self.server} answered {status}: {said} ({self._mend(status, said)})")

    def _mend(self, status: int, said: str) -> str:
        if status in (401, 403):
            variable = variable_of(self.endpoint.base_url, self.endpoint.key_variable)
            if not variable:
                return "name the environment variable with its key by llm.key_variable"
            return f"check the key in the environment variable {variable}"
        if status == 404:
            return "check llm.model, llm.base_url and llm.api"
        if "context" in said.lower():
            return "a prompt is longer than the model can read: show shorter demonstrations"
        return "check llm.model, llm.api and llm.scores"


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait (RFC 9110, 10.2.3), 0 if it does not say."""
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            seconds = _seconds_until(headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _seconds_until(text: str) -> float:
    """Of a number of seconds, or of an HTTP date."""
    try:
        return float(text)
    except ValueError:
        date = parsedate_to_datetime(text)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return (date - datetime.now(UTC)).total_seconds()


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: never fewer than the server asks for."""
    error = state.outcome.exception() if state.outcome else None
    told = error.told if isinstance(error, _Again) else 0.0
    # Stretched, so that requests that were turned away together do not come back together.
    return max(_BACKOFF(state), told * random.uniform(1, 1.2))


def _first_choice(content: bytes, account: Account) -> Any:
    """The first choice of an answer's body; its tokens are counted whatever else is in it."""
    try:
        answer = json.loads(content)
    except ValueError:
        raise Unusable("the answer is no JSON") from None
    if not isinstance(answer, dict):
        raise Unusable("the answer is no JSON object")
    account.add_tokens(answer.get("usage"))
    choices = answer.get("choices")
    if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
        raise Unusable("the answer has no choices")
    return choices[0]


def _names(content: bytes) -> list[str] | None:
    """The models in a server's list of them."""
    try:
        listed = json.loads(content)["data"]
        return [str(each["id"]) for each in listed]
    except (ValueError, KeyError, TypeError):
        return None


def _count(number: Any) -> int:
    return number if isinstance(number, int) and number > 0 else 0


def _message(error: openai.APIStatusError) -> str:
    """What the server says itself, in one line."""
    body = error.body
    said = body.get("message") if isinstance(body, dict) else body
    lines = said.strip().splitlines() if isinstance(said, str) else []
    return lines[0] if lines else "no message"


def _without(message: str, text: str, key: str) -> str:
    """The message, cut to `MESSAGE` characters, if it quotes neither the prompt nor the key."""
    if _quotes(message, text.strip(), QUOTED_TEXT):
        return "(a message that quotes the prompt)"
    words = ["[key]" if _quotes(word, key, QUOTED_KEY) else word for word in message.split()]
    return " ".join(words)[:MESSAGE]


def _quotes(message: str, secret: str, length: int) -> bool:
    """Whether some ``length`` characters in a row of the secret, or all, are in the message."""
    length = min(length, len(secret))
    if not length:
        return False
    return any(
        message[start : start + length] in secret for start in range(len(message) - length + 1)
    )
