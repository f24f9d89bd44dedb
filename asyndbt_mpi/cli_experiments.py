"""The commands of `asyndbt` that compare methods."""

from pathlib import Path

import click

from asyndbt_mpi.baselines.encoder import BUNDLED
from asyndbt_mpi.baselines.methods import METHODS
from asyndbt_mpi.inputs.options import SETTINGS, WORKERS
from asyndbt_mpi.jobs.job import DONE
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
    """Try another method on the rows, the model and the calls of a run.

    The rows of each worker and the test rows are those of `asyndbt run CONFIG` with the same seed
    and as many workers. All workers run in this process, one after another:

        asyndbt baseline random_search demo
    """
    from asyndbt_mpi.commands.baseline import Asked, baseline, summary
    from asyndbt_mpi.config import load

    path = output or Path("runs") / f"{load(config, assignments).run.name}-{method}.json"
    result = baseline(Asked(method, config, assignments, workers, calls, encoder, path))
    for line in summary(result):
        say(line)
    return DONE


EXPERIMENTS = (baseline,)
