"""`asyndbt plot`: one command for each figure."""

from importlib import import_module

import click

FIGURES = (
    *("convergence", "curves", "robustness", "scaling", "stragglers", "timing", "training_time"),
)


class Figures(click.Group):
    """Loads a figure's command when it is needed: matplotlib takes a second."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the figures."""
        return list(FIGURES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command that draws a figure."""
        if cmd_name not in FIGURES:
            return None
        command: click.Command = import_module(f"asyndbt_mpi.analysis.{cmd_name}").command
        return command


@click.group(cls=Figures)
def plot() -> None:
    """Draw figures of logs.

    The ending of the file's name, .png, .pdf or .svg, decides the kind of picture:

    \b
        asyndbt plot convergence runs/demo.h5 -o runs/demo.png
        asyndbt plot scaling runs/sweep -o scaling.pdf --width column

    Letters stay letters in a PDF (fonts of type 42), as journals ask.
    """
