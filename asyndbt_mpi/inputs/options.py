"""Arguments and options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import click

from asyndbt_mpi.inputs.sections import USUAL_WORKERS

Command: TypeAlias = Callable[..., Any]

LOG_FILE = click.argument("run", metavar="RUN.h5", type=click.Path(path_type=Path))


SETTINGS = click.option(
    "--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE",
    help="Override a key of the configuration; may be given several times.",
)  # fmt: skip

WORKERS = click.option(
    "--workers", type=click.IntRange(min=1), default=USUAL_WORKERS, show_default=True, metavar="R",
    help="Number of workers.",
)  # fmt: skip

OUTPUT = click.option("--output", "-o", metavar="FILE", help="The log file, instead of run.output.")


def configuration_of_run(command: Command) -> Command:
    """The options of every command that rebuilds a run from its log."""
    option = click.option(
        "--config", "source", metavar="CONFIG",
        help="The run's own configuration. Needed if the run read files or asked a server, because"
        " paths and addresses are never taken from a log.",
    )  # fmt: skip
    return option(SETTINGS(command))


def run_options(command: Command) -> Command:
    """The arguments that `run`, `simulate` and `status` share."""
    for decorate in reversed((
        click.argument("config"),
        SETTINGS,
        OUTPUT,
        click.option("--overwrite", is_flag=True, help="Replace the log if there is one."),
        click.option("--resume", is_flag=True, help="Resume from the log if there is one."),
    )):  # fmt: skip
        command = decorate(command)
    return command
