"""What the analysis scripts share: which logs are meant, and a result as PNG, PDF and CSV."""

import argparse
import csv
import glob
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("agg")


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


def find(patterns: Iterable[str]) -> list[Path]:
    """The logs meant by files, folders (their *.h5) and globs, each once, in order of name.

    Raises
    ------
    ValueError
        A pattern matches nothing.
    """
    found: set[Path] = set()
    for pattern in patterns:
        place = Path(pattern)
        matches = sorted(place.glob("*.h5")) if place.is_dir() else []
        matches = matches or [Path(match) for match in glob.glob(pattern) if Path(match).is_file()]
        if not matches:
            raise ValueError(f"{pattern}: no log there; give a log, a folder with *.h5, or a glob")
        found.update(matches)
    return sorted(found)


def save(figure: Figure, rows: Sequence[Mapping[str, object]], prefix: str) -> None:
    """Write the figure as ``prefix``.png and .pdf and the ``rows`` behind it as .csv."""
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".pdf"):
        figure.savefig(f"{prefix}{suffix}", dpi=150)
    write_table(rows, f"{prefix}.csv")
    print(f"{prefix}.png {prefix}.pdf {prefix}.csv")


def write_table(rows: Sequence[Mapping[str, object]], path: str) -> None:
    """Write ``rows``, which have the same keys, as CSV."""
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def fail(script: str, problem: object) -> NoReturn:
    """End with the one line that says what is wrong, and exit code 2."""
    print(f"{script}: {problem}", file=sys.stderr)
    sys.exit(2)
