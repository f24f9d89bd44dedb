"""Requests to a server that speaks OpenAI's API: sent again where that helps, and counted.

What an error says never quotes a prompt, which is private, nor the key.
"""

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import openai
import tenacity

from asyndbt_mpi.llm import causes, errors, words
from asyndbt_mpi.llm.account import Account, Most
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.key import OPENAI_URL, read_key
from asyndbt_mpi.llm.pace import Pace, retry_after
from asyndbt_mpi.llm.parameters import (
    MAX_COMPLETION_TOKENS,
    Parameters,
    can_be_given_otherwise,
    refused_parameter,
    what_was_tried,
)
from asyndbt_mpi.llm.served import Served

T = TypeVar("T")

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

LIST_SECONDS = 10.0
"""For the list of a server's models, which is worth no long wait."""

MOST_BYTES = 2**24
"""Of an answer: what is longer is none."""

_BACKOFF = tenacity.wait_exponential(multiplier=0.5, max=60) + tenacity.wait_random(0, 1)


class Refused(ModelError):
    """The server does not take a request as it is (status 400 or 422).

    ``content`` is the body of its answer, which may quote anything.
    """

    def __init__(self, message: str, content: bytes) -> None:
        super().__init__(message)
        self.content = content


class Forbidden(ModelError):
    """The server does not show this to us (status 401 or 403)."""


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
    extra_body: Mapping[str, Any] = field(default_factory=dict)


class _TooLong(Exception):
    """An answer has more than `MOST_BYTES`."""


class _TooLate(Exception):
    """An answer is not complete in time."""


def _bounded(pieces: Callable[[], Iterator[bytes]], until: float) -> Iterator[bytes]:
    """The bytes of an answer, as long as they come before a time of `time.monotonic`."""
    size = 0
    for piece in pieces():
        size += len(piece)
        if size > MOST_BYTES:
            raise _TooLong
        if time.monotonic() > until:
            raise _TooLate
        yield piece


class _Again(Exception):
    """An attempt failed in a way that may pass, ``told`` seconds from now or later."""

    def __init__(self, reason: str, told: float = 0.0) -> None:
        super().__init__(reason)
        self.told = told


class Client:
    """Sends requests and reads their answers, from any number of threads.

    Attributes
    ----------
    server : str
        Its name and port.
    served : Served
        What its answers said of the model behind it.

    Raises
    ------
    ModelError
        There is no key, or the environment variable does not hold one; the address, a proxy or
        the certificates that the environment names cannot be used.
    """

    def __init__(
        self, endpoint: Endpoint, pace: Pace, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.endpoint = endpoint
        self._url = url = endpoint.base_url or OPENAI_URL
        # Without what may stand before an "@": a password.
        self.server = urlsplit(url).netloc.rpartition("@")[2] or url
        self._key = read_key(endpoint.base_url, endpoint.key_variable)
        self.served = Served(self.server, self._key)
        self._pace = pace
        self._sleep = sleep
        self._reached = False
        self._thread = threading.local()
        self._parameters = Parameters(self.server)
        try:
            (urlsplit(url).hostname or "").encode("idna")  # as the library does, too late
            self._library = library = openai.OpenAI(
                api_key=self._key or NO_KEY,
                base_url=url,
                timeout=endpoint.timeout,
                max_retries=0,
                # Elsewhere the key has no business.
                http_client=openai.DefaultHttpxClient(
                    follow_redirects=False,
                    event_hooks={"request": [self._strip], "response": [self._begun]},
                ),
            )
        except Exception as error:  # whatever its own library raises of an address
            raise ModelError(causes.of_client(error, url)) from None
        chat = endpoint.api == "chat"
        resource: Any = library.chat.completions if chat else library.completions
        self._create = resource.with_raw_response.create

    def ask(
        self,
        body: Mapping[str, Any],
        text: str,
        read: Callable[[Any], T],
        account: Account,
        most: Most,
    ) -> T:
        """Send a request until its answer can be read.

        A parameter that the server does not take is left out, or gets its newer name; from then on,
        if that has helped.

        Parameters
        ----------
        body : what the API's function takes, besides the model
        text : the prompt in it
        read : takes the answer's first choice, with the answer's usage; raises `Unusable` if it
            cannot
        most : what is charged where the answer does not say what it cost

        Raises
        ------
        Filtered
            The server does not answer this prompt.
        Refused, ModelError
            Another attempt would not help, or all were in vain; or another model has answered.
        """
        tried: list[str] = []
        while True:
            sent = self._parameters.taken(body, tried)
            try:
                found = self._persevere(sent, text, read, account, most)
            except Refused as error:
                said = words.said(error.content)
                names = [*sent, *self.endpoint.extra_body]
                name = refused_parameter(error.content, said, names)
                if name in tried or not can_be_given_otherwise(name, said):
                    raise Refused(f"{error}{what_was_tried(tried)}", error.content) from None
                tried.append(name)
            else:
                self._parameters.keep(tried)
                return found

    def _persevere(
        self,
        body: Mapping[str, Any],
        text: str,
        read: Callable[[Any], T],
        account: Account,
        most: Most,
    ) -> T:
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.endpoint.attempts),
            retry=tenacity.retry_if_exception_type(_Again),
            wait=_pause,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            found: T = retrying(self._attempt, body, text, read, account, most)
        except _Again as last:
            number = self.endpoint.attempts
            raise ModelError(
                f"{self.server}: gave up after {number} attempt{'s' if number > 1 else ''},"
                f" the last: {last}"
            ) from None
        return found

    def models(self) -> list[dict[str, Any]] | None:
        """What the server says of the models that it offers, None if it does not list them.

        One request, without another attempt, that no server takes money for.

        Raises
        ------
        Forbidden
            It does not show them.
        ModelError
            The server is not reached, or is not well.
        """
        self._thread.status = None
        try:
            seconds = min(self.endpoint.timeout, LIST_SECONDS)
            response = self._library.models.with_raw_response.list(timeout=seconds)
            content: bytes = response.http_response.content
        except (openai.APITimeoutError, _TooLate):
            raise ModelError(f"{self.server}: no answer within {seconds:g} s") from None
        except _TooLong:
            raise ModelError(f"{self.server}: its list of models has no end") from None
        except openai.APIConnectionError as error:
            failure = self._of_connection(error)
            if isinstance(failure, _Again):
                failure = ModelError(f"{self.server}: {failure}")
            raise failure from None
        except openai.APIStatusError as error:
            if error.status_code in errors.UNLISTED:
                return None
            kind = Forbidden if error.status_code in (401, 403) else ModelError
            raise kind(str(self._of_status(error, ""))) from None
        return self._listed(content)

    def _listed(self, content: bytes) -> list[dict[str, Any]] | None:
        body = _object(content)
        if body is None or body.get("error"):
            said = words.without(words.said(content), "", self._key)
            raise ModelError(f"{self.server} does not list its models, but answers: {said}")
        entries = body.get("data")
        if not isinstance(entries, list):
            return None
        return [each for each in entries if isinstance(each, dict) and "id" in each]

    # ----------------------------------------------------------------------------- one request

    def _attempt(
        self,
        body: Mapping[str, Any],
        text: str,
        read: Callable[[Any], T],
        account: Account,
        most: Most,
    ) -> T:
        self._pace.wait()
        account.reserve()
        self._thread.status = None
        late = False
        answer: dict[str, Any] | None = None
        try:
            # The newer name too, which the library does not know for completions.
            extra = {n: value for n, value in body.items() if n == MAX_COMPLETION_TOKENS}
            known = {n: value for n, value in body.items() if n not in extra}
            extra |= self.endpoint.extra_body
            response = self._create(model=self.endpoint.model, extra_body=extra or None, **known)
            content: bytes = response.http_response.content
            answer = _object(content)
        except (openai.APITimeoutError, _TooLate):
            late = True  # and may be billed all the same
            raise _Again(f"no answer within {self.endpoint.timeout:g} s (llm.timeout)") from None
        except _TooLong:
            raise _Again(f"the answer is longer than {MOST_BYTES} bytes") from None
        except openai.APIConnectionError as error:
            raise self._of_connection(error) from None
        except openai.APIStatusError as error:
            raise self._of_status(error, text) from None
        finally:
            if late or 200 <= (self._thread.status or 0) < 300:
                account.charge(answer, most)
            else:
                account.release()
        try:
            return read(self._first_choice(content, answer, text))
        except Unusable as error:
            raise _Again(str(error)) from None

    def _first_choice(self, content: bytes, answer: dict[str, Any] | None, text: str) -> Any:
        """The first choice of an answer, which must be of the same model as all before."""
        choices = answer.get("choices") if answer else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        for holder in (answer, choice):
            error = holder.get("error") if isinstance(holder, dict) else None
            if error and not (isinstance(choice, dict) and errors.is_none(error)):
                raise self._of_error(error, text)
        if answer is None or not isinstance(choice, dict):
            said = words.without(words.said(content), text, self._key)
            what = "is no JSON object" if answer is None else "has no choices"
            mend = " (check llm.base_url)" if words.is_page(content) else ""
            raise Unusable(f"the answer {what}: {said}{mend}")
        self.served.note(answer, text)
        return {**choice, "usage": answer.get("usage")}

    def _of_error(self, error: Any, text: str) -> Exception:
        """What an error means that comes with status 200."""
        content = json.dumps({"error": error}).encode()
        said = words.said(content)
        code = error.get("code") if isinstance(error, dict) else None
        kind = error.get("type") if isinstance(error, dict) else None
        status = int(str(code)) if re.fullmatch("[1-5][0-9]{2}", str(code)) else 0
        if str(code) in errors.FILTERED:
            return Filtered()
        if not status and errors.BUSY.search(f"{code} {kind} {said}"):
            status = 503
        shown = words.without(said, text, self._key)
        return self._of(status, shown, "200 with an error", content)

    def _strip(self, request: Any) -> None:
        """Called before a request is sent: takes off what the library found in the environment.

        OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS are not meant for any server.
        """
        for name in set(request.headers) - HEADERS:
            del request.headers[name]
        request.headers["authorization"] = f"Bearer {self._key or NO_KEY}"
        request.headers["accept-encoding"] = "identity"  # unpacked it could be of any size
        self._thread.begun = time.monotonic()

    def _begun(self, response: Any) -> None:
        """Called when an answer begins, which may yet break off.

        From here on the time is that of the whole answer: the library's is that of a single wait.
        """
        self._reached = True
        self._thread.status = response.status_code
        seconds = response.request.extensions["timeout"]
        left = max(self._thread.begun + seconds["read"] - time.monotonic(), 0.001)
        response.iter_raw = partial(_bounded, response.iter_raw, time.monotonic() + left)
        response.request.extensions["timeout"] = {**seconds, "read": left}

    # ---------------------------------------------------------------------- what went wrong

    def _of_connection(self, error: openai.APIConnectionError) -> Exception:
        cause = causes.of_connection(error.__cause__, self._url)
        if cause and not self._reached:
            return ModelError(cause)
        broken = self._thread.status is not None
        name = type(error.__cause__).__name__
        kind = cause or f"connection error ({name})"
        broke_off = name in ("RemoteProtocolError", "ReadError")
        if broke_off and not self._reached and self._url.startswith("http://"):
            kind += "; if the server speaks TLS, llm.base_url has to begin with https://"
        return _Again("the answer broke off" if broken else kind)

    def _of_status(self, error: openai.APIStatusError, text: str) -> Exception:
        if str(error.code) in errors.FILTERED:
            return Filtered()
        content = error.response.content
        said = words.without(words.said(content), text, self._key)
        proxy = causes.proxy_of(self._url)
        if proxy and (words.is_page(content) or error.status_code == 407):
            said = f"{said} (it may be from {proxy}; {causes.BY_PROXY})"
        if 300 <= error.status_code < 400:
            place = error.response.headers.get("location", "?").partition("?")[0]
            scheme, mark, rest = place.rpartition("//")
            place = scheme + mark + rest.rpartition("@")[2]  # without a password
            said = f"it has moved to {words.without(place, text, self._key)}"
        told = retry_after(error.response.headers)
        return self._of(error.status_code, said, str(error.status_code), content, told)

    def _of(
        self, status: int, said: str, answered: str, content: bytes, told: float = 0.0
    ) -> Exception:
        """The exception for a server's words, and what its ``status`` means."""
        if status == 402 or (status != 401 and errors.NO_MONEY.search(content)):
            return ModelError(
                f"{self.server} answered {answered}: {said} (the account is out of money, or of its"
                " quota)"
            )
        if status in errors.AGAIN or status >= 500:
            if told > LONGEST_WAIT:
                return ModelError(
                    f"{self.server} answered {answered} and wants a pause of {told:.0f} s: {said}"
                )
            return _Again(f"{answered}: {said}", told)
        mend = errors.mend(status, said, self.endpoint.base_url, self.endpoint.key_variable)
        line = f"{self.server} answered {answered}: {said}" + (f" ({mend})" if mend else "")
        return Refused(line, content) if status in errors.REFUSED else ModelError(line)


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: never fewer than the server asks for."""
    error = state.outcome.exception() if state.outcome else None
    told = error.told if isinstance(error, _Again) else 0.0
    # Stretched, so that requests that were turned away together do not come back together.
    return max(_BACKOFF(state), told * random.uniform(1, 1.2))


def _object(content: bytes) -> dict[str, Any] | None:
    """The JSON object that an answer's body is; None if it is none."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
