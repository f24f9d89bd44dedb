"""The black box for real data: prompts assembled from texts and scored by a language model."""

from collections.abc import Mapping, Sequence

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.inputs.sections import Calibration
from asyndbt_mpi.llm.base import LanguageModel, Prompt
from asyndbt_mpi.llm.servers.bounds import answer_tokens
from asyndbt_mpi.protocol.blackbox import Answer, AnyQuery, DataSizes, Query, calibration_of
from asyndbt_mpi.protocol.messages import WITHOUT, Candidate, Split
from asyndbt_mpi.protocol.scoring import scored
from asyndbt_mpi.task.calibration import bias, bias_at, calibrated, log_prior, references
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.longest import longest_parts
from asyndbt_mpi.task.partition import WorkerData, rows_of
from asyndbt_mpi.task.template import Template
from asyndbt_mpi.task.unquoted import unquoted


class PromptBlackBox:
    """Scores prompts, given by their indices, on the rows of the worker that asks.

    Parameters
    ----------
    data : by number of the worker
    vocabulary : list[str]
        The words (N,) that ``words`` of a query index; its ``demonstrations`` index the pools of
        ``data``, one per class.
    positions : M
    calibration : of the scores of all queries that do not name their own
    """

    def __init__(
        self,
        data: Mapping[int, WorkerData],
        template: Template,
        vocabulary: list[str],
        positions: int,
        model: LanguageModel,
        calibration: Calibration = "none",
    ) -> None:
        self.template = template
        self.vocabulary = vocabulary
        self.positions = positions
        self.model = model
        self.calibration = calibration
        self.data = data
        self.log_priors = {worker: log_priors(held) for worker, held in data.items()}
        with unquoted():
            self.data_sizes = {worker: self._data_sizes(held) for worker, held in data.items()}
        self.descriptions = dict.fromkeys(data, model.description)
        self.digests = dict.fromkeys(data, model.digest)

    def _data_sizes(self, held: WorkerData) -> DataSizes:
        labels = self.template.labels
        return DataSizes(
            pool=np.array([len(rows) for rows in held.pool], dtype=np.int64),
            rows={split: len(rows_of(held, split)) for split in Split},
            references={split: self._most_references(held, split) for split in Split},
            most_calls=lambda prompts: self.model.most_calls(prompts, labels),
            prompt_tokens=self._most_tokens(held),
            completion_tokens=answer_tokens(labels),
        )

    def _most_references(self, held: WorkerData, split: Split) -> int:
        """For the kind of prompt that has most of them."""
        tested = Candidate if split is Split.TEST else (Candidate.TUNED,)
        kinds = {calibration_of(candidate, split, self.calibration) for candidate in tested}
        return max(len(references(kind, split, held.train)) for kind in kinds)

    def _most_tokens(self, held: WorkerData) -> int:
        """Upper bound on the tokens of a prompt: the sum of its longest parts."""
        parts = longest_parts(
            self.template,
            self.vocabulary,
            self.positions,
            held,
            self.calibration,
            count=lambda texts: list(map(self.model.longest, texts)),
        )
        return parts.tokens

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        """Loss (1) and accuracy of each of I prompts on B rows, with one model call per query.

        They are those of calibrated scores if the query, or else the task, says so.

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
        UnquotedError
            Any other error in assembling or scoring the prompts.
        """
        return [self._answer(query) for query in queries]

    def _answer(self, query: AnyQuery) -> Answer:
        if not isinstance(query, Query):
            raise TypeError("a language model has no exact gradient")
        self._check(query)
        data = self.data[query.worker]
        rows = [rows_of(data, query.split)[row] for row in query.rows]
        calibration = query.calibration or self.calibration
        further = references(calibration, query.split, data.train)
        with unquoted():
            prompts = [
                prompt
                for words, demonstrations in zip(query.words, query.demonstrations, strict=True)
                for prompt in self._prompts(words, demonstrations, data.pool, [*rows, *further])
            ]
            scores = self.model.label_log_probabilities(prompts, self.template.labels)
        shape = len(query.words), len(rows) + len(further), len(self.template.labels)
        all_rows = scores.log_probabilities.reshape(shape)
        _check_finite(all_rows, len(rows))
        log_probabilities, of_prompt = all_rows[:, : len(rows)], None
        if calibration != "none":
            of_references = all_rows[:, len(rows) :] if further else log_probabilities
            prior = self.log_priors[query.worker][query.split]
            if query.split is Split.TEST and calibration == "batch":
                of_prompt = bias_at(of_references, _labels(data.train), prior)
            else:
                of_prompt = bias(of_references)
            log_probabilities = calibrated(log_probabilities, of_prompt, prior)
        labels = _labels(rows)
        losses, accuracies = scored(log_probabilities, labels)
        return Answer(
            losses=losses,
            accuracies=accuracies,
            calls=scores.calls,
            prompt_tokens=scores.prompt_tokens,
            completion_tokens=scores.completion_tokens,
            prompts=len(prompts),
            unrecognised=scores.unrecognised,
            log_probabilities=log_probabilities,
            labels=labels,
            bias=of_prompt,
        )

    def _prompts(
        self, words: IntArray, demonstrations: IntArray, pools: list[list[Row]], rows: list[Row]
    ) -> list[Prompt]:
        """The prompts of one realisation: ``words`` (M,), ``demonstrations`` (U,)."""
        fragment, shown = in_texts(words, demonstrations, self.vocabulary, pools)
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


def in_texts(
    words: IntArray,
    demonstrations: IntArray,
    vocabulary: Sequence[str],
    pools: Sequence[Sequence[Row]],
) -> tuple[list[str] | None, list[Row]]:
    """The fragment of ``words`` (M,), or None, and the rows of ``demonstrations`` (U,) if any."""
    fragment = None if (words == WITHOUT).all() else [vocabulary[word] for word in words]
    if (demonstrations == WITHOUT).all():
        return fragment, []
    return fragment, [pool[row] for pool, row in zip(pools, demonstrations, strict=True)]


def log_priors(held: WorkerData) -> dict[Split, FloatArray]:
    """The shares of the worker's own rows and, of the shared test rows, those of the data set."""
    own = np.bincount(_labels(held.train), minlength=len(held.class_counts))
    counts = {split: held.class_counts if split is Split.TEST else own for split in Split}
    return {split: log_prior(counts) for split, counts in counts.items()}


def _labels(rows: Sequence[Row]) -> IntArray:
    return np.array([row.label for row in rows], dtype=np.int64)


def _check_range(what: str, indices: IntArray, end: int | IntArray) -> None:
    # Negative ones too: Python would silently count them from the back.
    wrong = np.flatnonzero((indices < 0) | (indices >= end))
    if len(wrong):
        limit = np.broadcast_to(end, indices.shape)[wrong[0]]
        raise IndexError(
            f"{what} {indices[wrong[0]]} at position {wrong[0]} is out of range; "
            f"there are {limit}, counted from 0"
        )


def _check_finite(log_probabilities: FloatArray, rows: int) -> None:
    """Of each prompt (I, rows + references, U)."""
    wrong = np.argwhere(~np.isfinite(log_probabilities))
    if len(wrong):
        prompt, row, label = wrong[0]
        place = f"row {row} of the query" if row < rows else f"reference row {row - rows}"
        # By number alone: the texts are private.
        raise FloatingPointError(
            f"the language model returned {log_probabilities[prompt, row, label]} as the "
            f"log-probability of label {label}, for prompt {prompt} on {place}"
        )
