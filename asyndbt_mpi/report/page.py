"""Writes a page: one file that loads nothing and runs no script but its own.

A log may come from a stranger. Templates escape whatever they are given, what cannot be seen is
written out, and the page's own policy forbids the browser to load anything, or to run any script
but the one named by its digest.
"""

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from asyndbt_mpi import __version__
from asyndbt_mpi.log.text import printable


def render(template: str, **content: Any) -> str:
    """The page that a ``template`` makes of ``content``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("asyndbt_mpi.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = resources.files("asyndbt_mpi.report") / "templates"
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        digest=digest,
        version=__version__,
        **content,
    )


def _visible(value: object) -> object:
    return printable(value, lines=True) if type(value) is str else value
