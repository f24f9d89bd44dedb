"""`asyndbt report`: a page about a run, or about the runs of a folder."""

from pathlib import Path

from asyndbt_mpi.commands.prompt import check_output, write
from asyndbt_mpi.commands.replay import asks_model
from asyndbt_mpi.commands.show import texts_of_prompts
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.jobs.given import is_needed
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.report.run import run_page
from asyndbt_mpi.report.sweep import sweep_page


def report(source: Path, output: str, prompts: bool, given: Config | None) -> None:
    """Write the page of ``source``, a log or a folder of logs, to ``output``.

    With ``prompts``, the page has texts of the run's data; ``given`` is the run's own
    configuration, needed if it used files.

    Raises
    ------
    LogError
        A log cannot be read.
    ConfigurationError
        There are no logs, or no texts, or the page cannot be written.
    """
    check_output(output, source)
    if not source.is_dir():
        with Log(source) as log:
            page = run_page(
                log,
                texts_of_prompts(log, given) if prompts else {},
                texts_need_config=is_needed(log, asks_model=False),
                replay_needs_config=is_needed(log, asks_model(log)),
            )
    elif prompts:
        raise ConfigurationError("--prompts: is for a single run; give its log")
    else:
        page = sweep_page(source)
    write(output, page)
