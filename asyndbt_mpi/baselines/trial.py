"""What every method is given: the rows of each worker, and a model that counts what it is asked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.assemble import Materials
from asyndbt_mpi.baselines.encoder import Encode
from asyndbt_mpi.baselines.pmi import public_words
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.llm.base import LanguageModel, Prompt, Scores, Written
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import WITHOUT, Split
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import WorkerData
from asyndbt_mpi.task.prompts import PromptBlackBox
from asyndbt_mpi.task.template import Template

Chosen: TypeAlias = tuple[IntArray, IntArray]
"""A prompt as indices: its words (M,), and a demonstration of each class (U,)."""

Predict: TypeAlias = Callable[[], FloatArray]
"""Log-probabilities of the labels for all test rows, (B, U)."""

Method: TypeAlias = Callable[["Trial"], Mapping[int, Predict]]
"""Tunes, and says how each worker (1 to R) classifies the test rows then."""


@dataclass(slots=True)
class Spent:
    """What was asked of the model; tokens are those of whole prompts, as a server bills them."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Counted:
    """A language model that counts every prompt, although its answer may be known.

    Methods share answers on disk to save time; what they cost must not depend on who came first.
    """

    at_once: int | None = None

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.description = model.description
        self.spent = Spent()
        self._none = model.longest("")

    @property
    def digest(self) -> str:
        """As the model's own."""
        return self.model.digest

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        """See `LanguageModel`."""
        scores = self.model.label_log_probabilities(prompts, labels)
        texts = {prompt.context + prompt.query for prompt in prompts}
        tokens = sum(self.tokens(text) for text in texts)
        self.spent.calls += len(texts)
        self.spent.prompt_tokens += tokens
        return replace(scores, calls=len(texts), prompt_tokens=tokens)

    def write(self, prompts: Sequence[str], most_tokens: int) -> Written:
        """See `LanguageModel`."""
        written = self.model.write(prompts, most_tokens)
        first = {prompt: place for place, prompt in reversed(list(enumerate(prompts)))}
        read = sum(map(self.tokens, first))
        wrote = sum(written.tokens[place] for place in first.values())
        self.spent.calls += len(first)
        self.spent.prompt_tokens += read
        self.spent.completion_tokens += wrote
        return replace(written, calls=len(first), prompt_tokens=read, completion_tokens=wrote)

    def tokens(self, text: str) -> int:
        """Of ``text`` by itself; of a server's model, the most that they can be."""
        return self.longest(text) - self._none

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """Every prompt is one call at most."""
        return prompts

    def longest(self, text: str) -> int:
        """As the model's own."""
        return self.model.longest(text)

    @contextmanager
    def counting(self) -> Iterator[Spent]:
        """What is asked within, and the seconds that it takes, are counted apart."""
        outer, started = self.spent, monotonic()
        self.spent = spent = Spent()
        yield spent
        spent.seconds = monotonic() - started
        self.spent = outer


@dataclass(frozen=True, slots=True)
class Trial:
    """One task under one seed.

    Attributes
    ----------
    source, assignments : its settings, as on the command line
    config : what they come to; run.seed is that of everything random
    materials : what follows from them
    counted : the model, which has been asked nothing so far
    calls : that all workers together may pay for before the tests
    encode : sentences as vectors
    texts : a file of public texts, or "" for those that ship with the package
    log : where a run of AsynDBT is logged
    details : what a method has to tell besides its predictions, for the result's file
    """

    source: str
    assignments: tuple[str, ...]
    config: Config
    materials: Materials
    counted: Counted
    calls: int
    encode: Encode
    texts: str
    log: Path
    details: dict[str, object] = field(default_factory=dict)

    def configured(self, *assignments: str) -> Config:
        """The settings with those of ``assignments``, KEY=VALUE."""
        return load(self.source, (*self.assignments, *assignments))

    @property
    def data(self) -> dict[int, WorkerData]:
        """By worker, 1 to R."""
        assert self.materials.data is not None
        return self.materials.data

    @property
    def template(self) -> Template:
        """That of the task."""
        assert self.materials.template is not None
        return self.materials.template

    @property
    def calls_each(self) -> int:
        """A worker's share."""
        return self.calls // len(self.data)

    def vectors(self, rows: Sequence[Row]) -> FloatArray:
        """All texts of each of ``rows``, as one; (n, d)."""
        columns = self.template.columns
        return self.encode([" ".join(row.texts[column] for column in columns) for row in rows])

    def public_words(self) -> list[str]:
        """As many words out of public texts as the vocabulary has."""
        return public_words(self.texts, self.materials.shapes.words)

    def model(self) -> CachedModel:
        """The model, asked nothing so far; a repeat of a prompt is free."""
        return CachedModel(self.counted, self.config.llm.cache)

    def generator(self, worker: int) -> np.random.Generator:
        """Random numbers for a worker's choices."""
        return np.random.default_rng([self.config.run.seed, worker])

    def black_box(self, materials: Materials | None = None) -> PromptBlackBox:
        """Scores prompts of words and a demonstration of each class."""
        given = materials or self.materials
        assert given.data is not None
        assert given.template is not None
        texts = given.data, given.template, given.vocabulary, given.shapes.positions
        return PromptBlackBox(*texts, self.model(), self.config.task.calibration)

    def predict(
        self, prompts: Mapping[int, Chosen], box: PromptBlackBox | None = None
    ) -> dict[int, Predict]:
        """Classify by one prompt of each worker; scores are calibrated as the task says."""
        scored_by = box or self.black_box()
        return {worker: _by_prompt(scored_by, worker, chosen) for worker, chosen in prompts.items()}

    def without_words(self) -> IntArray:
        """In place of words (M,)."""
        return np.full(self.materials.shapes.positions, WITHOUT)

    def without_demonstrations(self) -> IntArray:
        """In place of demonstrations (U,)."""
        return np.full(self.materials.shapes.classes, WITHOUT)


def _by_prompt(box: PromptBlackBox, worker: int, chosen: Chosen) -> Predict:
    def predict() -> FloatArray:
        rows = np.arange(box.data_sizes[worker].rows[Split.TEST])
        words, demonstrations = (each[None] for each in chosen)
        (answer,) = box.answer([Query(worker, Split.TEST, rows, words, demonstrations)])
        assert answer.log_probabilities is not None
        found: FloatArray = answer.log_probabilities[0]
        return found

    return predict


def by_rows(trial: Trial, demonstrations: Callable[[Row], Sequence[Row]], worker: int) -> Predict:
    """Classify each test row behind ``demonstrations`` of its own, without words.

    Scores are as they are: references would have other demonstrations.
    """
    template = trial.template

    def predict() -> FloatArray:
        prompts = [
            Prompt(template.context(demonstrations(row), None), template.render(row, None))
            for row in trial.data[worker].test
        ]
        return trial.model().label_log_probabilities(prompts, template.labels).log_probabilities

    return predict
