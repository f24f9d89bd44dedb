"""A run of `asyndbt run` in one process, whose messages come in an order that nothing disturbs.

A worker's n-th answer has its place in the order, whenever it was asked for; and the clock counts
the events. A run that was ended anywhere and resumed therefore has, if all is well, the iterates of
the run that was never ended, bit by bit.
"""

import contextlib
import io
import shutil
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from asyndbt_mpi.assemble import workers_with_black_box
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.jobs.answer_cache import Answers, open_store
from asyndbt_mpi.jobs.codes import BAD_USAGE, FAILED
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.jobs.opening import Ended, open_run, verdict
from asyndbt_mpi.llm.base import NoModel, Prompt, Scores
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.log.events import events
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.blackbox import BlackBox, Completed
from asyndbt_mpi.protocol.messages import (
    Failure,
    Hello,
    LowerReport,
    MalformedMessage,
    Report,
    Reset,
    Restore,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.records import EventKind, Output
from asyndbt_mpi.protocol.worker import Workers
from tests.protocol.invariants import validate_state

PACE = (1.0, 1.3, 0.7, 2.1)
"""Between two answers of each worker, in the order of arrivals."""


@dataclass(frozen=True)
class Mishap:
    """At the event ``at``, ``what`` happens to ``worker``: "exclude", "lose" or "return"."""

    at: int
    what: str
    worker: int


@dataclass(frozen=True)
class Plan:
    """What happens to a life of a run.

    The process is killed, ``unwritten`` events after its last batch, or signalled after so many
    events. A liar's p, its q, its p in estimates of phi or its loss is not what its answers give.
    A worker that is ``absent`` never says hello, one ``refuses`` before the first iteration.
    """

    mishaps: tuple[Mishap, ...] = ()
    kill: int | None = None
    unwritten: int = 0
    term: int | None = None
    liar: int = 0
    lies: str = "p"
    absent: tuple[int, ...] = ()
    refuses: int = 0


class Toy(NoModel):
    """A language model that answers each prompt with what its digest says."""

    description = "toy"
    digest = "toy"

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        texts = [prompt.context + prompt.query for prompt in prompts]
        digests = [int.from_bytes(sha256(text.encode()).digest()[:4]) for text in texts]
        weights = np.array([[1 + (d >> 8 * k) % 97 for k, _ in enumerate(labels)] for d in digests])
        scores = np.log(weights / weights.sum(axis=1, keepdims=True))
        return Scores(scores, calls=len(texts), prompt_tokens=len(texts))

    def longest(self, text: str) -> int:
        return 1


class Life:
    """One start of the run in this process, to whatever end its ``plan`` has for it."""

    def __init__(self, job: Job, plan: Plan) -> None:
        self.job = job
        self.plan = plan
        self.code = FAILED
        self.said: list[str] = []

    def live(self) -> int:
        """The exit code."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.code = self._live()
        # What the collector says of other tests' objects is none of this run's words.
        self.said += [str(each.message) for each in said if issubclass(each.category, UserWarning)]
        return self.code

    def _live(self) -> int:
        resuming = self.job.path.exists()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                opened = open_run(self.job, resuming)
        except Ended as error:
            self.said.append(str(error))
            return error.code
        except ConfigurationError as error:
            self.said.append(str(error))
            return BAD_USAGE
        self.server, self.writer, self.earlier = opened.server, opened.writer, opened.earlier
        self._make_workers()
        self.inbox: dict[int, deque[ToWorker]] = {v: deque() for v in self.workers.data_sizes}
        self.answers = dict.fromkeys(self.inbox, 0)
        self.clock = 0
        self.ahead = 0.0
        if self.earlier is not None:
            self.answers |= self.earlier.answers
            self.clock = self._events_so_far()
            # Ahead only where one waited for those who stayed away.
            self.ahead = max(0.0, opened.time - self.clock)
        # What the log already has of them is not to happen again.
        mishaps = sorted(self.plan.mishaps, key=lambda each: each.at)
        self.mishaps = deque(each for each in mishaps if each.at >= self.clock)
        killed = self._serve()
        if killed:
            return FAILED
        problem, code = verdict(self.server)
        whole = self.server.finished and not problem
        self.writer.close("finished" if whole else "interrupted")
        if problem:
            self.said.append(problem)
        return code

    def _make_workers(self) -> None:
        config, everyone = self.job.config, range(1, self.job.workers + 1)
        model: CachedModel | None = None
        if config.llm.backend != "synthetic":
            toy = Toy()
            store = open_store(config, Answers(self.job.path, 0), "", toy.digest)
            model = CachedModel(toy, config.llm.cache, store)
        self.workers: Workers
        self.box: BlackBox
        self.workers, self.box = workers_with_black_box(config, self.job.materials, everyone, model)

    def _events_so_far(self) -> int:
        """But for those that say that it was resumed."""
        self.writer.flush()
        with Log(self.job.path) as log:
            return sum(event.kind is not EventKind.RESUMED for event in events(log))

    @property
    def now(self) -> float:
        """Seconds of the run's clock."""
        return self.clock + self.ahead

    # ------------------------------------------------------------ the server's loop

    def _serve(self) -> bool:
        """Until the server has finished or the plan's end; True if that was a kill."""
        away = {each.worker for each in self.mishaps if each.what == "return"}
        away &= self.server.members.lost
        for worker in self.inbox:
            if worker not in {*away, *self.plan.absent} and not self.server.finished:
                self._hear(worker, self._hello(worker))
        flushed = False
        while not self.server.finished:
            if self.plan.kill is not None and self.clock >= self.plan.kill - self.plan.unwritten:
                if not flushed:
                    self.writer.flush()
                    flushed = True
                if self.clock >= self.plan.kill:
                    self._die()
                    return True
            if self.plan.term is not None and self.clock >= self.plan.term:
                return False
            self._step()
        return False

    def _step(self) -> None:
        ready = [v for v, inbox in self.inbox.items() if inbox]
        if self.mishaps and (self.clock >= self.mishaps[0].at or not ready):
            self._happen(self.mishaps.popleft())
            return
        if not ready:
            timeout = self.job.config.run.worker_timeout
            self._take(self.server.tick(self.now + timeout + 1.0))
            assert self.server.finished, "it waits for ever"
            return
        worker = min(ready, key=lambda v: ((self.answers[v] + 1) * PACE[v - 1], v))
        reply = self._work(worker, self.inbox[worker].popleft())
        if reply is not None:
            self._hear(worker, reply)
        if not self.server.finished:
            self._take(self.server.tick(self.now))

    def _happen(self, mishap: Mishap) -> None:
        worker, now = mishap.worker, self.now
        match mishap.what:
            case "exclude":
                self._take(self.server.exclude(worker, "a malformed message", now))
            case "lose":
                self.inbox[worker].clear()
                self._take(self.server.lose(worker, "its process died", now))
            case "return" if worker in self.server.members.lost:
                self._hear(worker, self._hello(worker))

    def _hello(self, worker: int) -> ToServer:
        if worker == self.plan.refuses:
            return Failure("it does not suit me", refuses=True)
        return self.workers.hello(worker, self.box.descriptions[worker], self.box.digests[worker])

    def _work(self, worker: int, message: ToWorker) -> ToServer | None:
        [query] = self.workers.receive([(worker, message)])
        if isinstance(message, Reset):
            return self._hello(worker)
        if isinstance(message, Restore):
            assert message.answers == self.answers[worker]
        if query is None:
            return None
        [answer] = self.box.answer([query])
        [reply] = self.workers.answer([Completed(worker, answer, 0.5, self.now)])
        self.answers[worker] += 1
        return self._lie(reply) if worker == self.plan.liar else reply

    def _lie(self, reply: ToServer) -> ToServer:
        match reply, self.plan.lies:
            case Report(), "p":
                return replace(reply, p=np.full_like(reply.p, 5.0))
            case Report(), "q":
                return replace(reply, q=-2.0 * reply.q)
            case Report(), "loss":
                return replace(reply, loss=reply.loss - 1.0)
            case LowerReport(), "phi":
                return replace(reply, p=-3.0 * reply.p)
            case _:
                return reply

    def _hear(self, worker: int, message: ToServer) -> None:
        try:
            if self.earlier is not None and isinstance(message, Hello):
                answers = self.earlier.greet(worker, message)
                if answers is not None:
                    self.inbox[worker].extend(answers)
                    return
            self._take(self.server.receive(worker, message, self.now))
        except MalformedMessage as error:
            self._take(self.server.exclude(worker, str(error), self.now))

    def _take(self, output: Output) -> None:
        validate_state(self.server)
        for worker, message in output.messages:
            if self.earlier is None or not self.earlier.holds(worker, message):
                self.inbox[worker].append(message)
        self.writer.write_all(output.records)
        self.clock += sum(
            getattr(record, "kind", EventKind.RESUMED) is not EventKind.RESUMED
            for record in output.records
        )

    def _die(self) -> None:
        """Leave what a kill would leave: what was committed, and no orderly end."""
        path = self.writer.path
        left = path.with_suffix(".left")
        shutil.copy(path, left)
        self.writer.close("interrupted")
        left.replace(path)


def start(
    path: Path, plan: Plan, settings: Sequence[str], source: str = "synthetic", workers: int = 4
) -> Life:
    """Start the run at ``path``, or go on with it, and see it through."""
    request = Request(source, tuple(settings), str(path), False, False, path.exists())
    life = Life(Job.of(request, workers), plan)
    life.live()
    return life
