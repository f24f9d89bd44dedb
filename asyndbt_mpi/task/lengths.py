"""The mean number of tokens in the prompts of a run."""

from typing import Any

import numpy as np

from asyndbt_mpi.config import Config
from asyndbt_mpi.llm.checkpoint import tokenizer
from asyndbt_mpi.llm.local.tokens import Tokenizer
from asyndbt_mpi.protocol.blackbox import calibration_of
from asyndbt_mpi.protocol.final_tests import own_tests, scorers
from asyndbt_mpi.protocol.messages import Candidate, Split
from asyndbt_mpi.task.calibration import references
from asyndbt_mpi.task.dataset import Row
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
        why = f"as there is no tokenizer of {model} on this machine"
        return _by_characters, f"{CHARACTERS_PER_TOKEN} characters per token, {why}"

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
        config: Config,
        template: Template,
        vocabulary: list[str],
        data: dict[int, WorkerData],
        count: TokenCounter,
    ) -> None:
        self.config = config
        self.template = template
        self.vocabulary = vocabulary
        self.data = data
        self.count = count

    def mean(self, split: Split) -> float:
        """Tokens of a prompt on a row of ``split``; the tests have several kinds of prompts."""
        if split is not Split.TEST:
            return self._mean(split, Candidate.TUNED)
        # By how many prompts there are of each kind, which is the same for all workers.
        own, held = own_tests(self.config), next(iter(self.data.values()))
        asked = {
            candidate: number * len([*held.test, *self._references(split, candidate, held)])
            for candidate, number in (
                *((each, len(self.data)) for each in own),
                (Candidate.UNTUNED, scorers(self.config, len(self.data))),
            )
        }
        every = sum(asked.values())
        return sum(n * self._mean(split, each) for each, n in asked.items() if n) / max(1, every)

    def _references(self, split: Split, candidate: Candidate, held: WorkerData) -> list[Row]:
        calibration = calibration_of(candidate, split, self.config.task.calibration)
        return list(references(calibration, split, held.train))

    def _mean(self, split: Split, candidate: Candidate) -> float:
        has_words = candidate in (Candidate.TUNED, Candidate.CONSENSUS)
        has_demonstrations = has_words or candidate is Candidate.RANDOM
        holders = [held for held in self.data.values() if rows_of(held, split)]
        prompts = []
        for index in range(SAMPLE if holders else 0):
            generator = np.random.default_rng(index)
            held = holders[index % len(holders)]
            rows = self._rows(split, candidate, held, generator)
            row = rows[generator.integers(len(rows))]
            shown = [pool[generator.integers(len(pool))] for pool in held.pool]
            positions = self.config.prompt.fragment_length
            drawn = generator.integers(len(self.vocabulary), size=positions)
            fragment = [self.vocabulary[word] for word in drawn] if has_words else None
            context = self.template.context(shown if has_demonstrations else [], fragment)
            prompts.append(context + self.template.render(row, fragment))
        return sum(self.count(prompts)) / len(prompts) if prompts else 0.0

    def _rows(
        self,
        split: Split,
        candidate: Candidate,
        held: WorkerData,
        generator: np.random.Generator,
    ) -> list[Row]:
        """Those of the split or, as often as these are asked about, of the calibration."""
        own, further = rows_of(held, split), self._references(split, candidate, held)
        asked = min(self.config.estimator.batch, len(own)) if split is Split.TRAIN else len(own)
        if further and generator.random() * (asked + len(further)) >= asked:
            return further
        return own
