"""What the figures share: which logs are meant, whether they belong together, what is written."""

import csv
import glob
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import click
from matplotlib.figure import Figure

from asyndbt_mpi.analysis import style
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import Log, printable

LONGEST = 200
"""Characters of a label."""
PICTURES = (".png", ".pdf", ".svg")
BOTH = (".png", ".pdf")
"""What is written if the name has no ending."""
WIDTHS = {"column": style.COLUMN, "page": style.PAGE}


def millimetres(context: click.Context, parameter: click.Parameter, text: str) -> float:
    """The width of the command line; a usage error if it is none, or out of range."""
    try:
        width = WIDTHS[text] if text in WIDTHS else float(text)
    except ValueError:
        width = math.nan
    if not style.LEAST_WIDTH <= width <= style.MOST_WIDTH:
        raise click.BadParameter(
            f"{text!r}: give column, page or {style.LEAST_WIDTH:g} to {style.MOST_WIDTH:g}"
            " (millimetres)",
            context,
            parameter,
        )
    return width


LOGS = click.argument("logs", metavar="LOGS...", nargs=-1, required=True)


def picture_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every figure."""
    output = click.option(
        "--output", "-o", metavar="FILE", required=True,
        help="The picture: .png, .pdf or .svg; without an ending both PNG and PDF.",
    )  # fmt: skip
    width = click.option(
        "--width", callback=millimetres, default="page", show_default=True,
        metavar="column|page|MM",
        help="Width of one column of a journal (84 mm), of two (174 mm), or in millimetres.",
    )  # fmt: skip
    return output(width(command))


@dataclass(frozen=True, slots=True)
class Output:
    """Where a figure goes: its ``pictures``, and tables whose names begin with ``stem``."""

    stem: str
    pictures: tuple[str, ...]

    @classmethod
    def of(cls, name: str) -> Self:
        """What ``name`` means; makes its folder. Do so before the logs are read: that takes time.

        Raises
        ------
        ConfigurationError
            It is no name of a picture, or nothing can be written there.
        """
        place = Path(name)
        if name.endswith("/") or place.is_dir():
            raise ConfigurationError(
                f"--output {name}: is a folder; give the name of a picture, such as"
                f" {place / 'figure.png'}"
            )
        ending = place.suffix.lower()
        if ending in PICTURES:
            made = cls(str(place.with_suffix("")), (name,))
        elif re.fullmatch(r"\.[a-z]\w*", ending):
            raise ConfigurationError(
                f"--output {name}: {place.suffix} is no kind of picture; give a name that ends in"
                f" {', '.join(PICTURES[:-1])} or {PICTURES[-1]}"
            )
        else:
            made = cls(name, tuple(f"{name}{ending}" for ending in BOTH))
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"--output {name}: the folder {place.parent} cannot be made ({error.strerror});"
                " give one that can be written"
            ) from error
        if not os.access(place.parent, os.W_OK | os.X_OK):
            raise ConfigurationError(
                f"--output {name}: the folder {place.parent} cannot be written; give one that can"
            )
        for picture in made.pictures:
            check_target(picture)
        return made

    def save(self, figure: Figure, tables: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
        """Write the pictures, and ``tables`` by what follows the stem; say what was written."""
        paths = {f"{self.stem}{suffix}.csv": rows for suffix, rows in tables.items()}
        for path in (*self.pictures, *paths):
            check_target(path)
        with style.styled():
            for picture in self.pictures:
                figure.savefig(picture)
        for path, rows in paths.items():
            write_table(rows, path)
        print(printable(" ".join((*self.pictures, *paths))))


def find(patterns: Iterable[str]) -> list[Path]:
    """The logs meant by files, folders (their *.h5) and globs, each once, in order of name.

    A file is taken once, however it is written; it is called as it was written first.

    Raises
    ------
    ConfigurationError
        A pattern matches nothing.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        place = Path(pattern)
        matches = sorted(place.glob("*.h5")) if place.is_dir() else []
        matches = matches or [Path(match) for match in glob.glob(pattern) if Path(match).is_file()]
        if not matches:
            raise ConfigurationError(
                f"{pattern}: no log there; give a log, a folder with *.h5, or a glob"
            )
        for match in matches:
            found.setdefault(match.resolve(), match)
    return sorted(found.values())


def compared(log: Log, free: Collection[str]) -> dict[str, object]:
    """What must be the same in all logs: the configuration by key, without [log] and ``free``.

    ``free`` names keys, such as "run.seed", or whole tables, such as "delay".
    """
    return {
        f"{table}.{key}": value
        for table, keys in log.config.model_dump(exclude={"log"}).items()
        for key, value in keys.items()
        if table not in free and f"{table}.{key}" not in free
    }


def check_finished(log: Log, path: Path) -> None:
    """Refuse the log of a run that did not come to its end.

    Raises
    ------
    ConfigurationError
        It did not.
    """
    if log.status != "finished":
        raise ConfigurationError(f"{path}: the run is {log.status}, not finished; make it again")


def check_alike(logs: Iterable[tuple[Path, Mapping[str, object]]], may_differ: str) -> None:
    """Refuse a log that is not like the first; ``may_differ`` says what need not be.

    Each log comes with what is `compared`, under the same keys.

    Raises
    ------
    ConfigurationError
        Which log and key it is.
    """
    (first, expected), *others = logs
    for path, values in others:
        for key, value in values.items():
            if value != expected[key]:
                raise ConfigurationError(
                    f"{path}: {key} = {value!r}, but {first} has {expected[key]!r};"
                    f" only {may_differ} may differ"
                )


def label(text: str) -> str:
    """``text`` of a log for a figure: no control characters, not too long.

    To be drawn with ``parse_math=False``: it may hold signs of mathematics.
    """
    text = printable(text, lines=True)
    return text[:LONGEST] + "…" * (len(text) > LONGEST)


def check_target(path: str | Path) -> None:
    """Raise a ConfigurationError unless ``path`` is free, or a file that can be written anew."""
    if os.path.lexists(path) and (os.path.islink(path) or not os.path.isfile(path)):
        raise ConfigurationError(f"{path}: is there, and no regular file; give another --output")


def write_table(rows: Sequence[Mapping[str, object]], path: str) -> None:
    """Write ``rows``, which have the same keys, as CSV."""
    check_target(path)
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(value: object) -> object:
    """Text as text: a spreadsheet takes what begins with one of these signs for a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def as_script(figure: str) -> None:
    """`python analysis/FIGURE.py ...` is `asyndbt plot FIGURE ...`."""
    from asyndbt_mpi.cli import main

    sys.argv[1:1] = ["plot", figure]
    main()
