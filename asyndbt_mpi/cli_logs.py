"""The commands of `asyndbt` that read the log of a run, or the prompt that came out of it."""

import sys
from pathlib import Path

import click
import numpy as np

from asyndbt_mpi.inputs.options import LOG_FILE, configuration_of_run
from asyndbt_mpi.jobs.codes import DONE, FAILED
from asyndbt_mpi.jobs.given import given_configuration
from asyndbt_mpi.view.say import say


@click.command()
@LOG_FILE
@configuration_of_run
def replay(run: Path, source: str | None, assignments: tuple[str, ...]) -> int:
    """Replay a run and compare its iterates.

    The workers' reports are taken in the order in which the log has them, and every iterate is
    compared with the logged one, bit by bit. Exit code 1 at the first difference.
    """
    from asyndbt_mpi.commands.replay import replay

    comparison = replay(run, given_configuration(source, assignments))
    if comparison.difference:
        say(f"first difference: {comparison.difference}")
        return FAILED
    say(f"{run}: {comparison.iterations} iterations are identical, bit by bit")
    if comparison.every > 1:
        say(f"(p, q and z are logged, and compared, every {comparison.every} iterations only)")
    return DONE


@click.command()
@LOG_FILE
@click.option("--prompts", is_flag=True, help="Also print each worker's full prompt.")
@click.option("--classes", is_flag=True, help="Also print the test accuracy of each class.")
@configuration_of_run
def show(
    run: Path, prompts: bool, classes: bool, source: str | None, assignments: tuple[str, ...]
) -> int:
    """Summarise a run.

    Prints the learnt words and demonstrations, the accuracy before and after with 95 % intervals,
    and the costs. Of a worker's file of a run with log.private (runs/demo.h5.home/worker-1.jsonl),
    what the worker kept at home.
    """
    from asyndbt_mpi.commands.show import show

    show(run, given_configuration(source, assignments), prompts=prompts, classes=classes)
    return DONE


@click.command()
@click.argument("runs", metavar="RUN.h5|DIR", type=click.Path(path_type=Path))
@click.option("--output", "-o", required=True, metavar="FILE.html", help="The page.")
@click.option(
    "--prompts", is_flag=True, help="Also each worker's full prompt, with texts of its data."
)
@configuration_of_run
def report(
    runs: Path, output: str, prompts: bool, source: str | None, assignments: tuple[str, ...]
) -> int:
    """Write a page about a run or a sweep.

    One HTML file that needs nothing else, to read or to send: what was learnt, how good it is and
    how sure that is, figures, costs, time, faults, configuration. Of a folder, its runs compared:

    \b
        asyndbt report runs/demo.h5 -o demo.html
        asyndbt report runs/sweep -o sweep.html
    """
    from asyndbt_mpi.commands.report import report

    report(runs, output, prompts, given_configuration(source, assignments))
    say(f"wrote {output}")
    return DONE


@click.command()
@LOG_FILE
@click.option("--output", "-o", metavar="FILE", help="Where to write it; else it is printed.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "text", "openai", "jinja"]),
    default="json",
    show_default=True,
    help="For `asyndbt predict` (json), to read (text), as the body of a request to a server"
    " (openai), or as a template (jinja).",
)
@click.option(
    "--worker", type=int, metavar="N", help="That of worker N, instead of the recommended one."
)
@click.option("--data", metavar="PATH", help="The run's data, in the place of its task.path.")
@configuration_of_run
def prompt(
    run: Path,
    output: str | None,
    form: str,
    worker: int | None,
    data: str | None,
    source: str | None,
    assignments: tuple[str, ...],
) -> int:
    """Write the recommended prompt to a file.

    It has the texts of the demonstrations, and all that is needed to use the prompt elsewhere:

        asyndbt prompt runs/demo.h5 -o prompt.json

    Recommended is the prompt with the least loss in its worker's race; the test rows only say how
    good it is. A warning says if they show that tuning has made prompts worse.
    """
    from asyndbt_mpi.commands.prompt import FORMATS, check_output, setback_of, tuned_prompt, write

    if output is not None:
        check_output(output, run)
    found = tuned_prompt(run, given_configuration(source, assignments), data, worker)
    text = FORMATS[form](found)
    if output is None and sys.stdout.isatty():
        say(text.rstrip("\n"), lines=True)
    elif output is None:
        click.echo(text, nl=False)
    else:
        write(output, text)
        say(f"wrote {output}: of worker {found.origin.worker}, {found.origin.chosen}")
    if worse := setback_of(run):
        say(f"asyndbt: warning: {worse}", err=True)
    return DONE


@click.command()
@click.argument("prompt", metavar="RUN.h5|PROMPT.json", type=click.Path(path_type=Path))
@click.argument("rows", type=click.Path(path_type=Path))
@click.option("--output", "-o", required=True, metavar="OUT.csv", help="Where to write them.")
@click.option("--evaluate", is_flag=True, help="Compare with the rows' own labels.")
@click.option("--worker", type=int, metavar="N", help="Use the prompt of worker N of a run.")
@click.option("--data", metavar="PATH", help="The run's data, in the place of its task.path.")
@configuration_of_run
def predict(
    prompt: Path,
    rows: Path,
    output: str,
    evaluate: bool,
    worker: int | None,
    data: str | None,
    source: str | None,
    assignments: tuple[str, ...],
) -> int:
    """Classify rows with a tuned prompt.

    ROWS is a file with the columns that the prompt shows: CSV, TSV, JSON Lines or Parquet. For
    each of its rows, OUT.csv has the number, the columns that the prompt does not show (of Parquet
    texts and whole numbers), the label and the probability of every label:

        asyndbt predict prompt.json rows.csv -o out.csv

    A column of ROWS called row, label or p(...) becomes "row (input)", and so on.
    """
    from asyndbt_mpi.commands import predict as of
    from asyndbt_mpi.commands.prompt import check_output
    from asyndbt_mpi.view.predictions import print_tables

    check_output(output, prompt, rows)
    tuned, config = of.sources(prompt, source, assignments, data, worker)
    found, others = of.rows_to_predict(rows, tuned, has_labels=evaluate)
    logs = of.predict(tuned, of.model_of(config), found, others, Path(output))
    say(f"wrote {output}: {len(found):,} rows")
    if evaluate:
        print_tables(tuned.task.label_texts, np.array([row.label for row in found]), logs)
    return DONE


@click.command()
@LOG_FILE
@click.option("--once", is_flag=True, help="Print a single picture, also into a file or pipe.")
def watch(run: Path, once: bool) -> int:
    """Follow a run while it is in progress.

    Shows progress, budget and time left, the workers, and the losses so far, from a second
    terminal or another machine that sees the log. Waits for a log that is not there yet; ends when
    the run does, with exit code 0 if it has finished. Ctrl-C ends watching, not the run:

        asyndbt watch runs/demo.h5
    """
    from asyndbt_mpi.commands import watch as of

    return of.watch_once(run) if once else of.watch(run)


@click.command()
@LOG_FILE
def verify(run: Path) -> int:
    """Check that a log is intact and consistent.

    Recomputes every checksum and every invariant of the algorithm. Exit code 1 if one fails.
    """
    from asyndbt_mpi.log.verify import verify

    result = verify(run)
    for line in result.violations:
        say(f"violated: {line}")
    for line in result.notes:
        say(f"not checked: {line}")
    if result.violations:
        return FAILED
    say(f"{run}: intact, every invariant holds")
    return DONE


@click.command()
@click.argument(
    "runs", metavar="RUN.h5...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Take every N-th iterate, and the last.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=2),
    default=16,
    show_default=True,
    metavar="I",
    help="Prompts for each of the two estimates per worker and iterate (language models only).",
)
@configuration_of_run
def stationarity(
    runs: tuple[Path, ...],
    every: int,
    samples: int,
    source: str | None,
    assignments: tuple[str, ...],
) -> int:
    """Add each iterate's ||grad G||^2 to a log.

    It measures how far the iterates of a finished run are from stationarity: exact for a
    synthetic task, estimated (which costs calls) for a language model:

        asyndbt stationarity runs/synthetic.h5
    """
    from asyndbt_mpi.commands.stationarity import add

    given = given_configuration(source, assignments)
    for run in runs:
        say(add(run, every, samples, given=given))
    return DONE


COMMANDS = (replay, show, watch, report, prompt, predict, verify, stationarity)
