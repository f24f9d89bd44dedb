"""The commands of `asyndbt`."""

import os
import sys
import traceback
import warnings
from io import StringIO
from pathlib import Path
from typing import Literal, TextIO

import click
import numpy as np

from asyndbt_mpi import __version__
from asyndbt_mpi.analysis.plot import plot
from asyndbt_mpi.cli_experiments import EXPERIMENTS
from asyndbt_mpi.cli_logs import COMMANDS
from asyndbt_mpi.config import ConfigurationError, load, presets
from asyndbt_mpi.inputs.options import (
    OUTPUT,
    SETTINGS,
    WORKERS,
    run_options,
)
from asyndbt_mpi.inputs.sections import Run
from asyndbt_mpi.jobs.codes import BAD_USAGE, DONE, FAILED
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.protocol.divergence import Diverged
from asyndbt_mpi.transport.launcher import Misfit, launched, wait_for_spokesman
from asyndbt_mpi.view.say import say

PRESETS = f"Presets: {', '.join(presets())}."


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="asyndbt")
def cli() -> None:
    """Tune the prompt of a language model over several data holders, asynchronously.

    Any command takes --debug, to show the traceback of an error.
    """


@cli.command(epilog=PRESETS)
@run_options
@click.pass_obj
def run(
    debug: bool,
    config: str,
    assignments: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    resume: bool,
) -> int:
    """Run a configuration under mpiexec or srun.

    CONFIG is a TOML file or a preset. Rank 0 is the server, every other rank a worker:

        mpiexec -n 4 asyndbt run demo

    If the launcher allows it, the run continues when a worker's process dies:

        mpiexec --with-ft ulfm -n 4 asyndbt run demo
    """
    from asyndbt_mpi.commands.start import start
    from asyndbt_mpi.jobs.job import Request

    try:
        launch = start(_patience(config, assignments))
    except Misfit as error:
        if not wait_for_spokesman(launched(os.environ)):
            return BAD_USAGE
        raise ConfigurationError(str(error)) from error
    code: int = launch.run(Request(config, assignments, output, overwrite, debug, resume))
    return code


def _patience(config: str, assignments: tuple[str, ...]) -> float:
    """Seconds that MPI may take to start; a faulty configuration is reported once it has."""
    try:
        return load(config, assignments).run.worker_timeout
    except ConfigurationError:
        return Run().worker_timeout


@cli.command(epilog=PRESETS)
@click.argument("config", default="demo")
@SETTINGS
@OUTPUT
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="R",
    help="Number of workers of the run. Default: those that were launched; without mpiexec, 3 or"
    " as many as the configuration needs.",
)
def doctor(
    config: str, assignments: tuple[str, ...], output: str | None, workers: int | None
) -> int:
    """Find what would go wrong with a run.

    Every finding comes with a remedy. No run is started and nothing is spent. Launch the doctor
    as you will launch the run, so that it checks every rank:

        mpiexec -n 4 asyndbt doctor demo

    Exit code 0 if there are no problems (there may be warnings), else 1.
    """
    from asyndbt_mpi.commands.doctor import checkup

    return checkup(config, assignments, output, workers)


@cli.command(epilog=PRESETS)
@run_options
@WORKERS
@click.pass_obj
def simulate(
    debug: bool,
    config: str,
    assignments: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    resume: bool,
    workers: int,
) -> int:
    """Run in one process, under a virtual clock.

    The log is the same as that of `asyndbt run`. Only the delays of [delay] take (virtual) time:

    \b
        asyndbt simulate synthetic \\
            --set delay.model=lognormal --set delay.mean=1
    """
    from asyndbt_mpi.commands.simulate import simulate
    from asyndbt_mpi.jobs.again import simulate_command
    from asyndbt_mpi.jobs.job import Job, Request
    from asyndbt_mpi.jobs.opening import Ended

    request = Request(config, assignments, output, overwrite, debug, resume)
    job = Job.of(request, workers)
    for line in job.materials.remarks(job.config):
        say(f"asyndbt: {line}", err=True)
    try:
        again = "" if job.config.log.private else simulate_command(request, workers)
        simulate(job, resume, again)
    except Ended as error:
        say(f"asyndbt: {error}", err=True)
        return error.code
    return DONE


@cli.command(epilog=PRESETS)
@click.argument("config")
@click.option(
    "--vary",
    multiple=True,
    metavar="SECTION.KEY=VALUE,...",
    help="Values to try, or workers=R,...; several --vary make a grid.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Seeds per point of the grid: run.seed, run.seed + 1, ...",
)
@SETTINGS
@WORKERS
@click.option(
    "--output",
    "-o",
    "folder",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the logs; existing logs are kept.",
)
def sweep(
    config: str,
    vary: tuple[str, ...],
    seeds: int,
    assignments: tuple[str, ...],
    workers: int,
    folder: Path,
) -> int:
    """Simulate a grid of settings and seeds.

    All cores are used.

    \b
        asyndbt sweep synthetic --workers 8 --seeds 10 -o runs/sweep \\
            --vary algorithm.active_workers=1,2,4,8 --set delay.model=lognormal \\
            --set delay.mean=1 --set estimator.name=exact --set steps.optimizer=sgd

    Logs of a synthetic task also get their stationarity. To finish an interrupted sweep, repeat
    the same command.
    """
    from asyndbt_mpi.commands.sweep import Sweep, sweep

    failures = sweep(Sweep(config, assignments, vary, workers, seeds, folder))
    for failure in failures:
        say(f"failed: {failure}", err=True)
    if not failures:
        say(f"all runs are in {folder}")
    return FAILED if failures else DONE


@cli.command(epilog=PRESETS)
@click.argument("config")
@click.argument("further", metavar="[-- SBATCH_OPTION ...]", nargs=-1)
@SETTINGS
@OUTPUT
@click.option(
    "--nodes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of nodes.",
)
@click.option(
    "--time",
    required=True,
    metavar="HH:MM:SS",
    help="Time limit; a job that reaches it is requeued.",
)
@click.option("--gpus-per-node", type=click.IntRange(min=1), metavar="N", help="GPUs on each node.")
@click.option(
    "--workers-per-node",
    type=click.IntRange(min=1),
    metavar="N",
    help="Default: one per GPU; required without GPUs.",
)
@click.option(
    "--cpus-per-task", type=click.IntRange(min=1), metavar="N", help="Cores for each rank."
)
@click.option("--partition", metavar="NAME", help="Slurm partition.")
@click.option("--account", metavar="NAME", help="Slurm account.")
@click.option(
    "--launcher",
    type=click.Choice(["mpiexec", "srun"]),
    default="mpiexec",
    show_default=True,
    help="What starts the ranks.",
)
@click.option("--dry-run", is_flag=True, help="Print the sbatch command instead of running it.")
def sbatch(
    config: str,
    further: tuple[str, ...],
    assignments: tuple[str, ...],
    output: str | None,
    nodes: int,
    gpus_per_node: int | None,
    workers_per_node: int | None,
    launcher: str,
    dry_run: bool,
    **options: str | int | None,
) -> int:
    """Check a run, then submit it to Slurm.

    The script is slurm/run.sbatch; a folder `slurm` of your own, with its env.sh, takes
    precedence. Other options of sbatch follow two dashes:

    \b
        asyndbt sbatch mine.toml --nodes 2 --gpus-per-node 4 --time 04:00:00 \\
            --partition gpu -- --mem=64G --qos=long
    """
    from asyndbt_mpi.commands.sbatch import check, check_time, scripts, submission, submit

    workers = workers_per_node or gpus_per_node
    if workers is None:
        raise ConfigurationError("--workers-per-node is missing, as there is no --gpus-per-node")
    checked = check(config, assignments, output, nodes * workers)
    check_time(str(options["time"]))
    wanted = {
        "job-name": checked.run.name.replace("/", "-"),  # becomes part of a file name
        "nodes": nodes,
        "ntasks-per-node": workers + 1,
        "gpus-per-node": gpus_per_node,
        **{name.replace("_", "-"): value for name, value in options.items()},
    }
    sets = [word for assignment in assignments for word in ("--set", assignment)]
    arguments = (config, *sets, *(["--output", output] if output else []))
    given = {name: str(value) for name, value in wanted.items() if value is not None}
    call = submission(scripts(), given, further, launcher, workers, arguments)
    if dry_run:
        click.echo(call)  # verbatim, so that it can be run
    else:
        say(submit(call))
    return DONE


@cli.command(epilog=PRESETS)
@run_options
def status(
    config: str, assignments: tuple[str, ...], output: str | None, overwrite: bool, resume: bool
) -> int:
    """Tell whether a run has finished.

    Exit code 0 if it has, 1 if not, 2 if its log was made with other settings.

    Takes the same arguments as `asyndbt run`, for use in scripts; --overwrite and --resume are
    ignored.
    """
    from asyndbt_mpi.jobs.job import log_path
    from asyndbt_mpi.jobs.resume import at_its_end, check_settings
    from asyndbt_mpi.log.reader import Log
    from asyndbt_mpi.view.course import missing_writer

    del overwrite, resume
    asked = load(config, assignments)
    path = log_path(asked, output)
    if not path.exists():
        say(f"{path}: not started")
        return FAILED
    missing = missing_writer(path)
    with Log(path) as log:
        check_settings(log, asked)
        state = (missing if log.status == "running" else "") or log.status
        say(f"{path}: {state}, {log.committed} of at most {asked.run.iterations} iterations")
        return DONE if at_its_end(log, asked) else FAILED


@cli.command()
@click.option(
    "--clear",
    type=click.Choice(["old", "all"]),
    help="Remove models whose file is gone or changed (old), or all.",
)
def cache(clear: Literal["old", "all"] | None) -> int:
    """Show the folder of converted models.

    GGUF files are converted once, into $ASYNDBT_CACHE or the user's cache folder. Answers of models
    are not there, but beside the logs of their runs.
    """
    from asyndbt_mpi.commands import cache as of

    for line in of.clear(clear) if clear else of.contents():
        say(line)
    return DONE


@cli.command(epilog=PRESETS)
@click.argument("source", metavar="FILE|CONFIG")
@SETTINGS
def data(source: str, assignments: tuple[str, ...]) -> int:
    """Show what is understood of your data.

    Of a configuration: files, encodings, columns, classes and their numbers of rows, repeated
    texts, the longest row, and three rows as the model would see them. Of a file or folder alone,
    also a [task] table to start with:

        asyndbt data mine.csv
    """
    from asyndbt_mpi.commands.data import report

    for line in report(source, assignments):
        say(line, lines=True)
    return DONE


@cli.command(epilog=PRESETS)
@click.argument("config")
@SETTINGS
@WORKERS
@click.option(
    "--like",
    metavar="RUN.h5",
    type=click.Path(path_type=Path),
    help="Log of an earlier run with this model, from which to take the seconds per call.",
)
def estimate(config: str, assignments: tuple[str, ...], workers: int, like: Path | None) -> int:
    """Estimate the calls, cost and time of a run.

    Starts nothing and loads no model. Money is estimated if llm.input_price and llm.output_price
    (per million tokens) are set, time if --like is given:

    \b
        asyndbt estimate mine.toml --set llm.input_price=0.15 --like runs/earlier.h5
    """
    from asyndbt_mpi.assemble import prepare
    from asyndbt_mpi.commands.estimate import estimate, measured_seconds_per_call, remarks
    from asyndbt_mpi.commands.limits import covering, set_aside, shortfalls
    from asyndbt_mpi.log.reader import Log
    from asyndbt_mpi.task.lengths import token_counter
    from asyndbt_mpi.view.costs import print_costs

    loaded = load(config, assignments)
    materials = prepare(loaded, workers)
    seconds = None
    if like:
        with Log(like) as log:
            seconds = measured_seconds_per_call(log, loaded)
    count, counted_by = token_counter(loaded)
    found = estimate(loaded, materials, workers, count, seconds)
    title = f"{loaded.run.name}: {loaded.run.iterations} iterations of {workers} workers"
    lines = [*remarks(found, counted_by, like), *set_aside(found)]
    print_costs(title, found.rows(), lines)
    for line in materials.remarks(loaded):
        say(f"asyndbt: {line}", err=True)
    for line in [loaded.unused, *shortfalls(found)]:
        if line:
            say(f"asyndbt: warning: {line}", err=True)
    if enough := covering(found):
        say(f"asyndbt: {enough}", err=True)
    return DONE


for _command in (*COMMANDS, *EXPERIMENTS, plot):
    cli.add_command(_command)


def main() -> None:
    """Run a command; errors become one line and an exit code: 2 bad input, 1 anything else."""
    # --debug is accepted anywhere on the command line.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    warnings.showwarning = _show_warning
    # Every process would print it; `run` and `doctor` report the same once, with a remedy.
    warnings.filterwarnings("ignore", r"\s*suspicious MPI execution environment", RuntimeWarning)
    # Overflows are caught where they matter (`protocol.divergence`).
    np.seterr(over="ignore", invalid="ignore")
    try:
        code = cli.main(arguments, standalone_mode=False, obj=debug)
    except click.ClickException as error:
        usage = StringIO()
        error.show(usage)
        say(usage.getvalue().rstrip(), err=True, lines=True)
        code = BAD_USAGE
    except (ConfigurationError, LogError) as error:
        code = _fail(error, BAD_USAGE, debug)
    except (click.Abort, KeyboardInterrupt):
        code = _fail("interrupted", FAILED, debug)
    except Exception as error:
        code = _fail(error, FAILED, debug)
    sys.exit(code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """The package's own warnings address its user: one line, without the source line."""
    own = Path(filename).is_relative_to(Path(__file__).parent)
    if own and issubclass(category, UserWarning):
        say(f"asyndbt: warning: {' '.join(str(message).split())}", err=True)
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        say(text.rstrip(), err=True, lines=True)


def _fail(error: Exception | str, code: int, debug: bool) -> int:
    if isinstance(error, Exception) and debug:
        say("".join(traceback.format_exception(error)).rstrip(), err=True, lines=True)
        return code
    named = isinstance(error, str | ConfigurationError | LogError | Diverged)
    # Errors of other packages may span several lines.
    text = error if named else f"{type(error).__name__}: {' '.join(str(error).split())}"
    say(f"asyndbt: {text}", err=True)
    return code
