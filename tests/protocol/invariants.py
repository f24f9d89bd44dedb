"""What holds of a server between any two messages, whatever they were.

    validate_state(server)               # of its state alone
    account = Account(server)
    account.take(output)                 # of its state, and of all that it has said so far

Each raises an AssertionError that says what is broken.
"""

import pickle
from collections import Counter

import numpy as np

from asyndbt_mpi.algorithm.polyhedron import Polyhedron
from asyndbt_mpi.algorithm.simplex import ON_SIMPLEX, distance_to_simplex
from asyndbt_mpi.protocol.conduct import ANSWER_KINDS
from asyndbt_mpi.protocol.membership import BARRED, COUNTED, MOST_RETURNS, Membership, State
from asyndbt_mpi.protocol.messages import (
    Assignment,
    EvaluationRequest,
    LowerAssignment,
    Reset,
    Split,
    Stop,
)
from asyndbt_mpi.protocol.records import Event, EventKind, Iteration, Output
from asyndbt_mpi.protocol.server import Server

TOLERANCE = 10 * ON_SIMPLEX

ANSWERS = {
    EventKind.REPORT: "assignment",
    EventKind.LOWER_REPORT: "assignment",
    EventKind.EVALUATION: "validation",
    EventKind.TEST: "test",
    EventKind.RACE: "race",
}


def validate_state(server: Server) -> None:
    """Raise an AssertionError if the state of ``server`` cannot be."""
    _validate_members(server.members, server.workers)
    _validate_iterates(server)
    _validate_planes(server)
    _validate_work(server)
    _validate_estimation(server)
    _validate_spending(server)
    _validate_races(server)
    _validate_course(server)


def snapshot(server: Server) -> bytes:
    """All of ``server`` that may change."""
    given = {"config", "shapes", "expected", "held"}
    return pickle.dumps({k: each for k, each in vars(server).items() if k not in given})


# ---------------------------------------------------------------- who takes part


def _validate_members(members: Membership, workers: int) -> None:
    everyone = range(1, workers + 1)
    in_sets = sorted(worker for who in members._in.values() for worker in who)
    assert in_sets == [*everyone], "a worker is in no state, or in two"
    for worker in everyone:
        state = members.state(worker)
        assert worker in members._in[state], f"worker {worker} is not among the {state.name}"
        assert members.live[worker - 1] == (state in COUNTED), f"worker {worker} is live or not"
        assert (worker in members.barred) == (state in BARRED), f"worker {worker} is barred or not"
        assert members.returns[worker] <= MOST_RETURNS, f"worker {worker} came back too often"
        if state in (State.EXPECTED, State.RESTARTING):
            assert members._owed[worker] == 1, f"worker {worker} owes nothing but a hello"
    assert members.count == members.live.sum(), "the number of live workers"


# ---------------------------------------------------------------- Algorithm 1


def _validate_iterates(server: Server) -> None:
    algorithm, members = server.algorithm, server.members
    for name, values in (("p", algorithm.p), ("z", algorithm.z[None])):
        assert np.isfinite(values).all(), f"{name} is not finite"
        assert (distance_to_simplex(values) <= TOLERANCE).all(), f"{name} is off the simplex"
    private = server.config.log.private
    assert (np.isfinite(algorithm.q) != private).all(), "q is not finite, or is not at home"
    greeted = (algorithm.q != 0).any(axis=(1, 2))
    assert (distance_to_simplex(algorithm.q[greeted]) <= TOLERANCE).all(), "q is off the simplex"
    assert greeted[[v - 1 for v in members.joined]].all(), "who has said hello has a q"
    assert np.isfinite(algorithm.loss).all(), "a loss is not finite"
    counts = algorithm._heard.any() or algorithm.is_open
    assert not counts or np.isfinite(algorithm.objective), "the objective is not finite"
    gone = algorithm._heard & ~members.live
    assert not gone.any(), "a worker that has left counts in the objective"
    assert 0 <= algorithm.iteration <= server.config.run.iterations, "t is outside the run"
    begun = algorithm.iteration + algorithm.is_open
    assert ((algorithm.delay >= 0) & (algorithm.delay <= begun)).all(), "a delay is outside the run"
    late = algorithm.delay[members.live] > server.config.algorithm.max_delay
    assert not late.any(), "a worker that counts is more than tau late"


def _validate_planes(server: Server) -> None:
    planes: Polyhedron = server.algorithm.polyhedron
    held, active = planes.identifier >= 0, planes.active
    identifiers = planes.identifier[planes.slots]
    assert sorted(planes.slots) == np.flatnonzero(held).tolist(), "slots are those of the planes"
    assert (np.diff(identifiers) > 0).all(), "planes are in the order of their making"
    assert (identifiers < planes.created).all(), "a plane was never made"
    assert (active.any(axis=1) == held).all(), "a plane has a position, a free slot has none"
    assert not planes._worker_terms[~active].any(), "what was dropped has no terms"
    for name, values in (("a dual", planes.dual), ("c", planes.c)):
        assert np.isfinite(values).all(), f"{name} is not finite"
        assert not values[~active].any(), f"{name} is that of no plane"
    bound = server.config.algorithm.dual_bound
    assert ((planes.dual >= 0) & (planes.dual <= bound)).all(), "a dual is outside [0, bound]"
    assert not planes.b.swapaxes(0, 1)[~active].any(), "b is that of no plane"
    assert not planes.a.transpose(2, 1, 0, 3)[~active].any(), "a is that of no plane"
    terms = np.einsum("vilj,vij->li", planes.a.astype(float), server.algorithm.p)
    assert (abs(planes._worker_terms - terms) <= TOLERANCE).all(), "sum_v a(v) . p(v) is stale"


# ---------------------------------------------------------------- what workers are at


def _validate_work(server: Server) -> None:
    """Each worker that takes part has one thing to do, or waits for an iteration that it is in."""
    algorithm, joined = server.algorithm, server.members.joined
    assigned, reported = server._outstanding, algorithm.reported
    waiting = server._unassigned
    assert not assigned.keys() & reported.keys(), "who has reported is at work on the same"
    assert not waiting & (assigned.keys() | reported.keys()), "who has work waits for work"
    assert not waiting or algorithm.is_open or not server.running, "a worker waits for nothing"
    for worker, each in (assigned | reported).items():
        newest = each.number, 0 <= each.iteration <= server.iteration
        assert newest == (server._assignments[worker - 1], True), f"worker {worker} is at old work"
    taking_part = joined | server.members._in[State.STOPPED]
    assert assigned.keys() <= taking_part, "who has left is at work"
    if server.running:
        assert waiting | reported.keys() <= joined, "who has left is used or given work"
        used = algorithm._open.active if algorithm._open else np.zeros(server.workers, bool)
        idle = {
            worker
            for worker in joined - assigned.keys() - reported.keys() - waiting
            if not used[worker - 1]
        }
        assert not idle, f"workers {idle} were forgotten"
    elif not server.finished:
        owing = {v for v in joined if server.spending._by_worker[v].owed}
        assert owing == joined, "who is neither tested nor stopped was forgotten"


def _validate_estimation(server: Server) -> None:
    algorithm = server.algorithm
    estimation = algorithm.estimation
    if server.running:
        assert algorithm.is_open == (estimation is not None), "an iteration is open for nothing"
    if estimation is None or server.finished:
        return
    participants = set(estimation.participants)
    assert algorithm.estimation_due, "phi is estimated at the wrong time"
    assert participants <= server.members.joined, "who has left takes part in an estimate"
    assert estimation.awaited, "an estimate waits for nobody"
    assert estimation.awaited <= participants, "an estimate waits for who takes no part"
    assert 0 <= estimation.round < estimation.rounds, "an estimate has another number of rounds"
    lower = estimation.lower
    assert not (lower.live & ~server.members.live).any(), "who has left counts in an estimate"
    assert distance_to_simplex(lower.z[None]) <= TOLERANCE, "phi_z is off the simplex"
    assert np.isfinite(lower.p).all(), "phi_p is not finite"
    assert np.isfinite(lower.rho).all(), "rho is not finite"


# ---------------------------------------------------------------- what is owed, and what it costs


def _validate_spending(server: Server) -> None:
    spending, budget = server.spending, server.config.budget
    took_part = server.members.joined | server.members._in[State.STOPPED]
    assert server.members.joined <= spending._by_worker.keys() <= took_part, "who can spend"
    if not server.finished:
        for worker, held in spending._by_worker.items():
            asked = Counter(_asked_of(server, worker))
            assert Counter(held.owed) == asked, f"worker {worker} owes what it was not asked for"
            owed = server.members._owed[worker]
            assert owed == len(held.owed), f"worker {worker} is waited for without reason"
    reserved = 0
    for worker, held in spending._by_worker.items():
        assert held.race >= 0, f"less than nothing is set aside for the race of worker {worker}"
        for kind, halvings in held.owed:
            calls = held.most_calls(kind, halvings)
            assert 0 <= calls <= getattr(held.cost_bounds, kind), "an answer has another bound"
            reserved += calls
    assert spending.reserved == reserved >= 0, "reserved is what is owed"
    spent = spending.spent
    assert min(spent.calls, spent.prompt_tokens, spent.completion_tokens) >= 0, "spent is negative"
    assert spending._written_off >= 0, "what was written off is negative"
    if budget.calls and not server.replaying:
        calls = spent.calls + reserved + spending._written_off
        assert calls <= budget.calls, "more may be spent than the budget allows"


def _asked_of(server: Server, worker: int) -> list[tuple[str, int]]:
    """What ``worker`` has to answer, by those that ask, and how often its rows are halved."""
    asked = [("assignment", 0)] * (worker in server._outstanding)
    estimation = server.algorithm.estimation
    asked += [("assignment", 0)] * (estimation is not None and worker in estimation.awaited)
    requests = server.evaluations._asked.get(worker, ())
    return asked + [(ANSWER_KINDS[each.split], each.halvings) for each in requests]


# ---------------------------------------------------------------- races and tests


def _validate_races(server: Server) -> None:
    tests, asked = server._final_tests, server.evaluations._asked
    if tests is None:
        assert not server._races, "a race before the iterations are over"
        kinds = {each.split for requests in asked.values() for each in requests}
        assert kinds <= {Split.VALIDATION}, "a race or a test before the iterations are over"
        return
    assert tests._own.keys() <= server._races.keys(), "who has no race is tested"
    for worker, race in server._races.items():
        assert race.running, f"nobody is left in the race of worker {worker}"
        assert len(race._scored) < max(2, len(race.running)), "a round is over and goes on"
        requests = asked.get(worker, ())
        racing = [each for each in requests if each.split is Split.RACE]
        testing = [each for each in requests if each.split is Split.TEST]
        assert len(racing) + len(testing) <= 1, f"worker {worker} is to score two prompts at once"
        assert not (racing and tests.has(worker)), "a race goes on though its winner is tested"
        assert not testing or tests.has(worker), "a test of who has not entered"
        if racing:
            due = race.next(racing[0].iteration)
            assert due is not None, "what is scored is of no race"
            assert (due.candidate, due.rank, due.halvings) == (
                racing[0].candidate, racing[0].rank, racing[0].halvings
            ), "what is scored is not the next"  # fmt: skip
    _same_rows(server)


def _same_rows(server: Server) -> None:
    """The prompts of a round are scored on as many rows each."""
    for race in server._races.values():
        rows = {len(each.losses) for each in race._scored if each.losses is not None}
        assert len(rows) <= 1, "prompts are compared on different rows"


# ---------------------------------------------------------------- how far the run is


def _validate_course(server: Server) -> None:
    members = server.members
    if server.failure or server.refusal:
        assert server.finished, "a run that must not go on goes on"
    if server.finished:
        assert not members.working, "a finished run has workers that were not told to stop"
        return
    assert not server.running or not members._in[State.STOPPED], "a worker was stopped too early"
    if server.running and not server.algorithm.is_open and server._may_iterate():
        assert not server.algorithm.ready(members), "an iteration is due, and is not made"
    if not server.replaying:
        # After a replay the lost are waited for, as long as `run.worker_timeout` says.
        assert members.count + len(members.lost) >= members.needed, "too few workers are left"


class Account:
    """What a server has sent and recorded so far, and what follows from that of its state."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.iterations = server.iteration
        self.calls = server.spending.spent.calls
        self.owed = {v: self._owed_now(v) for v in range(1, server.workers + 1)}
        self.stopped: set[int] = set()
        self.finished = server.finished

    def take(self, output: Output) -> None:
        """Validate the server's state after it has given ``output``."""
        validate_state(self.server)
        for record in output.records:
            if isinstance(record, Iteration):
                assert record.number == self.iterations, "an iteration is left out, or made twice"
                self.iterations += 1
            elif isinstance(record, Event):
                self._note(record)
        for worker, message in output.messages:
            self._send(worker, message)
        assert self.server.iteration == self.iterations, "t is the number of iterations recorded"
        assert self.server.spending.spent.calls == self.calls, "calls are those of the answers"
        assert self.server.finished or not self.finished, "a finished run goes on"
        self.finished = self.server.finished
        for worker, owed in self.owed.items():
            assert owed == self._owed_now(worker), f"worker {worker} owes what it was asked for"

    def _note(self, event: Event) -> None:
        self.calls += event.costs.calls
        if event.kind in ANSWERS:
            self.owed[event.worker][ANSWERS[event.kind]] -= 1
        elif event.kind in (EventKind.LOST, EventKind.EXCLUDED):
            self.owed[event.worker].clear()

    def _send(self, worker: int, message: object) -> None:
        state = self.server.members.state(worker)
        if isinstance(message, Stop):
            assert state in BARRED, f"worker {worker}, {state.name}, is stopped"
            self.stopped.add(worker)
            return
        assert worker not in self.stopped, f"worker {worker} is sent something after its stop"
        if isinstance(message, Reset):
            assert state is State.RESTARTING, f"worker {worker}, {state.name}, is reset"
        if state not in COUNTED:
            return  # it was lost in the same breath
        match message:
            case Assignment() | LowerAssignment():
                self.owed[worker]["assignment"] += 1
            case EvaluationRequest(split=split):
                self.owed[worker][ANSWER_KINDS[split]] += 1

    def _owed_now(self, worker: int) -> Counter[str]:
        held = self.server.spending._by_worker.get(worker)
        return Counter(kind for kind, _ in held.owed) if held else Counter()
