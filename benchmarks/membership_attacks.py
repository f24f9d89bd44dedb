"""How membership.py tells rows of a worker from other texts, given numbers of its run.

R rows of the worker, C candidates, n numbers of the run.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from membership_steps import Step

from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray

CHAINS = 16
"""Assignments that are drawn side by side."""
SWEEPS = 400
"""Rounds of drawing; the second half of them counts."""
HEAT = 10.0
"""By so many times the variance of the misfit is larger at first, lest a chain gets stuck."""
EXACT = 1e-9
"""Share of the losses' squares that counts as rounding."""


def auc(of_members: FloatArray, of_others: FloatArray) -> float:
    """The share of pairs in which the member has the larger score; ties count half."""
    above = of_members[:, None] - of_others
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def nearest(losses: FloatArray, known: FloatArray) -> FloatArray:
    """For each of the ``losses`` of candidates (C,), less the distance to the nearest ``known``."""
    if not len(known):
        return np.zeros(len(losses))
    distances: FloatArray = np.abs(losses[:, None] - known).min(axis=1)
    return -distances


# ---------------------------------------------------------------- losses of batches


def shares(batches: Sequence[IntArray], rows: int) -> FloatArray:
    """Of each row in the mean over each of the ``batches``, (n, R)."""
    share = np.zeros((len(batches), rows))
    for number, batch in enumerate(batches):
        share[number, batch] = 1 / len(batch)
    return share


def taken(
    losses: FloatArray,
    share: FloatArray,
    predicted: FloatArray,
    allowed: BoolArray,
    generator: np.random.Generator,
) -> FloatArray:
    """By how many times each candidate (C,) is more probably one of the rows than without losses.

    Each of the ``losses`` (n,) of prompts is taken for a mean of losses of rows, plus a constant
    and normal noise. Which candidate each row is, all different, is drawn from its distribution
    given the losses (Geman and Geman, 1984): one row after another, given the others, in `CHAINS`
    that do not know of each other. The variance is that of the misfit.

    Parameters
    ----------
    share : array (n, R), of each row in the mean
    predicted : array (n, C), the loss of each candidate with the prompt
    allowed : array (R, C) of bool, which candidates each row may be
    """
    rows, candidates = allowed.shape
    due = losses - losses.mean()
    design = (share[:, :, None] * predicted[:, None, :]).reshape(len(losses), -1)
    design -= design.mean(axis=0)
    products, fit, square = design.T @ design, design.T @ due, float(due @ due)
    first = np.arange(rows) * candidates
    # By chain and row, the column of the design: first of the row, then by candidate.
    columns = first + np.array([_start(allowed, generator) for _ in range(CHAINS)])
    counts, chains = np.zeros(candidates), np.arange(CHAINS)[:, None]
    for sweep in range(SWEEPS):
        explained = products[columns].sum(axis=1)
        misfit = square - 2 * fit[columns].sum(axis=1) + explained[chains, columns].sum(axis=1)
        heat = max(1.0, HEAT * (1 - 2 * sweep / SWEEPS))
        variance = heat * np.maximum(misfit, EXACT * square) / len(losses)
        for row in range(rows):
            own, old = slice(first[row], first[row] + candidates), columns[:, row]
            by_others = explained[:, own] - products[old, own]
            better = fit[own] - by_others - products.diagonal()[own] / 2
            chance = np.where(allowed[row], better / variance[:, None], -np.inf)
            used = np.delete(columns - first, row, axis=1)
            np.put_along_axis(chance, used, -np.inf, axis=1)
            new = first[row] + (chance + generator.gumbel(size=chance.shape)).argmax(axis=1)
            explained += products[new] - products[old]
            columns[:, row] = new
        if sweep >= SWEEPS // 2:
            counts += np.bincount((columns - first).ravel(), minlength=candidates)
    drawn = counts / (CHAINS * (SWEEPS - SWEEPS // 2))
    before = (allowed / allowed.sum(axis=1)[:, None]).sum(axis=0)
    more: FloatArray = np.divide(drawn, before, out=np.zeros(candidates), where=before > 0)
    return more


def _start(allowed: BoolArray, generator: np.random.Generator) -> IntArray:
    """A candidate for each row (R,), all different."""
    found: list[int] = []
    for of_row in allowed:
        left = np.setdiff1d(np.flatnonzero(of_row), found)
        found.append(int(generator.choice(left)))
    return np.array(found)


# ---------------------------------------------------------------- tokens


def lengths(
    steps: Sequence[Step], of_words: FloatArray, sizes: tuple[int, int], usual: float
) -> FloatArray:
    """The length of each row (R,) that the tokens of ``steps`` give; ``usual`` if none do.

    A step reads each row of its batch after each of its words, and a row for each class before
    them, once for all samples that have the same ones. The least deviations from what is usual
    are taken that explain the tokens.

    Parameters
    ----------
    steps : with tokens
    of_words : array (N,), tokens of each word
    sizes : R and U
    """
    (rows, classes), pool = sizes, 1 + max((int(s.demonstrations.max()) for s in steps), default=0)
    read = np.zeros((len(steps), rows + classes * pool))
    due = np.zeros(len(steps))
    for number, step in enumerate(steps):
        samples = np.concatenate((step.demonstrations, step.words), axis=1)
        shown, words = np.split(np.unique(samples, axis=0), [classes], axis=1)
        read[number, step.rows] = len(samples)
        np.add.at(read[number], rows + np.arange(classes) * pool + shown, 1)
        fragments = len(step.rows) * of_words[step.words].sum() + classes * of_words[words].sum()
        due[number] = step.tokens - fragments
    found: FloatArray = np.linalg.lstsq(read, due - usual * read.sum(axis=1))[0]
    return usual + found[:rows]


def alike(rows: Sequence[tuple[int, int]], candidates: Sequence[tuple[int, int]]) -> FloatArray:
    """Rows with the label and length of each candidate (C,), per candidate that has them."""
    of_rows, of_candidates = Counter(rows), Counter(candidates)
    return np.array([of_rows[each] / of_candidates[each] for each in candidates])
