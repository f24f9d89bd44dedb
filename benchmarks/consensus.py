"""What the consensus gives at equal calls: own prompts, z's words, and the words of the mean of p.

Example: python benchmarks/consensus.py

Exact expected losses on the synthetic task under lognormal delays, as share of the way from the
start (p and q uniform) to the optimum with shared words; "own" can exceed 100, as a worker's own
words beat shared ones. Mean over seeds, with the half-width of a 95 % interval.
"""

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from machine import describe
from scipy import stats

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.assemble import delays_of_workers, prepare, workers_with_black_box
from asyndbt_mpi.config import load
from asyndbt_mpi.protocol.records import Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.task.synthetic import Synthetic
from asyndbt_mpi.transport.virtual import VirtualCluster

BUDGETS = (1000, 3000, 6000, 16000)
"""Calls of four workers; more workers get more in proportion."""

VARIANTS = {
    "words learnt together (default)": (),
    "the same without planes": ("algorithm.plane_until=0",),
    "black box asked for the rounds": ("algorithm.lower_gradient=black_box",),
    "the same without planes, alone": (
        "algorithm.lower_gradient=black_box",
        "algorithm.plane_until=0",
    ),
}


def shares(variant: str, workers: int, heterogeneity: float, seed: int) -> FloatArray:
    """Percent of the way (budgets, 3) of own prompts, z's words and the mean of p's words."""
    budgets = [budget * workers // 4 for budget in BUDGETS]
    settings = (
        f"run.seed={seed}", "run.iterations=1000000", "delay.model=lognormal", "delay.mean=1",
        f"algorithm.active_workers={workers // 2}", "prompt.fragment_length=4",
        "prompt.vocabulary_size=16", "prompt.pool=8", f"llm.heterogeneity={heterogeneity}",
        f"budget.calls={max(budgets)}", "defence.aggregator=rsa", *VARIANTS[variant],
    )  # fmt: skip
    config = load("synthetic", settings)
    materials = prepare(config, workers)
    server = Server(config, materials.shapes, workers)
    everyone = range(1, workers + 1)
    holders, box = workers_with_black_box(config, materials, everyone, None)
    assert isinstance(box, Synthetic)
    algorithm, indices = server.algorithm, np.arange(workers)
    found: list[list[float]] = []

    def loss(p: FloatArray, q: FloatArray) -> float:
        return float(box.expected_loss(p, q, indices).mean())

    start = loss(algorithm.p, np.full_like(algorithm.q, 1 / algorithm.q.shape[-1]))
    whole = start - box.optimum(indices).loss

    def measure(_: Iterable[Record]) -> None:
        while len(found) < len(budgets) and server.spending.spent.calls >= budgets[len(found)] - 1:
            found.append(row())

    def row() -> list[float]:
        q = _mode(algorithm.q)
        words = algorithm.p, *(_shared(x, workers) for x in (algorithm.z, algorithm.p.mean(0)))
        return [100 * (start - loss(_mode(p), q)) / whole for p in words]

    delays = delays_of_workers(config, workers)
    VirtualCluster(server, holders, box, delays).run(measure)
    found += [row()] * (len(budgets) - len(found))
    return np.array(found)


def _mode(x: FloatArray) -> FloatArray:
    mode: FloatArray = np.eye(x.shape[-1])[x.argmax(axis=-1)]
    return mode


def _shared(z: FloatArray, workers: int) -> FloatArray:
    return np.repeat(z[None], workers, axis=0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 16])
    arguments = parser.parse_args()
    print(f"{describe()}; {arguments.seeds} seeds")
    print("| workers | h | calls | | own | z's words | mean p |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with ProcessPoolExecutor() as pool:
        for workers in arguments.workers:
            for heterogeneity in (0.2, 0.6):
                for variant in VARIANTS:
                    one = partial(shares, variant, workers, heterogeneity)
                    every = np.array(list(pool.map(one, range(arguments.seeds))))
                    _print(workers, heterogeneity, variant, every)


def _print(workers: int, heterogeneity: float, variant: str, every: FloatArray) -> None:
    half = stats.t.ppf(0.975, len(every) - 1) * stats.sem(every, axis=0)
    for budget, mean, error in zip(BUDGETS, every.mean(axis=0), half, strict=True):
        cells = " | ".join(f"{m:.0f} ± {e:.0f}" for m, e in zip(mean, error, strict=True))
        print(
            f"| {workers} | {heterogeneity} | {budget * workers // 4:,} | {variant} | {cells} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
