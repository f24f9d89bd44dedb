"""Lines for the terminal."""

import click

from asyndbt_mpi.log.text import printable


def say(text: str, err: bool = False, lines: bool = False) -> None:
    """Print text that may come from others, with control characters made visible."""
    click.echo(printable(text, lines), err=err)
