"""Ranks per node, and cores per rank."""

import os
from collections.abc import Sequence

from asyndbt_mpi.doctor.facts import Cores, Facts
from asyndbt_mpi.doctor.findings import Finding, grouped, ok, ranks_in_words, warning


def look() -> Cores:
    """The cores of this node, and those of this process."""
    return Cores(os.cpu_count() or 1, tuple(sorted(os.sched_getaffinity(0))))


def check_cores(facts: Sequence[Facts], computing: bool) -> list[Finding]:
    """Whether every worker has a core; ``computing``: its model needs many.

    With a server the workers only wait.
    """
    known = [each for each in facts if each.cores is not None]
    if not known:
        return []
    found = []
    nodes = grouped(known, lambda each: each.process.node)
    for members in nodes.values():
        workers = [each for each in members if each.works]
        if workers and computing:
            found += _of_node(workers, members)
    return found or [ok("cores", _in_words(list(nodes.values())))]


def _of_node(workers: Sequence[Facts], members: Sequence[Facts]) -> list[Finding]:
    host = members[0].process.host
    total = max(each.cores.number for each in members if each.cores)
    open_to_workers = {core for each in workers if each.cores for core in each.cores.allowed}
    open_to_all = {core for each in members if each.cores for core in each.cores.allowed}
    if len(workers) > len(open_to_workers):
        text = f"{len(workers)} workers on {host} share {_cores(len(open_to_workers))}"
        hint = "the run is correct, but slower than with a core for each"
        if len(open_to_workers) < total:
            hint += f"; {_more(members[0])}"
        return [warning("cores", text, hint)]
    bound = [each.rank for each in workers if each.cores and len(each.cores.allowed) == 1]
    idle = total - len(open_to_all)
    if bound and idle >= len(workers):
        text = (
            f"{ranks_in_words(bound)} on {host} may use one core each, and {idle} of the node's"
            f" {total} are used by none"
        )
        return [warning("cores", text, _more(members[0]))]
    return []


def _more(facts: Facts) -> str:
    """How a rank gets more cores from its launcher."""
    return {
        "open mpi": "let ranks use all cores: mpiexec --bind-to none",
        "hydra": "let ranks use all cores: mpiexec -bind-to none",
        "srun": "give a rank more cores: srun --cpus-per-task=N",
        "none": "let the process use more cores (taskset, cpuset)",
    }[facts.process.launcher.kind]


def _in_words(nodes: Sequence[Sequence[Facts]]) -> str:
    """E.g. "9 ranks on 3 nodes, 4 to 8 cores per worker"."""
    shares = [share for members in nodes for share in _shares(members)]
    ranks = sum(map(len, nodes))
    where = f"{ranks} rank{'s' * (ranks > 1)} on {len(nodes)} node{'s' * (len(nodes) > 1)}"
    if len(nodes) > 1:
        where += f" (at most {max(map(len, nodes))} on one)"
    if not shares:
        return where
    low, high = min(shares), max(shares)
    return f"{where}, {_cores(high) if low == high else f'{low} to {_cores(high)}'} per worker"


def _shares(members: Sequence[Facts]) -> list[int]:
    """Each worker's share of the cores that it may run on, for the workers of a node."""
    workers = [each.cores.allowed for each in members if each.works and each.cores]
    return [max(1, len(own) // workers.count(own)) for own in workers]


def _cores(number: int) -> str:
    return f"{number} core{'s' * (number > 1)}"
