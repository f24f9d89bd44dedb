"""The mean number of tokens in the prompts of a run."""

from typing import Any

import numpy as np

from asyndbt_mpi.config import Config
from asyndbt_mpi.llm.checkpoint import tokenizer
from asyndbt_mpi.llm.local.tokens import Tokenizer
from asyndbt_mpi.protocol.final_tests import OF_EACH_WORKER
from asyndbt_mpi.protocol.messages import Split
from asyndbt_mpi.task.longest import TokenCounter
from asyndbt_mpi.task.partition import WorkerData, rows_of
from asyndbt_mpi.task.template import Template

SAMPLE = 200
"""Prompts of each kind whose tokens are counted."""
CHARACTERS_PER_TOKEN = 4
"""Roughly, for English text, if no tokenizer is available."""
TEXTS = 1000
"""Prompts tokenised at a time: each takes some kilobytes meanwhile."""


def token_counter(config: Config) -> tuple[TokenCounter, str]:
    """A counter of tokens, and its description: the model's tokenizer if it is on this machine."""
    model = config.llm.model
    found = None if config.llm.backend == "synthetic" else tokenizer(model)
    if found is None:
        return _by_characters, f"{CHARACTERS_PER_TOKEN} characters per token"

    return counter(found), f"the tokenizer of {model}"


def counter(tokenizer: Any) -> TokenCounter:
    """A counter with a ``tokenizer`` of transformers, used as for prompts."""
    own = Tokenizer(tokenizer)

    def count(texts: list[str]) -> list[int]:
        parts = (texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS))
        return [len(tokens) for part in parts for tokens in own(part)]

    return count


def _by_characters(texts: list[str]) -> list[int]:
    return [-(-len(text) // CHARACTERS_PER_TOKEN) for text in texts]


class Lengths:
    """Prompts as a run would ask them, drawn at random, always the same."""

    def __init__(
        self,
        template: Template,
        vocabulary: list[str],
        positions: int,
        data: dict[int, WorkerData],
        count: TokenCounter,
    ) -> None:
        self.template = template
        self.vocabulary = vocabulary
        self.positions = positions
        self.data = data
        self.count = count

    def mean(self, split: Split) -> float:
        """Tokens of a prompt on a row of ``split``; the tests have several kinds of prompts."""
        full = self._mean(split, words=True, demonstrations=True)
        if split is not Split.TEST:
            return full
        workers = len(self.data)
        shown = self._mean(split, words=False, demonstrations=True)
        bare = self._mean(split, words=False, demonstrations=False)
        tests = OF_EACH_WORKER * workers + 1
        return ((OF_EACH_WORKER - 1) * workers * full + workers * shown + bare) / tests

    def _mean(self, split: Split, words: bool, demonstrations: bool) -> float:
        holders = [held for held in self.data.values() if rows_of(held, split)]
        prompts = []
        for index in range(SAMPLE if holders else 0):
            generator = np.random.default_rng(index)
            held = holders[index % len(holders)]
            rows = rows_of(held, split)
            row = rows[generator.integers(len(rows))]
            shown = [pool[generator.integers(len(pool))] for pool in held.pool]
            drawn = generator.integers(len(self.vocabulary), size=self.positions)
            fragment = [self.vocabulary[word] for word in drawn] if words else None
            context = self.template.context(shown if demonstrations else [], fragment)
            prompts.append(context + self.template.render(row, fragment))
        return sum(self.count(prompts)) / len(prompts) if prompts else 0.0
