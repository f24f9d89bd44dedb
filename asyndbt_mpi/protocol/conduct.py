"""The course of a run, as far as it is the server's own doing, whatever the messages were."""

from collections.abc import Mapping

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.asyndbt import AsynDBT
from asyndbt_mpi.protocol.divergence import Diverged
from asyndbt_mpi.protocol.estimation import LowerEstimation, rounds_asked
from asyndbt_mpi.protocol.evaluations import Evaluations
from asyndbt_mpi.protocol.final_tests import FinalTests, draw_demonstrations, own_tests, scorers
from asyndbt_mpi.protocol.held import Held
from asyndbt_mpi.protocol.membership import Membership, State
from asyndbt_mpi.protocol.messages import (
    WITHOUT,
    Assignment,
    Candidate,
    EvaluationRequest,
    Hello,
    LowerAssignment,
    Shapes,
    Split,
    Stop,
)
from asyndbt_mpi.protocol.models import Models
from asyndbt_mpi.protocol.private import RANDOM
from asyndbt_mpi.protocol.race import Prompt, Race, Rounds, bare_prompt, entrants, most_calls
from asyndbt_mpi.protocol.records import (
    Event,
    EventKind,
    Iteration,
    Output,
)
from asyndbt_mpi.protocol.spending import AnswerKind, Spending
from asyndbt_mpi.protocol.validation import Validation


class Conduct:
    """What the server does of itself: steps, estimates, evaluations, tests, stops.

    A method that may send or record something, or depends on the time, takes the `Output`.

    Attributes
    ----------
    algorithm : AsynDBT
        Algorithm 1: t, z, the newest p and q used of every worker, the planes.
    members : Membership
        Which workers count.
    spending : Spending
        What the answers have cost, and what the budget still allows.
    finished : bool
        Every worker has been told to stop.
    replaying : bool
        What happens has happened before; `judge` says whether the run may go on after it.
    limit : str or None
        The limit of the budget that ended the run.
    failure : str or None
        Why the run had to end before its time: too few workers are left, or it `Diverged`.
    refusal : str or None
        Why the run must not be made, or go on, as it is.
    models : Models
        What is known of the workers' language models.

    Parameters
    ----------
    least_iterations
        Neither the budget nor early stopping ends the run before so many are committed: one that
        is gone through again has got there, if under other limits.
    expected
        By worker the hello that its data give, where that is known without asking it: its q is to
        be that, and what it may need at most so much.
    held
        By worker the rows that it has, where they are known: its answers have to be on these.
    """

    def __init__(
        self,
        config: Config,
        shapes: Shapes,
        workers: int,
        least_iterations: int = 0,
        expected: Mapping[int, Hello] | None = None,
        held: Mapping[int, Held] | None = None,
    ) -> None:
        self.config = config
        self.shapes = shapes
        self.workers = workers
        self.algorithm = AsynDBT(config, shapes, workers)
        self.least_iterations = least_iterations
        self.replaying = False
        self.members = Membership(workers, config.algorithm.min_workers)
        self.expected = expected or {}
        self.held = held or {}
        self.spending = Spending(
            config, workers, {v: hello.cost_bounds for v, hello in self.expected.items()}
        )
        self.finished = False
        self.limit: str | None = None
        self.failure: str | None = None
        self.refusal: str | None = None
        self.models = Models(config.llm.model_may_differ)
        self._has_model = config.llm.backend != "synthetic"
        run = config.run
        self.validation = Validation(
            workers, run.evaluate_every, run.early_stopping_patience, run.races
        )
        self._initial_q: FloatArray = np.zeros_like(self.algorithm.q)
        self._outstanding: dict[int, Assignment] = {}
        self._unassigned: set[int] = set()
        self._assignments = np.zeros(workers, dtype=np.int64)
        self.evaluations = Evaluations()
        self._races: dict[int, Race] = {}
        self._final_tests: FinalTests | None = None

    @property
    def iteration(self) -> int:
        """t, the number of committed iterations."""
        return self.algorithm.iteration

    @property
    def running(self) -> bool:
        """There are iterations to come."""
        return not (self._final_tests or self.finished)

    # ------------------------------------------------------------ Algorithm 1

    def _proceed(self, out: Output) -> None:
        """Everything that the messages so far allow."""
        try:
            while self._may_iterate() and self.algorithm.ready(self.members):
                self.algorithm.update(out.time)  # (21), (22)
                if self.algorithm.estimation_due and not self._estimate(out).finished:
                    return  # rounds of (8)-(10) are in flight
                self._send(out, self.algorithm.commit(out.time))  # (28)-(33), t <- t + 1
        except Diverged as error:  # the iteration is not committed
            self.failure = f"iteration {self.iteration}: {error}"
            self._stop_all(out)

    def _may_iterate(self) -> bool:
        """Whether there are iterations to come, and nobody may still hold another model."""
        unknown = not self.iteration and self._has_model and self.members.awaits_hellos
        return self.running and not unknown

    def _estimate(self, out: Output) -> LowerEstimation:
        """Start the rounds of (8)-(10), or go on with them."""
        estimation = self.algorithm.estimation
        if estimation is None:
            busy = (
                set()
                if self.config.algorithm.lower_participation == "all"
                else {*self._outstanding}
            )
            participants = sorted(self.members.joined - busy)
            estimation = self.algorithm.start_estimation(self.members.live, participants)
            self._start_round(out, estimation)
        while not estimation.finished and estimation.advance():
            if not estimation.finished:
                self._start_round(out, estimation)
        return estimation

    def _start_round(self, out: Output, estimation: LowerEstimation) -> None:
        for worker, assignment in estimation.assignments():
            self._ask(out, worker, assignment, "assignment")

    def _send(self, out: Output, committed: Iteration) -> None:
        """Log the iterate, and give those whose reports it used their next step."""
        out.records.append(committed)
        self.limit = None
        if self.iteration >= self.config.run.iterations or (
            self.validation.exhausted and self.iteration >= self.least_iterations
        ):
            self._close(out)
            return
        # Also those who came in the middle of it and had to wait. Who was lost and came back
        # meanwhile has its assignment, or has reported on it.
        used = [each.worker for each in committed.reports]
        due = dict.fromkeys(used + sorted(self._unassigned))
        self._unassigned.clear()
        self._assign(out, [
            worker for worker in due
            if worker in self.members.joined
            and worker not in self._outstanding
            and worker not in self.algorithm.reported
        ])  # fmt: skip

    # ------------------------------------------------------------ what workers are to do

    def _assign(self, out: Output, workers: list[int]) -> None:
        """Give ``workers`` their next upper step, after their validation if that is due."""
        if self._final_tests:
            for worker in workers:
                self._close_worker(out, worker)
            return
        self.limit = self._limit_to(workers, out.time)
        if self.limit:
            if self.algorithm.is_open:  # a hello can come in the middle of an iteration
                self._unassigned.update(workers)
            else:
                self._close(out)
            return
        indices = np.array(workers, dtype=np.int64) - 1
        self._assignments[indices] += 1
        each = zip(
            workers,
            self._assignments[indices].tolist(),
            self.algorithm.polyhedron.dual_gradients(indices),
            self.algorithm.knowledge_of_others(indices),
            strict=True,
        )
        for worker, number, dual_gradient, known in each:
            if self.validation.is_due(worker, self.iteration):
                self.validation.asked(worker, self.iteration)
                prompt = Split.VALIDATION, Candidate.TUNED, *self.algorithm.prompt(worker)
                self._evaluate(out, worker, EvaluationRequest(self.iteration, *prompt))
            assignment = Assignment(number, self.iteration, dual_gradient, *known)
            self._outstanding[worker] = assignment
            self._ask(out, worker, assignment, "assignment")

    def _evaluate(self, out: Output, worker: int, request: EvaluationRequest) -> None:
        self.evaluations.ask(worker, request)
        self._ask(out, worker, request, ANSWER_KINDS[request.split], request.halvings)

    def _ask(
        self,
        out: Output,
        worker: int,
        message: Assignment | LowerAssignment | EvaluationRequest,
        kind: AnswerKind,
        halvings: int = 0,
    ) -> None:
        """Send what ``worker`` is to answer."""
        self.members.asked(worker, out.time)
        self.spending.hand_out(worker, kind, halvings)
        out.messages.append((worker, message))

    def _limit_to(self, workers: list[int], time: float) -> str | None:
        """The limit that stands against the next step of ``workers``, if there is one.

        An estimate of phi that is due at the end of this iteration has to be covered as well.
        """
        if self.iteration < self.least_iterations:
            return None
        if not self.config.budget.limits_calls:  # the sums would cost more than all the rest
            return self.spending.overdrawn(0, time)
        validating = [v for v in workers if self.validation.is_due(v, self.iteration)]
        due = self.algorithm.estimation_due
        rounds = rounds_asked(self.config.algorithm) if due else 0
        cost_bounds = self.spending.cost_bounds
        calls = sum(cost_bounds(worker).assignment for worker in workers)
        calls += sum(cost_bounds(worker).validation for worker in validating)
        calls += rounds * sum(cost_bounds(worker).assignment for worker in self.members.joined)
        return self.spending.overdrawn(calls, time)

    # ------------------------------------------------------------ the end

    def _close(self, out: Output) -> None:
        """The iterations are over: if evaluation is on, race, and score the test split; stop."""
        self._record_event(out, EventKind.CLOSING, 0, self.limit or "")
        joined = sorted(self.members.joined)
        if self.config.run.evaluate_every:
            self._races = {v: self._race(v, self.spending.rounds(v, len(joined))) for v in joined}
        self._final_tests = FinalTests(
            self.iteration,
            own_tests(self.config),
            bare_prompt(self.shapes),
            scorers(self.config, self.workers),
        )
        for worker in joined:
            if worker not in self._outstanding:  # the others when their last report is in
                self._close_worker(out, worker)

    def _random(self, worker: int) -> Prompt:
        words = bare_prompt(self.shapes)[0]
        if self.config.log.private:
            return words, np.full(self.shapes.classes, RANDOM)
        q, seed = self._initial_q[worker - 1], self.config.run.seed
        return words, draw_demonstrations(q, seed, worker)

    def _consensus(self, demonstrations: IntArray) -> Prompt:
        return self.algorithm.z.argmax(axis=1), demonstrations

    def _race(self, worker: int, rounds: Rounds) -> Race:
        """Of ``worker``'s prompts; of a single one, which wins, without ``rounds``."""
        newest = self.algorithm.prompt(worker)
        found = entrants(
            rounds[0][0] if rounds else 1,
            bare_prompt(self.shapes),
            self._random(worker),
            newest,
            self._consensus(newest[1]),
            self.validation.prompts(worker),
            has_model=self.config.estimator.name == "additive",
        )
        return Race(found, rounds, self.spending.cost_bounds(worker).race_rows)

    def _close_worker(self, out: Output, worker: int) -> None:
        """Give ``worker``, whose iterations are over, the next prompt to score, or let it stop."""
        race = self._races.get(worker)
        if race is None:  # nothing is evaluated, or it joined after the iterations were over
            self._stop(out, worker)
            return
        tests = self._final_tests
        assert tests is not None
        # Once its winner is tested, a race that the budget has cut short is over.
        request = None if tests.has(worker) else race.next(self.iteration)
        if request:
            calls = most_calls(self.spending.cost_bounds(worker), request.halvings)
            if not self.spending.overdrawn(calls, out.time, "race"):
                self._evaluate(out, worker, request)
                return
        self._test(out, worker, race.winner)

    def _test(self, out: Output, worker: int, tuned: Prompt) -> None:
        """Give ``worker`` the next test, or let it stop."""
        tests = self._final_tests
        assert tests is not None
        if not tests.has(worker):
            # Of a winner without demonstrations, the consensus has the newest.
            shown = tuned[1] if (tuned[1] != WITHOUT).any() else self.algorithm.prompt(worker)[1]
            tests.enter(worker, tuned, self._random(worker), self._consensus(shown))
        request = tests.next(worker) if self.config.task.test else None
        calls = self.spending.cost_bounds(worker).test if request else 0
        if request and not self.spending.overdrawn(calls, out.time, "test"):
            self._evaluate(out, worker, request)
        else:
            self._stop(out, worker)

    def _fail(self, out: Output, reason: str) -> None:
        self.failure = reason
        self._stop_all(out)
        self._finish_if_all_stopped(out)

    def _end_by(self, out: Output, limit: str) -> None:
        """End at once: no tests are made, for they would take time and money."""
        if self.finished:
            return
        self.limit = limit
        if not self._final_tests:
            self._record_event(out, EventKind.CLOSING, 0, limit)
        self._stop_all(out)

    def _stop_all(self, out: Output) -> None:
        for worker in sorted(self.members.working):
            self._stop(out, worker)

    def _stop(self, out: Output, worker: int) -> None:
        self.members.become(worker, State.STOPPED)
        self._tell_to_stop(out, worker)
        self._finish_if_all_stopped(out)

    def _tell_to_stop(self, out: Output, worker: int) -> None:
        out.messages.append((worker, Stop()))

    def _finish_if_all_stopped(self, out: Output) -> None:
        if not self.members.working and not self.finished:
            self.finished = True
            words, classes = self.algorithm.z.argmax(axis=1), self.shapes.classes
            of_consensus = self.evaluations.consensus(
                words, classes, out.time, self.algorithm.aggregation
            )
            if of_consensus:
                out.records.append(of_consensus)

    def _record_event(self, out: Output, kind: EventKind, worker: int, text: str = "") -> None:
        out.records.append(Event(kind, worker, -1, self.iteration, out.time, text=text))


ANSWER_KINDS: dict[Split, AnswerKind] = {
    Split.VALIDATION: "validation",
    Split.TEST: "test",
    Split.RACE: "race",
}
"""What an evaluation on a split is for."""
