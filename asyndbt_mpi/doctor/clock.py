"""Clocks of the nodes, against that of rank 0."""

from collections.abc import Sequence

from asyndbt_mpi.doctor.facts import Facts
from asyndbt_mpi.doctor.findings import Finding, ok, ranks_in_words, warning

TOLERATED = 1.0
"""Seconds."""


def check_clocks(facts: Sequence[Facts], offsets: Sequence[float]) -> list[Finding]:
    """``offsets`` are each rank's wall clock less that of rank 0, in seconds."""
    if len(offsets) < 2:
        return []
    skewed = {each.rank: offsets[each.rank] for each in facts}
    skewed = {rank: seconds for rank, seconds in skewed.items() if abs(seconds) > TOLERATED}
    worst = max(offsets, key=abs)
    if not skewed:
        return [ok("clocks", f"at most {abs(worst) * 1000:.1f} ms from rank 0's")]
    hosts = sorted({each.process.host for each in facts if each.rank in skewed})
    way = "ahead of" if worst > 0 else "behind"
    text = (
        f"{ranks_in_words(skewed)} on {', '.join(hosts)}: up to {abs(worst):.1f} s {way} rank 0's,"
        " so that times of different nodes cannot be compared"
    )
    return [warning("clocks", text, "have NTP (chrony, systemd-timesyncd) set the clocks")]
