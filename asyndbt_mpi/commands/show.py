"""`asyndbt show --prompts`: what a log refers to, read again."""

from collections.abc import Iterator

from asyndbt_mpi.assemble import check_materials, prepare
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.jobs.given import configuration
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.view import prompts


def full_prompts(log: Log, given: Config | None) -> Iterator[str]:
    """Each worker's prompt with a heading; its texts are read from the run's data.

    ``given`` is the run's configuration, needed if its log names places; see `given.configuration`.

    Raises
    ------
    ConfigurationError
        The run had no texts, or its data are not available here.
    LogError
        The data have changed.
    """
    materials = prepare(configuration(log, given, asks_model=False), log.workers)
    check_materials(log, materials)
    if materials.template is None or materials.data is None:
        raise ConfigurationError(f"--prompts: {log.path} is of a synthetic task, which has no text")
    for worker, prompt in prompts.full_prompts(log, materials.template, materials.data):
        yield f"\n--- worker {worker}\n{prompt}"
