"""A language model that remembers what it was asked."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.llm.base import LanguageModel, Prompt, Scores

Question: TypeAlias = tuple[str, tuple[str, ...]]
"""The prompt's whole text and the labels: all that the answer depends on."""


class CachedModel:
    """Keeps the answers to the ``entries`` prompts used last; only the others cost anything.

    Attributes
    ----------
    hits, misses : int
        Prompts answered without the model, and by it.  A prompt that comes twice in one call
        is asked once, so its second coming is a hit.

    Raises
    ------
    ValueError
        ``entries`` is not positive.
    """

    def __init__(self, model: LanguageModel, entries: int) -> None:
        if entries < 1:
            raise ValueError(f"a cache needs at least one entry, not {entries}")
        self.model = model
        self.entries = entries
        self.description = model.description
        self.hits = 0
        self.misses = 0
        self._answers: OrderedDict[Question, NDArray[np.float64]] = OrderedDict()

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        """As the model's own; ``calls`` and tokens are those of the misses."""
        asked: tuple[str, ...] = tuple(labels)
        questions = [(prompt.context + prompt.query, asked) for prompt in prompts]
        # Collected apart from the cache: one call may ask for more than the cache can hold.
        answers = {
            question: self._answers[question] for question in questions if question in self._answers
        }
        missing = {
            question: prompt
            for question, prompt in zip(questions, prompts, strict=True)
            if question not in answers
        }
        paid = Scores(np.empty((0, len(asked))), 0, 0)
        if missing:
            paid = self.model.label_log_probabilities(list(missing.values()), labels)
            # Copies, for a view of one row would keep the whole array alive.
            answers.update(zip(missing, map(np.copy, paid.log_probabilities), strict=True))
        self._remember(answers)
        self.misses += len(missing)
        self.hits += len(prompts) - len(missing)
        log_probabilities = np.empty((len(prompts), len(asked)))
        for row, question in enumerate(questions):
            log_probabilities[row] = answers[question]
        return replace(paid, log_probabilities=log_probabilities)

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """As the model's own: there may be no answer to any of the prompts."""
        return self.model.most_calls(prompts, labels)

    def longest(self, text: str) -> int:
        """As the model's own."""
        return self.model.longest(text)

    def _remember(self, answers: dict[Question, NDArray[np.float64]]) -> None:
        for question, answer in answers.items():
            self._answers[question] = answer
            self._answers.move_to_end(question)
        while len(self._answers) > self.entries:
            self._answers.popitem(last=False)
