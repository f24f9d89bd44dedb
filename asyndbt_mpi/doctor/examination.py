"""What each rank examines, and what rank 0 concludes from it."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.doctor import cores, gpus
from asyndbt_mpi.doctor.cores import check_cores
from asyndbt_mpi.doctor.facts import SERVER, Facts, Process, Shared
from asyndbt_mpi.doctor.findings import (
    Finding,
    grouped,
    merged,
    ok,
    problem,
    ranks_in_words,
    warning,
)
from asyndbt_mpi.doctor.folder import look_at_folder
from asyndbt_mpi.doctor.gpu_checks import check_gpus
from asyndbt_mpi.doctor.model import find_model
from asyndbt_mpi.doctor.places import unwritable
from asyndbt_mpi.doctor.processes import check_deaths, check_mpi, check_versions
from asyndbt_mpi.doctor.server import ask_server
from asyndbt_mpi.doctor.shared import check_shared, look_for

Result = TypeVar("Result")

PATIENCE_SECONDS = 120.0
"""Seconds for all checks together: a network file system or a driver may hang forever, and loading
torch may take a minute if all nodes read it at once."""
LEAST_SECONDS = 5.0
"""Seconds for a check when earlier ones have used these up."""
ALIKE = 8
"""Number of similar lines shown for a large job."""

SUBJECTS = (
    *("configuration", "defence", "MPI", "versions", "ULFM", "cores", "GPUs"),
    *("output", "HDF5 locking", "shared folder", "answers", "model", "data", "rows"),
)
"""Subjects in the order of the report."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The run that is to be started.

    Attributes
    ----------
    source : its CONFIG, as the user named it
    workers : how many there will be
    log : its file
    answers : the folder for the model's answers; None if none are kept
    read_data : reads what each rank reads for itself, and returns digests by what they are of;
        raises a ConfigurationError
    remarks : notes and warnings about the data, in lines, once they are read
    rows_fit : whether all rows of a rank's worker are known to fit into the model's context (for
        rank 0: those of all workers); raises a ConfigurationError if one does not
    """

    source: str
    workers: int
    config: Config
    log: Path
    answers: Path | None
    read_data: Callable[[], dict[str, str]]
    remarks: Callable[[], tuple[list[str], list[str]]]
    rows_fit: Callable[[int], bool]

    @property
    def shared_folder(self) -> Path:
        """The folder that all ranks should see."""
        return self.answers or self.log.parent


class Examiner:
    """Makes one check after another; a check that fails is itself a finding."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.findings: list[Finding] = []
        self._deadline = time.monotonic() + PATIENCE_SECONDS

    def look(self, subject: str, look: Callable[[], Result]) -> Result | None:
        """What ``look`` returns; None after an error, or if it does not finish."""
        results: list[Result] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(look())
            except Exception as error:
                errors.append(error)

        # A daemon, so that a hanging check does not keep the process from ending.
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        seconds = max(LEAST_SECONDS, self._deadline - time.monotonic())
        thread.join(seconds)
        if results:
            return results[0]
        self.findings.append(self._failure(subject, errors[0] if errors else seconds))
        return None

    def judge(self, subject: str, judge: Callable[[], list[Finding]]) -> None:
        """Keep the findings that ``judge`` returns."""
        self.findings += self.look(subject, judge) or []

    def _failure(self, subject: str, error: Exception | float) -> Finding:
        if isinstance(error, ConfigurationError):
            return problem(subject, str(error))
        where = f"rank {self.process.rank} on {self.process.host}"
        if isinstance(error, float):
            return problem(subject, f"{where}: the check did not finish within {error:.0f} s")
        said = " ".join(str(error).split())
        return problem(subject, f"{where}: the check failed: {type(error).__name__}: {said}")


def examine(examiner: Examiner, plan: Plan, sign: Path | None = None) -> Facts:
    """What this rank sees; ``sign`` is the file that marks rank 0's folder, if any."""
    process, llm, answers = examiner.process, plan.config.llm, plan.answers
    own_cores = examiner.look("cores", cores.look)
    own_gpus = examiner.look("GPUs", lambda: gpus.look(llm, process))
    shared: Shared | None = None
    if process.rank == SERVER:
        examiner.judge("output", lambda: look_at_folder(plan.log))
    elif sign is not None:
        shared = examiner.look("shared folder", lambda: look_for(sign))
    if process.works:
        if answers is not None:
            examiner.judge("answers", lambda: _writable(answers))
        if llm.backend == "transformers":
            examiner.judge("model", lambda: find_model(llm))
        elif llm.backend == "openai":
            examiner.judge("model", lambda: ask_server(llm))
    digests = examiner.look("data", plan.read_data)
    if digests is not None:
        examiner.findings.append(ok("data", f"complete, for {plan.workers} workers"))
        notes, warnings = plan.remarks()
        examiner.findings += [ok("data", line) for line in notes]
        examiner.findings += [warning("data", line) for line in warnings]
        if process.works and llm.backend != "synthetic":
            examiner.judge("rows", lambda: _rows(plan, process.rank))
    found = tuple(examiner.findings)
    return Facts(process, own_cores, own_gpus, shared, digests or {}, found)


def _writable(folder: Path) -> list[Finding]:
    if why := unwritable(folder):
        hint = 'choose another with llm.cache_folder, or "" to keep no answers on disk'
        return [problem("answers", f"{folder} cannot be written to: {why}", hint)]
    return [ok("answers", f"kept in {folder}")]


def _rows(plan: Plan, rank: int) -> list[Finding]:
    llm = plan.config.llm
    if plan.rows_fit(rank):
        return [ok("rows", f"all fit into the context of {llm.model}")]
    if llm.backend == "openai":
        return [ok("rows", "only the server knows whether they fit into the model's context")]
    return [ok("rows", "whether they fit into the model's context is checked once it is loaded")]


def report(facts: Sequence[Facts], plan: Plan) -> list[Finding]:
    """All findings, in the order of the `SUBJECTS`."""
    llm = plan.config.llm
    unused = plan.config.unused
    on_cpu = not any(each.gpus and each.gpus.taken for each in facts)
    found = [
        *([warning("configuration", unused, "remove them, or change llm.backend")] * bool(unused)),
        ok("defence", plan.config.defence.in_words(plan.workers)),
        *check_mpi(facts, plan.source, plan.workers),
        *check_versions(facts),
        *check_deaths(facts),
        *check_cores(facts, computing=llm.backend == "transformers" and on_cpu),
        *check_gpus(facts, llm),
        *check_shared(facts, answers=plan.answers is not None),
        *check_digests(facts),
        *_of_single_ranks(facts),
    ]
    return sorted(_shortened(found), key=lambda finding: SUBJECTS.index(finding.subject))


def _shortened(found: Sequence[Finding]) -> list[Finding]:
    """The first `ALIKE` of findings that repeat from node to node."""
    kept = []
    for group in grouped(found, lambda each: (each.subject, each.level, each.hint)).values():
        kept += group[:ALIKE]
        more = len(group) - ALIKE
        if more > 0:
            kept.append(replace(group[0], text=f"and {more} more of this kind"))
    return kept


def _of_single_ranks(facts: Sequence[Facts]) -> list[Finding]:
    pairs = [(each.rank, finding) for each in facts for finding in each.findings]
    found = []
    for of_subject in grouped(pairs, lambda pair: pair[1].subject).values():
        found += merged(of_subject, {rank for rank, _ in of_subject})
    return found


def check_digests(facts: Sequence[Facts]) -> list[Finding]:
    """Whether all ranks have read the same."""
    found = []
    for name in {name: None for each in facts for name in each.digests}:
        having = [each for each in facts if name in each.digests]
        groups = grouped(having, lambda each: each.digests[name])  # noqa: B023
        if len(groups) > 1:
            who = " and ".join(ranks_in_words(f.rank for f in group) for group in groups.values())
            text = f"the {name} differs between {who}"
            found.append(problem("data", text, "have all nodes read the same files"))
    return found
