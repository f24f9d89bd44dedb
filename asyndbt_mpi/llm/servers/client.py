"""Requests to a server that speaks OpenAI's API: sent again where that helps, and counted.

What an error says never quotes a prompt, which is private, nor the key.
"""

import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

import openai
import tenacity

from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.servers import causes, errors, words
from asyndbt_mpi.llm.servers.account import Account, Most
from asyndbt_mpi.llm.servers.bodies import read_object
from asyndbt_mpi.llm.servers.connections import Exchange, TooLate, TooLong, guard
from asyndbt_mpi.llm.servers.failures import Again, Filtered, Forbidden, Refused, Unusable
from asyndbt_mpi.llm.servers.key import OPENAI_URL, read_key
from asyndbt_mpi.llm.servers.pace import Pace, retry_after
from asyndbt_mpi.llm.servers.parameters import (
    MAX_COMPLETION_TOKENS,
    Parameters,
    can_be_given_otherwise,
    refused_parameter,
    what_was_tried,
)
from asyndbt_mpi.llm.servers.served import Served

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

READ_OF_HEADERS = {"location", "retry-after", "retry-after-ms"}
"""Of an answer's headers nothing else is looked at, by the libraries neither: not how the body is
packed or encoded, for it is to be plain JSON, and no cookies."""

_BACKOFF = tenacity.wait_exponential(multiplier=0.5, max=60) + tenacity.wait_random(0, 1)


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


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """What is sent, how its answer is read, and who pays."""

    body: Mapping[str, Any]
    """What the API's function takes, besides the model."""

    text: str
    """The prompt in it."""

    read: Callable[[Any], T]
    """Takes the answer's first choice, with the answer's usage; raises `Unusable` if it cannot."""

    account: Account
    most: Most
    """What is charged where the answer does not say what it cost."""


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
        self._exchange = Exchange()
        self._parameters = Parameters(self.server)
        try:
            (urlsplit(url).hostname or "").encode("idna")  # as the library does, too late
            self._library = library = openai.OpenAI(
                api_key=self._key or NO_KEY,
                base_url=url,
                timeout=endpoint.timeout,
                max_retries=0,
                http_client=(http := self._http_client()),
            )
            guard(http, self._exchange, self._check_place)
        except Exception as error:  # whatever its own library raises of an address
            raise ModelError(causes.of_client(error, url)) from None
        chat = endpoint.api == "chat"
        resource: Any = library.chat.completions if chat else library.completions
        self._create = resource.with_raw_response.create

    def _http_client(self) -> Any:
        """One that sends nothing elsewhere, where the key has no business, and keeps no cookies."""
        return openai.DefaultHttpxClient(
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            event_hooks={"request": [self._strip], "response": [self._begun]},
        )

    def shown(self, message: str, text: str) -> str:
        """Somebody else's words as they may be told; ``text`` is the prompt that they are about."""
        return words.without(message, text, self._key)

    def ask(self, request: Request[T]) -> T:
        """Send a request until its answer can be read.

        A parameter that the server does not take is left out, or gets its newer name; from then on,
        if that has helped.

        Raises
        ------
        Filtered
            The server does not answer this prompt.
        Refused, ModelError
            Another attempt would not help, or all were in vain; or another model has answered.
        """
        tried: list[str] = []
        while True:
            sent = self._parameters.taken(request.body, tried)
            try:
                found = self._persevere(request, sent)
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

    def _persevere(self, request: Request[T], sent: Mapping[str, Any]) -> T:
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.endpoint.attempts),
            retry=tenacity.retry_if_exception_type(Again),
            wait=_pause,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            found: T = retrying(self._attempt, request, sent)
        except Again as last:
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
        except (openai.APITimeoutError, TooLate):
            raise ModelError(f"{self.server}: no answer within {seconds:g} s") from None
        except TooLong:
            raise ModelError(f"{self.server}: its list of models never ends") from None
        except Unusable as error:
            raise ModelError(f"{self.server}: {error}") from None
        except openai.APIConnectionError as error:
            failure = self._of_connection(error)
            if isinstance(failure, Again):
                failure = ModelError(f"{self.server}: {failure}")
            raise failure from None
        except openai.APIStatusError as error:
            if error.status_code in errors.UNLISTED:
                return None
            kind = Forbidden if error.status_code in (401, 403) else ModelError
            raise kind(str(self._of_status(error, ""))) from None
        return self._listed(content)

    def _listed(self, content: bytes) -> list[dict[str, Any]] | None:
        body = read_object(content)
        if isinstance(body, str) or body.get("error"):
            said = self.shown(words.said(content), "")
            raise ModelError(f"{self.server} does not list its models, but answers: {said}")
        entries = body.get("data")
        if not isinstance(entries, list):
            return None
        return [each for each in entries if isinstance(each, dict) and "id" in each]

    # ----------------------------------------------------------------------------- one request

    def _attempt(self, request: Request[T], sent: Mapping[str, Any]) -> T:
        self._pace.wait()
        request.account.reserve()
        self._thread.status = None
        late = False
        answer: dict[str, Any] | str = ""
        try:
            try:
                content = self._post(sent)
                answer = read_object(content)
            except (openai.APITimeoutError, TooLate):
                late = True  # and may be billed all the same
                raise Again(f"no answer within {self.endpoint.timeout:g} s (llm.timeout)") from None
            except TooLong as error:
                raise Again(str(error)) from None
            except openai.APIConnectionError as error:
                raise self._of_connection(error) from None
            except openai.APIStatusError as error:
                raise self._of_status(error, request.text) from None
            finally:
                if late or 200 <= (self._thread.status or 0) < 300:
                    request.account.charge(answer, request.most)
                else:
                    request.account.release()
            return request.read(self._first_choice(content, answer, request.text))
        except Unusable as error:
            raise Again(str(error)) from None

    def _post(self, sent: Mapping[str, Any]) -> bytes:
        """The body of the answer to a request."""
        # The newer name too, which the library does not know for completions.
        extra = {n: value for n, value in sent.items() if n == MAX_COMPLETION_TOKENS}
        known = {n: value for n, value in sent.items() if n not in extra}
        extra |= self.endpoint.extra_body
        response = self._create(model=self.endpoint.model, extra_body=extra or None, **known)
        content: bytes = response.http_response.content
        return content

    def _first_choice(self, content: bytes, answer: dict[str, Any] | str, text: str) -> Any:
        """The first choice of an answer, which must be of the same model as all before."""
        choices = answer.get("choices") if isinstance(answer, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        for holder in (answer, choice):
            error = holder.get("error") if isinstance(holder, dict) else None
            if error and not (isinstance(choice, dict) and errors.is_none(error)):
                raise self._of_error(error, text)
        if isinstance(answer, str) or not isinstance(choice, dict):
            what = answer if isinstance(answer, str) else "has no choices"
            elsewhere = words.is_page(content) or not errors.has_version(self.endpoint.base_url)
            hint = f" ({errors.of_address(self.endpoint.base_url)})" if elsewhere else ""
            raise Unusable(f"the answer {what}: {self.shown(words.said(content), text)}{hint}")
        try:
            self.served.note(answer, text)
        except ModelError as error:
            raise Unusable(str(error)) from None  # said once, it may be a slip
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
        shown = self.shown(said, text)
        return self._of(status, shown, "200 with an error", content)

    def _strip(self, request: Any) -> None:
        """Called before a request is sent: takes off what the library found in the environment.

        OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS are not meant for any server.
        """
        for name in set(request.headers) - HEADERS:
            del request.headers[name]
        request.headers["authorization"] = f"Bearer {self._key or NO_KEY}"
        request.headers["accept-encoding"] = "identity"  # unpacked it could be of any size
        self._exchange.begin(request.extensions["timeout"]["read"])

    def _begun(self, response: Any) -> None:
        """Called when an answer begins, which may yet break off."""
        self._reached = True
        self._thread.status = response.status_code
        if not 200 <= response.status_code < 300:
            self._exchange.refused()
        packed = response.headers.get("content-encoding", "identity").strip().lower()
        for name in set(response.headers) - READ_OF_HEADERS:
            del response.headers[name]
        if packed not in ("", "identity"):
            raise Unusable("the answer is compressed, which was not requested")

    def _check_place(self, host: str, port: int) -> None:
        """Called before a connection is made: of a proxy, TLS hides the key and the prompts."""
        url = self._library.base_url
        if url.scheme == "http" and (host, port) != (url.raw_host.decode(), url.port or 80):
            raise ModelError(causes.of_exposure(self._url))

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
            kind += "; if the server speaks TLS, llm.base_url must begin with https://"
        return Again("the answer broke off" if broken else kind)

    def _of_status(self, error: openai.APIStatusError, text: str) -> Exception:
        if str(error.code) in errors.FILTERED:
            return Filtered()
        content = error.response.content
        said = self.shown(words.said(content), text)
        proxy = causes.proxy_of(self._url)
        if proxy and (words.is_page(content) or error.status_code == 407):
            said = f"{said} (it may be from {proxy}; {causes.BY_PROXY})"
        if 300 <= error.status_code < 400:
            place = error.response.headers.get("location", "?").partition("?")[0]
            scheme, mark, rest = place.rpartition("//")
            place = scheme + mark + rest.rpartition("@")[2]  # without a password
            said = f"it has moved to {self.shown(place, text)}"
        told = retry_after(error.response.headers)
        return self._of(error.status_code, said, str(error.status_code), content, told)

    def _of(
        self, status: int, said: str, answered: str, content: bytes, told: float = 0.0
    ) -> Exception:
        """The exception for a server's words, and what its ``status`` means."""
        if status == 402 or (status != 401 and errors.NO_MONEY.search(content)):
            return ModelError(
                f"{self.server} answered {answered}: {said} (the account has no money or quota"
                " left)"
            )
        if status in errors.AGAIN or 100 <= status < 200 or status >= 500:
            if told > LONGEST_WAIT:
                return ModelError(
                    f"{self.server} answered {answered} and asks to wait {told:.0f} s: {said}"
                )
            return Again(f"{answered}: {said}", told)
        hint = errors.hint(status, said, self.endpoint.base_url, self.endpoint.key_variable)
        line = f"{self.server} answered {answered}: {said}" + (f" ({hint})" if hint else "")
        return Refused(line, content) if status in errors.REFUSED else ModelError(line)


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: never fewer than the server asks for."""
    error = state.outcome.exception() if state.outcome else None
    told = error.told if isinstance(error, Again) else 0.0
    # Stretched, so that requests that were turned away together do not come back together.
    return max(_BACKOFF(state), told * random.uniform(1, 1.2))
