"""Sections of the configuration on trust: workers that attack, the defence, and privacy."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

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


class Defence(Section):
    """[defence]: how reports are aggregated, up to a share of `malicious` workers tolerated.

    "rsa" is the paper's: sums, with the robust term `algorithm.robust_weight`. A worker is excluded
    after `strikes` messages that are malformed.
    """

    aggregator: Aggregator = "rsa"
    preaggregator: Preaggregator = "none"
    malicious: Annotated[float, Field(ge=0, lt=0.5)] = 0.3
    strikes: Count = 1


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

    Losses are clipped to [0, `clip`] nats; the standard deviation is `noise` times the most by
    which the losses of an answer can then differ, as a vector. `delta` is that of the guarantee.
    """

    noise: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    clip: Annotated[float, Field(gt=0, le=1e6)] = 2.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
