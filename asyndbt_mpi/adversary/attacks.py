"""Attacks on what workers report: each a function of what a colluder sees.

Each makes one array (M, N) in which more means a better word: a p, or the scores of words that
follow from what the worker knows of them where that is pooled. So they work on reports of the
upper level, of the lower level, and on knowledge alike; who sees what is in `colluders`. The server
projects every p onto the simplex (D6), which bounds each attack.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray


@dataclass(frozen=True, slots=True)
class View:
    """What a colluder sees when it reports an array (M, N).

    Attributes
    ----------
    start : what it would move from, as everybody believes
    move : its honest move
    first : the first that it would have reported honestly
    others : array (H, M, N), the newest of the honest workers, in their order; H > 0 for attacks
        that look at others
    moves : array (H, M, N), the moves of these
    generator : the attack's randomness, for this report alone
    """

    start: FloatArray
    move: FloatArray
    first: FloatArray
    others: FloatArray
    moves: FloatArray
    generator: np.random.Generator


def sign_flip(view: View, strength: float) -> FloatArray:
    """start - strength * move: the honest step reversed (Li et al., RSA, AAAI 2019)."""
    return view.start - strength * view.move


def gaussian(view: View, strength: float) -> FloatArray:
    """start + noise, strength its standard deviation (Blanchard et al., NeurIPS 2017)."""
    return view.start + strength * view.generator.standard_normal(view.start.shape)


def same_value(view: View, strength: float) -> FloatArray:
    """strength at every position's first word, 0 elsewhere: all colluders agree on one prompt.

    Li et al. (RSA, AAAI 2019) send a multiple of the vector of ones; its projection onto the
    simplex is uniform, which would do no harm.
    """
    value = np.zeros_like(view.start)
    value[:, 0] = strength
    return value


def alie(view: View, strength: float) -> FloatArray:
    """mean + strength * standard deviation of the honest: "a little is enough".

    Baruch et al., NeurIPS 2019. What they derive for n workers of which m collude is
    strength = Phi^-1((n - m - s) / (n - m)) with s = floor(n / 2 + 1) - m.
    """
    deviation: FloatArray = view.others.mean(axis=0) + strength * view.others.std(axis=0)
    return deviation


def ipm(view: View, strength: float) -> FloatArray:
    """start - strength * the honest's mean move: inner-product manipulation (Xie et al., UAI 2020).

    Below 1 / (colluders per honest worker) it only slows the mean down, beyond that it turns it.
    """
    manipulated: FloatArray = view.start - strength * view.moves.mean(axis=0)
    return manipulated


def mimic(view: View, strength: float) -> FloatArray:
    """What the first honest worker reported (Karimireddy et al., ICLR 2022).

    Nothing about it is an outlier, but data unlike that worker's count for less. ``strength`` is
    not used.
    """
    copied: FloatArray = view.others[0]
    return copied


def stale_replay(view: View, strength: float) -> FloatArray:
    """The first report, again and again; ``strength`` is not used."""
    return view.first


def nan(view: View, strength: float) -> FloatArray:
    """Not a number; ``strength`` is not used."""
    return np.full_like(view.start, np.nan)


Lie: TypeAlias = Callable[[View, float], FloatArray]

LIES: Mapping[str, Lie] = {
    "sign_flip": sign_flip,
    "gaussian": gaussian,
    "same_value": same_value,
    "alie": alie,
    "ipm": ipm,
    "mimic": mimic,
    "stale_replay": stale_replay,
    "nan": nan,
    "slow_poison": sign_flip,  # from the second half of the iterations on
}
"""By `adversary.attack`, those that lie in reports."""

OMNISCIENT = {"alie", "ipm", "mimic"}
"""Attacks that need the reports of the honest."""
