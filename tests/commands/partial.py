"""A language model that prefers the first label, for runs in this process."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pytest

from asyndbt_mpi.llm.base import NoModel, Prompt, Scores

PREFERENCE = 2.0
"""Nats."""


class Partial(NoModel):
    """Its scores are a function of the text alone, noise but for the preference."""

    description, digest = "partial", "ab"

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        texts = [prompt.context + prompt.query for prompt in prompts]
        scores = np.array([_noise(text, len(labels)) for text in texts])
        scores[:, 0] += PREFERENCE
        scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return Scores(scores, calls=len(texts), prompt_tokens=sum(map(self.longest, texts)))

    def longest(self, text: str) -> int:
        return len(text)


def use_partial(patch: pytest.MonkeyPatch) -> None:
    """In the place of every language model that a command loads in this process."""
    for module in ("commands.simulate", "commands.predict", "assemble"):
        patch.setattr(f"asyndbt_mpi.{module}.language_model", lambda *_: Partial())
    for module in ("commands.simulate", "assemble"):
        patch.setattr(f"asyndbt_mpi.{module}.rows_fit", lambda *_: True)


def _noise(text: str, labels: int) -> np.ndarray:
    seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
    noise: np.ndarray = np.random.default_rng(seed).normal(size=labels)
    return noise
