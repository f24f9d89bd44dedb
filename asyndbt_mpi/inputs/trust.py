"""Sections of the configuration on trust: workers that attack, the defence, and privacy."""

from typing import Annotated, Literal

from pydantic import Field

from asyndbt_mpi.inputs.fields import Count
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
