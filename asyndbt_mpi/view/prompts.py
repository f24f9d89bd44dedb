"""The learnt prompts in full, rebuilt from the log and the data that it refers to."""

from collections.abc import Iterator, Mapping

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import WorkerData
from asyndbt_mpi.task.prompts import in_texts
from asyndbt_mpi.task.template import Template
from asyndbt_mpi.view.summary import learnt_prompts


def full_prompts(
    log: Log, template: Template, data: Mapping[int, WorkerData]
) -> Iterator[tuple[int, str]]:
    """Every worker's number and prompt; ``data`` are the workers' rows, as in the run.

    The texts of the query are the names of their columns, as <text>.
    """
    query = Row({column: f"<{column}>" for column in template.columns}, label=0)
    for worker, (words, demonstrations) in learnt_prompts(log).items():
        fragment, shown = in_texts(words, demonstrations, log.vocabulary, data[worker].pool)
        yield worker, template.context(shown, fragment) + template.render(query, fragment)
