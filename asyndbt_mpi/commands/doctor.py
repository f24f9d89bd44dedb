"""`asyndbt doctor`: every rank gathers facts, and rank 0 reports what they mean."""

import os
import secrets
import socket
from collections.abc import Callable, Sequence
from functools import cached_property

import click

from asyndbt_mpi.assemble import Materials, delays_of_workers, prepare, rows_fit
from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.doctor.examination import PATIENCE_SECONDS, Examiner, Plan, examine, report
from asyndbt_mpi.doctor.facts import SERVER, Facts, Process
from asyndbt_mpi.doctor.findings import Finding, Level, problem
from asyndbt_mpi.doctor.processes import check_mpi, versions
from asyndbt_mpi.doctor.shared import ProbeFile, probe_path
from asyndbt_mpi.inputs.sections import Run
from asyndbt_mpi.jobs.answer_cache import folder_of
from asyndbt_mpi.jobs.codes import BAD_USAGE, DONE, FAILED
from asyndbt_mpi.jobs.job import log_path
from asyndbt_mpi.jobs.readings import digests
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.transport.launcher import Misfit, launched, misfit, node_name, wait_for_spokesman
from asyndbt_mpi.transport.watch import watched


def checkup(
    source: str, assignments: Sequence[str], output: str | None, workers: int | None
) -> int:
    """Check a run of the configuration ``source`` before it is started; the exit code.

    Without ``workers``, their number is that of the launched ranks; a single process takes the
    usual number, or as many as the configuration needs.

    Raises
    ------
    ConfigurationError
        The configuration itself is wrong; under MPI this is reported once, with exit code 2.
    """

    def planned(launched_workers: int) -> Plan:
        return _plan(source, assignments, output, workers, launched_workers)

    try:
        with watched(PATIENCE_SECONDS):
            from asyndbt_mpi.transport import mpi
    except Misfit as error:
        return _alone(planned, error.library, "")
    except (ImportError, RuntimeError) as error:
        return _alone(planned, "", " ".join(str(error).split()))
    if mpi.WORLD.Get_size() == 1:
        return _alone(planned, mpi.library(), "")
    try:
        return mpi.leave(_together(planned))
    except Exception as error:
        # The state of the other ranks is unknown now: only an abort ends them all.
        where = f"rank {mpi.WORLD.Get_rank()} on {socket.gethostname()}"
        click.echo(printable(f"asyndbt: {where}: {type(error).__name__}: {error}"), err=True)
        mpi.WORLD.Abort(FAILED)
        raise


def _alone(planned: Callable[[int], Plan], library: str, why_none: str) -> int:
    """Report that there is no MPI, no launcher, or a launcher that does not match it."""
    process = Process(
        rank=SERVER,
        size=1,
        host=socket.gethostname(),
        node=node_name(),
        local_rank=0,
        launcher=launched(os.environ),
        library=library,
        survives_deaths=False,
        versions=versions(),
        why_none=why_none,
    )
    if not wait_for_spokesman(process.launcher):
        return FAILED
    plan = planned(0)
    if misfit(process.launcher, library, process.size):
        return _say(check_mpi([Facts(process)], plan.source, plan.workers))
    return _say(report([examine(Examiner(process), plan)], plan))


def _together(planned: Callable[[int], Plan]) -> int:
    from asyndbt_mpi.transport import mpi
    from asyndbt_mpi.transport.together import Together

    world = mpi.WORLD
    rank, size = world.Get_rank(), world.Get_size()
    plan: Plan | None = None
    wrong = ""
    try:
        plan = planned(size - 1)
    except ConfigurationError as error:
        wrong = str(error)
    together = Together(world, (plan.config.run if plan else Run()).worker_timeout)
    well, says_it = together.agree(plan is not None)
    if says_it:
        click.echo(printable(f"asyndbt: {wrong}"), err=True)
    if plan is None or not well:
        return BAD_USAGE
    process = Process(
        rank=rank,
        size=size,
        host=socket.gethostname(),
        node=node_name(),
        local_rank=together.node_share()[0],
        launcher=launched(os.environ),
        library=mpi.library(),
        survives_deaths=mpi.survives_deaths(),
        versions=versions(),
    )
    number = together.from_server(secrets.randbelow(2**53))
    examiner = Examiner(process)
    probe: ProbeFile | None = None
    if rank == SERVER:
        probe = examiner.look("shared folder", lambda: _put_probe(plan, number))
    above = together.from_server(probe.above if probe else -1)
    looked_for = probe_path(plan.shared_folder, above, number) if above >= 0 else None
    try:
        facts = examine(examiner, plan, looked_for)
        together.wait_for_all()
        texts = together.gather_texts(_to_text(facts))
    finally:
        if probe:
            probe.remove()
    code = DONE
    if rank == SERVER:
        code = _say(report([Facts.from_json(text) for text in texts], plan))
    return together.from_server(code)


def _put_probe(plan: Plan, number: int) -> ProbeFile | None:
    try:
        return ProbeFile(plan.shared_folder, number)
    except OSError:
        return None  # other checks find what is wrong with the folder


def _to_text(facts: Facts) -> str:
    """The facts as JSON, even if the names of files are not valid text."""
    try:
        return facts.to_json()
    except ValueError as error:
        found = problem("output", f"a name cannot be read: {str(error)!a}")
        return Facts(facts.process, findings=(found,)).to_json()


def _plan(
    source: str,
    assignments: Sequence[str],
    output: str | None,
    workers: int | None,
    launched_workers: int,
) -> Plan:
    if workers and launched_workers not in (0, workers):
        raise ConfigurationError(
            f"--workers {workers}: {launched_workers} were launched, beside the server; leave it"
            f" out, or launch {workers + 1} ranks"
        )
    config = load(source, assignments)
    log = log_path(config, output)
    # A single process does not know how many there will be.
    count = workers or launched_workers or config.usual_workers
    answers = folder_of(config, log)
    data = _Data(config, count)
    return Plan(source, count, config, log, answers, data.digests, data.remarks, data.rows_fit)


class _Data:
    """What the ranks read for themselves, and the workers' rows; read on first use."""

    def __init__(self, config: Config, workers: int) -> None:
        self.config = config
        self.workers = workers

    @cached_property
    def _materials(self) -> Materials:
        materials = prepare(self.config, self.workers)
        delays_of_workers(self.config, self.workers)
        return materials

    def digests(self) -> dict[str, str]:
        """See `readings.digests`."""
        return digests(self.config, self._materials)

    def remarks(self) -> tuple[list[str], list[str]]:
        """Notes and warnings about the data; see `Materials`."""
        return self._materials.notes(self.config), self._materials.warnings(self.config)

    def rows_fit(self, rank: int) -> bool:
        """See `assemble.rows_fit`; a process that is alone checks the rows of all workers."""
        workers = [rank] if rank != SERVER else range(1, self.workers + 1)
        return rows_fit(self.config, self._materials, workers)


def _say(findings: Sequence[Finding]) -> int:
    """Print one line each; returns the exit code."""
    for finding in findings:
        # No colours: a rank sees the launcher's terminal even if the output goes to a file.
        click.echo(printable(f"{finding.level:<8} {finding}"))
    return FAILED if any(finding.level is Level.PROBLEM for finding in findings) else DONE
