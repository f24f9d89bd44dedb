"""Hostile answers of a server of models, through all that reads them.

    python -m tests.fuzz.answers [SEED [CASES]]

An answer is damaged as text, or a value of it replaced, removed or put elsewhere. It is refused as
one of the failures that are tried again or told, or it gives numbers for the labels, and a written
text that names a label, or none.
"""

import copy
import json
import random
import sys
from collections import Counter
from typing import Any

import numpy as np

from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.servers.account import Account, Most
from asyndbt_mpi.llm.servers.bodies import read_object
from asyndbt_mpi.llm.servers.failures import Filtered, Unusable
from asyndbt_mpi.llm.servers.first_tokens import FirstTokens
from asyndbt_mpi.llm.servers.responses import MOST_LISTED, read_alternatives
from asyndbt_mpi.llm.servers.thinking import Thinks
from asyndbt_mpi.llm.servers.written import of_answer, read_text

LABELS = [" good", " bad"]
FAILURES = (Filtered, Thinks, Unusable, ModelError)

ANSWER: dict[str, Any] = {
    "id": "1",
    "model": "toy",
    "choices": [
        {
            "index": 0,
            "finish_reason": "length",
            "message": {"role": "assistant", "content": "good", "refusal": None},
            "logprobs": {
                "content": [
                    {
                        "token": "good",
                        "logprob": -0.5,
                        "bytes": [103, 111, 111, 100],
                        "top_logprobs": [
                            {"token": "good", "logprob": -0.5, "bytes": [103, 111, 111, 100]},
                            {"token": "bad", "logprob": -1.5, "bytes": None},
                        ],
                    }
                ]
            },
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1},
}

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, -(10**400), 0.5, -0.0, 1e308, -1e308),
    *(float("nan"), float("inf"), float("-inf"), "", "good", "GOOD", "g\u043e\u043ed", "\ud800"),
    *("good\0", "\u00a0good", "x" * 5000, "-0.5", "stop", "content_filter", "<think>", "\x1b[2J"),
    *([], {}, [[]], [None], {"token": "good"}, [300], [-1], [10**30], ["good"], {"": {}}),
]


def fuzz(seed: int, cases: int) -> Counter[str]:
    """How often each outcome came of ``cases`` answers.

    Raises
    ------
    AssertionError
        With the answer, on anything but a reading or a failure that is told.
    """
    generator = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for number in range(cases):
        content = _damaged(generator)
        try:
            outcomes[_outcome(content)] += 1
        except Exception as error:
            case = f"seed {seed}, answer {number}: {content[:2000]!r}"
            raise AssertionError(case) from error
    return outcomes


def _damaged(generator: random.Random) -> bytes:
    answer = copy.deepcopy(ANSWER)
    for _ in range(generator.randrange(3)):
        answer = _changed(generator, answer)
    content = bytearray(json.dumps(answer, ensure_ascii=generator.random() < 0.5).encode(
        errors="surrogatepass"
    ))  # fmt: skip
    for _ in range(generator.choice([0, 0, 0, 1, 2])):
        place = generator.randrange(len(content) + 1)
        end = place + generator.choice([0, 1, 30])
        content[place:end] = generator.choice(
            [b"", b"[" * 50, b"[" * 100_000, b",", b'"', b"\0", b"\xff", b"1" * 5000, b"{}", b"\\u"]
        )
    return bytes(content)


def _changed(generator: random.Random, answer: dict[str, Any]) -> dict[str, Any]:
    """``answer`` with something else in one place, or nothing."""
    places = list(_places(answer))
    inside, key = generator.choice(places)
    if generator.random() < 0.2:
        del inside[key]
    elif generator.random() < 0.2:
        other, other_key = generator.choice(places)
        inside[key] = copy.deepcopy(other[other_key])
    else:
        inside[key] = copy.deepcopy(generator.choice(VALUES))
    return answer


def _places(value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


def _outcome(content: bytes) -> str:
    answer = read_object(content)
    if isinstance(answer, str):
        assert answer.isprintable()
        return "no object"
    _charge(answer)
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return "no choice"
    return f"{_scored(choice)}, {_written(choice)}"


def _charge(answer: dict[str, Any]) -> None:
    most = Most(100, 8)
    account = Account(10, most)
    try:
        account.reserve()
        account.charge(answer, most)
    except (ModelError, Unusable):
        pass
    assert account.calls == 1
    assert account.prompt_tokens >= 0
    assert account.completion_tokens >= 0


def _scored(choice: dict[str, Any]) -> str:
    try:
        alternatives = read_alternatives(choice)
        found, _ = FirstTokens().log_probabilities(LABELS, [alternatives])
    except FAILURES as error:
        return type(error).__name__
    assert found.shape == (1, len(LABELS))
    assert not np.isnan(found).any()
    assert (found <= np.log(MOST_LISTED)).all()  # tokens that mean the same label are added up
    return "scored"


def _written(choice: dict[str, Any]) -> str:
    try:
        scores = of_answer(read_text(choice), LABELS)
    except FAILURES as error:
        return type(error).__name__
    assert scores is None or np.shape(scores) == (len(LABELS),)
    return "names none" if scores is None else "names one"


if __name__ == "__main__":
    seed, cases = ([*map(int, sys.argv[1:]), 0, 10_000])[:2] if sys.argv[1:] else (0, 10_000)
    for name, count in sorted(fuzz(seed, cases).items()):
        print(f"{name:40} {count}")
