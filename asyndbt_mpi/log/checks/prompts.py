"""Checks of the prompts that were scored: are they those that were due?"""

from collections.abc import Iterator
from copy import copy

import numpy as np

from asyndbt_mpi.algorithm.estimator import sample
from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.log.checks import races
from asyndbt_mpi.log.checks.accounts import arrival_rows, estimate_numbers
from asyndbt_mpi.log.iterates import InOrder
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.evaluations import CONSENSUS
from asyndbt_mpi.protocol.final_tests import draw_demonstrations, own_tests, scorers
from asyndbt_mpi.protocol.messages import WITHOUT, Candidate
from asyndbt_mpi.protocol.race import Entrant, Prompt, Race, bare_prompt, entrants
from asyndbt_mpi.protocol.records import SPLIT_OF, EventKind
from asyndbt_mpi.protocol.validation import Scored, keep

FRESH, UNKNOWN = -1, -2
"""In place of a row of /report: a q as it was at the worker's hello, and one that is not there."""

GONE = (EventKind.LOST, EventKind.EXCLUDED)


class Prompts:
    """Holds the prompts of a log's evaluations, and the k of its estimates, against the iterates.

    Attributes
    ----------
    notes : what could not be checked, once `scored` and `drawn` are through
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.notes: list[str] = []
        self.own_tests = own_tests(log.config)
        self._without = bare_prompt(log.shapes)
        names = "kind", "worker", "number", "iteration"
        self.event = {name: log[f"event/{name}"] for name in names}
        self.closing = next(iter(self._events(EventKind.CLOSING)), len(self.event["kind"]))
        self.hellos = self._events_by_worker(EventKind.HELLO)
        self.iteration, workers = log["report/iteration"], log["report/worker"]
        self.used = {v: np.flatnonzero(workers == v) for v in range(1, log.workers + 1)}
        self.arrival = arrival_rows(log)
        self.words, self.has_p = _most_probable(log, "report/p")
        self.demonstrations, self.has_q = _most_probable(log, "report/q")
        self.start = log.rows("iteration/z", 0, 1)[0].argmax(axis=1)
        self.pools = _whole_pools(log, workers)

    def _events(self, *kinds: EventKind) -> IntArray:
        return np.flatnonzero(np.isin(self.event["kind"], kinds))

    def _events_by_worker(self, *kinds: EventKind) -> dict[int, IntArray]:
        rows = self._events(*kinds)
        workers = self.event["worker"][rows]
        return {v: rows[workers == v] for v in range(1, self.log.workers + 1)}

    # ------------------------------------------------------------ evaluations

    def scored(self) -> Iterator[str]:
        """Evaluations of another prompt than was due; /evaluation has a row for every event."""
        column = {name: self.log.rows(f"evaluation/{name}") for name in (
            "worker", "split", "candidate", "iteration", "loss", "words", "demonstrations",
        )}  # fmt: skip
        (rows,) = np.nonzero(column["worker"] != CONSENSUS)
        events = self._events(*SPLIT_OF)
        if len(rows) != len(events):
            return  # `accounts` tells
        self._unknown = dict.fromkeys(("validated", "tuned", "random", "consensus"), 0)
        everyone = range(1, self.log.workers + 1)
        best: dict[int, list[Scored]] = {v: [] for v in everyone}
        raced: dict[int, list[int]] = {v: [] for v in everyone}
        tests: dict[int, list[int]] = {v: [] for v in everyone}
        most = max(1, self.log.config.run.races)
        for row, event in zip(rows.tolist(), events.tolist(), strict=True):
            worker = int(column["worker"][row])
            kind = self.event["kind"][event]
            if kind != EventKind.EVALUATION:
                (tests if kind == EventKind.TEST else raced)[worker].append(row)
                if event < self.closing:
                    what = EventKind(int(kind)).name.lower()
                    yield f"/event row {event} is a {what} before the end of the iterations"
                continue
            yield from self._validated(column, row, event)
            if event < self.closing:
                prompt = column["words"][row], column["demonstrations"][row]
                keep(best[worker], (float(column["loss"][row]), prompt), most)
        yield from self._which_tests(column["candidate"], tests)
        for worker, of_worker in tests.items():
            validated = [prompt for _, prompt in best[worker]]
            race, wrong = self._which_race(worker, validated, column, raced[worker])
            yield from wrong
            over = race is None or race.next(0) is None
            if not over and self._ended_normally() and self._at_work(worker):
                yield f"/evaluation lacks a part of the race of worker {worker}"
            for row in of_worker:
                yield from self._tested(column, row, of_worker[0], race.winner if race else None)
        for row in np.flatnonzero(column["worker"] == CONSENSUS).tolist():
            yield from self._compare(column, row, self._consensus(), self._without[1])
        if most > 1 and self.log.config.budget.limits_calls:
            self.notes.append("how many prompts the budget had room for in each race")
        self._tell_unknown()

    def _which_race(
        self, worker: int, validated: list[Prompt], column: dict[str, np.ndarray], rows: list[int]
    ) -> tuple[Race | None, list[str]]:
        """The race that ``rows`` of /evaluation are of, after them, and what is wrong with it.

        None where the log does not tell who took part, or on how many rows.
        """
        config = self.log.config
        if not config.run.evaluate_every:
            return None, []
        # A budget may have left no room for a race.
        most = config.run.races if rows or not config.budget.limits_calls else 0
        everyone = self._entrants(worker, max(1, most), validated)
        try:
            race_rows = races.race_rows(self.log, worker)
        except ValueError:
            return None, []  # `values.cost_bounds` tells
        if everyone is None:
            return None, []
        losses = {row: races.losses(self.log, row, float(column["loss"][row])) for row in rows}
        scored = [len(each) for each in losses.values()]
        tried = []
        for rounds in races.plans(config, race_rows, len(everyone), scored):
            taking_part = everyone[: rounds[0][0] if rounds else 1]
            race = Race(map(copy, taking_part), rounds, race_rows)
            wrong = list(races.differences(race, column, losses))
            if not wrong:
                return race, []
            tried.append((race, wrong))
        return tried[0]

    def _entrants(self, worker: int, most: int, validated: list[Prompt]) -> list[Entrant] | None:
        """At most so many prompts of ``worker``; None where the log does not tell which."""
        if most == 1 and validated:
            return [Entrant(Candidate.TUNED, validated[0])]
        without, random, consensus = self._without, self._random(worker), self._consensus()
        words, shown = self._own(worker, self.closing, self.log.committed)
        if words is None or shown is None:
            return None
        if most == 1:
            return [Entrant(Candidate.TUNED, (words, shown))]
        if random is None or consensus is None:
            return None
        own = (without[0], random), (words, shown), (consensus, shown)
        has_model = self.log.config.estimator.name == "additive"
        return entrants(most, without, *own, validated, has_model)

    def _random(self, worker: int) -> IntArray | None:
        if worker not in self.pools:
            return None
        return draw_demonstrations(self.pools[worker], self.log.config.run.seed, worker)

    def _validated(self, column: dict[str, np.ndarray], row: int, event: int) -> Iterator[str]:
        candidate = column["candidate"][row]
        if candidate != Candidate.TUNED:
            yield (
                f"/evaluation/candidate row {row} is {_name(candidate)}, on validation rows only "
                f"{_name(Candidate.TUNED)} is scored"
            )
        worker, iteration = int(column["worker"][row]), int(column["iteration"][row])
        if iteration > self.log.committed:
            return  # beyond what counts of a run that goes on
        words, demonstrations = self._own(worker, event, iteration)
        self._unknown["validated"] += words is None or demonstrations is None
        yield from self._compare(column, row, words, demonstrations)

    def _which_tests(self, candidates: np.ndarray, tests: dict[int, list[int]]) -> Iterator[str]:
        """Tests that are out of order, too many, or missing."""
        untuned, own = [], self.own_tests
        for worker, rows in tests.items():
            for number, row in enumerate(rows):
                due = own[number] if number < len(own) else Candidate.UNTUNED
                if candidates[row] != due or number > len(own):
                    yield (
                        f"/evaluation/candidate row {row} is {_name(candidates[row])}, but test "
                        f"number {number + 1} of worker {worker} should be of {_name(due)}"
                    )
            untuned += rows[len(own) :]
        enough = scorers(self.log.config, self.log.workers)
        for row in untuned[enough:]:
            yield (
                f"/evaluation/candidate row {row}: the untuned prompt was tested before, by the"
                f" {enough} that there should be"
            )
        if not self._tests_all():
            return
        for worker, rows in tests.items():
            if self._at_work(worker) and len(rows) < len(own):
                yield (
                    f"/evaluation has {len(rows)} tests of worker {worker}; there should be"
                    f" {len(own)}"
                )
        if not untuned and any(self._at_work(worker) for worker in tests):
            yield "/evaluation has no test of the untuned prompt"

    def _tests_all(self) -> bool:
        return bool(self.log.config.task.test) and self._ended_normally()

    def _ended_normally(self) -> bool:
        """Whether nothing has kept the run from making all of its races and tests."""
        config = self.log.config
        limited = config.budget.limits_calls or config.budget.seconds
        gone = self._events(*GONE)
        closed = self.closing < len(self.event["kind"])  # it was not too few workers that ended it
        return bool(
            closed
            and config.run.evaluate_every
            and self.log.status == "finished"
            and not limited
            and not (gone > self.closing).any()
        )

    def _at_work(self, worker: int) -> bool:
        """Whether ``worker`` took part when the iterations were over."""
        rows = self._events(EventKind.HELLO, EventKind.RETURNED, *GONE)
        rows = rows[(self.event["worker"][rows] == worker) & (rows < self.closing)]
        return bool(len(rows) and self.event["kind"][rows[-1]] == EventKind.HELLO)

    def _tested(
        self, column: dict[str, np.ndarray], row: int, tuned: int, winner: Prompt | None
    ) -> Iterator[str]:
        """Whether a worker's test in ``row`` is of its candidate's prompt.

        Its test in the row ``tuned`` is of its tuned prompt, which is to be the ``winner``.
        """
        worker, shown = int(column["worker"][row]), column["demonstrations"][tuned]
        words: IntArray | None
        demonstrations: IntArray | None
        words, demonstrations = self._without
        match column["candidate"][row]:
            case Candidate.TUNED:
                words, demonstrations = winner or (None, None)
                self._unknown["tuned"] += winner is None
            case Candidate.RANDOM:
                demonstrations = self._random(worker)
                self._unknown["random"] += demonstrations is None
            case Candidate.CONSENSUS:
                words, demonstrations = self._consensus(), shown
                if (shown == WITHOUT).all():
                    _, demonstrations = self._own(worker, self.closing, self.log.committed)
                self._unknown["consensus"] += words is None or demonstrations is None
        yield from self._compare(column, row, words, demonstrations)

    def _consensus(self) -> IntArray | None:
        """The consensus' words after the last iteration."""
        z: FloatArray = self.log.rows("iteration/z", self.log.committed)[0]
        return None if np.isnan(z).any() else z.argmax(axis=1)

    def _own(
        self, worker: int, event: int, iteration: int
    ) -> tuple[IntArray | None, IntArray | None]:
        """The most probable words and demonstrations of ``worker`` at the server.

        As the server asked for what it was answered in the row ``event``, when ``iteration`` was
        open. None where the log does not tell.
        """
        used, hello = self.used[worker], self._hello_before(worker, event)
        (known,) = np.nonzero(
            (self.iteration[used] < iteration)
            | ((self.iteration[used] == iteration) & (self.arrival[used] < hello))
        )
        first = np.zeros(self.log.shapes.classes, dtype=np.int64)  # of a q that is uniform
        if not len(known):
            return self.start, first
        row = used[known[-1]]
        if self.arrival[row] < 0:
            return None, None
        words = self.words[row] if self.has_p[row] else None
        if self.arrival[row] < hello:  # it came back, and began afresh
            return words, first
        return words, self.demonstrations[row] if self.has_q[row] else None

    def _hello_before(self, worker: int, event: int) -> int:
        before = self.hellos[worker][self.hellos[worker] < event]
        return int(before[-1]) if len(before) else -1

    def _compare(
        self,
        column: dict[str, np.ndarray],
        row: int,
        words: IntArray | None,
        demonstrations: IntArray | None,
    ) -> Iterator[str]:
        candidate = _name(column["candidate"][row])
        for name, due in (("words", words), ("demonstrations", demonstrations)):
            logged = column[name][row]
            if due is not None and not np.array_equal(logged, due):
                yield (
                    f"/evaluation/{name} row {row} is {logged.tolist()}, but the {candidate} "
                    f"prompt has {due.tolist()}"
                )

    def _tell_unknown(self) -> None:
        left_out = "log.iterates left out what they were made from"
        if self.log.config.log.private:
            left_out = "with log.private q is with the workers alone"
        reasons = {
            "validated": f"because {left_out}",
            "tuned": "because the log does not say which prompts were in the race",
            "consensus": "because log.iterates left out the last z",
            "random": "because the log does not say which demonstrations their workers have",
        }
        for what, number in self._unknown.items():
            if number:
                self.notes.append(f"{number} {what} prompts that were scored, {reasons[what]}")

    # ------------------------------------------------------------ estimates

    def drawn(self) -> Iterator[str]:
        """Demonstrations k of estimates of phi that do not follow from q and the seed."""
        logged, of_estimate = self.log["lower/k"], estimate_numbers(self.log).tolist()
        row_of = {number: row for row, number in enumerate(of_estimate)}
        in_order = InOrder(self.log, "report/q")
        seed, classes = self.log.config.run.seed, self.log.shapes.classes
        unknown = 0
        for report, number, worker in sorted(self._realisations()):
            row = row_of.get(number)
            if row is None:
                continue
            if report == UNKNOWN or (report == FRESH and worker not in self.pools):
                unknown += 1
                continue
            q = self.pools[worker] / self.log.shapes.pool if report == FRESH else in_order[report]
            generator = stream(seed, worker, number, Purpose.LOWER_DEMONSTRATIONS)
            due, k = sample(q, generator.random((1, classes)))[0], logged[row, worker - 1]
            if not np.array_equal(k, due):
                yield (
                    f"/lower/k row {row}, worker {worker}: {k.tolist()} is logged, but its q and "
                    f"the seed give {due.tolist()}"
                )
        if unknown:
            self.notes.append(
                f"{unknown} draws of demonstrations for estimates of phi, because the log lacks "
                "their q"
            )

    def _realisations(self) -> Iterator[tuple[int, int, int]]:
        """For each draw the row of /report that has its q, the estimate and the worker.

        Instead of a row `FRESH` for a q that was uniform, `UNKNOWN` for one that is not there.
        """
        row_of = dict(zip(self.arrival.tolist(), range(len(self.arrival)), strict=True))
        rounds = self.log.config.algorithm.lower_steps
        last: dict[int, int] = {}
        drawn = set()
        kinds, workers, numbers = (self.event[name] for name in ("kind", "worker", "number"))
        for event in self._events(EventKind.HELLO, EventKind.REPORT, EventKind.LOWER_REPORT):
            worker = int(workers[event])
            if kinds[event] == EventKind.HELLO:
                last[worker] = FRESH
            elif kinds[event] == EventKind.REPORT:
                row = row_of.get(int(event), UNKNOWN)  # some are never used
                last[worker] = row if row != UNKNOWN and self.has_q[row] else UNKNOWN
            elif (draw := (worker, int(numbers[event]) // rounds)) not in drawn:
                drawn.add(draw)
                yield last.get(worker, UNKNOWN), draw[1], worker


def _most_probable(log: Log, path: str) -> tuple[IntArray, BoolArray]:
    """Where the rows of every p or q are largest (A, rows), and whether it is there (A,)."""
    largest = np.zeros((log.count(path), log.type_and_row(path)[1][0]), dtype=np.int64)
    there = np.zeros(len(largest), dtype=bool)
    for start, block in log.blocks(path):
        largest[start : start + len(block)] = block.argmax(axis=2)
        there[start : start + len(block)] = ~np.isnan(block).any(axis=(1, 2))
    return largest, there


def _whole_pools(log: Log, workers: IntArray) -> dict[int, FloatArray]:
    """The pools (U, V) of workers that have V demonstrations of each class, as their q show.

    Where a worker has fewer, q is 0 from there on; how many it has the log does not say.
    """
    seen = np.zeros((log.workers, log.shapes.classes), dtype=bool)
    for start, block in log.blocks("report/q"):
        at = workers[start : start + len(block)] - 1
        np.logical_or.at(seen, at, block[:, :, -1] > 0)
    whole = np.ones((log.shapes.classes, log.shapes.pool))
    return {index + 1: whole for index in np.flatnonzero(seen.all(axis=1)).tolist()}


def _name(candidate: int) -> str:
    return Candidate(candidate).name.lower() if candidate in list(Candidate) else str(candidate)
