"""What malicious workers do to the honest ones, by attack and defence, on the exact task.

Example: python benchmarks/robustness.py -o runs/robustness --seeds 10

The synthetic task has no sampling noise with `estimator.name = "exact"`, and its losses are known
in closed form. A cell is one run: some workers attack, under one defence. Of the honest workers it
keeps

    loss        mean of f_v(p_v, q_v) at the end
    consensus   mean of f_v(z, q_v): the loss if all took the consensus' words
    distance    mean of ||p_v - z||_1 per position

and of each loss the share of the way from the start to where the same workers get when nobody lies.
Finished cells are kept in the folder's cells.jsonl, and not made again.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from asyndbt_mpi.adversary.colluders import colluders
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.assemble import delays_of_workers, prepare, workers_with_black_box
from asyndbt_mpi.config import load
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.transport.virtual import VirtualCluster

ATTACKS = {
    "none": 0.0,
    "sign_flip": 10.0,
    "gaussian": 1.0,
    "same_value": 1.0,
    "alie": 1.0,
    "ipm": 10.0,
    "mimic": 0.0,
    "label_flip": 0.0,
    "stale_replay": 0.0,
    "nan": 0.0,
    "flood": 1.0,
    "slow_poison": 10.0,
}
"""By name, the strength. "bad_demonstrations" needs demonstrations that have labels."""

DEFENCES = {
    "undefended": ("rsa", "none"),
    "rsa": ("rsa", "none"),
    "median": ("median", "none"),
    "trimmed_mean": ("trimmed_mean", "none"),
    "geometric_median": ("geometric_median", "none"),
    "krum": ("krum", "none"),
    "multi_krum": ("multi_krum", "none"),
    "centered_clipping": ("centered_clipping", "none"),
    "nnm + trimmed_mean": ("trimmed_mean", "nnm"),
    "nnm + geometric_median": ("geometric_median", "nnm"),
    "bucketing + trimmed_mean": ("trimmed_mean", "bucketing"),
}
"""Aggregator and what comes before it; undefended is the sum without the robust term psi."""

SETTINGS = [
    "run.iterations=300",
    "algorithm.max_delay=20",
    "algorithm.plane_period=5",
    "prompt.fragment_length=6",
    "prompt.vocabulary=english",
    "prompt.vocabulary_size=16",
    "prompt.pool=5",
    "delay.model=lognormal",
    "delay.mean=1",
]
VARIANTS = {
    "exact": ["estimator.name=exact", "algorithm.lower_gradient=black_box"],
    "pooled": ["estimator.name=additive", "algorithm.lower_gradient=model"],
}


@dataclass(frozen=True)
class Cell:
    """One run: of ``workers`` the last ``malicious`` attack, S are ``active``."""

    variant: str
    attack: str
    defence: str
    workers: int
    malicious: int
    active: int
    heterogeneity: float
    seed: int

    @property
    def key(self) -> str:
        """Of the cell's line in the file."""
        return json.dumps(asdict(self), sort_keys=True)


def run(cell: Cell) -> dict[str, float]:
    """What becomes of the honest workers of ``cell``."""
    aggregator, before = DEFENCES[cell.defence]
    share = min(cell.malicious / cell.workers, 0.49)
    settings = [
        *SETTINGS,
        *VARIANTS[cell.variant],
        f"run.seed={cell.seed}",
        f"algorithm.active_workers={cell.active}",
        f"llm.heterogeneity={cell.heterogeneity}",
        f"defence.aggregator={aggregator}",
        f"defence.preaggregator={before}",
        f"defence.malicious={share}",
    ]
    if cell.defence == "undefended":
        settings.append("algorithm.robust_weight=0")
    if cell.attack != "none":
        settings += [
            f"adversary.workers={cell.malicious}",
            f"adversary.attack={cell.attack}",
            f"adversary.strength={ATTACKS[cell.attack]}",
        ]
    config = load("synthetic", settings)
    everyone = range(1, cell.workers + 1)
    materials = prepare(config, cell.workers)
    workers, box = workers_with_black_box(config, materials, everyone, None)
    server = Server(config, materials.shapes, cell.workers)
    delays = delays_of_workers(config, cell.workers)
    VirtualCluster(
        server, workers, box, delays, colluders(config, materials.shapes, cell.workers)
    ).run(lambda records: None)
    algorithm = server.algorithm
    honest = np.arange(cell.workers - cell.malicious)
    truth: Any = getattr(box, "box", box)  # what the malicious have is wrapped around it
    p, q = workers.p[honest], workers.q[honest]
    z = np.repeat(algorithm.z[None], len(honest), axis=0)
    uniform = np.full_like(p, 1.0 / p.shape[-1]), np.full_like(q, 1.0 / q.shape[-1])
    return {
        "start": _mean(truth.expected_loss(*uniform, honest)),
        "loss": _mean(truth.expected_loss(p, q, honest)),
        "consensus": _mean(truth.expected_loss(z, q, honest)),
        "distance": float(np.abs(p - z).sum(axis=-1).mean()),
        "iterations": float(server.iteration),
    }


def _mean(losses: FloatArray) -> float:
    return float(losses.mean())


def make(wanted: list[Cell], folder: Path) -> dict[str, dict[str, float]]:
    """Results by the cells' keys; what the folder has not is made, on all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cells.jsonl"
    found: dict[str, dict[str, float]] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            key, result = json.loads(line)
            found[key] = result
    missing = [cell for cell in wanted if cell.key not in found]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool, path.open("a") as file:
        running = {pool.submit(run, cell): cell for cell in missing}
        for done, future in enumerate(as_completed(running), start=1):
            cell = running[future]
            found[cell.key] = future.result()
            file.write(json.dumps([cell.key, found[cell.key]]) + "\n")
            file.flush()
            print(f"{done}/{len(missing)} runs", end="\r", file=sys.stderr, flush=True)
    return found


def kept(found: dict[str, dict[str, float]], cell: Cell, what: str) -> float:
    """The share of the honest run's way that ``cell`` gets, in per cent.

    The honest run has the same seed, without an attack and undefended.
    """
    honest = found[Cell(**{**asdict(cell), "attack": "none", "defence": "undefended"}).key]
    result = found[cell.key]
    return 100 * (honest["start"] - result[what]) / (honest["start"] - honest[what])


def table(found: dict[str, dict[str, float]], wanted: list[Cell], what: str) -> str:
    """Means over seeds and the worst seed, attacks by defences, as Markdown."""
    attacks = list(dict.fromkeys(cell.attack for cell in wanted))
    defences = list(dict.fromkeys(cell.defence for cell in wanted))
    lines = [
        f"| attack | {' | '.join(defences)} |",
        f"| --- |{' --- |' * len(defences)}",
    ]
    for attack in attacks:
        row = []
        for defence in defences:
            values = [
                kept(found, cell, what)
                for cell in wanted
                if (cell.attack, cell.defence) == (attack, defence)
            ]
            row.append(f"{np.mean(values):.0f} ({min(values):.0f})")
        lines.append(f"| {attack} | {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--active", type=int, nargs="+", default=[5])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.3])
    parser.add_argument("--heterogeneity", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--defences", nargs="+", default=list(DEFENCES), choices=list(DEFENCES))
    chosen = parser.parse_args()
    attacks = list(dict.fromkeys(["none", *chosen.attacks]))
    defences = list(dict.fromkeys(["undefended", *chosen.defences]))
    print(f"{describe()}; means over {chosen.seeds} seeds, and the worst seed in brackets")
    grid = product(chosen.variants, chosen.heterogeneity, chosen.active, chosen.shares)
    for variant, spread, active, share in grid:
        malicious = round(share * chosen.workers)
        wanted = [
            Cell(variant, attack, defence, chosen.workers, malicious, active, spread, seed)
            for seed in range(chosen.seeds)
            for attack in attacks
            for defence in defences
        ]
        found = make(wanted, chosen.output)
        for what in ("loss", "consensus"):
            print(
                f"\n{variant}, heterogeneity {spread:g}, S = {active}, {malicious} of"
                f" {chosen.workers} malicious: {what}, % of the honest run's way\n\n"
                f"{table(found, wanted, what)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
