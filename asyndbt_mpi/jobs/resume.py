"""Resuming a run that was killed, interrupted, or finished: `--resume`.

The log's events hold the black boxes' answers. The run is replayed from its start with these
answers, which asks no language model; then server and workers are as they were when the last batch
of the log was written, and the run continues in the same file. Workers whose answers were in flight
are asked again. What the server had from the workers is taken from the log (see `adoption`); what
it computed from that must match the log.

The end of a run remains valid as long as the run still ends there. If it continues beyond, because
it may make more iterations or spend more, what came after its last iteration (tests, reports that
came too late) no longer counts; nor does it if the run now ends sooner.
"""

import signal
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asyndbt_mpi.adversary.colluders import colluders
from asyndbt_mpi.assemble import check_materials, hellos, workers_without_model
from asyndbt_mpi.config import Config, ConfigurationError, difference, with_choices_of
from asyndbt_mpi.inputs.sections import Budget
from asyndbt_mpi.jobs.job import Job
from asyndbt_mpi.jobs.used import Used
from asyndbt_mpi.llm.servers.bounds import Bytes
from asyndbt_mpi.log.compare import Comparer, Differs
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.schema import Transport
from asyndbt_mpi.log.storage.lock import is_being_written
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.evaluations import CONSENSUS
from asyndbt_mpi.protocol.messages import Costs, Hello
from asyndbt_mpi.protocol.records import SPLIT_OF, Evaluation, Event, EventKind, Iteration, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.task.partition import held
from asyndbt_mpi.transport.adoption import Adoption
from asyndbt_mpi.transport.interruption import Interrupted
from asyndbt_mpi.transport.replay import Recorded, Replay, ReplayError

TOLERANCE = 1e-6
"""Tolerated difference from the logged iterates, due to another processor's rounding."""

MAY_CHANGE = {
    "run": {"iterations", "output", "worker_timeout", "signals"},
    "log": {"sync_every"},
    "budget": {"calls", "tokens", "cost", "seconds"},
    "llm": {
        "cache_folder",
        "model_may_differ",
        "key_variable",
        "concurrency",
        "timeout",
        "attempts",
        "requests_per_minute",
        "input_price",
        "output_price",
    },
}
"""Keys that affect how far a run gets and what it takes, but not its iterates."""


class ResumeSink:
    """The sink of a replayed run: records that the log lacks go to ``write``.

    Parameters
    ----------
    counted : events of the log that count; later ones are new
    resumed : called with each `resumed` event, where it happened
    """

    def __init__(
        self,
        log: Log,
        counted: Sequence[Event],
        write: Callable[[Record], None],
        resumed: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._comparer = Comparer(log, TOLERANCE)
        self._iterations = log.committed
        self._has_consensus = bool((log["evaluation/worker"] == CONSENSUS).any())
        self._ahead = deque(counted)
        self._beyond = False
        self._write = write
        self._resumed = resumed
        self._pass_resumptions()

    def __call__(self, records: list[Record]) -> None:
        """Take the records of one step.

        Raises
        ------
        Differs
            They differ from those in the log.
        """
        self._comparer.write(records)
        for record in records:
            if self._is_new(record):
                self._write(record)

    def leave_behind(self) -> None:
        """Discard what the log has beyond this point."""
        self._ahead.clear()

    def _is_new(self, record: Record) -> bool:
        match record:
            case Event():
                ends = record.kind is EventKind.CLOSING
                if ends and self._ahead and self._ahead[0].kind is not EventKind.CLOSING:
                    self.leave_behind()  # the run now ends sooner
                self._beyond = not self._ahead
                if self._ahead:
                    self._ahead.popleft()
                    self._pass_resumptions()
                return self._beyond
            case Iteration():
                return record.number >= self._iterations
            case Evaluation():
                # The server adds the consensus' test last, so a batch may have ended before it.
                missing = record.worker == CONSENSUS and not self._has_consensus
                return self._beyond or missing

    def _pass_resumptions(self) -> None:
        """A `resumed` event does not follow from a replay; add it."""
        while self._ahead and self._ahead[0].kind is EventKind.RESUMED:
            self._resumed(self._ahead.popleft())


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run as its log leaves it: the ``replay`` that got there, and what the log lacks.

    ``event`` says that the run is resumed; ``new`` are the other records to write. ``events`` of
    the log count; ``counted`` is the number of rows of a group that count, if the log has more.
    """

    replay: Replay
    event: Event
    new: list[Record]
    events: list[Event]
    counted: dict[str, int]

    @property
    def time(self) -> float:
        """The time of the run's clock, in seconds."""
        return self.event.time

    @property
    def server(self) -> Server:
        """The server, with nothing left to do if ``finished``."""
        return self.replay.server


def resume(
    log: Log, job: Job, transport: Transport, signalled: Sequence[signal.Signals] = ()
) -> Resumed:
    """Replay the run of ``log`` up to its end.

    Raises
    ------
    ConfigurationError
        It is not the run of ``job``, or cannot be continued here.
    Interrupted
        The process was ``signalled`` meanwhile.
    """
    _check(log, job, transport)
    recorded = list(events(log))
    expected = expected_hellos(job) if transport == "mpi" else {}
    known = held(job.materials.data)
    shapes = job.materials.shapes
    server = Server(job.config, shapes, job.workers, log.committed, expected, known)
    workers, box = workers_without_model(job.config, job.materials, range(1, job.workers + 1))
    # A simulation is repeated from its start, with all workers in this process.
    adoption = Adoption(server, workers, Used(log), TOLERANCE) if transport == "mpi" else None
    liars = colluders(log.config, job.materials.shapes, job.workers)
    replay = Replay(server, workers, Recorded(recorded, box), adoption, liars)
    counted: dict[str, int] = {}
    new: list[Record] = []
    sink = ResumeSink(log, recorded, new.append)
    beyond: list[Event] = []
    try:
        same_end = log.config.budget == job.config.budget
        counts = _go_through(replay, recorded, signalled, sink, same_end)
        if counts < len(recorded):
            recorded, beyond = recorded[:counts], recorded[counts:]
            server.spending.count(_total(beyond))
            scored = _evaluations(recorded)
            answers = int(np.searchsorted(log["answer/evaluation"], scored))
            counted = {"event": counts, "evaluation": scored, "answer": answers}
            sink.leave_behind()
            # Excluded workers stay excluded.
            replay.run([each for each in beyond if each.kind is EventKind.EXCLUDED], sink)
    except (Differs, ReplayError) as error:
        sparse = f" (p and q are logged every {log.every} iterations only)"
        raise ConfigurationError(
            f"{log.path}: cannot be resumed: {error}{sparse if log.every > 1 else ''}; was it"
            " made by another version, is it damaged, have its data changed, or did a worker"
            " report something that does not follow from its answers?"
        ) from error
    if str(adoption or ""):
        warnings.warn(
            f"{log.path}: not explained by the recorded answers: {adoption}; the run resumes from"
            " the p and q in the log",
            stacklevel=2,
        )
    if server.iteration < log.committed:
        raise ConfigurationError(
            f"{log.path}: cannot be resumed: its events end at iteration {server.iteration}"
            f" of {log.committed}"
        )
    time = recorded[-1].time if recorded else 0.0
    server.members.wait_from(time)
    # A killed worker's call in flight may have been paid for; a simulated one is made only now.
    written_off = sum(each.number for each in beyond if each.kind is EventKind.RESUMED)
    under_way = written_off + server.spending.reserved if transport == "mpi" else 0
    server.spending.write_off(under_way)
    event = Event(EventKind.RESUMED, 0, under_way, server.iteration, time, _total(beyond))
    if transport == "mpi":
        replay.judge(time, new.extend)
    return Resumed(replay, event, new, recorded, counted)


def expected_hellos(job: Job) -> Mapping[int, Hello]:
    """What each worker of ``job`` will say it holds and needs, as far as rank 0 can know."""
    return hellos(job.config, job.materials, job.workers, Bytes())


def _go_through(
    replay: Replay,
    recorded: list[Event],
    signalled: Sequence[signal.Signals],
    sink: ResumeSink,
    same_end: bool,
) -> int:
    """Replay what is ``recorded``; the number of events that count.

    Events after the last iteration count if the iterations still end there, and with the
    ``same_end``: another budget may have room for other races. If they end sooner, nothing after
    that counts.
    """
    server, closing = replay.server, _final_tests(recorded)
    happened = [each.kind is not EventKind.RESUMED for each in recorded[:closing]]
    last = int(np.flatnonzero(happened).max(initial=0))
    for row, event in enumerate(recorded[:closing]):
        if signalled:
            raise Interrupted(signalled[0].name)
        replay.run([event], sink)
        if row < last and not server.running:
            return row + 1
    if closing == len(recorded):
        return closing
    replay.run([recorded[closing]], sink)
    if server.running or server.iteration != recorded[closing].iteration:
        return closing
    beyond = recorded[closing + 1 :]
    left = {each.worker for each in beyond if each.kind in (EventKind.LOST, EventKind.EXCLUDED)}
    if server.members.count - sum(map(server.members.is_live, left)) < server.members.needed:
        return closing + 1  # repeat the tests that failed: lost workers are back
    if not same_end:
        return closing + 1
    replay.run(beyond, sink)
    return len(recorded)


def _final_tests(recorded: list[Event]) -> int:
    """Row of the event that ended the iterations; the number of events if there is none."""
    rows = (row for row, event in enumerate(recorded) if event.kind is EventKind.CLOSING)
    return next(rows, len(recorded))


def _total(events: list[Event]) -> Costs:
    costs = [event.costs for event in events]
    return Costs(
        calls=sum(each.calls for each in costs),
        prompt_tokens=sum(each.prompt_tokens for each in costs),
        prompts=sum(each.prompts for each in costs),
        completion_tokens=sum(each.completion_tokens for each in costs),
        unrecognised=sum(each.unrecognised for each in costs),
    )


def _evaluations(recorded: list[Event]) -> int:
    kinds = np.array([event.kind for event in recorded], dtype=int)
    return int(np.isin(kinds, list(SPLIT_OF)).sum())


def _check(log: Log, job: Job, transport: Transport) -> None:
    """Refuse a job that is not the log's."""
    if log.transport != transport:
        command = {"mpi": "run", "virtual": "simulate"}.get(log.transport, log.transport)
        raise ConfigurationError(f"{log.path}: was made by asyndbt {command}; resume it with that")
    check_workers(log, job.workers)
    check_settings(log, job.config)
    if len(set(log.models) - {""}) > 1 and not job.config.llm.model_may_differ:
        raise ConfigurationError(
            f"{log.path}: was made with llm.model_may_differ = true, and its workers' models do"
        )
    try:
        check_materials(log, job.materials)
    except LogError as error:
        raise ConfigurationError(str(error)) from error
    if job.config.run.iterations < log.committed:
        raise ConfigurationError(
            f"run.iterations = {job.config.run.iterations}: {log.path} already has {log.committed}"
        )


def check_workers(log: Log, workers: int) -> None:
    """Refuse a number of ``workers`` other than the log's.

    Raises
    ------
    ConfigurationError
        The log's number, and the option for it.
    """
    if log.workers != workers:
        as_before = (
            f"-n {log.workers + 1}" if log.transport == "mpi" else f"--workers {log.workers}"
        )
        raise ConfigurationError(
            f"{log.path}: has {log.workers} workers, not {workers}; give {as_before}"
        )


def check_settings(log: Log, config: Config) -> None:
    """Refuse a configuration with which ``log`` cannot be resumed.

    Raises
    ------
    ConfigurationError
        What it was made with instead.
    """
    if found := difference(log.config, with_choices_of(config, log.config), MAY_CHANGE):
        raise ConfigurationError(
            f"{log.path}: was made with {found}; only run.iterations, run.output, [budget]"
            " and keys that do not affect iterates may change (see docs/faults.md)"
        )
    before, after = log.config.run.iterations, config.run.iterations
    adversary = config.adversary
    if before != after and adversary.needs and adversary.attack == "slow_poison":
        raise ConfigurationError(
            f"{log.path}: run.iterations = {after}: must stay {before}, because with"
            " adversary.attack = 'slow_poison' the lies begin at half of it"
        )


def reopen_log(log: Log, job: Job, resumed: Resumed) -> Writer:
    """``log``, opened for writing, with the records it lacked added.

    Raises
    ------
    ConfigurationError
        It cannot be written.
    """
    writer = job.reopen_log(log, resumed.counted)
    writer.write_all([resumed.event, *resumed.new])
    return writer


def log_to_resume(job: Job) -> Log | None:
    """The log that the job is to resume, if there is one."""
    if not job.path.exists():
        return None
    if is_being_written(job.path):  # checked before the run is replayed
        raise ConfigurationError(f"another process is writing {job.path}")
    try:
        log = Log(job.path)
        log.check_public("a run is resumed from what its workers were answered")
    except LogError as error:
        raise ConfigurationError(f"--resume: {error}") from error
    return log


def at_its_end(log: Log, config: Config) -> bool:
    """Whether the run of ``log`` has finished and ``config`` asks for no more.

    If it allows a larger budget than the one that ended the run, only `resume` can decide.
    """
    if log.status != "finished":
        return False
    if log.committed < log.config.run.iterations:  # ended by a limit, or by early stopping
        limits = log["event/text"][log["event/kind"] == EventKind.CLOSING].tolist()
        return not any(limits) or not _allows_more(log.config.budget, config.budget)
    return config.run.iterations <= log.committed


def _allows_more(old: Budget, new: Budget) -> bool:
    """Whether a limit in ``new`` is larger than in ``old``, or has been removed."""
    before, after = old.model_dump(), new.model_dump()
    return any(limit and (not after[key] or after[key] > limit) for key, limit in before.items())


def nothing_left(log: Log, resumed: Resumed) -> str:
    """Why a finished run is not resumed."""
    limit = resumed.server.limit
    why = f"it ended at {limit}; raise the limit to continue" if limit else "nothing is left to do"
    return f"{log.path} has finished, after {log.committed} iterations: {why}"
