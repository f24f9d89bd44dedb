"""The models that membership.py can ask: two that stand for a language model, and real ones."""

import json
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from itertools import chain
from typing import Any

import numpy as np

from asyndbt_mpi.llm.base import LanguageModel, Prompt, Scores, Written
from asyndbt_mpi.llm.cache import CachedModel


class Words:
    """Stands for a language model: the odds of a label are sums over the words of the prompt.

    A word counts by how often the shipped reviews that have it have the label, and by a random
    number that its text gives; so do pairs of a word of the fragment and a word of the review, and,
    less, the words of the context. So prompts matter, and no run takes long. Each word is a token.
    """

    description, digest = "sums over words", "0f"
    at_once: int | None = None

    def __init__(self) -> None:
        folder = resources.files("asyndbt_mpi") / "task" / "data" / "reviews"
        lines = [(folder / name).read_text().splitlines() for name in ("train.jsonl", "dev.jsonl")]
        rows = [json.loads(line) for line in chain(*lines)]
        self._counts = Counter((word, row["label"]) for row in rows for word in _words(row))

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        """See `LanguageModel`."""
        odds = np.array([[self._odds(p, n) for n in range(len(labels))] for p in prompts])
        scores = odds - np.logaddexp.reduce(odds, axis=1, keepdims=True)
        read = [*{prompt.context for prompt in prompts}, *(prompt.query for prompt in prompts)]
        return Scores(scores, len(prompts), sum(map(self.longest, read)))

    def _odds(self, prompt: Prompt, label: int) -> float:
        own, before = prompt.query.split(), prompt.context.split()[-20:]
        meant = sum(math.log(1 + self._counts[word.lower(), label]) for word in own)
        of_words = sum(_random(f"{word} {label}") for word in own)
        of_pairs = sum(_random(f"{one} {other} {label}") for one in own[-3:-1] for other in own[:9])
        of_context = sum(_random(f"{word} {label}") for word in before)
        return 0.2 * meant + 0.5 * of_words + 0.7 * of_pairs + 0.4 * of_context

    def write(self, prompts: Sequence[str], most_tokens: int) -> Written:
        """See `LanguageModel`."""
        raise NotImplementedError

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """See `LanguageModel`."""
        return prompts

    def longest(self, text: str) -> int:
        """See `LanguageModel`."""
        return len(text.split())


class DeafWords(Words):
    """To whom prompts do not matter, so that means of losses can be solved for rows exactly."""

    description, digest = "deaf sums over words", "1f"

    def _odds(self, prompt: Prompt, label: int) -> float:
        return super()._odds(Prompt("", prompt.query.partition("\n")[0] + " so it is"), label)


def _words(row: dict[str, Any]) -> set[str]:
    return set(row["sentence1"].lower().split())


def _random(text: str) -> float:
    return zlib.crc32(text.encode()) / 2**32 - 0.5


STAND_INS: dict[str, type[Words]] = {"words": Words, "deaf": DeafWords}


def language_model(name: str) -> LanguageModel:
    """The model by its name; it remembers what it was asked."""
    if name in STAND_INS:
        return STAND_INS[name]()
    from asyndbt_mpi.llm.transformers import TransformersModel

    return CachedModel(TransformersModel(name, device="cpu", threads=1), entries=1_000_000)
