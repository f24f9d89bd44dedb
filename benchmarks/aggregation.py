"""One aggregation of reports: how far liars move it, and how long it takes.

Example: python benchmarks/aggregation.py

The first table is of twenty workers' p (6 x 16) of which some attack: the L1 distance, per row,
between what a rule makes of all and the mean of the honest, under the worst of ten attacks, mean
over seeds. Every honest p is drawn around one of its run's own: nearly the same for all, or as far
from each other as workers that differ. A rule is told how many attack, and of 30 % where none do.
The second has milliseconds, for reports of which 30 % are shifted; the least of several.
"""

import argparse
import time

import numpy as np
from machine import describe

from asyndbt_mpi.adversary.attacks import LIES, View
from asyndbt_mpi.algorithm.aggregation import RULES, Aggregation
from asyndbt_mpi.algorithm.simplex import onto_simplex
from asyndbt_mpi.algorithm.types import FloatArray

WORKERS, POSITIONS, WORDS = 20, 6, 16
SHARES = 0.0, 0.2, 0.3, 0.4
USUAL_SHARE = 0.3
SPREADS = {"alike": 500.0, "apart": 5.0}
"""Concentration of the Dirichlet distribution of a worker's p around that of its run."""
ATTACKS = [
    *(("sign_flip", 1.0), ("sign_flip", 10.0), ("gaussian", 1.0), ("same_value", 1.0)),
    *(("alie", 1.0), ("alie", 3.0), ("ipm", 0.5), ("ipm", 10.0), ("mimic", 0.0)),
    ("stale_replay", 0.0),
]
TIMED = [(10, 96), (20, 1000), (100, 1000), (300, 1000), (1000, 96), (1000, 1000)]
CHOSEN = [("mean", "none"), *((rule, "none") for rule in RULES)]
CHOSEN += [("trimmed_mean", "nnm"), ("geometric_median", "nnm")]


def honest(workers: int, concentration: float, generator: np.random.Generator) -> FloatArray:
    """The p of so many workers (workers, M, N), after a number of steps from uniform words."""
    run = generator.dirichlet(np.ones(WORDS), POSITIONS)
    p: FloatArray = np.array([
        [generator.dirichlet(concentration * row + 1e-3) for row in run] for _ in range(workers)
    ])  # fmt: skip
    return p


def lies(p: FloatArray, liars: int, attack: str, strength: float, seed: int) -> FloatArray:
    """What so many liars report (liars, M, N) who know the honest ``p``, put on the simplex."""
    start = np.full(p.shape[1:], 1.0 / WORDS)
    told = []
    for liar in range(liars):
        generator = np.random.default_rng([seed, liar])
        move = p[generator.integers(len(p))] - start
        view = View(start, move, start, p, p - start, generator)
        told.append(LIES[attack](view, strength))
    projected: FloatArray = onto_simplex(np.array(told))
    return projected


def moved(rule: tuple[str, str], share: float, concentration: float, seed: int) -> float:
    """L1 per row between what the rule makes of all and the honest's mean; the worst attack's."""
    liars = round(share * WORKERS)
    p = honest(WORKERS - liars, concentration, np.random.default_rng(seed))
    tolerated = liars or round(USUAL_SHARE * WORKERS)
    aggregation = Aggregation(*rule, liars=0 if rule[0] == "mean" else tolerated)
    attacks = ATTACKS if liars else ATTACKS[:1]
    found = []
    for attack, strength in attacks:
        told = [p, lies(p, liars, attack, strength, seed)] if liars else [p]
        one = aggregation.mean(np.concatenate(told))
        found.append(float(np.abs(one - p.mean(axis=0)).sum(axis=-1).mean()))
    return max(found)


def milliseconds(rule: tuple[str, str], workers: int, numbers: int) -> float:
    """Of one aggregation; the least of several."""
    generator = np.random.default_rng(0)
    reports = generator.standard_normal((workers, numbers))
    liars = int(USUAL_SHARE * workers)
    reports[:liars] += 5.0
    aggregation = Aggregation(*rule, liars=0 if rule[0] == "mean" else liars)
    aggregation.mean(reports)  # compiled
    times: list[float] = []
    end = time.perf_counter() + 0.5
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        aggregation.mean(reports)
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    seeds = range(parser.parse_args().seeds)
    names = [" + ".join(filter(None, (before.replace("none", ""), of))) for of, before in CHOSEN]
    print(f"{describe()}; mean over {len(seeds)} seeds, and its standard error\n")
    print(f"| | share | {' | '.join(names)} |")
    print(f"| --- | --- |{' --- |' * len(names)}")
    for spread, concentration in SPREADS.items():
        for share in SHARES:
            cells = []
            for rule in CHOSEN:
                each = [moved(rule, share, concentration, seed) for seed in seeds]
                error = np.std(each, ddof=1) / len(each) ** 0.5 if len(each) > 1 else np.nan
                cells.append(f"{np.mean(each):.3f} ± {error:.3f}")
            print(f"| {spread} | {share:.0%} | {' | '.join(cells)} |", flush=True)
    print(f"\n| R, d | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    for workers, numbers in TIMED:
        found = [milliseconds(rule, workers, numbers) for rule in CHOSEN]
        cells = [f"{each:.0f}" if each >= 10 else f"{each:.2f}" for each in found]
        print(f"| {workers:,}, {numbers:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
