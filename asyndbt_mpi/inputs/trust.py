"""Sections of the configuration on trust: workers that attack, the defence, and privacy."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from asyndbt_mpi.inputs.fields import Count, NonNegativeCount
from asyndbt_mpi.inputs.sections import Section

Aggregator = Literal[
    "rsa",
    "median",
    "trimmed_mean",
    "geometric_median",
    "krum",
    "multi_krum",
    "centered_clipping",
]
"""How the workers' reports become one; see `asyndbt_mpi.algorithm.aggregation`."""

Preaggregator = Literal["none", "nnm", "bucketing"]
"""What is done to reports before they are aggregated."""


MEANS: dict[Aggregator, str] = {
    "rsa": "mean",
    "median": "median",
    "trimmed_mean": "trimmed mean",
    "geometric_median": "geometric median",
    "krum": "choice by Krum",
    "multi_krum": "multi-Krum mean",
    "centered_clipping": "mean with centred clipping",
}
"""Of numbers, in words: "the mean of the losses"."""

BEFORE: dict[Preaggregator, str] = {
    "none": "",
    "nnm": ", after nearest-neighbour mixing,",
    "bucketing": ", after bucketing,",
}
"""What follows `MEANS`."""

ROUNDING = 1e-9
"""By as much a share of workers may miss a whole one."""


class Defence(Section):
    """[defence]: how reports are aggregated, and the share of workers that may be `malicious`.

    "rsa" is the paper's: sums, with the robust term `algorithm.robust_weight`. So are all others
    where the share is of too few workers to be one of them. A worker is excluded after `strikes`
    messages that are malformed.
    """

    aggregator: Aggregator = "trimmed_mean"
    preaggregator: Preaggregator = "nnm"
    malicious: Annotated[float, Field(ge=0, lt=0.5)] = 0.3
    strikes: Count = 1

    @model_validator(mode="before")
    @classmethod
    def _nothing_comes_before_sums(cls, keys: Any) -> Any:
        if isinstance(keys, dict) and keys.get("aggregator") == "rsa":
            return {"preaggregator": "none", **keys}
        return keys

    @property
    def adds_up(self) -> bool:
        """Nothing is done to reports but to add them up."""
        return self.aggregator == "rsa" and self.preaggregator == "none"

    def tolerated(self, workers: int) -> int:
        """f: how many whole workers are in the `malicious` share, but fewer than half of them."""
        if self.adds_up:
            return 0
        return min(math.floor(self.malicious * workers + ROUNDING), (workers - 1) // 2)

    def in_words(self, workers: int) -> str:
        """What a run with so many ``workers`` withstands."""
        if self.adds_up:
            return "sums of all reports and psi, as in the paper"
        liars = self.tolerated(workers)
        if not liars:
            return (
                f"sums of all reports and psi, as in the paper: of {workers} workers less than one"
                f" is malicious by defence.malicious = {self.malicious:g}"
            )
        rule = self.aggregator if self.aggregator != "rsa" else "mean"
        before = f"{self.preaggregator} + " if self.preaggregator != "none" else ""
        return f"{before}{rule}, for up to {liars} malicious of {workers} workers"

    def mean_in_words(self, workers: int) -> str:
        """By what rule numbers, one of each of so many ``workers``, become one."""
        if not self.tolerated(workers):
            return MEANS["rsa"]
        return MEANS[self.aggregator] + BEFORE[self.preaggregator]


Attack = Literal[
    "sign_flip",
    "gaussian",
    "same_value",
    "alie",
    "ipm",
    "mimic",
    "stale_replay",
    "nan",
    "slow_poison",
    "label_flip",
    "bad_demonstrations",
    "flood",
    "malformed",
]
"""What malicious workers do: lie in their reports (`asyndbt_mpi.adversary.attacks`), about their
labels (`asyndbt_mpi.task.mislabelled`), or of answers (`asyndbt_mpi.adversary.boxes`)."""


def _named(value: Any) -> Any:
    """TOML takes a bare nan, as in ``--set adversary.attack=nan``, for a number."""
    return "nan" if isinstance(value, float) and math.isnan(value) else value


class Adversary(Section):
    """[adversary]: how many `workers` are malicious, the last ones, or which, and what they do.

    What `strength` means depends on the attack.
    """

    workers: NonNegativeCount | list[Count] = 0
    attack: Annotated[Attack, BeforeValidator(_named)] = "sign_flip"
    strength: Annotated[float, Field(ge=0, le=1e6)] = 1.0

    @property
    def needs(self) -> int:
        """The least number of workers of a run that has all the malicious ones."""
        return self.workers if isinstance(self.workers, int) else max(self.workers, default=0)

    def of(self, workers: int) -> frozenset[int]:
        """The numbers of the malicious ones among so many ``workers``."""
        if isinstance(self.workers, int):
            return frozenset(range(workers - self.workers + 1, workers + 1))
        return frozenset(self.workers)


class Privacy(Section):
    """[privacy]: Gaussian noise on losses, 0 for none, before anything is learnt or told of them.

    Losses are clipped to [0, `clip`] nats, also a function's, of which negative ones are then all
    alike; the standard deviation is `noise` times the most by which the losses of an answer can
    then differ, as a vector. `delta` is that of the guarantee.
    """

    noise: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    clip: Annotated[float, Field(gt=0, le=1e6)] = 2.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
