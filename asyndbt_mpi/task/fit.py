"""Checks, before the first call, that every prompt of a run fits into the model's context."""

from collections.abc import Iterator, Mapping

from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.checkpoint import tokenizer
from asyndbt_mpi.llm.local.context import context_length
from asyndbt_mpi.llm.local.tokens import Tokenizer
from asyndbt_mpi.task.lengths import counter
from asyndbt_mpi.task.longest import LongestParts, Part, TokenCounter, longest_parts
from asyndbt_mpi.task.partition import WorkerData
from asyndbt_mpi.task.template import Template

SEAM_TOKENS = 4
"""Tokens by which a prompt may exceed the sum of its parts, where two of them meet."""
AT_ONCE = 64
"""Whole prompts whose tokens are counted together."""


def check_fit(
    config: Config, template: Template, vocabulary: list[str], data: Mapping[int, WorkerData]
) -> bool:
    """Refuse a row that could be in a prompt too long for the model.

    A prompt is counted with the longest words, the longest label, and the worker's longest
    demonstration of each class. Every row of ``data`` counts, by worker: training, validation and
    test rows as queries, and those of the calibration; those of the pool as demonstrations.

    Returns
    -------
    Whether all prompts are known to fit: False if that cannot be decided, because the model is not
    on this machine yet, or behind a server.

    Raises
    ------
    ConfigurationError
        A prompt does not fit; the message names the files and lines of its rows. Or the model's
        tokenizer cannot distinguish the labels.
    """
    if config.llm.backend != "transformers":
        return False
    found = tokenizer(config.llm.model)
    if found is None:
        return False
    try:
        limit, count = context_length(config.llm.model), counter(found)
        _check_labels(config, Tokenizer(found), template, data)
    except ModelError:
        return False  # checked when the model is loaded
    if limit is None:
        return True
    labels, positions = template.labels, config.prompt.fragment_length
    calibration = config.task.calibration
    lengths = count(labels)
    label = labels[lengths.index(max(lengths))]
    for held in data.values():
        parts = longest_parts(template, vocabulary, positions, held, calibration, count)
        for query, tokens in _whole(parts, template, label, count, limit - max(lengths)):
            if tokens > limit:
                raise ConfigurationError(_too_long(query, tokens, parts, config, limit))
    return True


def _check_labels(
    config: Config, tokenizer: Tokenizer, template: Template, data: Mapping[int, WorkerData]
) -> None:
    held = next(iter(data.values()))
    text = template.context([rows[0] for rows in held.pool], None)
    text += template.render(held.train[0], None)
    try:
        tokenizer.continuations([text], tokenizer([text]), template.labels)
    except ValueError as error:
        raise ConfigurationError(
            f"task.labels = {template.labels}: {error}, for the tokenizer of llm.model ="
            f" {config.llm.model!r}; choose other labels"
        ) from error


def _whole(
    parts: LongestParts, template: Template, label: str, count: TokenCounter, room: int
) -> Iterator[tuple[Part, int]]:
    """The queries whose parts might not fit, and the tokens of their whole prompts."""
    others = sum(part.tokens for part in parts.demonstrations)
    seams = SEAM_TOKENS * (len(parts.demonstrations) + 1)
    long = [part for part in parts.queries if others + part.tokens + seams > room]
    context = template.context([part.row for part in parts.demonstrations], parts.fragment)
    for start in range(0, len(long), AT_ONCE):
        some = long[start : start + AT_ONCE]
        texts = [context + template.render(part.row, parts.fragment) + label for part in some]
        yield from zip(some, count(texts), strict=True)


def _too_long(query: Part, tokens: int, parts: LongestParts, config: Config, limit: int) -> str:
    shown = [f"{part.row.place} ({part.tokens} tokens)" for part in parts.demonstrations]
    return (
        f"{query.row.place} ({query.tokens} tokens): with the demonstrations {' and '.join(shown)}"
        f" and its label a prompt has {tokens} tokens, but llm.model = {config.llm.model!r} reads"
        f" at most {limit}; shorten or remove the longest of these rows, lower"
        " prompt.fragment_length, or use a model with a longer context"
    )
