"""Continuations that a server writes."""

from collections.abc import Iterator
from typing import Any

import pytest

from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.openai import OpenAIModel
from tests.llm.api_server import Manners, Server, serving, write

KEY = "sk-zq81-very-secret-0123456789"
TEXTS = ["It was a day that", "Nothing is", "The train came late, so it was", "I do"]
MOST = 7


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Manners()) as server:
        yield server


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", KEY)


def connect(server: Server, **options: Any) -> OpenAIModel:
    defaults: dict[str, Any] = {
        "base_url": server.url,
        "key_variable": "TOY_KEY",
        "api": "completion",
        "scores": "answers",
        "concurrency": 2,
        "timeout": 5.0,
        "attempts": 6,
        "requests_per_minute": 0.0,
        "workers": 1,
        "sleep": lambda _: None,
    }
    return OpenAIModel("toy", **(defaults | options))


@pytest.mark.parametrize("api", ["completion", "chat"])
def test_the_whole_text_is_read(server: Server, api: str) -> None:
    model = connect(server, api=api)
    trial = len(server.asked)
    written = model.write([*TEXTS, TEXTS[0]], MOST)
    assert written.texts == [write(text, MOST) for text in [*TEXTS, TEXTS[0]]]
    asked = server.asked[trial:]
    assert len(asked) == len(TEXTS)  # equal prompts once
    assert {(body["max_tokens"], body["temperature"]) for body in asked} == {(MOST, 0)}
    assert not any("logprobs" in body for body in asked)
    assert written.calls == len(TEXTS) + trial  # what the trial has cost is told once
    assert model.write(TEXTS[:1], MOST).calls == 1


def test_lines_of_a_continued_prompt_are_kept(server: Server) -> None:
    server.manners.says = "It is good.\n\nSo the answer is good."
    assert connect(server).write(TEXTS, MOST).texts == [server.manners.says] * len(TEXTS)


def test_thoughts_are_left_out(server: Server) -> None:
    server.manners.says = "<think>Is it bad?</think>It is good."
    assert set(connect(server, api="chat").write(TEXTS, MOST).texts) == {"It is good."}


def test_tokens_are_those_that_the_server_counts(server: Server) -> None:
    model = connect(server)
    server.manners.counts = {"completion_tokens": 3}
    written = model.write(TEXTS, MOST)
    assert written.tokens == [3] * len(TEXTS)
    assert written.cut == [True] * len(TEXTS)  # by the server's finish_reason
    server.manners.usage = False
    with pytest.warns(UserWarning, match="charged its upper bound"):
        written = model.write(TEXTS, MOST)
    assert written.tokens == [MOST] * len(TEXTS)
    assert written.completion_tokens == MOST * len(TEXTS)


def test_faults_are_asked_again_and_counted(server: Server) -> None:
    model = connect(server)
    model.write(TEXTS[:1], MOST)
    server.manners.faults = ["500", "malformed", "no choices"]
    written = model.write(TEXTS, MOST)
    assert written.texts == [write(text, MOST) for text in TEXTS]
    assert written.calls == len(TEXTS) + 2  # but not the one that failed


def test_a_refused_prompt_has_no_text(server: Server) -> None:
    model = connect(server)
    model.write(TEXTS[:1], MOST)
    server.manners.refuse = True
    with pytest.warns(UserWarning, match="refused a prompt"):
        written = model.write(TEXTS[1:2], MOST)
    assert (written.texts, written.tokens) == ([""], [MOST])


def test_nothing_but_refusals_or_thoughts_is_an_error(server: Server) -> None:
    model = connect(server, api="chat")
    server.manners.refuse = True
    with pytest.raises(ModelError, match="refused each of the first 4 prompts"):
        model.write(TEXTS, MOST)
    server.manners.refuse = False
    server.manners.says = "<think>Let me see"
    with pytest.raises(ModelError, match=r"toy thinks before it answers.*llm\.extra_body"):
        connect_thinking(server).write(TEXTS, MOST)


def connect_thinking(server: Server) -> OpenAIModel:
    """Its thoughts begin only after the trial."""
    says, server.manners.says = server.manners.says, None
    model = connect(server, api="chat")
    server.manners.says = says
    return model


def test_what_cannot_be_asked_is_refused(server: Server) -> None:
    model = connect(server)
    with pytest.raises(ValueError, match="no text"):
        model.write(["", "a"], MOST)
    with pytest.raises(ValueError, match="not positive"):
        model.write(TEXTS, 0)
    assert model.write([], MOST).texts == []
