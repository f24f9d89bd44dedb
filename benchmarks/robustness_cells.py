"""One run of the exact task in which some workers attack, and what becomes of the others.

The synthetic task has no sampling noise with `estimator.name = "exact"`, and its losses and
gradients are known in closed form. Finished cells are kept in the folder's cells.jsonl, and not
made again.
"""

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from asyndbt_mpi.adversary.colluders import colluders
from asyndbt_mpi.algorithm.stationarity import on_simplex
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.assemble import delays_of_workers, prepare, workers_with_black_box
from asyndbt_mpi.config import Config, load
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
    "malformed": 0.0,
}
"""By name, the strength. "bad_demonstrations" needs demonstrations that have labels."""

UNDEFENDED = "undefended"

DEFENCES: dict[str, tuple[str, str, float | None]] = {
    UNDEFENDED: ("rsa", "none", 0.0),
    "rsa": ("rsa", "none", None),
    "median": ("median", "none", None),
    "trimmed_mean": ("trimmed_mean", "none", None),
    "geometric_median": ("geometric_median", "none", None),
    "krum": ("krum", "none", None),
    "multi_krum": ("multi_krum", "none", None),
    "centered_clipping": ("centered_clipping", "none", None),
    "nnm + trimmed_mean": ("trimmed_mean", "nnm", None),
    "nnm + geometric_median": ("geometric_median", "nnm", None),
    "bucketing + trimmed_mean": ("trimmed_mean", "bucketing", None),
    "rsa, psi = 0.03": ("rsa", "none", 0.03),
    "rsa, psi = 0.1": ("rsa", "none", 0.1),
    "rsa, psi = 0.3": ("rsa", "none", 0.3),
    "rsa, psi = 1": ("rsa", "none", 1.0),
}
"""Aggregator, what comes before it, and psi, `algorithm.robust_weight`, if not by default."""

USUAL_SHARE = 0.3
"""`defence.malicious` where no more attack."""

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

Found: TypeAlias = dict[str, dict[str, list[float]]]
"""By the cells' keys, what became of every worker."""


@dataclass(frozen=True)
class Cell:
    """One run: of ``workers`` the last ``malicious`` attack, S are ``active``.

    ``tolerated`` are the liars that the defence is told of.
    """

    variant: str
    attack: str
    defence: str
    workers: int
    malicious: int
    tolerated: int
    active: int
    heterogeneity: float
    seed: int

    @property
    def key(self) -> str:
        """Of the cell's line in the file."""
        return json.dumps(asdict(self.normal), sort_keys=True)

    @property
    def normal(self) -> "Cell":
        """The same run, whatever share of malicious workers it is shown beside."""
        cell = self if self.attack != "none" else replace(self, malicious=0)
        return cell if DEFENCES[self.defence][:2] != ("rsa", "none") else replace(cell, tolerated=0)

    @property
    def honest(self) -> "Cell":
        """The run of the same seed in which nobody attacks, undefended."""
        return replace(self, attack="none", defence=UNDEFENDED)

    def config(self) -> Config:
        """Of the run."""
        aggregator, before, psi = DEFENCES[self.defence]
        settings = [
            *SETTINGS,
            *VARIANTS[self.variant],
            f"run.seed={self.seed}",
            f"algorithm.active_workers={self.active}",
            f"llm.heterogeneity={self.heterogeneity}",
            f"defence.aggregator={aggregator}",
            f"defence.preaggregator={before}",
            f"defence.malicious={self.tolerated / self.workers}",
        ]
        if psi is not None:
            settings.append(f"algorithm.robust_weight={psi}")
        if self.attack != "none":
            settings += [
                f"adversary.workers={self.malicious}",
                f"adversary.attack={self.attack}",
                f"adversary.strength={ATTACKS[self.attack]}",
            ]
        return load("synthetic", settings)


def run(cell: Cell) -> dict[str, list[float]]:
    """What becomes of every worker of ``cell``, honest or not.

    start : the loss of uniform words and demonstrations
    loss : f_v(p_v, q_v) at the end
    consensus : f_v(z, q_v), the loss if all took the consensus' words
    distance : ||p_v - z||_1 per position
    stationarity : squared norm of the gradient mapping of p_v and q_v, at the duals of the end
    """
    config = cell.config()
    materials = prepare(config, cell.workers)
    server = Server(config, materials.shapes, cell.workers)
    everyone = np.arange(cell.workers)
    workers, box = workers_with_black_box(config, materials, (everyone + 1).tolist(), None)
    delays = delays_of_workers(config, cell.workers)
    lies = colluders(config, materials.shapes, cell.workers)
    VirtualCluster(server, workers, box, delays, lies).run(lambda records: None)
    algorithm = server.algorithm
    truth: Any = getattr(box, "box", box)  # what the malicious have is wrapped around it
    p, q = workers.p, workers.q
    z = np.repeat(algorithm.z[None], cell.workers, axis=0)
    uniform = np.full_like(p, 1.0 / p.shape[-1]), np.full_like(q, 1.0 / q.shape[-1])
    of_p, of_q = truth.gradient(p, q, everyone)
    pulled = of_p + algorithm.polyhedron.dual_gradients(everyone)
    moves = on_simplex(p, pulled, config.steps.p), on_simplex(q, of_q, config.steps.q)
    found: dict[str, FloatArray] = {
        "start": truth.expected_loss(*uniform, everyone),
        "loss": truth.expected_loss(p, q, everyone),
        "consensus": truth.expected_loss(z, q, everyone),
        "distance": np.abs(p - z).sum(axis=-1).mean(axis=-1),
        "stationarity": np.sum([(move**2).sum(axis=(1, 2)) for move in moves], axis=0),
    }
    return {name: values.round(6).tolist() for name, values in found.items()}


def make(wanted: list[Cell], folder: Path) -> Found:
    """Those of ``wanted``, in their order; what the folder has not is made, on all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cells.jsonl"
    found: Found = {}
    if path.exists():
        for line in path.read_text().splitlines():
            key, result = json.loads(line)
            found[key] = result
    missing = {cell.key: cell.normal for cell in wanted if cell.key not in found}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool, path.open("a") as file:
        running = {pool.submit(run, cell): key for key, cell in missing.items()}
        for done, future in enumerate(as_completed(running), start=1):
            key = running[future]
            found[key] = future.result()
            file.write(json.dumps([key, found[key]]) + "\n")
            file.flush()
            if done % 20 == 0 or done == len(missing):
                print(f"{done} of {len(missing)} runs", file=sys.stderr, flush=True)
    return found


def mean(found: Found, cell: Cell, what: str) -> float:
    """Over the honest workers of ``cell``."""
    return _mean(found[cell.key], cell, what)


def kept(found: Found, cell: Cell, what: str) -> float:
    """The share of the honest run's way that the honest workers of ``cell`` get, in per cent.

    Of the way from the start to where the same workers get when nobody attacks.
    """
    start, end = (mean(found, cell, each) for each in ("start", what))
    return 100 * (start - end) / (start - _mean(found[cell.honest.key], cell, what))


def _mean(result: dict[str, list[float]], cell: Cell, what: str) -> float:
    return float(np.mean(result[what][: cell.workers - cell.malicious]))
