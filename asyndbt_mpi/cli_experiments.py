"""The commands of `asyndbt` that compare methods."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyndbt_mpi.baselines.methods import BUNDLED_ENCODER, COMPARED, METHODS
from asyndbt_mpi.inputs.options import SETTINGS, WORKERS
from asyndbt_mpi.jobs.codes import DONE, FAILED
from asyndbt_mpi.view.say import say

if TYPE_CHECKING:
    from asyndbt_mpi.commands.experiment import Grid

ENCODER = click.option(
    "--encoder", default=BUNDLED_ENCODER, show_default=True, metavar="NAME",
    help="Of sentences, for kate, adaicl and roberta: a hub id, such as roberta-base, or a folder.",
)  # fmt: skip
TEXTS = click.option(
    "--texts", default="", metavar="FILE",
    help="Public texts, one a line, out of which bdpl and fedone take their words. Default: the"
    " texts that ship with the package.",
)  # fmt: skip


@click.command(epilog=f"Methods: {', '.join(METHODS)}.")
@click.argument("method", type=click.Choice(list(METHODS)), metavar="METHOD")
@click.argument("config")
@SETTINGS
@WORKERS
@click.option(
    "--calls",
    type=click.IntRange(min=1),
    metavar="N",
    help="Calls that all workers together may spend before the tests. Default: budget.calls, or"
    " what the samples of the configuration's run cost.",
)
@ENCODER
@TEXTS
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="The result, instead of runs/NAME-METHOD.json.",
)
def baseline(
    method: str,
    config: str,
    assignments: tuple[str, ...],
    workers: int,
    calls: int | None,
    encoder: str,
    texts: str,
    output: Path | None,
) -> int:
    """Try another method on the rows of a run.

    It gets the same model and as many calls. The rows of each worker and the test rows are those of
    `asyndbt run CONFIG` with the same seed and as many workers. All workers run in this process,
    one after another:

        asyndbt baseline random_search demo
    """
    from asyndbt_mpi.commands.baseline import Asked, baseline, summary
    from asyndbt_mpi.config import load

    path = output or Path("runs") / f"{load(config, assignments).run.name}-{method}.json"
    asked = Asked(method, config, assignments, workers, calls, encoder, texts, path)
    result = baseline(asked)
    for line in summary(result):
        say(line)
    return DONE


QUICK = (
    "task.test=20", "prompt.pool=4", "task.train_per_class=5", "task.validation_per_class=5",
    "run.evaluate_every=2", "estimator.samples=4", "estimator.batch=5",
)  # fmt: skip
QUICK_CALLS = 600
QUICK_TASKS = "reviews", "demo"

SHARED = (
    click.option("--tasks", multiple=True, metavar="CONFIG", help="Default: the paper's six."),
    click.option("--seeds", type=click.IntRange(min=1), help="0, 1, ...; default 5."),
    click.option("--calls", type=click.IntRange(min=1), metavar="N", help="As of `baseline`."),
    click.option(
        "--data", type=click.Path(path_type=Path), metavar="FOLDER",
        help="Has GLUE's folders: CoLA, SST-2, MRPC, QQP, QNLI.",
    ),
    ENCODER,
    TEXTS,
    SETTINGS,
    WORKERS,
    click.option("--quick", is_flag=True, help="Less of everything, for a first look in minutes."),
    click.option(
        "--output", "-o", "folder", type=click.Path(path_type=Path), required=True, metavar="DIR",
        help="Folder of the results, and of what is made of them.",
    ),
)  # fmt: skip
"""Options of every experiment."""


def experiment_options(command: Callable[..., int]) -> Callable[..., int]:
    """Those in `SHARED`."""
    for option in reversed(SHARED):
        command = option(command)
    return command


@click.group()
def experiment() -> None:
    """Repeat the paper's experiments.

    On any model, and with tasks of your own, if you like. Results are one file each below --output
    and are not made again, whichever experiment needs them; answers of the language model are kept
    there, too.
    """


@experiment.command()
@click.option(
    "--methods", multiple=True, type=click.Choice(list(METHODS)), metavar="METHOD",
    help="Default: the paper's nine, and five more.",
)  # fmt: skip
@experiment_options
def table3(methods: tuple[str, ...], **asked: Any) -> int:
    """Accuracy of every method on every task, with ranks, intervals and costs.

    The paper's table 3, with the methods that it leaves out:

        asyndbt experiment table3 --data GLUE -o runs/results
    """
    from asyndbt_mpi.commands.paper import write_table3

    return _experiment(methods or tuple(COMPARED), write_table3, **asked)


@experiment.command()
@experiment_options
def table4(**asked: Any) -> int:
    """Accuracy with only the words of cenDBT's prompt, only its demonstrations, and both.

    The paper's table 4:

        asyndbt experiment table4 --data GLUE -o runs/results
    """
    from asyndbt_mpi.commands.paper import OF_TABLE4, write_table4

    return _experiment(OF_TABLE4, write_table4, **asked)


@experiment.command()
@experiment_options
def figure1(**asked: Any) -> int:
    """Time of AsynDBT, of the same waiting for all workers, and of cenDBT.

    The paper's figure 1, after as many iterations and at the same loss. Times are virtual: an
    assignment takes as long as [delay] says, 1 s on average unless --set changes it:

        asyndbt experiment figure1 --data GLUE -o runs/results --set delay.slow_workers=1
    """
    from asyndbt_mpi.commands.paper import OF_FIGURE1, write_figure1

    return _experiment(OF_FIGURE1, write_figure1, **asked)


@experiment.command("figures2-7")
@experiment_options
def figures(**asked: Any) -> int:
    """Loss and accuracy over iterations, of AsynDBT and cenDBT, one figure for each task.

    The paper's figures 2 to 7, on validation rows:

        asyndbt experiment figures2-7 --data GLUE -o runs/results
    """
    from asyndbt_mpi.commands.paper import OF_CURVES, write_curves

    return _experiment(OF_CURVES, write_curves, **asked)


def _experiment(
    methods: tuple[str, ...],
    write: Callable[["Grid"], list[str]],
    tasks: tuple[str, ...],
    seeds: int | None,
    calls: int | None,
    assignments: tuple[str, ...],
    quick: bool,
    folder: Path,
    **others: Any,
) -> int:
    """Make what is missing, and what is asked for of it; the exit code."""
    from asyndbt_mpi.commands.experiment import PAPER, Grid, experiment, write_manifest

    if quick:
        assignments = (*QUICK, *assignments)
        tasks, calls, seeds = tasks or QUICK_TASKS, calls or QUICK_CALLS, seeds or 1
    chosen = {"calls": calls, "assignments": assignments, "folder": folder, **others}
    grid = Grid(tasks=tasks or PAPER, methods=methods, seeds=seeds or 5, **chosen)
    failures = experiment(grid)
    for line in write(grid):
        say(line)
    write_manifest(folder)
    for line in failures:
        say(f"asyndbt: {line}", err=True)
    return FAILED if failures else DONE


EXPERIMENTS = (baseline, experiment)
