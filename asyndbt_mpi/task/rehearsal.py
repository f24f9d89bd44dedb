"""The longest prompts that a run can ask: what goes wrong with them would go wrong in hours."""

from collections.abc import Mapping, Sequence

from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.protocol.messages import Split
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import WorkerData, rows_of
from asyndbt_mpi.task.template import Template

QUERIES = 16
"""Behind one context; enough for a row of `packed.ROW_TOKENS`, if they are not very short."""


def longest_prompts(
    data: Mapping[int, WorkerData], template: Template, vocabulary: Sequence[str], positions: int
) -> list[Prompt]:
    """Prompts with the longest words, the longest demonstrations of one worker, and its rows.

    Longest in characters, which is near enough.
    """
    fragment = [max(vocabulary, key=len)] * positions
    worker = max(data.values(), key=lambda held: sum(map(_characters, _longest_shown(held))))
    rows = [row for split in Split for row in rows_of(worker, split)]
    rows = sorted(rows, key=_characters)[-QUERIES:]
    context = template.context(_longest_shown(worker), fragment)
    return [Prompt(context, template.render(row, fragment)) for row in rows]


def _longest_shown(held: WorkerData) -> list[Row]:
    return [max(rows, key=_characters) for rows in held.pool]


def _characters(row: Row) -> int:
    return len(row.sentence1) + len(row.sentence2 or "")
