"""The longest prompts of a run, tried first: they would otherwise fail hours later."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from asyndbt_mpi.inputs.sections import Calibration
from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.llm.local.packing import ROW_TOKENS
from asyndbt_mpi.task.longest import TokenCounter, longest_parts
from asyndbt_mpi.task.partition import WorkerData
from asyndbt_mpi.task.template import Template

FEWEST = 2
"""Queries, or they would share no context."""


def longest_prompts(
    data: Mapping[int, WorkerData],
    template: Template,
    vocabulary: Sequence[str],
    positions: int,
    calibration: Calibration,
    count: TokenCounter,
) -> list[Prompt]:
    """Prompts on the longest rows of one worker, after its longest demonstrations and words.

    As many as stand side by side in one row of the model's, which is as wide as a pass gets.
    """
    worker = max(
        (
            longest_parts(template, vocabulary, positions, held, calibration, count)
            for held in data.values()
        ),
        key=lambda parts: parts.tokens,
    )
    shown = [part.row for part in worker.demonstrations]
    context = template.context(shown, worker.fragment)
    lengths = accumulate(part.tokens for part in worker.queries)
    fitting = sum(length <= ROW_TOKENS for length in lengths)
    queries = [part.row for part in worker.queries[: max(FEWEST, fitting)]]
    return [Prompt(context, template.render(row, worker.fragment)) for row in queries]
