"""The black box for real data: prompts assembled from texts and scored by a language model."""

from collections.abc import Mapping, Sequence

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.llm.base import LanguageModel, Prompt
from asyndbt_mpi.llm.servers.bounds import answer_tokens
from asyndbt_mpi.protocol.blackbox import Answer, AnyQuery, DataSizes, Query
from asyndbt_mpi.protocol.messages import WITHOUT, Split
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.longest import longest_parts
from asyndbt_mpi.task.partition import WorkerData, rows_of
from asyndbt_mpi.task.template import Template


class PromptBlackBox:
    """Scores prompts, given by their indices, on the rows of the worker that asks.

    Parameters
    ----------
    data : by number of the worker
    vocabulary : list[str]
        The words (N,) that ``words`` of a query index; its ``demonstrations`` index the pools of
        ``data``, one per class.
    positions : M
    """

    def __init__(
        self,
        data: Mapping[int, WorkerData],
        template: Template,
        vocabulary: list[str],
        positions: int,
        model: LanguageModel,
    ) -> None:
        self.template = template
        self.vocabulary = vocabulary
        self.positions = positions
        self.model = model
        self.data = data
        self.data_sizes = {worker: self._data_sizes(held) for worker, held in data.items()}
        self.descriptions = dict.fromkeys(data, model.description)
        self.digests = dict.fromkeys(data, model.digest)

    def _data_sizes(self, held: WorkerData) -> DataSizes:
        labels = self.template.labels
        return DataSizes(
            pool=np.array([len(rows) for rows in held.pool], dtype=np.int64),
            rows={split: len(rows_of(held, split)) for split in Split},
            most_calls=lambda prompts: self.model.most_calls(prompts, labels),
            prompt_tokens=self._most_tokens(held),
            completion_tokens=answer_tokens(labels),
        )

    def _most_tokens(self, held: WorkerData) -> int:
        """Upper bound on the tokens of a prompt: the sum of its longest parts."""
        parts = longest_parts(
            self.template,
            self.vocabulary,
            self.positions,
            held,
            count=lambda texts: list(map(self.model.longest, texts)),
        )
        return parts.tokens

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        """Loss (1) and accuracy of each of I prompts on B rows, with one model call per query.

        Raises
        ------
        IndexError
            A row, word or demonstration does not exist.
        ValueError
            The query has no rows.
        FloatingPointError
            The model's answer to a prompt is not finite.
        TypeError
            An exact gradient was requested.
        """
        return [self._answer(query) for query in queries]

    def _answer(self, query: AnyQuery) -> Answer:
        if not isinstance(query, Query):
            raise TypeError("a language model has no exact gradient")
        self._check(query)
        data = self.data[query.worker]
        rows = [rows_of(data, query.split)[row] for row in query.rows]
        prompts = [
            prompt
            for words, demonstrations in zip(query.words, query.demonstrations, strict=True)
            for prompt in self._prompts(words, demonstrations, data.pool, rows)
        ]
        scores = self.model.label_log_probabilities(prompts, self.template.labels)
        shape = len(query.words), len(rows), len(self.template.labels)
        log_probabilities = scores.log_probabilities.reshape(shape)
        _check_finite(log_probabilities)
        labels = np.array([row.label for row in rows])
        right = np.arange(len(self.template.labels)) == labels[:, None]  # (B, U)
        of_label = log_probabilities[:, right]
        of_others = np.where(right, -np.inf, log_probabilities).max(axis=2)
        return Answer(
            losses=-of_label.mean(axis=1),  # (1)
            accuracies=(of_label > of_others).mean(axis=1),  # a tie is not a correct answer
            calls=scores.calls,
            prompt_tokens=scores.prompt_tokens,
            completion_tokens=scores.completion_tokens,
            prompts=len(prompts),
            unrecognised=scores.unrecognised,
        )

    def _prompts(
        self, words: IntArray, demonstrations: IntArray, pools: list[list[Row]], rows: list[Row]
    ) -> list[Prompt]:
        """The prompts of one realisation: ``words`` (M,), ``demonstrations`` (U,)."""
        fragment = None if (words == WITHOUT).all() else [self.vocabulary[word] for word in words]
        shown: list[Row] = []
        if not (demonstrations == WITHOUT).all():
            shown = [pool[k] for pool, k in zip(pools, demonstrations, strict=True)]
        context = self.template.context(shown, fragment)
        return [Prompt(context, self.template.render(row, fragment)) for row in rows]

    def _check(self, query: Query) -> None:
        if not len(query.rows):
            raise ValueError("a query needs at least one row")
        held = self.data_sizes[query.worker]
        _check_range(f"{query.split.name} row", query.rows, held.rows[query.split])
        for words, demonstrations in zip(query.words, query.demonstrations, strict=True):
            if (words != WITHOUT).any():
                _check_range("word", words, len(self.vocabulary))
            if (demonstrations != WITHOUT).any():
                _check_range("demonstration", demonstrations, held.pool)


def _check_range(what: str, indices: IntArray, end: int | IntArray) -> None:
    # Negative ones too: Python would silently count them from the back.
    wrong = np.flatnonzero((indices < 0) | (indices >= end))
    if len(wrong):
        limit = np.broadcast_to(end, indices.shape)[wrong[0]]
        raise IndexError(
            f"{what} {indices[wrong[0]]} at position {wrong[0]} is out of range; "
            f"there are {limit}, counted from 0"
        )


def _check_finite(log_probabilities: FloatArray) -> None:
    wrong = np.argwhere(~np.isfinite(log_probabilities))
    if len(wrong):
        prompt, row, label = wrong[0]
        # By number alone: the texts are private.
        raise FloatingPointError(
            f"the language model returned {log_probabilities[prompt, row, label]} as the "
            f"log-probability of label {label}, for prompt {prompt} on row {row} of the query"
        )
