"""A language model that remembers what it was asked."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.llm.base import LanguageModel, Prompt, Scores, Written
from asyndbt_mpi.llm.store import AnswerStore, Question

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")


class CachedModel:
    """Keeps answers; only prompts without one cost anything.

    Without a ``store`` it keeps those to the ``entries`` prompts used last, in memory.  With one
    it keeps all that were ever paid for, however many: what is on disk must be found again, and
    its digest and answer in memory take less room than a prompt's text, so that nothing is kept
    twice.  ``entries`` then has no effect on scores.

    What the model has written is kept in memory alone, for ``entries`` prompts: a store has no
    texts.

    Raises
    ------
    ValueError
        ``entries`` is not positive.
    """

    def __init__(
        self, model: LanguageModel, entries: int, store: AnswerStore | None = None
    ) -> None:
        if entries < 1:
            raise ValueError(f"a cache needs at least one entry, not {entries}")
        self.model = model
        self.description = model.description
        self.at_once: int | None = None
        # Not "store or": without answers it would count as false.
        self._memory = _Recent[Question, NDArray[np.float64]](entries) if store is None else store
        self._written = _Recent[tuple[str, int], tuple[str, int, bool]](entries)

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        """As the model's own; ``calls`` and tokens are those of the prompts that were asked.

        Unrecognised are all prompts whose labels are equally probable, whoever was asked.
        """
        asked: tuple[str, ...] = tuple(labels)
        questions = [(prompt.context + prompt.query, asked) for prompt in prompts]
        # Collected apart from the memory: one call may ask for more than it can hold.
        answers = self._memory.get(dict.fromkeys(questions))
        missing = {
            question: prompt
            for question, prompt in zip(questions, prompts, strict=True)
            if question not in answers
        }
        calls = prompt_tokens = completion_tokens = 0
        for some in self._slices(list(missing.items())):
            paid = self.model.label_log_probabilities([prompt for _, prompt in some], labels)
            # Copies, for a view of one row would keep the whole array alive.
            rows = map(np.copy, paid.log_probabilities)
            new = {question: row for (question, _), row in zip(some, rows, strict=True)}
            self._memory.put(new)
            answers |= new
            calls += paid.calls
            prompt_tokens += paid.prompt_tokens
            completion_tokens += paid.completion_tokens
        log_probabilities = np.empty((len(prompts), len(asked)))
        for row, question in enumerate(questions):
            log_probabilities[row] = answers[question]
        # Told by the rows, and so of answers from an earlier run, too.
        unrecognised = int((np.ptp(log_probabilities, axis=1) == 0).sum()) if len(asked) > 1 else 0
        return Scores(log_probabilities, calls, prompt_tokens, completion_tokens, unrecognised)

    def write(self, prompts: Sequence[str], most_tokens: int) -> Written:
        """As the model's own; ``calls`` and tokens are those of the prompts that were asked."""
        questions = [(prompt, most_tokens) for prompt in prompts]
        answers = self._written.get(dict.fromkeys(questions))
        missing = [each for each in dict.fromkeys(questions) if each not in answers]
        calls = prompt_tokens = completion_tokens = 0
        for some in self._slices(missing):
            paid = self.model.write([prompt for prompt, _ in some], most_tokens)
            texts = zip(paid.texts, paid.tokens, paid.cut, strict=True)
            new = dict(zip(some, texts, strict=True))
            self._written.put(new)
            answers |= new
            calls += paid.calls
            prompt_tokens += paid.prompt_tokens
            completion_tokens += paid.completion_tokens
        found = [answers[question] for question in questions]
        return Written(
            [text for text, _, _ in found],
            [tokens for _, tokens, _ in found],
            [cut for _, _, cut in found],
            *(calls, prompt_tokens, completion_tokens),
        )

    def _slices(self, missing: list[T]) -> Iterator[list[T]]:
        """What is asked in one call, so that its answers are kept before the next."""
        step = self.model.at_once or max(1, len(missing))
        for start in range(0, len(missing), step):
            yield missing[start : start + step]

    @property
    def digest(self) -> str:
        """As the model's own."""
        return self.model.digest

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """As the model's own, of all calls to it; there may be no answer to any of the prompts."""
        return sum(
            self.model.most_calls(len(some), labels) for some in self._slices([None] * prompts)
        )

    def longest(self, text: str) -> int:
        """As the model's own."""
        return self.model.longest(text)


class _Recent(Generic[Q, A]):
    """The answers to the ``entries`` questions used last."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._answers: OrderedDict[Q, A] = OrderedDict()

    def get(self, questions: Iterable[Q]) -> dict[Q, A]:
        known = {
            question: self._answers[question] for question in questions if question in self._answers
        }
        for question in known:
            self._answers.move_to_end(question)
        return known

    def put(self, answers: Mapping[Q, A]) -> None:
        self._answers.update(answers)
        while len(self._answers) > self.entries:
            self._answers.popitem(last=False)
