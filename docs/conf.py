"""The documentation as a site: `make docs`.

README.md and docs/ are copied to build/docs as they lie in the repository, so that every link
between them is the same on the repository's pages and on the site.
"""

import re
from itertools import pairwise

from sphinx.application import Sphinx

import asyndbt_mpi

project = "asyndbt_mpi"
release = asyndbt_mpi.__version__
copyright = "the authors of asyndbt_mpi"
root_doc = "README"
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # a test executes the notebook and compares its output
highlight_language = "text"
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the docstrings give shapes
default_role = "py:obj"
smartquotes_action = "D"  # dashes; the quotes of values are to be copied
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}
autodoc_typehints_format = "short"

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["narrow.css"]
html_title = f"asyndbt_mpi {release}"
html_copy_source = False
html_show_sphinx = False

PAGES = {
    "Use": (
        "configuration",
        "cluster",
        "faults",
        "threats",
        "boundaries",
        "privacy",
        "answers",
    ),
    "Python": ("python", "tour", "reference", "log"),
    "Method": ("method", "deviations", "architecture"),
    "Results": (
        "quality",
        "comparison",
        "results",
        "robustness",
        "complexity",
        "performance",
        "scale",
        "architectures",
    ),
}
ARRAY = re.compile(r"ndarray\[tuple\[[^\]]*\], [^\]]*?dtype\[([^\]]*)\]\]")


def add_contents(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put the table of contents, which the repository's page does without, below the README."""
    if page == root_doc:
        lists = {name: [f"docs/{page}" for page in pages] for name, pages in PAGES.items()}
        lists["Shipped data"] = ["asyndbt_mpi/task/data/*/README"]
        lists["Project"] = ["CHANGELOG", "SECURITY"]
        for name, pages in lists.items():
            options = ":hidden:\n:glob:\n:caption: " + name
            source[0] += "\n```{toctree}\n" + options + "\n\n" + "\n".join(pages) + "\n```\n"


def as_numpydoc(
    _app: Sphinx, _what: str, _name: str, _of: object, _options: object, lines: list[str]
) -> None:
    """Break "name : meaning" in two lines: napoleon would take the meaning for a type."""
    found: list[str] = []
    section = ""
    for line, ahead in pairwise([*lines, ""]):
        if set(ahead) == {"-"}:
            section = line
        name, colon, meaning = line.partition(" : ")
        described = section in ("Attributes", "Parameters") and not line.startswith(" ")
        found += [name, f"    {meaning}"] if described and colon else [line]
    lines[:] = found


def shorten_arrays(
    _app: Sphinx, _what: str, _name: str, _of: object, _options: object, arguments: str, result: str
) -> tuple[str | None, str | None]:
    """Name arrays in signatures by their type of numbers alone: the docstrings give shapes."""
    short = [text and ARRAY.sub(r"ndarray[\1]", text) for text in (arguments, result)]
    return short[0], short[1]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", as_numpydoc, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", shorten_arrays)
