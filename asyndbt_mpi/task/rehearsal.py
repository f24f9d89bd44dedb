"""The longest prompts of a run, tried first: they would otherwise fail hours later."""

from collections.abc import Mapping, Sequence

from asyndbt_mpi.inputs.sections import Calibration
from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.task.longest import longest_parts
from asyndbt_mpi.task.partition import WorkerData
from asyndbt_mpi.task.template import Template

QUERIES = 16
"""Queries after one context; enough for a row of `packed.ROW_TOKENS`, unless very short."""


def longest_prompts(
    data: Mapping[int, WorkerData],
    template: Template,
    vocabulary: Sequence[str],
    positions: int,
    calibration: Calibration,
) -> list[Prompt]:
    """Prompts on the longest rows of one worker, after its longest demonstrations and words.

    Longest in characters, which is near enough.
    """
    worker = max(
        (
            longest_parts(template, vocabulary, positions, held, calibration, _characters)
            for held in data.values()
        ),
        key=lambda parts: parts.tokens,
    )
    shown = [part.row for part in worker.demonstrations]
    context = template.context(shown, worker.fragment)
    queries = [part.row for part in worker.queries[:QUERIES]]
    return [Prompt(context, template.render(row, worker.fragment)) for row in queries]


def _characters(texts: Sequence[str]) -> list[int]:
    return list(map(len, texts))
