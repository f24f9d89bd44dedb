"""What the analysis scripts share: which logs are meant, whether they belong together, results."""

import argparse
import csv
import glob
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import matplotlib
from matplotlib.figure import Figure

from asyndbt_mpi.log.reader import Log, printable

matplotlib.use("agg")

LONGEST = 200
"""Characters of a label."""
SUFFIXES = (".png", ".pdf", ".csv")


def parser(description: str) -> argparse.ArgumentParser:
    """Command line of a script: logs in, one prefix for the three files out."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "logs", nargs="+", metavar="LOGS", help="logs, folders of logs, or globs in quotes"
    )
    made.add_argument(
        "-o", "--output", required=True, metavar="PREFIX", help="writes PREFIX.png, .pdf and .csv"
    )
    return made


def prepare(prefix: str) -> None:
    """Make the folder of ``prefix``; to be called before the logs are read, which may take long.

    Raises
    ------
    ValueError
        ``prefix`` is no prefix of files, or they cannot be written there.
    """
    place = Path(prefix)
    if prefix.endswith("/") or place.is_dir():
        raise ValueError(
            f"--output {prefix}: is a folder; give a prefix of files, such as {place / 'figure'}"
        )
    if place.suffix.lower() in SUFFIXES:
        raise ValueError(
            f"--output {prefix}: {place.suffix} is added to the prefix; {place.with_suffix('')}"
            " would be right"
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--output {prefix}: the folder {place.parent} cannot be made ({error.strerror});"
            " give one that can be written"
        ) from error
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise ValueError(
            f"--output {prefix}: the folder {place.parent} cannot be written; give one that can"
        )


def find(patterns: Iterable[str]) -> list[Path]:
    """The logs meant by files, folders (their *.h5) and globs, each once, in order of name.

    A file is taken once, however it is written; it is called as it was written first.

    Raises
    ------
    ValueError
        A pattern matches nothing.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        place = Path(pattern)
        matches = sorted(place.glob("*.h5")) if place.is_dir() else []
        matches = matches or [Path(match) for match in glob.glob(pattern) if Path(match).is_file()]
        if not matches:
            raise ValueError(f"{pattern}: no log there; give a log, a folder with *.h5, or a glob")
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


def check_alike(logs: Iterable[tuple[Path, Mapping[str, object]]], may_differ: str) -> None:
    """Raise a ValueError where a log is not like the first; ``may_differ`` says what need not be.

    Each log comes with what is `compared`, under the same keys.
    """
    (first, expected), *others = logs
    for path, values in others:
        for key, value in values.items():
            if value != expected[key]:
                raise ValueError(
                    f"{path}: {key} = {value!r}, but {first} has {expected[key]!r};"
                    f" only {may_differ} may differ"
                )


def label(text: str) -> str:
    """``text`` of a log for a figure: no control characters, no mathematics, not too long."""
    text = printable(text, lines=True)
    return (text[:LONGEST] + "…" * (len(text) > LONGEST)).replace("$", r"\$")


def check_target(path: str | Path) -> None:
    """Raise a ValueError unless ``path`` is free, or a file that can be written anew."""
    if os.path.lexists(path) and (os.path.islink(path) or not os.path.isfile(path)):
        raise ValueError(f"{path}: is there, and no regular file; give another --output")


def save(figure: Figure, rows: Sequence[Mapping[str, object]], prefix: str) -> None:
    """Write the figure as ``prefix``.png and .pdf and the ``rows`` behind it as .csv."""
    *pictures, table = (f"{prefix}{suffix}" for suffix in SUFFIXES)
    for target in (*pictures, table):
        check_target(target)
    for picture in pictures:
        figure.savefig(picture, dpi=150)
    write_table(rows, table)
    print(printable(" ".join((*pictures, table))))


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


def fail(script: str, problem: object) -> NoReturn:
    """End with the one line that says what is wrong, and exit code 2."""
    print(printable(f"{script}: {problem}"), file=sys.stderr)
    sys.exit(2)
