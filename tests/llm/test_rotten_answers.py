"""Answers that are no answers: one costs another attempt, many a line that says so."""

import copy
import gzip
import json
import math
import socketserver
import threading
import time
import warnings
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyndbt_mpi.llm.base import ModelError, Prompt
from asyndbt_mpi.llm.openai import OpenAIModel
from asyndbt_mpi.llm.servers import words
from asyndbt_mpi.llm.servers.account import MOST_ADDED, Account, Most
from asyndbt_mpi.llm.servers.bodies import MOST_DEPTH, MOST_VALUES, read_object
from asyndbt_mpi.llm.servers.connections import MOST_BYTES, MOST_ERROR_BYTES
from asyndbt_mpi.llm.servers.failures import Unusable
from asyndbt_mpi.llm.servers.first_tokens import FirstTokens
from asyndbt_mpi.llm.servers.pace import retry_after
from asyndbt_mpi.llm.servers.parameters import refused_parameter
from asyndbt_mpi.llm.servers.responses import Alternatives, read_alternatives
from tests.fuzz.answers import ANSWER

KEY = "sk-zq81-very-secret-0123456789"
PRIVATE = "Anna Keller's blood count was far too low on Tuesday."
LABELS = [" good", " bad"]
PROMPTS = [Prompt("", PRIVATE)]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def whole(body: bytes | str, status: str = "200 OK", *headers: str) -> bytes:
    """A complete answer."""
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


Bytes = bytes | Callable[[], Iterator[bytes]]


class Raw(socketserver.ThreadingTCPServer):
    """Sends ``answers`` as they are, one by one, and then good ones."""

    daemon_threads = allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Bytes] = []
        self.asked: list[bytes] = []
        self.models = whole("{}", "404 Not Found")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(socketserver.StreamRequestHandler):
    server: Raw

    def handle(self) -> None:
        with suppress(OSError):
            while head := self.head():
                length = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
                body = self.rfile.read(int(length[0].split(b":")[1])) if length else b""
                if head.startswith(b"GET"):
                    self.wfile.write(self.server.models)
                    continue
                self.server.asked.append(head + body)
                answers = self.server.answers
                answer = answers.pop(0) if answers else whole(json.dumps(ANSWER))
                for piece in [answer] if isinstance(answer, bytes) else answer():
                    self.wfile.write(piece)
                if not isinstance(answer, bytes):
                    return

    def head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return b""
            head += line
        return head


@contextmanager
def serving() -> Iterator[Raw]:
    with Raw() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def raw() -> Iterator[Raw]:
    with serving() as server:
        yield server


@pytest.fixture
def server(raw: Raw) -> Raw:
    raw.answers, raw.asked = [], []
    return raw


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", KEY)


def connect(server: Raw, **options: Any) -> OpenAIModel:
    defaults: dict[str, Any] = {
        "base_url": server.url,
        "key_variable": "TOY_KEY",
        "api": "chat",
        "scores": "logprobs",
        "concurrency": 1,
        "timeout": 5.0,
        "attempts": 3,
        "requests_per_minute": 0.0,
        "workers": 1,
        "sleep": lambda seconds: None,
    }
    return OpenAIModel("toy", **(defaults | options))


# ------------------------------------------------------------------------------- size and time


def slowly(*pieces: bytes) -> Callable[[], Iterator[bytes]]:
    def send() -> Iterator[bytes]:
        yield pieces[0]
        for number in range(400):
            time.sleep(0.05)
            yield pieces[1].replace(b"#", str(number).encode())

    return send


def endlessly(*pieces: bytes) -> Callable[[], Iterator[bytes]]:
    def send() -> Iterator[bytes]:
        yield pieces[0]
        for _ in range(3 * MOST_BYTES // len(pieces[1])):
            yield pieces[1]

    return send


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "body": slowly(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "),
    "chunks": slowly(CHUNKED, b"1\r\n \r\n"),
    "headers": slowly(b"HTTP/1.1 200 OK\r\n", b"X-#: 1\r\n"),
    "a header": slowly(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "status line": slowly(b"HTTP/1.1 200 ", b"O"),
    "please wait": slowly(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "error": slowly(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@pytest.mark.parametrize("how", SLOW)
def test_the_time_is_that_of_the_whole_answer(server: Raw, how: str) -> None:
    model = connect(server, timeout=0.4, attempts=1)
    server.answers = [SLOW[how]]
    begun = time.monotonic()
    with pytest.raises(ModelError, match=r"no answer within 0\.4 s"):
        model.label_log_probabilities(PROMPTS, LABELS)
    assert 0.3 < time.monotonic() - begun < 1.5


ENDLESS = {
    "body": endlessly(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"),
    "small chunks": endlessly(CHUNKED, b"1\r\n \r\n" * 10_000),
    "please wait": endlessly(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 2000),
    "headers": endlessly(b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 65536 + b"\r\n"),
    "error": endlessly(
        b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"10000\r\n" + b" " * 65536 + b"\r\n",
    ),
}


@pytest.mark.parametrize("how", ENDLESS)
def test_an_answer_without_end_is_given_up(server: Raw, how: str) -> None:
    model = connect(server, timeout=1.0)
    server.answers = [ENDLESS[how]] * 2
    assert np.isfinite(model.label_log_probabilities(PROMPTS, LABELS).log_probabilities).all()
    server.answers = [ENDLESS[how]] * 3
    told = "longer than (4194304|262144) bytes|connection error|broke off|no answer within"
    with pytest.raises(ModelError, match=f"gave up after 3 attempts, the last: .*({told})"):
        model.label_log_probabilities(PROMPTS, LABELS)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x"])
def test_a_compressed_answer_is_not_unpacked(server: Raw, coding: str) -> None:
    model = connect(server)
    packed = whole(gzip.compress(bytes(10**7)), "200 OK", f"Content-Encoding: {coding}")
    server.answers = [packed] * 3
    with pytest.raises(ModelError, match="the answer is compressed, which was not requested"):
        model.label_log_probabilities(PROMPTS, LABELS)
    assert all(b"accept-encoding: identity" in each.lower() for each in server.asked)


@pytest.mark.parametrize("charset", ["undefined", "zlib", "bz2", "idna", "utf-7", "rot13", "no"])
@pytest.mark.parametrize("status", ["200 OK", "503 Busy"])
def test_the_type_of_an_answer_is_not_looked_at(server: Raw, status: str, charset: str) -> None:
    model = connect(server)
    server.answers = [whole(b"\xff", status, f"Content-Type: text/plain; charset={charset}")] * 2
    model.label_log_probabilities(PROMPTS, LABELS)
    assert not server.answers


@pytest.mark.parametrize("status", ["101 Switching Protocols", "599 Odd", "999 Odd"])
def test_a_status_that_says_nothing_is_tried_again(server: Raw, status: str) -> None:
    model = connect(server)
    server.answers = [whole("{}", status)] * 2
    model.label_log_probabilities(PROMPTS, LABELS)


def test_cookies_are_neither_kept_nor_sent_back(server: Raw) -> None:
    model = connect(server)
    server.answers = [whole(json.dumps(ANSWER), "200 OK", "Set-Cookie: spy=1; Path=/")] * 2
    for _ in range(3):
        model.label_log_probabilities(PROMPTS, LABELS)
    assert not any(b"cookie" in each.lower() for each in server.asked)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"[" * 10**6, "deep"),
        (b'{"a":' * 10**5, "deep"),
        (b'{"a":' * (MOST_DEPTH + 1) + b"1" + b"}" * (MOST_DEPTH + 1), "deep"),
        (b'{"a": [' + b"0," * (MOST_VALUES + 1) + b"0]}", "values"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not a JSON object"),
        (b"\xff\xfe\x00", "not a JSON object"),
        (b"3", "not a JSON object"),
    ],
)
def test_bodies_are_bounded(content: bytes, fault: str) -> None:
    found = read_object(content)
    assert isinstance(found, str)
    assert fault in found


def test_a_body_may_be_as_deep_as_is_said() -> None:
    content = b'{"a":' * MOST_DEPTH + b"1" + b"}" * MOST_DEPTH
    assert isinstance(read_object(content), dict)


# -------------------------------------------------------------------------- one rotten answer


Path = tuple[Any, ...]


def places(value: Any, path: Path = ()) -> list[Path]:
    """The paths to all values within one."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    deeper = [
        each
        for key, below in inside
        if isinstance(below, dict | list)
        for each in places(below, (*path, key))
    ]
    keys = value if isinstance(value, dict) else range(len(value))
    return [*((*path, key) for key in keys), *deeper]


def changed(path: Path, value: Any) -> dict[str, Any]:
    answer = copy.deepcopy(ANSWER)
    place: Any = answer
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return answer


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**41, 10**10, -(10**400), 10**400, 10**30, math.inf, -math.inf, math.nan]),
    st.floats(),
    st.text(st.characters(codec=None), max_size=8),
    st.sampled_from(
        ["<think>", "goo", "token_id:5", "stop", "content_filter", "\ud800", "g" * 5000]
    ),
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.sampled_from(places(ANSWER)), value=JSON)
@example(path=("model",), value="another")
@example(path=("usage", "prompt_tokens"), value=10**5)
@example(path=("usage", "completion_tokens"), value=10**5)
@example(path=("choices", 0, "logprobs", "content", 0, "top_logprobs", 0, "token"), value="goo")
@example(path=("choices", 0, "logprobs", "content", 0, "top_logprobs", 0, "bytes"), value=10**10)
@pytest.mark.parametrize("scores", ["logprobs", "answers"])
def test_no_single_answer_costs_a_worker(
    raw: Raw, models: dict[str, OpenAIModel], scores: str, path: Path, value: Any
) -> None:
    model = models[scores]
    raw.answers = [whole(json.dumps(changed(path, value)))]
    scored = model.label_log_probabilities(PROMPTS, LABELS)
    assert not raw.answers
    total = np.exp(scored.log_probabilities).sum(axis=1)
    np.testing.assert_allclose(total, 1.0)
    assert 1 <= scored.calls <= model.most_calls(1, LABELS)
    assert 0 < scored.prompt_tokens <= model.most_calls(1, LABELS) * model.longest(PRIVATE)


@pytest.fixture
def models(server: Raw) -> dict[str, OpenAIModel]:
    found = {scores: connect(server, scores=scores) for scores in ("logprobs", "answers")}
    for model in found.values():
        model.label_log_probabilities(PROMPTS, LABELS)
    return found


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=60), status=st.sampled_from(["200 OK", "429 Busy", "500 Oh"]))
def test_no_bytes_cost_a_worker(raw: Raw, content: bytes, status: str) -> None:
    raw.answers = []
    model = connect(raw)
    raw.answers = [whole(content, status)]
    model.label_log_probabilities(PROMPTS, LABELS)
    raw.answers = [content + b"\r\n\r\n"]
    with warnings.catch_warnings(action="ignore"):
        model.label_log_probabilities(PROMPTS, LABELS)


def test_a_rotten_first_answer_does_not_change_how_labels_are_scored(server: Raw) -> None:
    damaged = changed(("choices", 0, "logprobs", "content", 0, "top_logprobs", 0, "logprob"), 3)
    server.answers = [whole(json.dumps(damaged))]
    assert connect(server, scores="auto").scored_by == "top 20 log-probabilities"
    without = changed(("choices", 0, "logprobs"), None)
    server.answers = [whole(json.dumps(without))] * 2
    assert connect(server, scores="auto").scored_by == "answers"


def test_another_model_is_believed_when_it_is_said_again(server: Raw) -> None:
    model = connect(server)
    other = whole(json.dumps(changed(("model",), "another")))
    server.answers = [other] * 2
    model.label_log_probabilities(PROMPTS, LABELS)
    server.answers = [other] * 3
    with pytest.raises(ModelError, match=r"the last: .*a different model has replaced"):
        model.label_log_probabilities(PROMPTS, LABELS)


def test_another_list_of_models_is_believed_when_it_is_said_again(
    server: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listing(size: int) -> bytes:
        return whole(json.dumps({"data": [{"id": "toy", "meta": {"size": size}}]}))

    server.models = listing(1)
    try:
        slips = [listing(2)]
        model = connect(server, sleep=lambda seconds: setattr(server, "models", slips[-1]))
        server.models, slips = listing(2), [listing(1)]
        model.label_log_probabilities(PROMPTS, LABELS)
        server.models, slips = listing(2), [listing(2)]
        with pytest.raises(ModelError, match="a different model has replaced"):
            model.label_log_probabilities(PROMPTS, LABELS)
    finally:
        server.models = whole("{}", "404 Not Found")


def test_a_label_is_several_tokens_when_that_is_said_again(server: Raw) -> None:
    model = connect(server)
    path = ("choices", 0, "logprobs", "content", 0, "top_logprobs", 0)
    piece = whole(json.dumps(changed(path, {"token": "goo", "logprob": -0.5})))
    for _ in range(2):  # at the start, and later
        server.answers = [piece]
        model.label_log_probabilities(PROMPTS, LABELS)
    server.answers = [piece] * 2
    with pytest.raises(ModelError, match="'good' is several tokens"):
        model.label_log_probabilities(PROMPTS, LABELS)


# -------------------------------------------------------------------------------------- counts


def usage(read: int, written: int) -> dict[str, Any]:
    return {
        "choices": [{}],
        "usage": {"prompt_tokens": read, "completion_tokens": written},
    }


@pytest.mark.parametrize(("read", "written"), [(10**4, 1), (1, 10**4)])
def test_one_count_that_overdraws_is_doubted_and_two_are_believed(read: int, written: int) -> None:
    most = Most(100, 5)
    account = Account(10, most)
    account.reserve()
    with pytest.raises(Unusable, match=r"only .* were reserved"):
        account.charge(usage(read, written), most)
    assert (account.calls, account.prompt_tokens, account.completion_tokens) == (1, 100, 5)
    account.reserve()
    with pytest.raises(ModelError, match=r"only .* were reserved"):
        account.charge(usage(read, written), most)
    with pytest.raises(ModelError, match=r"only .* were reserved"):
        account.reserve()


@given(st.integers(100 + MOST_ADDED + 1) | st.integers(max_value=-1))
def test_a_count_that_cannot_be_is_none(count: int) -> None:
    account = Account(10, Most(100, 5))
    account.reserve()
    account.charge(usage(count, 1), Most(100, 5))
    assert (account.prompt_tokens, account.unmetered) == (100, 1)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=12))
def test_no_more_is_ever_charged_than_was_set_aside(counts: list[int]) -> None:
    account = Account(len(counts), Most(100, 5))
    try:
        for count in counts:
            account.reserve()
            with suppress(Unusable):
                account.charge(usage(count, 1), Most(100, 5))
    except ModelError:
        return  # nothing of it is reported
    assert account.prompt_tokens <= 100 * len(counts)


# -------------------------------------------------------------------------------------- pauses


@given(st.text(st.characters(codec="latin-1"), max_size=40))
@example("1e9")
@example("-5")
@example("nan")
@example("inf")
@example("Mon, 01 Jan 99999999999999999999 00:00:00 GMT")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Mon, 01 Jan 2024 00:00:00 +99999999999999")
def test_a_pause_is_none_or_one_that_somebody_can_mean(value: str) -> None:
    for name in ("retry-after", "retry-after-ms"):
        assert 0 <= retry_after({name: value}) <= 31 * 86400


# ------------------------------------------------------------------------- labels and secrets


LOOK_ALIKES = {
    "ok": [
        "\u043ek",
        "o\u212a",
        "\uff4fk",
        "ok\u200b",
        "o\u00adk",
        "ok\0",
        "\u2060ok",
        "\U0001d428k",
    ],
    "yes": ["ye\u017f", "y\u0435s", "\u1d67es", "\uff59\uff45\uff53", "ye\ufb06"],
    "fine": ["\ufb01ne", "f\u0131ne", "f\u1d62ne"],
    "spass": ["spaß", "spa\u1e9e"],
}


@pytest.mark.parametrize("label", LOOK_ALIKES)
def test_what_only_looks_like_a_label_is_none(label: str) -> None:
    for other in LOOK_ALIKES[label]:
        listed = {other.encode(): 0.6, b"other": 0.3}
        answers = [Alternatives(listed, unlisted=0.01)]
        found, is_listed = FirstTokens().log_probabilities([label, "other"], answers)
        assert is_listed[0]
        np.testing.assert_allclose(np.exp(found[0]), [0.01, 0.3])
        written = Alternatives({label.upper().encode(): 0.6}, unlisted=0.01)
        found, _ = FirstTokens().log_probabilities([label, "other"], [written])
        assert math.exp(found[0, 0]) == pytest.approx(0.6)


ROT13 = str.maketrans(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "nopqrstuvwxyzabcdefghijklmNOPQRSTUVWXYZABCDEFGHIJKLM",
)
LONG_KEY = "Zk3vQ9xT7mB2nL5pR8wY1cF4hJ6dG0sA"
CODINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "capitals": str.upper,
    "backwards": lambda key: key[::-1],
    "spaced": " ".join,
    "backwards, dotted": lambda key: ".".join(key[::-1]),
    "hexadecimal": lambda key: key.encode().hex(),
    "base64": lambda key: urlsafe_b64encode(f"u:{key}".encode()).decode(),
    "base64, backwards": lambda key: urlsafe_b64encode(key[::-1].encode()).decode(),
    "base32": lambda key: b32encode(key.encode()).decode(),
    "rot13": lambda key: key.translate(ROT13),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_a_key_is_not_told_whatever_its_code(coding: str) -> None:
    coded = CODINGS[coding](LONG_KEY)
    told = words.without(f"the key {coded} is wrong", "", LONG_KEY)
    assert coded[:12] not in told
    assert "is wrong" in told or "quotes the key" in told
    backwards = words.without(f"bad {PRIVATE[::-1]}", PRIVATE, LONG_KEY)
    assert backwards == "(a message that quotes the prompt)"


def test_names_of_models_are_told() -> None:
    for name in ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "gpt-4o-mini-2024-07-18", "/v1/completions"):
        assert name in words.without(f"there is no {name} here", "", "")


def test_a_key_that_comes_as_the_answer_is_not_told(server: Raw) -> None:
    model = connect(server)
    path = ("choices", 0, "logprobs", "content", 0, "top_logprobs")
    echo = changed(path, [{"token": KEY, "logprob": -0.1}])
    server.answers = [whole(json.dumps(echo))] * 8
    prompts = [Prompt("", str(number)) for number in range(8)]
    with pytest.raises(ModelError, match="named none of the labels") as caught:
        model.label_log_probabilities(prompts, LABELS)
    assert "very-secret" not in str(caught.value)


def test_a_list_of_tokens_has_an_end() -> None:
    for listed in (
        [{"token": f"t{n}", "logprob": -9} for n in range(1001)],
        [{"token": "t" * 1001, "logprob": -9}],
        [{"token": "t", "logprob": -9, "bytes": [0] * 4001}],
    ):
        with pytest.raises(Unusable, match="damaged"):
            read_alternatives({"logprobs": {"content": [{"top_logprobs": listed}]}})


# ---------------------------------------------------------------- words of an error, at any size


def filled(unit: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    return before + unit * ((MOST_BYTES - 1000) // len(unit)) + after


@pytest.mark.parametrize("limit", [MOST_BYTES, MOST_ERROR_BYTES, MOST_VALUES])
@pytest.mark.parametrize(
    "content",
    [
        filled(b"<a "),
        filled(b"a", b"<"),
        filled(b"<!--"),
        filled(b'{"message": "a"},', b"[", b"1]"),
        filled(b"[1],", b'{"error": [', b"1]}"),
        filled(b"model ", b'{"error": {"message": "', b'"}}'),
        filled(b'{"error":'),
        filled(b"["),
        filled(b" "),
        filled(b"9"),
    ],
)
def test_words_are_found_in_little_time(content: bytes, limit: int) -> None:
    start = time.process_time()
    said = words.said(content[:limit])
    refused_parameter(content[:limit], said, ["model"])
    assert time.process_time() - start < 1
    assert len(said) <= words.READ_AT_MOST
    assert len(words.without(said, PRIVATE, KEY)) <= words.MESSAGE
