"""`asyndbt show`: a run's summary and, if asked for, its accuracy by class and its prompts."""

from pathlib import Path

from rich.console import Console

from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.jobs.given import configuration
from asyndbt_mpi.log.home import is_home, read
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.view.home import print_home
from asyndbt_mpi.view.say import say
from asyndbt_mpi.view.summary import classes_of_tests, print_summary


def show(path: Path, given: Config | None, prompts: bool, classes: bool) -> None:
    """Print what the log at ``path`` says; ``given`` is the run's own configuration.

    Of a worker's file of what it kept at home, that is printed.

    Raises
    ------
    LogError
        It is neither, is damaged, or has no ``classes``.
    ConfigurationError
        There are no texts to show the ``prompts`` with.
    """
    console = Console()
    if is_home(path):
        print_home(read(path), console)
        return
    with Log(path) as log:
        # Before anything is printed, because they may not be there.
        table = classes_of_tests(log) if classes else None
        texts = texts_of_prompts(log, given) if prompts else {}
        print_summary(log, console)
        if table is not None:
            console.print(table)
        for worker, prompt in texts.items():
            say(f"\n--- worker {worker}\n{prompt}", lines=True)


def texts_of_prompts(log: Log, given: Config | None) -> dict[int, str]:
    """By worker; the log has row numbers only, so the texts are read from the run's data again."""
    from asyndbt_mpi.assemble import check_materials, prepare
    from asyndbt_mpi.view.prompts import full_prompts

    if log.config.llm.is_function:
        raise ConfigurationError(
            f"--prompts: {log.path}: its task is a function, which has no text"
        )
    log.check_public("--prompts shows demonstrations")
    materials = prepare(configuration(log, given, asks_model=False), log.workers)
    check_materials(log, materials)
    assert materials.template is not None
    assert materials.data is not None
    return dict(full_prompts(log, materials.template, materials.data))
