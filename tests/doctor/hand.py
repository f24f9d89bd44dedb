"""Facts made by hand: a healthy job, to be hurt by `dataclasses.replace`."""

from dataclasses import replace

from asyndbt_mpi.doctor.facts import Cores, Facts, Gpus, Process, Shared
from asyndbt_mpi.doctor.findings import Finding, Level
from asyndbt_mpi.transport.launcher import Launcher


def process(rank: int, size: int, node: str = "n1", **changes) -> Process:
    launcher = changes.pop("launcher", Launcher("open mpi", size, rank))
    return replace(
        Process(
            rank=rank,
            size=size,
            host=node,
            node=node,
            local_rank=max(0, rank - 1),
            launcher=launcher,
            library="Open MPI 5.0.11",
            survives_deaths=True,
            versions={"Python": "3.11.7", "asyndbt_mpi": "0.1.0", "numpy": "2.4.6"},
        ),
        **changes,
    )


def gpu(name: str, *held: str, **changes) -> Gpus:
    """Of a worker that computes on the one called ``name``, out of those ``held``."""
    held = held or (name,)
    made = Gpus(
        asked="CUDA_VISIBLE_DEVICES=0", on_node=True, held=held, seen=held,
        taken=name, memory=80 * 2**30, torch="2.13.0", cuda="12.8",
    )  # fmt: skip
    return replace(made, **changes)


def job(size: int = 4, nodes: int = 1) -> list[Facts]:
    """Rank 0 and workers, dealt out to nodes of 8 cores; on the CPU."""
    made = []
    for rank in range(size):
        own = process(rank, size, f"n{rank % nodes + 1}")
        cores = Cores(8, tuple(range(8)))
        made.append(
            Facts(own, cores, Gpus(torch="2.13.0+cpu"), Shared(True, True) if rank else None)
        )
    return made


def hurt(facts: list[Facts], rank: int, **changes) -> list[Facts]:
    """With other facts of one rank; keys of its process go there."""
    old = facts[rank]
    of_process = {key: changes.pop(key) for key in list(changes) if hasattr(old.process, key)}
    new = replace(old, process=replace(old.process, **of_process), **changes)
    return [*facts[:rank], new, *facts[rank + 1 :]]


def only(findings: list[Finding], level: Level, *parts: str) -> Finding:
    """The one finding, which must be of the level and have all parts in its line."""
    assert len(findings) == 1, findings
    assert findings[0].level is level, findings[0]
    for part in parts:
        assert part in str(findings[0]), (part, str(findings[0]))
    return findings[0]
