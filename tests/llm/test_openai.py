import base64
import json
import math
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.assemble import Place, check_server, language_model
from asyndbt_mpi.config import ConfigurationError, load, parse
from asyndbt_mpi.llm.base import LEAST_ANSWER, ModelError, Prompt
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.llm.openai import OpenAIModel
from asyndbt_mpi.llm.servers import causes, errors, words
from asyndbt_mpi.llm.servers.bounds import SPARE
from asyndbt_mpi.llm.servers.client import LONGEST_WAIT
from asyndbt_mpi.llm.servers.key import OPENAI_URL, read_key
from asyndbt_mpi.llm.servers.written import label_of
from tests.llm.api_server import VOCABULARY, Manners, Server, next_tokens, serving, write

# The toy model's likeliest tokens often are no labels.
pytestmark = pytest.mark.filterwarnings("ignore:.*has none of the labels")

KEY = "sk-zq81-very-secret-0123456789"
PRIVATE = "Anna Keller's blood count was far too low on Tuesday."
LABELS = [" terrible", " good", " not good", " positive", " no"]
TEXTS = ["It was a day that", "Nothing is", "The train came late, so it was", "I do"]
PROMPTS = [Prompt(text[:5], text[5:]) for text in TEXTS]
TWICE = (PROMPTS, PROMPTS + PROMPTS[:1])


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Manners()) as server:
        yield server


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", KEY)


class Sleeps(list[float]):
    """Seconds that would have been slept."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def connect(server: Server, **options: Any) -> OpenAIModel:
    defaults: dict[str, Any] = {
        "base_url": server.url,
        "key_variable": "TOY_KEY",
        "api": "completion",
        "scores": "auto",
        "concurrency": 2,
        "timeout": 5.0,
        "attempts": 6,
        "requests_per_minute": 0.0,
        "workers": 1,
        "sleep": Sleeps(),
    }
    return OpenAIModel("toy", **(defaults | options))


def normalised(rows: Any) -> Any:
    logarithms = np.log(np.array(rows, dtype=np.float64))
    return logarithms - np.logaddexp.reduce(logarithms, axis=1, keepdims=True)


def likeliest_way(text: str, label: str) -> float:
    """The most that any way to write the label has; a text that is a token is not divided."""
    if label in VOCABULARY:
        return next_tokens(text)[label]
    ways = [
        next_tokens(text)[token] * likeliest_way(text + token, label[len(token) :])
        for token in VOCABULARY
        if label.startswith(token)
    ]
    return max(ways, default=0.0)


def of_whole_label(text: str, label: str, labels: list[str]) -> float:
    """By all tokens of the label, and of what ends an answer if it begins another one."""
    probability = likeliest_way(text, label)
    begins = any(other != label and other.startswith(label) for other in labels)
    return probability * (next_tokens(text + label)["\n"] if begins else 1)


# ---------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("older", [True, False])
def test_labels_are_scored_by_all_their_tokens(
    server: Server, older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyndbt_mpi.llm.openai.GRANTED", (len(VOCABULARY),))
    server.manners.most, server.manners.older = len(VOCABULARY), older
    scores = connect(server).label_log_probabilities(PROMPTS, LABELS)
    expected = normalised(
        [[of_whole_label(text, label, LABELS) for label in LABELS] for text in TEXTS]
    )
    np.testing.assert_allclose(scores.log_probabilities, expected, rtol=0, atol=1e-9)
    # " terr" + "ible", " not" + " good" and what follows " no", at the least; and the first try.
    assert 4 * len(PROMPTS) + 1 <= scores.calls == len(server.done)
    assert scores.completion_tokens == scores.calls
    texts = [body["prompt"] for body in server.asked]
    assert scores.prompt_tokens == sum(len(text.split()) for text in texts)
    assert scores.calls <= connect(server).most_calls(len(PROMPTS), LABELS)
    assert {body["max_tokens"] for body in server.asked} == {1}


def test_labels_that_begin_alike_share_requests(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyndbt_mpi.llm.openai.GRANTED", (len(VOCABULARY),))
    server.manners.most = len(VOCABULARY)
    labels = [" not good", " not bad", " not", " not yes"]
    model = connect(server)
    scores = model.label_log_probabilities(PROMPTS[:1], labels)
    # Behind " no" because " not" might be written in two tokens, which has more at first.
    asked = [body["prompt"].removeprefix(TEXTS[0]) for body in server.asked[1:]]
    assert asked == ["", " no", " not"]
    expected = normalised([[of_whole_label(TEXTS[0], label, labels) for label in labels]])
    np.testing.assert_allclose(scores.log_probabilities, expected, rtol=0, atol=1e-9)


def test_a_server_that_refuses_twenty_alternatives_is_asked_for_five(server: Server) -> None:
    server.manners.most = 5
    model = connect(server)
    assert "top 5 " in model.description
    model.label_log_probabilities(PROMPTS, [" good", " positive"])
    assert [body["logprobs"] for body in server.asked[:3]] == [20, 5, 5]
    server.manners.most = 4
    with pytest.raises(ModelError, match="too many logprobs"):
        connect(server, scores="logprobs")


def test_the_first_token_of_a_chat_is_a_whole_label_with_all_its_variants(server: Server) -> None:
    labels = [" good", "no"]
    scores = connect(server, api="chat").label_log_probabilities(PROMPTS, labels)
    for text, row in zip(TEXTS, scores.log_probabilities, strict=True):
        ranked = sorted(next_tokens(text).items(), key=lambda item: -item[1])[:20]
        bound = min(ranked[-1][1], 1 - sum(p for _, p in ranked))
        found = [
            sum(p for token, p in ranked if token.strip() == label.strip()) or bound
            for label in labels
        ]
        np.testing.assert_allclose(row, normalised([found])[0], atol=1e-9)
    body = server.asked[-1]
    assert body["messages"][0]["role"] == "user"
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert {body["messages"][0]["content"] for body in server.asked[1:]} == set(TEXTS)


def test_a_chat_cannot_score_labels_of_several_tokens(server: Server) -> None:
    model = connect(server, api="chat")
    with pytest.raises(ModelError, match=r"'terrible' is several tokens .*llm\.api = 'completion'"):
        model.label_log_probabilities(PROMPTS, ["terrible", "good"])


def test_answers_are_read(server: Server) -> None:
    for api in ("chat", "completion"):
        model = connect(server, api=api, scores="answers")
        assert "answers" in model.description
        labels = [" good", " bad", " positive", " not", " yes", " negative", " t"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores = model.label_log_probabilities(PROMPTS, labels)
        for text, row in zip(TEXTS, scores.log_probabilities, strict=True):
            answer = write(text, LEAST_ANSWER)
            cut = True
            if api == "completion":
                answer, another_line, _ = answer.strip().partition("\n")
                cut = not another_line
            named = label_of(answer, labels, cut)
            if named is None:
                np.testing.assert_allclose(row, -math.log(len(labels)))
            else:
                assert math.exp(row[named]) == pytest.approx(0.95)
        assert not any(body.get("logprobs") for body in server.asked)
        assert server.asked[-1]["max_tokens"] == LEAST_ANSWER


def test_auto_falls_back_to_answers_and_says_so(server: Server) -> None:
    server.manners.most = 0
    with pytest.warns(UserWarning, match="gives no log-probabilities"):
        assert "answers" in connect(server).description
    with pytest.raises(
        ModelError, match=r"gives no log-probabilities: set llm\.scores = 'answers'"
    ):
        connect(server, scores="logprobs")


@pytest.mark.parametrize("api", ["chat", "completion"])
@pytest.mark.parametrize("scores", ["logprobs", "answers"])
def test_a_refused_prompt_leaves_the_labels_equal(server: Server, api: str, scores: str) -> None:
    model = connect(server, api=api, scores=scores)
    server.manners.says = " good"
    model.label_log_probabilities(PROMPTS, [" good", " no"])
    server.manners.refuse = True
    with pytest.warns(UserWarning, match="refused a prompt: all labels") as told:
        found = [model.label_log_probabilities(PROMPTS, [" good", " no"]) for _ in range(2)]
    # Besides sockets of other tests' models, which the collector may close just now.
    [warning] = [one for one in told if one.category is UserWarning]
    assert not any(text in str(warning.message) for text in TEXTS)
    np.testing.assert_allclose(found[1].log_probabilities, -math.log(2))
    assert found[1].calls == len(PROMPTS)  # not asked again
    assert found[1].unrecognised == len(PROMPTS)
    server.manners.faults, server.manners.code = ["400"], "data_inspection_failed"
    filtered = model.label_log_probabilities(PROMPTS[:1], [" good", " no"])
    np.testing.assert_allclose(filtered.log_probabilities, -math.log(2))
    assert filtered.calls == 0


def test_an_answer_without_a_label_is_told_from_a_refusal(server: Server) -> None:
    model = connect(server, scores="answers", api="chat")
    server.manners.says = "good"
    assert model.label_log_probabilities(PROMPTS, [" good", " bad"]).unrecognised == 0
    server.manners.says = "Neither."
    with pytest.warns(UserWarning, match="none of the labels") as told:
        scores = [model.label_log_probabilities(asked, [" good", " bad"]) for asked in TWICE]
    assert [one.category for one in told].count(UserWarning) == 1
    np.testing.assert_allclose(scores[0].log_probabilities, -math.log(2))
    assert [each.unrecognised for each in scores] == [len(PROMPTS), len(PROMPTS) + 1]


def test_equal_prompts_are_asked_once_and_rows_are_in_order(server: Server) -> None:
    model = connect(server, concurrency=8)
    prompts = [Prompt("a", str(n % 10)) for n in range(30)]
    rows = model.label_log_probabilities(prompts, [" good", " bad"]).log_probabilities
    assert sorted(body["prompt"] for body in server.asked[1:]) == [f"a{n}" for n in range(10)]
    again = [model.label_log_probabilities([p], [" good", " bad"]) for p in prompts[:10]]
    for n, row in enumerate(rows):
        np.testing.assert_array_equal(row, again[n % 10].log_probabilities[0])


@pytest.mark.parametrize(
    ("prompts", "labels"),
    [
        ([Prompt("", "")], [" a", " b"]),
        ([Prompt("", "a")], []),
        ([Prompt("", "a")], [" ", " b"]),
        ([Prompt("", "a")], ["Yes", " yes"]),
    ],
)
def test_nothing_empty_and_nothing_twice(
    server: Server, prompts: list[Prompt], labels: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"empty|no text|distinguished"):
        connect(server, scores="answers").label_log_probabilities(prompts, labels)


def test_no_prompts(server: Server) -> None:
    scores = connect(server).label_log_probabilities([], LABELS)
    assert (scores.log_probabilities.shape, scores.calls) == ((0, len(LABELS)), 0)


# ---------------------------------------------------------------------------------------- faults


PASSING = {
    "408": "408",
    "409": "409",
    "429": "429",
    "500": "500",
    "503": "503",
    "closed": "connection error",
    "truncated": "broke off",
    "malformed": "not a JSON",
    "[1]": "not a JSON object",
    "no choices": "no choices",
    "no logprobs": "no log-probabilities",
    "slow": r"no answer within 0\.3 s",
}
PAID = {"truncated", "malformed", "[1]", "no choices", "no logprobs", "slow"}


@pytest.mark.parametrize("fault", PASSING)
def test_what_may_pass_is_tried_again(server: Server, fault: str) -> None:
    sleeps = Sleeps()
    model = connect(server, timeout=0.3, attempts=3, sleep=sleeps)
    expected = model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
    server.manners.slow = 0.6
    server.manners.faults = [fault] * 2
    scores = model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
    np.testing.assert_array_equal(scores.log_probabilities, expected.log_probabilities)
    assert scores.calls == (3 if fault in PAID else 1)
    assert len(sleeps) == 2
    server.manners.faults = [fault] * 3
    with pytest.raises(ModelError, match=f"gave up after 3 attempts, the last: .*{PASSING[fault]}"):
        model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
    assert not server.manners.faults


FATAL = {
    "400": r"check llm\.model",
    "401": "environment variable TOY_KEY",
    "403": "environment variable TOY_KEY",
    "404": r"llm\.model, llm\.base_url",
    "413": "413",
    "422": "422",
}


@pytest.mark.parametrize("status", FATAL)
def test_what_cannot_pass_is_an_error_at_once(server: Server, status: str) -> None:
    sleeps = Sleeps()
    model = connect(server, sleep=sleeps)
    tried = len(server.asked)
    server.manners.faults = [status]
    server.manners.message = "x" * 300 + "\nsecond line"
    with pytest.raises(ModelError, match=FATAL[status]) as caught:
        model.label_log_probabilities(PROMPTS[:1], LABELS)
    assert (len(sleeps), len(server.asked)) == (0, tried + 1)
    assert f"answered {status}: {'x' * 200} (" in str(caught.value)
    assert "\n" not in str(caught.value)
    server.manners.faults = [status] * 3
    with pytest.raises(ModelError, match=FATAL[status]):
        connect(server)


def test_a_prompt_that_is_too_long_is_told_as_such(server: Server) -> None:
    model = connect(server)
    server.manners.faults = ["400"]
    server.manners.message = "This model's maximum context length is 9 tokens."
    with pytest.raises(ModelError, match="show shorter demonstrations"):
        model.label_log_probabilities(PROMPTS[:1], LABELS)


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with serving(Manners()) as server:
        pass
    sleeps = Sleeps()
    with pytest.raises(ModelError, match=r"cannot connect to 127.* check llm\.base_url"):
        connect(server, sleep=sleeps)
    assert not sleeps


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"Retry-After": "37"}, 37.0),
        ({"retry-after-ms": "41500", "Retry-After": "7"}, 41.5),
        ({"Retry-After": "soon"}, 0.0),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "nan"}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_server_is_given_the_time_it_asks_for(
    server: Server, headers: dict[str, str], least: float
) -> None:
    sleeps = Sleeps()
    model = connect(server, sleep=sleeps)
    server.manners.faults, server.manners.headers = ["429", "503"], headers
    model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
    assert len(sleeps) == 2
    assert all(least <= seconds <= 1.3 * least + 3 for seconds in sleeps)


def test_the_time_to_come_back_may_be_a_date(server: Server) -> None:
    sleeps = Sleeps()
    model = connect(server, sleep=sleeps)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    server.manners.faults, server.manners.headers = ["429"], {"Retry-After": date}
    model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
    assert 45 <= sleeps[0] <= 60


def test_a_pause_of_hours_is_an_error(server: Server) -> None:
    sleeps = Sleeps()
    model = connect(server, sleep=sleeps)
    server.manners.faults = ["429"]
    server.manners.headers = {"Retry-After": str(LONGEST_WAIT + 1)}
    with pytest.raises(ModelError, match="429 and asks to wait 601 s"):
        model.label_log_probabilities(PROMPTS[:1], LABELS)
    assert not sleeps


def test_pauses_grow(server: Server) -> None:
    sleeps = Sleeps()
    model = connect(server, sleep=sleeps, attempts=7)
    server.manners.faults = ["500"] * 6
    model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
    for number, seconds in enumerate(sleeps):
        assert 0.5 * 2**number <= seconds <= 0.5 * 2**number + 1


def test_an_answer_that_drips_in_ends_with_the_timeout(server: Server) -> None:
    model = connect(server, timeout=0.5, attempts=1)
    server.manners.faults = ["drips"]
    begun = time.monotonic()
    with pytest.raises(ModelError, match=r"no answer within 0\.5 s"):
        model.label_log_probabilities(PROMPTS[:1], LABELS)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("status", ["200", "500"])
def test_an_answer_without_end_is_unusable(
    server: Server, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyndbt_mpi.llm.servers.connections.MOST_BYTES", 10_000)
    model = connect(server, attempts=2)
    server.manners.body = "x" * 20_000
    server.manners.faults = [status if status != "200" else server.manners.body] * 2
    with pytest.raises(ModelError, match="2 attempts, the last: the answer is longer than 10000 b"):
        model.label_log_probabilities(PROMPTS[:1], LABELS)


def test_an_error_of_one_prompt_calls_off_the_others(server: Server) -> None:
    model = connect(server, concurrency=2)
    server.manners.seconds = 0.05
    server.manners.faults = ["404"]
    with pytest.raises(ModelError, match="404"):
        model.label_log_probabilities([Prompt("", str(n)) for n in range(50)], LABELS)
    time.sleep(0.3)
    assert len(server.asked) <= 6


# --------------------------------------------------------------------------- in the server's words


BODIES = {
    '{"error": {"message": "too long by far", "code": 7}}': "too long by far",
    '{"error": "too long by far"}': "too long by far",
    '{"error": {"code": "too_long"}}': "no message",
    '{"message": "too long by far"}': "too long by far",
    '{"object": "error", "message": "too long\\nby far"}': "too long by far",
    '{"detail": "too long by far"}': "too long by far",
    '{"detail": {"error": {"message": "too long by far"}}}': "too long by far",
    '{"detail": [{"loc": ["body", "logprobs"], "msg": "Extra inputs"}, {"loc": ["x"], "msg": "y"}]}': (
        "body.logprobs: Extra inputs; x: y"
    ),
    '[{"error": {"message": "too long by far"}}]': "too long by far",
    '{"error": {"message": "Provider failed", "metadata": {"raw": "too long"}}}': (
        "Provider failed: too long"
    ),
    "<html><head><title>Bad Gateway</title></head><body>x</body></html>": "a web page: Bad Gateway",
    "<!doctype html><style>p {}</style><body><h1>Too</h1><p>long</p>": "a web page: Too long",
    "<html></html>": "a web page without words",
    "too long\nby far": "too long by far",
    "<![foo[ <b>too long</b> by far": "a web page: too long by far",
    "{": "{",
    "": "no message",
    "null": "no message",
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", ["400", "403", "404", "422", "500"])
def test_a_servers_words_are_told_whatever_they_are_in(
    server: Server, body: str, status: str
) -> None:
    model = connect(server, attempts=1)
    server.manners.body, server.manners.faults = body, [status]
    with pytest.raises(ModelError) as caught:
        model.label_log_probabilities(PROMPTS[:1], LABELS)
    told = str(caught.value)
    assert f"{status}: {BODIES[body]}" in told
    assert "\n" not in told


@pytest.mark.parametrize("body", [*BODIES, f"<p>{PRIVATE}</p>", f'{{"detail": "x {PRIVATE[3:]}"}}'])
def test_a_servers_words_never_quote_the_prompt(server: Server, body: str) -> None:
    model = connect(server, attempts=1)
    for status in ("400", "500"):
        server.manners.body, server.manners.faults = body, [status]
        with pytest.raises(ModelError, match=status) as caught:
            model.label_log_probabilities([Prompt("", PRIVATE)], LABELS)
        assert "Keller" not in str(caught.value)
        assert ("quotes the prompt" in str(caught.value)) == ("Keller" in body)


UMLAUTS = "Überprüfung: Ärger über öde Süßspeisen, 这部电影真的很好看我非常喜欢这部电影每个人\nHmm"

QUOTATIONS = {
    "json": lambda text: json.dumps({"p": json.dumps(text)}),
    "repr of bytes": lambda text: repr(text.encode()),
    "repr": repr,
    "html": lambda text: "".join(f"&#{ord(each)};" for each in text),
    "address": quote,
    "underscores": lambda text: text.replace(" ", "_").upper(),
    "words": lambda text: " | ".join(text.split()),
}


@pytest.mark.parametrize("how", QUOTATIONS)
@pytest.mark.parametrize(
    "text", [PRIVATE, UMLAUTS, "😀 what a day it was, truly, said nobody ever"]
)
def test_a_quotation_of_the_prompt_is_found_however_it_is_written(how: str, text: str) -> None:
    quotation = QUOTATIONS[how](text)
    assert "quotes the prompt" in words.without(f"bad input: {quotation} here", text, "")
    harmless = words.without(f"bad input: {quotation}"[:14], text, "")
    assert harmless.startswith("bad input: ")


@pytest.mark.parametrize("shift", ["", "u", "us"])
def test_a_key_is_found_in_base64_and_between_other_signs(shift: str) -> None:
    coded = base64.b64encode(f"{shift}{KEY}".encode()).decode()
    assert words.without(f"Basic {coded} is wrong", "", KEY) == "Basic [key] is wrong"
    assert words.without(" ".join(KEY), "", KEY) == "(a message that quotes the key)"
    assert words.without("-".join(KEY), "", KEY) == "(a message that quotes the key)"
    assert words.without("nothing of the kind", "", KEY) == "nothing of the kind"


@given(st.text(st.characters(codec=None), max_size=50))
def test_what_is_shown_is_printable(message: str) -> None:
    assert words.without(message, "", "").isprintable()


@pytest.mark.parametrize("what", ["Location", "name", "fingerprint"])
@pytest.mark.parametrize("secret", [KEY, PRIVATE, "\x1b[2J\ud800"])
def test_no_word_of_a_server_tells_a_secret(server: Server, what: str, secret: str) -> None:
    model = connect(server, api="chat")
    if what == "Location":
        shown = "".join(each if each.isalnum() else "_" for each in secret)
        server.manners.headers = {"Location": f"https://u:pw@x.example/{shown}"}
        server.manners.faults = ["302"]
    else:
        server.manners.fingerprint = "fp_1"
        server.manners.says = "good"
        model.label_log_probabilities(PROMPTS, ["good", "bad"])
        setattr(server.manners, what, secret)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            model.label_log_probabilities([Prompt("", PRIVATE)], ["good", "bad"])
            said = ""
        except ModelError as error:
            said = str(error)
    said += " ".join(str(one.message) for one in told)
    assert any(each in said for each in ("moved", "a different model", "something different now"))
    assert said.isprintable()
    assert not any(part in said for part in ("Keller", "very-secret", "zq81", "pw@"))


WITHIN_200 = {
    '{"error": {"message": "model is overloaded", "code": 502}}': (True, "model is overloaded"),
    '{"error": {"message": "x", "type": "overloaded_error"}}': (True, "with an error: x"),
    '{"error": {"message": "Rate limit reached", "code": "429"}}': (True, "Rate limit reached"),
    '{"choices": [{"error": {"message": "busy", "code": 503}}], "usage": {"prompt_tokens": 1, '
    '"completion_tokens": 1}}': (True, "busy"),
    '{"error": {"message": "no such model", "code": 404}}': (False, r"no such model \(check"),
    '{"error": "quota is used up"}': (False, "answered 200 with an error: quota is used up"),
    '{"detail": "nothing here"}': (True, "has no choices: nothing here"),
    '{"error": {"message": "odd", "code": "' + "9" * 5000 + '"}}': (False, "with an error: odd"),
    '{"error": {"message": "odd", "code": "²"}}': (False, "with an error: odd"),
    "<html><title>Log in</title></html>": (True, r"page: Log in \(check llm\.base_url\)"),
}


@pytest.mark.parametrize("answer", WITHIN_200)
def test_an_error_that_comes_as_an_answer(server: Server, answer: str) -> None:
    passes, told = WITHIN_200[answer]
    sleeps = Sleeps()
    model = connect(server, attempts=3, sleep=sleeps)
    server.manners.faults = [answer]
    if passes:
        model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
        assert len(sleeps) == 1
    server.manners.faults = [answer] * 3
    with pytest.raises(ModelError, match=told):
        model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
    assert len(server.manners.faults) == (0 if passes else 2)


NO_MONEY = {
    "402": '{"error": {"message": "Insufficient Balance"}}',
    "429": '{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}',
    "403": '{"error": {"message": "In arrears", "type": "Arrearage"}}',
    "200": '{"error": {"message": "no credits", "code": 402}}',
}


@pytest.mark.parametrize("status", NO_MONEY)
def test_an_account_without_money_is_not_tried_again(server: Server, status: str) -> None:
    sleeps = Sleeps()
    model = connect(server, sleep=sleeps, concurrency=1)
    server.manners.body = NO_MONEY[status]
    server.manners.faults = [NO_MONEY[status] if status == "200" else status]
    with pytest.raises(ModelError, match=rf"answered {status}.*no money or quota left"):
        model.label_log_probabilities(PROMPTS[:1], LABELS)
    assert not sleeps


@pytest.mark.parametrize("error", ['{"code": 0, "message": "ok"}', "null", '{"code": null}', "{}"])
def test_an_error_that_is_none(server: Server, error: str) -> None:
    model = connect(server, scores="answers", attempts=1)
    usage = '"usage": {"prompt_tokens": 1, "completion_tokens": 1}'
    server.manners.faults = [f'{{"choices": [{{"text": "good"}}], "error": {error}, {usage}}}']
    found = model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
    assert found.unrecognised == 0


def test_an_answer_with_a_filters_code_is_a_refusal(server: Server) -> None:
    model = connect(server)
    server.manners.faults = ['{"error": {"message": "x", "code": "content_filter"}}']
    with pytest.warns(UserWarning, match="refused a prompt"):
        assert model.label_log_probabilities(PROMPTS[:1], LABELS).unrecognised == 1


def test_a_key_is_not_sent_where_a_server_points_to(server: Server) -> None:
    with serving(Manners()) as other:
        model = connect(server)
        server.manners.headers = {"Location": f"{other.url}/completions?secret=1"}
        for status in ("301", "307"):
            server.manners.faults = [status]
            with pytest.raises(ModelError, match=rf"{status}: it has moved to {other.url}/compl"):
                model.label_log_probabilities(PROMPTS[:1], LABELS)
        assert other.headers == []


# ----------------------------------------------------------------------------- proxies, TLS, nobody


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("http_proxy", raising=False)


@pytest.mark.usefixtures("proxied")
def test_a_proxy_that_is_not_there_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@127.0.0.1:9")
    with pytest.raises(ModelError, match=r"proxy 127\.0\.0\.1:9 of .* HTTPS_PROXY") as caught:
        connect(server, base_url="https://node7.cluster:8000/v1")
    assert "NO_PROXY" in str(caught.value)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    connect(server)


@pytest.mark.usefixtures("proxied")
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_nothing_is_sent_by_a_proxy_that_could_read_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with serving(Manners()) as proxy:
        monkeypatch.setenv(variable, proxy.url.removesuffix("/v1"))
        with pytest.raises(ModelError, match=rf"127\.0\.0\.1.*{variable}.* read the key.*NO_PROXY"):
            connect(server)
        assert proxy.headers == []
        assert proxy.looks == 0
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        connect(server)
        assert proxy.headers == []


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        ("403", "<html><title>Not for you</title></html>", "a web page: Not for you"),
        ("407", "", "407: no message"),
        ("502", "<html>", "502: a web page without words"),
    ],
)
def test_what_a_proxy_may_have_said_is_told_as_such(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: str, body: str, told: str
) -> None:
    monkeypatch.setattr(causes, "proxy_of", lambda url: "the proxy p of HTTPS_PROXY")
    server.manners.body, server.manners.faults = body, [status]
    with pytest.raises(ModelError, match=rf"{told} \(it may be from .* HTTPS_PROXY") as caught:
        connect(server, attempts=1)
    assert ("user and password" in str(caught.value)) == (status == "407")


@pytest.mark.usefixtures("proxied")
def test_a_proxy_that_does_not_let_through(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", server.url.removesuffix("/v1"))  # knows no CONNECT
    with pytest.raises(ModelError, match=r"of the environment variable HTTPS_PROXY says: 501"):
        connect(server, base_url="https://node7.cluster/v1")


@pytest.mark.usefixtures("proxied")
def test_a_proxy_or_certificates_that_cannot_be_used(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://me:secret@here")
    with pytest.raises(ModelError, match=r"proxy here of .* HTTPS_PROXY cannot") as caught:
        connect(server, base_url="https://node7/v1")
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    with pytest.raises(ModelError, match=r"SSL_CERT_FILE.*No such file"):
        connect(server, base_url="https://node7/v1")


@pytest.mark.usefixtures("proxied")
def test_a_proxy_of_a_kind_that_needs_a_package(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("socksio"):
        pytest.skip("needs an environment without socksio")
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"HTTP_PROXY cannot be used without socksio: .*install"):
        connect(server)


def test_a_server_that_wants_tls(server: Server) -> None:
    server.manners.body = "<title>400 The plain HTTP request was sent to HTTPS port</title>"
    server.manners.faults = ["400"] * 3
    with pytest.raises(ModelError, match=r"llm\.base_url may have to begin with https://"):
        connect(server)


def test_a_server_without_tls(server: Server) -> None:
    url = server.url.replace("http:", "https:")
    with pytest.raises(ModelError, match=r"does not speak TLS: llm\.base_url may .* http://"):
        connect(server, base_url=url)


def test_a_certificate_that_nobody_has_signed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out",
         certificate],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("needs openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(ModelError, match=r"if the server speaks TLS, llm\.base_url .* https://"):
        connect(server)
    url = f"https://localhost:{server.server_address[1]}/v1"
    with pytest.raises(ModelError, match=r"certificate of localhost:\d+ is not trusted.*SSL_CERT"):
        connect(server, base_url=url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    connect(server, base_url=url)


@pytest.mark.usefixtures("proxied")
@pytest.mark.parametrize("value", ["http://[bad", "[bad", "http://me:secret@[bad"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_that_is_no_address(
    server: Server, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ModelError, match=f"which is not an address.*{variable},") as caught:
        connect(server)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["....", "a" * 300, "x" * 64 + ".org"])
def test_a_name_that_no_server_can_have(server: Server, host: str) -> None:
    with pytest.raises(ModelError, match=r"llm\.base_url"):
        connect(server, base_url=f"http://{host}/v1")


@pytest.mark.parametrize("through", ["", "the proxy p"])
def test_whose_certificate_is_not_trusted(monkeypatch: pytest.MonkeyPatch, through: str) -> None:
    monkeypatch.setattr(causes, "proxy_of", lambda url: through)
    error = ssl.SSLCertVerificationError("CERTIFICATE_VERIFY_FAILED")
    told = causes.of_connection(error, "https://node7/v1") or ""
    assert ("the proxy p" in told) == bool(through)
    assert "node7" in told


def test_nobody_at_that_address(server: Server) -> None:
    for url in ("http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1"):
        with pytest.raises(ModelError, match=r"cannot connect to .* \(.*\): check llm\.base_url"):
            connect(server, base_url=url)


# ----------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("api", ["chat", "completion"])
def test_a_call_never_pays_for_more_than_it_says(
    server: Server, api: str, concurrency: int
) -> None:
    model = connect(server, api=api, attempts=1000, concurrency=concurrency)
    most = model.most_calls(2, LABELS)
    assert most == (2 * (29 + 1) if api == "completion" else 2 * 2) + SPARE
    server.manners.faults = ["no logprobs"] * 1000
    with pytest.raises(ModelError, match=f"only {most} may be paid for"):
        model.label_log_probabilities(PROMPTS[:2], LABELS)
    # A thread may find no room while another's request is still under way.
    assert most - concurrency < len(server.done) <= most


USELESS_COUNTS = (
    '"usage": null',
    '"usage": {}',
    '"usage": {"prompt_tokens": 0, "completion_tokens": 0}',
    '"usage": {"prompt_tokens": -3}',
    '"usage": {"prompt_tokens": "7"}',
    f'"usage": {{"prompt_tokens": {10**18}, "completion_tokens": 1}}',
    f'"usage": {{"prompt_tokens": {10**400}, "completion_tokens": {10**400}}}',
)


@pytest.mark.parametrize("scores", ["logprobs", "answers"])
def test_a_server_that_counts_no_tokens_is_charged_what_was_set_aside(
    server: Server, scores: str
) -> None:
    server.manners.usage = False
    model = connect(server, scores=scores, api="chat")
    server.manners.says = "good"
    with pytest.warns(UserWarning, match="how many tokens its answers cost") as told:
        found, again = (model.label_log_probabilities(PROMPTS, [" good", " bad"]) for _ in range(2))
    assert [one.category for one in told].count(UserWarning) == 1
    written = 1 if scores == "logprobs" else LEAST_ANSWER
    assert again.prompt_tokens == sum(map(model.longest, TEXTS))
    assert again.completion_tokens == written * len(PROMPTS)
    # The first try as well.
    assert found.prompt_tokens == again.prompt_tokens + model.longest("1 + 1 =")
    assert found.calls == len(PROMPTS) + 1


@pytest.mark.parametrize("usage", USELESS_COUNTS)
def test_counts_that_are_none(server: Server, usage: str) -> None:
    model = connect(server, scores="answers")
    server.manners.faults = ['{"choices": [{"text": "good"}], ' + usage + "}"]
    with pytest.warns(UserWarning, match="how many tokens"):
        found = model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
    assert found.prompt_tokens == model.longest(TEXTS[0]) + 4  # of the first try
    assert found.completion_tokens == LEAST_ANSWER + 1


@pytest.mark.parametrize("fault", ["slow", "truncated", "malformed"])
def test_what_may_have_been_billed_is_charged(server: Server, fault: str) -> None:
    model = connect(server, timeout=0.3, attempts=2)
    before = model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
    server.manners.slow, server.manners.faults = 0.6, [fault]
    found = model.label_log_probabilities(PROMPTS[:1], [" good", " bad"])
    # Besides the first try, of four words, which was told before.
    assert found.prompt_tokens == before.prompt_tokens - 4 + model.longest(TEXTS[0])


@pytest.mark.parametrize("status", [200, 201, 203, 206])
def test_every_answer_that_is_used_is_charged(server: Server, status: int) -> None:
    server.manners.status = status
    found = connect(server).label_log_probabilities(PROMPTS, [" good", " bad"])
    assert found.calls == len(server.done) == len(PROMPTS) + 1
    assert found.completion_tokens == found.calls


@pytest.mark.parametrize("counts", [{"prompt_tokens": 90}, {"completion_tokens": 2}])
def test_more_tokens_than_were_set_aside_are_charged_with_one_warning(
    server: Server, counts: dict[str, int]
) -> None:
    server.manners.says = "good"
    model = connect(server, api="chat")
    model.label_log_probabilities(PROMPTS, [" good", " bad"])
    server.manners.counts = counts
    with pytest.warns(UserWarning, match=r"counts more tokens .* system prompt") as told:
        found = [model.label_log_probabilities(PROMPTS, [" good", " bad"]) for _ in range(2)][1]
    assert sum("more tokens" in str(one.message) for one in told) == 1
    for name, value in counts.items():
        assert getattr(found, name) == value * len(PROMPTS)


@pytest.mark.parametrize("counts", [{"prompt_tokens": 3000}, {"completion_tokens": 4096}])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_was_set_aside_for_a_call_is_overdrawn_by_requests_under_way_at_most(
    server: Server, counts: dict[str, int], concurrency: int
) -> None:
    server.manners.says = "good"
    model = connect(server, api="chat", concurrency=concurrency)
    server.manners.counts = counts
    prompts = [Prompt("", f"{number:03d}") for number in range(200)]
    [(name, each)] = counts.items()
    calls = model.most_calls(len(prompts), [" good", " bad"])
    aside = calls * (model.longest("000") if name == "prompt_tokens" else LEAST_ANSWER)
    with pytest.raises(ModelError, match=r"tokens in \d+ requests, .* ignore max_tokens"):
        model.label_log_probabilities(prompts, [" good", " bad"])
    assert (len(server.done) - 1) * each <= aside + (concurrency + 1) * each


def test_no_prompt_has_more_tokens_than_bytes(server: Server) -> None:
    assert connect(server).longest("Ä b") == 4 + 64


# ----------------------------------------------------------- what does not come to a label at all


@pytest.mark.parametrize(
    ("api", "scores", "says", "beside", "told"),
    [
        ("chat", "answers", "The review has", {}, r"its answers were 'The review has': ask for"),
        ("chat", "logprobs", "Okay", {}, r"likeliest first tokens were 'Okay': ask for nothing"),
        ("completion", "logprobs", "Okay", {}, r"likeliest tokens were 'Okay': check that"),
        ("completion", "answers", "I see", {}, r"its answers were 'I see'"),
        ("chat", "answers", "", {}, r"its answers were ''"),
        ("chat", "answers", "<think>\nOkay", {}, r"toy thinks before it answers"),
        ("chat", "answers", None, {"content": None, "reasoning": "Okay"}, r"llm\.extra_body"),
        ("chat", "answers", "", {"reasoning_content": "Okay"}, r"enable_thinking = false"),
        ("completion", "answers", "<think>\nOkay", {}, r"toy thinks before it answers"),
        ("chat", "logprobs", "<", {}, r"toy thinks before it answers"),
    ],
)
def test_a_model_that_names_no_label_ends_the_run_at_once(
    server: Server, api: str, scores: str, says: str | None, beside: dict[str, Any], told: str
) -> None:
    server.manners.says, server.manners.beside = says, beside
    model = connect(server, api=api, scores=scores)
    with pytest.raises(ModelError, match=told) as caught:
        model.label_log_probabilities(PROMPTS, [" good", " bad"])
    assert "\n" not in str(caught.value)
    assert not any(text in str(caught.value) for text in TEXTS)


def test_few_prompts_without_a_label_are_no_reason_to_end(server: Server) -> None:
    server.manners.says = "Neither"
    model = connect(server, api="chat", scores="answers")
    with pytest.warns(UserWarning, match="none of the labels"):
        scores = [model.label_log_probabilities([each], ["good", "bad"]) for each in PROMPTS[:-1]]
    assert [each.unrecognised for each in scores] == [1, 1, 1]
    with pytest.raises(ModelError, match="in its first 4 answers"):
        model.label_log_probabilities(PROMPTS[-1:], ["good", "bad"])


def test_a_server_that_refuses_every_prompt_ends_the_run(server: Server) -> None:
    model = connect(server)
    server.manners.refuse = True
    with pytest.raises(ModelError, match="refused each of the first 4 prompts"):
        model.label_log_probabilities(PROMPTS, LABELS)


def test_what_the_model_wrote_is_not_told_if_it_is_the_prompt(server: Server) -> None:
    model = connect(server, api="chat", scores="answers")
    server.manners.says = f"You say: {PRIVATE.upper().replace(' ', '  ')}"
    with pytest.raises(ModelError, match="a message that quotes the prompt") as caught:
        model.label_log_probabilities([Prompt("", f"{PRIVATE} {n}") for n in range(4)], LABELS)
    assert "KELLER" not in str(caught.value)


@pytest.mark.parametrize("scores", ["auto", "logprobs"])
def test_thoughts_as_the_first_token_show_at_the_first_try(server: Server, scores: str) -> None:
    server.manners.says = "<think>"
    with pytest.raises(ModelError, match=r"thinks before it answers.*llm\.extra_body"):
        connect(server, api="chat", scores=scores)
    assert len(server.done) == 1


def test_an_answer_behind_thoughts_is_read(server: Server) -> None:
    server.manners.says = "<think>\n\n</think>\n\nGood."
    model = connect(server, api="chat", scores="answers")
    rows = model.label_log_probabilities(PROMPTS, [" bad", " good"]).log_probabilities
    np.testing.assert_allclose(np.exp(rows), [[0.05, 0.95]] * 4)


# -------------------------------------------------------------------------------------- spellings


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("spelt", ["bpe", "sentencepiece"])
@pytest.mark.parametrize("api", ["chat", "completion"])
def test_tokens_may_be_spelt_as_in_the_vocabulary(
    server: Server, api: str, spelt: Any, older: bool
) -> None:
    labels = [" good", " no"] if api == "chat" else LABELS
    expected = connect(server, api=api).label_log_probabilities(PROMPTS, labels)
    server.manners.spelt, server.manners.older = spelt, older
    found = connect(server, api=api).label_log_probabilities(PROMPTS, labels)
    np.testing.assert_allclose(found.log_probabilities, expected.log_probabilities, atol=1e-9)


def test_capitals_are_the_same_to_a_chat(server: Server) -> None:
    expected = connect(server, api="chat").label_log_probabilities(PROMPTS, ["yes", "no"])
    server.manners.spelt = "capitals"
    found = connect(server, api="chat").label_log_probabilities(PROMPTS, ["yes", "no"])
    np.testing.assert_allclose(found.log_probabilities, expected.log_probabilities, atol=1e-9)


def test_a_server_may_list_tokens_without_their_spaces(server: Server) -> None:
    server.manners.spelt = "spaceless"
    with pytest.warns(UserWarning, match="lists tokens without the space before a word"):
        model = connect(server)
    assert "without the spaces" in model.scored_by
    labels = [" good", " bad"]
    found = model.label_log_probabilities(PROMPTS, labels)
    plain = model.label_log_probabilities(PROMPTS, ["good", "bad"])
    np.testing.assert_array_equal(found.log_probabilities, plain.log_probabilities)
    assert found.unrecognised == 0


# ------------------------------------------------------------------- the model behind the address


LISTED = {"id": "toy", "created": 1, "meta": {"n_params": 135, "n_ctx": 512, "size": 99}}


def test_the_digest_tells_models_apart_and_no_more(server: Server) -> None:
    def digest(**manners: Any) -> str:
        for name, value in manners.items():
            setattr(server.manners, name, value)
        return connect(server).digest

    digests = [digest(), digest(models=[LISTED]), digest(models=[LISTED | {"root": "/x/toy"}])]
    digests.append(digest(models=[LISTED | {"meta": {"n_params": 136}}]))
    digests.append(digest(name="toy-2026-01-01"))
    assert all(digests)
    assert len(set(digests)) == 5
    assert digest(fingerprint="fp_1") == digests[-1]  # which may differ from rank to rank
    again = LISTED | {"created": 2, "meta": LISTED["meta"] | {"n_ctx": 1024}}  # type: ignore[operator]
    assert digest(models=[LISTED], name="", fingerprint="") == digest(models=[again])
    others = [{"id": "other", "root": "/y"}, LISTED]
    assert digest(models=[LISTED]) == digest(models=others)


@pytest.mark.parametrize("scores", ["logprobs", "answers"])
def test_another_model_in_the_middle_of_a_run(server: Server, scores: str) -> None:
    server.manners.name = "toy-2026-01-01"  # what "toy" stands for
    server.manners.says = "good"
    model = connect(server, scores=scores, api="chat")
    model.label_log_probabilities(PROMPTS, ["good", "bad"])
    server.manners.name = "toy-2026-02-02"
    with pytest.raises(ModelError, match=r"different model .* 'toy-2026-01-01'.* 'toy-2026-02-02'"):
        model.label_log_probabilities(PROMPTS, ["good", "bad"])


def test_another_model_under_the_same_name(server: Server) -> None:
    server.manners.models = [LISTED]
    model = connect(server)
    model.label_log_probabilities(PROMPTS, LABELS)
    server.manners.models = [LISTED | {"created": 5}]  # started again
    model.label_log_probabilities(PROMPTS, LABELS)
    server.manners.models = [LISTED | {"meta": {"n_params": 7, "size": 99}}]
    with pytest.raises(ModelError, match=r"meta\.n_params 135 before, .*meta\.n_params 7 now"):
        model.label_log_probabilities(PROMPTS, LABELS)


def test_a_model_that_is_listed_no_more(server: Server) -> None:
    server.manners.models = [LISTED]
    model = connect(server)
    server.manners.models = [{"id": "other"}, {"id": "third"}]
    with pytest.raises(ModelError, match=r"'toy' in its list of models before, none now"):
        model.label_log_probabilities(PROMPTS, LABELS)


@pytest.mark.parametrize("how", ["500", "200", "429"])
def test_workers_hold_the_same_model_however_often_the_list_fails(server: Server, how: str) -> None:
    server.manners.models = [LISTED]
    expected = connect(server).digest
    server.manners.unlisted = [how] * 3
    assert connect(server).digest == expected
    server.manners.unlisted = [how] * 100
    with pytest.raises(ModelError, match=r"the list is being made.* cannot be identified"):
        connect(server)


@pytest.mark.parametrize("how", ["401", "403", "404", "405", "501"])
def test_a_server_may_show_no_list(server: Server, how: str) -> None:
    expected = connect(server).digest
    server.manners.unlisted = [how]
    assert connect(server).digest == expected


@pytest.mark.parametrize("how", ["500", "hangs"])
def test_a_list_that_fails_in_the_middle_is_looked_at_later(
    server: Server, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.manners.models = [LISTED]
    model = connect(server, timeout=0.3)
    server.manners.slow, server.manners.unlisted = 0.6, [how]
    looks = server.looks
    for _ in range(3):
        model.label_log_probabilities(PROMPTS, LABELS)
    assert server.looks == looks + 1
    monkeypatch.setattr("asyndbt_mpi.llm.openai.NEXT_LOOK", 0.0)
    model = connect(server, timeout=0.3)
    server.manners.unlisted = [how]
    model.label_log_probabilities(PROMPTS, LABELS)
    server.manners.models = [LISTED | {"root": "/elsewhere"}]
    with pytest.raises(ModelError, match="different model"):
        model.label_log_probabilities(PROMPTS, LABELS)


def test_what_a_model_runs_on_may_change_with_a_warning(server: Server) -> None:
    server.manners.fingerprint = "fp_1"
    model = connect(server)
    server.manners.fingerprint = "fp_2"
    with pytest.warns(UserWarning, match=r"'fp_1' at first, 'fp_2' now"):
        model.label_log_probabilities(PROMPTS, LABELS)


# ------------------------------------------------------------------------------------- parameters


def test_extra_body_is_in_every_request(server: Server) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "seed": 7}
    for api in ("chat", "completion"):
        connect(server, api=api, extra_body=extra).label_log_probabilities(PROMPTS, [" good"])
    assert len(server.asked) == 2 * (len(PROMPTS) + 1)
    assert all(
        body["chat_template_kwargs"] == extra["chat_template_kwargs"] for body in server.asked
    )
    assert all(body["seed"] == 7 for body in server.asked)


@pytest.mark.parametrize("name", ["model", "messages", "n", "stream", "max_tokens", "temperature"])
def test_extra_body_leaves_what_the_program_says(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"extra_body must not contain {name}: the program"
    ):
        parse({"llm": {"extra_body": {name: 1}}}, "test")


def test_extra_body_is_a_table_and_is_logged() -> None:
    config = load("demo", ["llm.extra_body={ enable_thinking = false, a = { b = [1, 2.5] } }"])
    assert config.llm.extra_body == {"enable_thinking": False, "a": {"b": [1, 2.5]}}
    assert type(config).from_toml(config.to_toml()) == config
    with pytest.raises(ConfigurationError, match="extra_body"):
        load("demo", ["llm.extra_body=[1]"])


NOT_TAKEN = {
    "max_tokens": (
        "Unsupported parameter: 'max_tokens' is not supported with this model."
        " Use 'max_completion_tokens' instead."
    ),
    "temperature": (
        "Unsupported value: 'temperature' does not support 0 with this model."
        " Only the default (1) value is supported."
    ),
}


@pytest.mark.parametrize("api", ["chat", "completion"])
@pytest.mark.filterwarnings("ignore:.*does not accept temperature")
@pytest.mark.parametrize("names", [["max_tokens"], ["temperature"], ["max_tokens", "temperature"]])
def test_a_parameter_that_is_not_taken_is_given_otherwise(
    server: Server, names: list[str], api: str
) -> None:
    expected = connect(server, api=api).label_log_probabilities(PROMPTS, [" good", " no"])
    server.manners.refuses = {name: NOT_TAKEN[name] for name in names}
    server.asked.clear()
    found = connect(server, api=api).label_log_probabilities(PROMPTS, [" good", " no"])
    np.testing.assert_array_equal(found.log_probabilities, expected.log_probabilities)
    assert len(server.asked) == len(names) + 1 + len(PROMPTS)  # it is told once
    taken = server.asked[-1]
    assert taken.get("max_completion_tokens") == (1 if "max_tokens" in names else None)
    assert taken.get("temperature") == (None if "temperature" in names else 0)
    assert found.calls == expected.calls


LISTS_WHAT_IT_TAKES = {
    "sentence": (
        '{"error": {"message": "Unsupported parameter: \'logprobs\'. Supported parameters: model,'
        ' messages, max_tokens, temperature, top_p."}}'
    ),
    "serde": (
        "Failed to deserialize the JSON body: unknown field `logprobs`, expected one of `model`,"
        " `messages`, `temperature`, `max_tokens`"
    ),
    "param": (
        '{"error": {"message": "Only max_tokens and temperature are supported, not this",'
        ' "param": "top_logprobs"}}'
    ),
    "loc": (
        '{"detail": [{"loc": ["body", "logprobs"], "msg": "Extra inputs are not permitted"},'
        ' {"loc": ["body", "temperature"], "msg": "see above; max_tokens"}]}'
    ),
    "plain": "unsupported: logprobs (known are max_tokens, temperature)",
}


@pytest.mark.parametrize("form", LISTS_WHAT_IT_TAKES)
def test_what_is_listed_behind_a_refused_parameter_is_not_refused(
    server: Server, form: str
) -> None:
    server.manners.body = LISTS_WHAT_IT_TAKES[form]
    server.manners.faults = ["422", "400", "answer"]
    server.manners.says = "good"
    with pytest.warns(UserWarning, match="gives no log-probabilities") as told:
        model = connect(server, api="chat")
    assert not any("temperature" in str(one.message) for one in told)
    model.label_log_probabilities(PROMPTS, [" good", " bad"])
    assert all({"max_tokens", "temperature"} <= set(body) for body in server.asked)
    assert len(server.asked) == 3 + len(PROMPTS)


def test_a_parameter_of_extra_body_is_not_taken_for_another_one(server: Server) -> None:
    server.manners.refuses = {"seed": "unknown field `seed`, expected `temperature`, `max_tokens`"}
    with pytest.raises(ModelError, match="unknown field `seed`"):
        connect(server, extra_body={"seed": 1})
    assert all({"max_tokens", "temperature"} <= set(body) for body in server.asked)


def test_what_did_not_help_is_not_kept(server: Server) -> None:
    server.manners.body = NOT_TAKEN["temperature"]
    server.manners.faults = ["400", "404"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(ModelError, match="404"):
            connect(server)
        server.manners.faults = ["400", "422"]
        model = connect(server, api="chat", scores="auto")
    model.label_log_probabilities(PROMPTS, [" good", " no"])
    assert server.asked[-1]["temperature"] == 0


def test_answers_that_may_vary_are_warned_of_once(server: Server) -> None:
    server.manners.refuses = {"temperature": NOT_TAKEN["temperature"]}
    with pytest.warns(UserWarning, match="temperature = 0: it is omitted") as told:
        connect(server).label_log_probabilities(PROMPTS, [" good", " no"])
    assert sum("temperature" in str(one.message) for one in told) == 1


def test_a_server_that_takes_neither_name_is_an_error(server: Server) -> None:
    server.manners.refuses = {
        "max_tokens": NOT_TAKEN["max_tokens"],
        "max_completion_tokens": "Unsupported parameter: 'max_completion_tokens'",
    }
    with pytest.raises(ModelError, match=r"'max_completion_tokens'.* in place of max_tokens"):
        connect(server)


def test_thoughts_that_are_to_be_switched_off(server: Server) -> None:
    said = "parameter.enable_thinking must be set to false for non-streaming calls"
    server.manners.refuses = {"messages": said}
    with pytest.raises(ModelError, match=r"llm\.extra_body = \{ enable_thinking = false \}"):
        connect(server, api="chat")


# ------------------------------------------------------------------------------------------ key


def test_the_key_is_sent_and_told_to_nobody_else(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    model = connect(server)
    assert set(server.keys) == {f"Bearer {KEY}"}
    texts = [model.description, repr(model), repr(vars(model))]
    for message in (
        f"wrong key: {KEY}",
        "Incorrect API key: sk-zq****6789.",
        PRIVATE,
        PRIVATE[9:40],
    ):
        for status in ("400", "401", "429"):
            server.manners.message, server.manners.faults = message, [status] * 6
            with pytest.raises(ModelError, match=status) as caught:
                model.label_log_probabilities([Prompt("", PRIVATE)], LABELS)
            texts.append(str(caught.value))
    texts.extend(capfd.readouterr())
    for text in texts:
        assert "sk-z" not in text
        assert "6789" not in text
        assert "blood count" not in text
        assert "Keller" not in text


def test_a_key_goes_only_where_it_is_meant_to(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    connect(server, key_variable="")
    assert set(server.keys) == {"Bearer none"}
    assert [read_key(url, "") for url in ("", OPENAI_URL)] == [KEY, KEY]
    for url in ("http://api.openai.com/v1", "https://api.openai.com.evil.org/v1"):
        assert read_key(url, "") == ""
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ModelError, match="environment variable OPENAI_API_KEY"):
        connect(server, base_url="", key_variable="")
    monkeypatch.setenv("TOY_KEY", "sk-two words")
    with pytest.raises(ModelError, match="TOY_KEY contains characters") as caught:
        connect(server)
    assert "words" not in str(caught.value)
    server.manners.faults = ["401"]
    with pytest.raises(ModelError, match=r"401.*set llm\.key_variable"):
        connect(server, key_variable="")


def test_a_key_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    named = ["llm.backend=openai", "llm.base_url=http://here", "llm.key_variable=TOY_KEY"]
    check_server(load("demo", named))
    monkeypatch.delenv("TOY_KEY")
    with pytest.raises(ConfigurationError, match="environment variable TOY_KEY; for a server that"):
        check_server(load("demo", named))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=r"OPENAI_API_KEY \(llm\.key_variable\), or"):
        check_server(load("demo", named[:1]))
    check_server(load("demo", named[:2]))
    check_server(load("demo"))


def test_nothing_of_the_environment_is_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ORG_ID", "PROJECT_ID", "ADMIN_KEY", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "belongs-to-openai")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: belongs-to-openai")
    connect(server).label_log_probabilities(PROMPTS, LABELS)
    assert server.headers
    assert not any("belongs-to-openai" in str(headers) for headers in server.headers)


# ----------------------------------------------------------------------------------- many at once


@pytest.mark.parametrize("concurrency", [1, 4])
def test_requests_are_under_way_together(server: Server, concurrency: int) -> None:
    model = connect(server, concurrency=concurrency)
    server.manners.seconds = 0.1
    model.label_log_probabilities([Prompt("", str(n)) for n in range(12)], [" good", " bad"])
    assert server.busiest == concurrency


def test_workers_share_what_a_server_grants(server: Server) -> None:
    sleeps = Sleeps()
    model = connect(server, requests_per_minute=60.0, workers=3, sleep=sleeps, concurrency=1)
    model.label_log_probabilities([Prompt("", str(n)) for n in range(4)], [" good", " bad"])
    # One every three seconds; as nobody really sleeps, each waits from the start on.
    np.testing.assert_allclose(sleeps, [3, 6, 9, 12], atol=1)


INTERRUPTED = """
import signal, sys, time
from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.llm.openai import OpenAIModel
from asyndbt_mpi.llm.servers.written import label_of

class Interrupted(Exception):
    pass

def interrupt(*_):
    raise Interrupted

model = OpenAIModel("toy", base_url=sys.argv[1], key_variable="", api="completion",
    scores="auto", concurrency=4, timeout=60.0, attempts=6, requests_per_minute=0, workers=1)
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.5)
begun = time.monotonic()
try:
    model.label_log_probabilities([Prompt("", str(n)) for n in range(50)], [" good", " bad"])
except Interrupted:
    print("left after", time.monotonic() - begun)
"""


def test_an_interrupt_waits_for_no_request(server: Server) -> None:
    server.manners.faults = ["answer", *["slow"] * 100]
    server.manners.slow = 40.0
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, server.url],
        capture_output=True,
        text=True,
        timeout=35,
        check=True,
    )
    assert done.stdout.startswith("left after")
    assert float(done.stdout.split()[-1]) < 3
    assert time.monotonic() - begun < 30
    assert len(server.asked) == 5


# ------------------------------------------------------------------------------------- the whole


def test_a_patient_client_succeeds_with_a_rude_server(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    program = [sys.executable, str(Path(__file__).with_name("api_server.py"))]
    options = ["--port", "0", "--rude", "7", "--ledger", str(ledger), "--slow", "0.6"]
    with subprocess.Popen([*program, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            prompts = [Prompt("the same demonstrations", f", row {n}") for n in range(60)]
            with serving(Manners()) as polite:
                expected = connect(polite).label_log_probabilities(prompts, LABELS)
                model = connect(polite, base_url=url, timeout=0.4, concurrency=8)
            with pytest.warns(UserWarning, match="refused"):
                scores = model.label_log_probabilities(prompts, LABELS)
        finally:
            process.terminate()
    refused = np.ptp(scores.log_probabilities, axis=1) == 0
    assert 0 < refused.sum() < 15
    np.testing.assert_array_equal(
        scores.log_probabilities[~refused], expected.log_probabilities[~refused]
    )
    done = [line.split("\t")[1] for line in ledger.read_text().splitlines()]
    free = {"429", "500", "closed"}
    assert free < set(done)
    assert scores.calls == sum(what not in free for what in done)


@pytest.mark.parametrize("cache", [0, 10])
def test_the_configuration_chooses_it(
    server: Server, cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = {"backend": "openai", "model": "toy", "base_url": server.url, "cache": cache}
    config = parse({"llm": llm | {"api": "completion", "key_variable": "TOY_KEY"}}, "test")
    model = language_model(config, Place(0, 1, sharing=3), None)
    assert isinstance(model, CachedModel if cache else OpenAIModel)
    assert model.description.startswith("toy, 127.0.0.1")
    assert model.most_calls(3, [" a", " b"]) == 3 * (3 + 1) + SPARE
    assert model.longest("abc") == 67


@pytest.mark.parametrize("api", ["chat", "completion"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_an_address_without_v1_is_answered_with_the_right_one(
    server: Server, api: str, slash: str
) -> None:
    root = server.url.removesuffix("/v1")
    with pytest.raises(ModelError) as caught:
        connect(server, base_url=root + slash, api=api)
    assert str(caught.value).endswith(
        f"404: Not Found (llm.base_url may have to be {server.url!r})"
    )


@pytest.mark.parametrize("body", ["<html><title>Hello</title></html>", '{"content": "hello"}'])
def test_another_service_at_an_address_without_v1(server: Server, body: str) -> None:
    """A page, or an API of its own as llama.cpp's."""
    hinted = errors.of_address
    assert hinted("http://here:80") == "llm.base_url may have to be 'http://here:80/v1'"
    assert hinted("http://here/v1") == hinted("") == "check llm.base_url"
    assert hinted("http://here/api/paas/v4/") == "check llm.base_url"
    model = connect(server, attempts=1)
    model._client.endpoint = replace(model._client.endpoint, base_url="http://here")
    server.manners.faults = [body]
    with pytest.raises(ModelError, match=r"may have to be 'http://here/v1'"):
        model.label_log_probabilities(PROMPTS[:1], LABELS)
