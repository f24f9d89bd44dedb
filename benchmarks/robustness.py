"""What malicious workers do to the honest ones, by attack, defence and their share.

Example: python benchmarks/robustness.py -o runs/robustness --workers 20 --active 10
             --shares 0.1 0.2 0.3 0.4 0.49

On the exact task; see `robustness_cells.run` for what is measured. Tables go to the terminal as
Markdown: of the honest workers' own loss and of that of the consensus, how much of the way from the
start to where the same workers get when nobody attacks; how far they are from the consensus and
from stationarity; and, of several shares, what a defence keeps under the attack that leaves least,
and the least share at which it keeps less than 90 %. A line for each run goes to
FOLDER/robustness.csv, which `asyndbt plot robustness` draws, and one for all seeds of it to
FOLDER/seeds.csv.

A defence is told to tolerate 30 % of the workers, or as many as attack if these are more.
"""

import argparse
import csv
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from robustness_cells import (
    ATTACKS,
    DEFENCES,
    UNDEFENDED,
    USUAL_SHARE,
    VARIANTS,
    Cell,
    Found,
    kept,
    make,
    mean,
)

BROKEN = 90.0
"""Per cent of the way: a defence that keeps less is broken."""

KEPT = ("loss", "consensus")
TABLES = {
    "loss": "own loss, % of the honest run's way",
    "consensus": "loss with the consensus' words, % of the honest run's way",
    "distance": "distance from the consensus, || p - z ||_1 per position",
    "stationarity": "squared norm of the gradient mapping of p and q, per worker",
}


def cells(chosen: argparse.Namespace, attacks: list[str], defences: list[str]) -> list[Cell]:
    """All that is asked for, what is shown in one table beside each other."""
    grid = product(
        chosen.variants, chosen.heterogeneity, chosen.active, chosen.shares,
        range(chosen.seeds), attacks, defences,
    )  # fmt: skip
    found = []
    for variant, spread, active, share, seed, attack, defence in grid:
        malicious = math.floor(share * chosen.workers + 1e-9)
        tolerated = max(malicious, math.floor(USUAL_SHARE * chosen.workers + 1e-9))
        sizes = chosen.workers, malicious, tolerated, active
        found.append(Cell(variant, attack, defence, *sizes, spread, seed))
    return found


def table(found: Found, wanted: list[Cell], what: str) -> str:
    """Means over seeds, and the worst seed if a share is ``kept``; attacks by defences."""

    def entry(of_seeds: list[Cell]) -> str:
        if what in KEPT:
            values = [kept(found, cell, what) for cell in of_seeds]
            return f"{np.mean(values):.0f} ({min(values):.0f})"
        return f"{np.mean([mean(found, cell, what) for cell in of_seeds]):.2f}"

    return _markdown(wanted, entry)


def breakdown(found: Found, wanted: list[Cell], what: str) -> str:
    """The least share, in per cent, at which less than `BROKEN` is kept on average over seeds."""

    def entry(of_shares: list[Cell]) -> str:
        for malicious in sorted({cell.malicious for cell in of_shares}):
            of_seeds = [cell for cell in of_shares if cell.malicious == malicious]
            if np.mean([kept(found, cell, what) for cell in of_seeds]) < BROKEN:
                return f"{100 * malicious / of_seeds[0].workers:.0f}"
        return "-"

    return _markdown([cell for cell in wanted if cell.attack != "none"], entry)


def worst(found: Found, wanted: list[Cell], what: str) -> str:
    """The mean over seeds under the attack that leaves least, by share; and which it is."""

    def entry(of_attacks: list[Cell]) -> str:
        left = {
            attack: np.mean([kept(found, cell, what) for cell in of_seeds])
            for attack, of_seeds in _by(of_attacks, "attack").items()
        }
        attack = min(left, key=left.__getitem__)
        return f"{left[attack]:.0f} ({attack})"

    attacked = [cell for cell in wanted if cell.attack != "none"]
    return _markdown(attacked, entry, ("malicious", "defence"))


def _by(wanted: list[Cell], axis: str) -> dict[Any, list[Cell]]:
    """The cells of each value of ``axis``, in the order in which they come."""
    values = dict.fromkeys(getattr(cell, axis) for cell in wanted)
    return {value: [cell for cell in wanted if getattr(cell, axis) == value] for value in values}


def _markdown(
    wanted: list[Cell],
    entry: Callable[[list[Cell]], str],
    axes: tuple[str, str] = ("attack", "defence"),
) -> str:
    rows, columns = axes
    names = _by(wanted, columns)
    lines = [f"| {rows} | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for value, of_row in _by(wanted, rows).items():
        entries = map(entry, _by(of_row, columns).values())
        lines.append(f"| {value} | {' | '.join(entries)} |")
    return "\n".join(lines)


def write(found: Found, wanted: list[Cell], folder: Path) -> None:
    """A line for each run that is shown, and one for all seeds of a run."""
    rows = [
        asdict(cell)
        | {f"{what}_kept": round(kept(found, cell, what), 3) for what in KEPT}
        | {what: round(mean(found, cell, what), 6) for what in TABLES}
        for cell in wanted
    ]
    _write(rows, folder / "robustness.csv")
    of_seeds: dict[Cell, list[dict[str, Any]]] = {}
    for cell, row in zip(wanted, rows, strict=True):
        of_seeds.setdefault(replace(cell, seed=0), []).append(row)
    _write(
        [
            {name: row for name, row in asdict(cell).items() if name != "seed"}
            | {"seeds": len(of)}
            | {f"{what}_kept": f"{np.mean(_all(of, what)):.2f}" for what in KEPT}
            | {f"{what}_least": f"{min(_all(of, what)):.2f}" for what in KEPT}
            | {what: f"{np.mean([row[what] for row in of]):.4g}" for what in TABLES}
            for cell, of in of_seeds.items()
        ],
        folder / "seeds.csv",
    )


def _all(rows: list[dict[str, Any]], what: str) -> list[float]:
    return [row[f"{what}_kept"] for row in rows]


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        lines = csv.DictWriter(file, list(rows[0]))
        lines.writeheader()
        lines.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--active", type=int, nargs="+", default=[5])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.3])
    parser.add_argument("--heterogeneity", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--variants", nargs="+", default=["exact"], choices=list(VARIANTS))
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--defences", nargs="+", default=list(DEFENCES), choices=list(DEFENCES))
    chosen = parser.parse_args()
    attacks = list(dict.fromkeys(["none", *chosen.attacks]))
    defences = list(dict.fromkeys([UNDEFENDED, *chosen.defences]))
    print(f"{describe()}; means over {chosen.seeds} seeds, and the worst seed in brackets")
    everything = cells(chosen, attacks, defences)
    found = make(everything, chosen.output)
    write(found, everything, chosen.output)
    for variant, spread, active in product(chosen.variants, chosen.heterogeneity, chosen.active):
        there = (variant, spread, active)
        of_shares = [c for c in everything if (c.variant, c.heterogeneity, c.active) == there]
        setting = f"{variant}, heterogeneity {spread:g}, S = {active}"
        for malicious in sorted({cell.malicious for cell in of_shares}):
            shown = [cell for cell in of_shares if cell.malicious == malicious]
            for what, title in TABLES.items():
                print(f"\n{setting}, {malicious} of {chosen.workers} malicious: {title}\n")
                print(table(found, shown, what), flush=True)
        if len(chosen.shares) > 1:
            for what in KEPT:
                of = TABLES[what].partition(",")[0]
                print(f"\n{setting}: what is kept under the worst attack, %: {of}\n")
                print(worst(found, of_shares, what))
                print(f"\n{setting}: the least share, %, that keeps less than {BROKEN:.0f}: {of}\n")
                print(breakdown(found, of_shares, what), flush=True)


if __name__ == "__main__":
    main()
