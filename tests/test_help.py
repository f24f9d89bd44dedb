"""What `asyndbt --help` shows: short imperatives, and a line for every option."""

import click
import pytest
from click.testing import CliRunner

from asyndbt_mpi.analysis.plot import FIGURES, plot
from asyndbt_mpi.cli import cli

CONTEXT = click.Context(plot)
FIGURE_COMMANDS = {name: plot.get_command(CONTEXT, name) or cli for name in FIGURES}
COMMANDS = sorted(cli.commands.items()) + sorted(FIGURE_COMMANDS.items())


def test_no_summary_is_cut() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    assert all(f"  {name} " in text for name in cli.commands)
    assert "..." not in text.partition("Commands:")[2]
    text = CliRunner().invoke(cli, ["plot", "--help"]).output.partition("Commands:")[2]
    assert all(f"  {name} " in text for name in FIGURES)
    assert "..." not in text


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_command_has_a_short_summary_in_the_imperative(name: str, command: click.Command) -> None:
    assert command.name == name
    summary = (command.help or "").partition("\n")[0]
    assert len(summary) < 45
    assert summary.endswith(".")
    verb = summary.split()[0]
    assert verb[0].isupper()
    assert not verb.endswith("s")
    assert verb not in ("What", "Whether", "How", "The", "A")


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_every_option_has_a_help_line(name: str, command: click.Command) -> None:
    for option in command.params:
        if isinstance(option, click.Option):
            text = option.help or ""
            assert text[:1].isupper()
            assert text.endswith(".")
