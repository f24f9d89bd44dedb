"""The commands of `asyndbt` that compare methods."""

from pathlib import Path

import click

from asyndbt_mpi.baselines.encoder import BUNDLED
from asyndbt_mpi.baselines.methods import METHODS
from asyndbt_mpi.inputs.options import SETTINGS, WORKERS
from asyndbt_mpi.jobs.job import DONE, FAILED
from asyndbt_mpi.view.say import say


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
@click.option(
    "--encoder",
    default=BUNDLED,
    show_default=True,
    metavar="NAME",
    help="Of sentences, for kate, adaicl and roberta: a hub id, such as roberta-base, or a folder.",
)
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
    result = baseline(Asked(method, config, assignments, workers, calls, encoder, path))
    for line in summary(result):
        say(line)
    return DONE


QUICK = "task.test=20", "prompt.pool=4", "task.train_per_class=5", "task.validation_per_class=5"
QUICK_CALLS = 600
QUICK_TASKS = "reviews", "demo"


@click.group()
def experiment() -> None:
    """Compare methods over tasks and seeds.

    Results are one file each below --output and are not made again; answers of the language model
    are kept there, too.
    """


@experiment.command()
@click.option("--tasks", multiple=True, metavar="CONFIG", help="Default: the paper's six tasks.")
@click.option(
    "--methods", multiple=True, type=click.Choice(list(METHODS)), metavar="METHOD",
    help="Default: all.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), help="0, 1, ...; default 5.")
@click.option("--calls", type=click.IntRange(min=1), metavar="N", help="As of asyndbt baseline.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Has GLUE's folders: CoLA, SST-2, MRPC, QQP, QNLI.",
)  # fmt: skip
@click.option("--encoder", default=BUNDLED, show_default=True, metavar="NAME")
@SETTINGS
@WORKERS
@click.option("--quick", is_flag=True, help="Less of everything, for a first look in minutes.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, metavar="DIR",
    help="Folder of the results, and of table3.md and table3.csv.",
)  # fmt: skip
def table3(
    tasks: tuple[str, ...],
    methods: tuple[str, ...],
    seeds: int | None,
    calls: int | None,
    data: Path | None,
    encoder: str,
    assignments: tuple[str, ...],
    workers: int,
    quick: bool,
    output: Path,
) -> int:
    """Accuracy of every method on every task, with ranks, intervals and costs.

    The paper's table 3, with the methods that it leaves out:

        asyndbt experiment table3 --data GLUE -o runs/table3
    """
    from asyndbt_mpi.commands.experiment import PAPER, Grid, experiment, write_table

    if quick:
        assignments = (*QUICK, *assignments)
        tasks, calls, seeds = tasks or QUICK_TASKS, calls or QUICK_CALLS, seeds or 1
    chosen = tasks or PAPER, methods or tuple(METHODS), seeds or 5
    grid = Grid(*chosen, workers, calls, assignments, data, encoder, output)
    failures = experiment(grid)
    for line in write_table(grid):
        say(line)
    for line in failures:
        say(f"asyndbt: {line}", err=True)
    return FAILED if failures else DONE


EXPERIMENTS = (baseline, experiment)
