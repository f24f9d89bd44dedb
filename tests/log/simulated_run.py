"""A small honest run of the algorithm, as the records that a server would give to the log.

Exact gradients of 0.5 * ||p - target_v||^2 stand in for the black box; everything that the log
is checked against (planes, duals, z, delays) is done by the package's own functions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asyndbt_mpi.algorithm.estimator import sample
from asyndbt_mpi.algorithm.lower_level import LowerLevel, LowerSteps, residual, worker_step
from asyndbt_mpi.algorithm.optimizer import OPTIMIZERS
from asyndbt_mpi.algorithm.polyhedron import Polyhedron
from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.simplex import project
from asyndbt_mpi.algorithm.updates import DualSteps, update_duals
from asyndbt_mpi.config import Config
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.messages import Candidate, Costs, Report, RowLosses, Shapes, Split
from asyndbt_mpi.protocol.records import (
    Estimation,
    Evaluation,
    Event,
    EventKind,
    Iteration,
    Record,
    UsedReport,
)

WORKERS = 4
SHAPES = Shapes(positions=3, words=5, classes=2, pool=4, samples=8)
VOCABULARY = ["plain", "naïve", "日本", "", "a b"]
EXCLUDED_WORKER, EXCLUDED_IN = 2, 30


def configuration(**sections: dict[str, object]) -> Config:
    """Plain steps, a plane every 4 iterations, at most 3 of them; ``sections`` override keys."""
    table: dict[str, dict[str, object]] = {
        "run": {"iterations": 40, "seed": 7},
        "algorithm": {
            "active_workers": 2,
            "max_delay": 3,
            "plane_period": 4,
            "lower_gradient": "black_box",
            "max_planes": 3,
            "tolerance": 0.25,
            "dual_bound": 0.1,
            "dual_regularisation_floor": 0.5,
            "plane_threshold": 0.02,
        },
        "steps": {"optimizer": "sgd", "p": 0.1},
        "prompt": {"fragment_length": 3, "vocabulary_size": 5, "pool": 4},
        "task": {"calibration": "none"},
        "defence": {"aggregator": "rsa", "preaggregator": "none"},
    }
    for section, keys in sections.items():
        table.setdefault(section, {}).update(keys)
    return Config.model_validate(table)


@dataclass(frozen=True)
class Absence:
    """A worker is lost in an iteration and says hello again in another.

    ``reported``: what it had reported and nobody had used yet is gone with it, else an assignment.
    ``estimating``: it goes and comes while phi is estimated, after the iteration's reports were
    used. One that is lost in iteration 0 had not said hello.
    """

    worker: int
    lost_in: int
    back_in: int
    reported: bool = False
    estimating: bool = False


@dataclass
class Run:
    """The state that server and workers share in this miniature."""

    config: Config
    absences: tuple[Absence, ...] = ()
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def __post_init__(self) -> None:
        fragment = (SHAPES.positions, SHAPES.words)
        algorithm = self.config.algorithm
        self.z0 = self.generator.dirichlet(np.ones(fragment[1]), fragment[0])
        self.targets = self.generator.dirichlet(np.full(fragment[1], 0.3), (WORKERS, fragment[0]))
        self.z = self.z0.copy()
        self.p = np.repeat(self.z[None], WORKERS, axis=0)
        self.q = np.full((WORKERS, SHAPES.classes, SHAPES.pool), 1 / SHAPES.pool)
        self.polyhedron = Polyhedron(
            WORKERS, *fragment, algorithm.max_planes, algorithm.lower_distance
        )
        self.optimizer = OPTIMIZERS[self.config.steps.optimizer](self.config.steps.z, self.z.shape)
        self.delay = np.zeros(WORKERS, dtype=np.int64)
        self.live = np.ones(WORKERS, dtype=bool)
        self.dual_gradient = np.zeros((WORKERS, *fragment))
        self.read = np.zeros(WORKERS, dtype=np.int64)
        self.number = np.zeros(WORKERS, dtype=np.int64)
        self.loss = np.full(WORKERS, np.nan)
        self.stayed = np.ones(WORKERS, dtype=bool)  # since it reported last
        self.estimates = 0

    def records(self, iterations: int | None = None) -> Iterator[Record]:
        """Records of so many iterations, or of an endless run."""
        late = {absence.worker for absence in self.absences if absence.lost_in == 0}
        for worker in set(range(1, WORKERS + 1)) - late:
            yield self._hello(worker, 0)
        iteration = 0
        while iterations is None or iteration < iterations:
            yield from self.iteration(iteration)
            iteration += 1

    def iteration(self, t: int) -> Iterator[Record]:
        """What happens in one iteration."""
        if t == EXCLUDED_IN:
            self.live[EXCLUDED_WORKER - 1] = self.stayed[EXCLUDED_WORKER - 1] = False
            yield Event(EventKind.EXCLUDED, EXCLUDED_WORKER, -1, t, t + 0.1, text="died, signal 9")
        yield from self._absences(t, estimating=False)
        active = self._active()
        if len(self.polyhedron):
            self.z = self.optimizer.step(self.z, self.polyhedron.consensus_gradient())
        used = [self._report(int(worker), t) for worker in np.flatnonzero(active)]
        for report in used:
            yield Event(
                EventKind.REPORT,
                report.worker,
                report.report.number,
                t,
                t + 0.5,
                report.report.costs,
                t + 0.25,
                report.report.losses,
            )
        before = update_duals(self.polyhedron, self.z, self._dual_steps(), t)
        self.delay = np.where(active, 0, self.delay + 1)
        slots = self.polyhedron.slots
        # The duals before the estimation, which may drop some of them.
        planes, duals = self.polyhedron.identifier[slots], self.polyhedron.dual[slots]
        estimation = None
        algorithm = self.config.algorithm
        if (t + 1) % algorithm.plane_period == 0 and t < algorithm.plane_until:
            yield from self._absences(t, estimating=True)
            yield from self._lower_reports(t)
            estimation = self._estimate(t, before)
        for worker in np.flatnonzero(active):
            self.dual_gradient[worker] = self.polyhedron.dual_gradients(np.array([worker]))[0]
            self.read[worker] = t + 1
        objective = float(np.nanmean(self.loss[self.stayed | active]))
        yield Iteration(
            t,
            self.z,
            np.zeros_like(self.z),
            active,
            self.delay.copy(),
            t + 0.75,
            objective,
            used,
            planes,
            duals,
            estimation,
        )
        if t % 8 == 0:
            yield from self._evaluations(t)

    def _hello(self, worker: int, t: int) -> Event:
        return Event(EventKind.HELLO, worker, -1, t, t + 0.1, text=f"host{worker}, cpu")

    def _absences(self, t: int, estimating: bool) -> Iterator[Event]:
        """Who goes and who comes in iteration t."""
        for absence in self.absences:
            worker, index = absence.worker, absence.worker - 1
            if absence.estimating != estimating:
                continue
            if absence.lost_in == t:
                if absence.reported:
                    costs, losses = Costs(1, 1, 0.25, 1), np.ones(SHAPES.samples)
                    number = int(self.number[index]) + 1
                    yield Event(EventKind.REPORT, worker, number, t, t + 0.1, costs, losses=losses)
                self.live[index] = self.stayed[index] = False
                # In iteration 0 it has nothing to do yet, nor if its report was used just now.
                self.number[index] += t > 0 and not (estimating and self.delay[index] == 0)
                yield Event(EventKind.LOST, worker, -1, t, t + 0.1, text="fell silent")
            if absence.back_in == t:
                yield Event(EventKind.RETURNED, worker, -1, t, t + 0.1)
                yield self._hello(worker, t)
                self.live[index] = True
                self.q[index] = 1 / SHAPES.pool
                self.delay[index] = 0
                self.read[index] = t

    def _active(self) -> np.ndarray:
        algorithm = self.config.algorithm
        active: np.ndarray = self.live & (self.delay + 1 > algorithm.max_delay)
        others = self.generator.permutation(np.flatnonzero(self.live & ~active))
        active[others[: max(0, algorithm.active_workers - active.sum())]] = True
        return active

    def _report(self, worker: int, t: int) -> UsedReport:
        step, p, q = self.config.steps.p, self.p[worker].copy(), self.q[worker]
        gap = p - self.targets[worker]
        self.p[worker] = project(p - step * (gap + self.dual_gradient[worker]))
        self.q[worker] = project(q - step * self.generator.normal(size=q.shape))
        self.polyhedron.move_workers(np.array([worker]), (self.p[worker] - p)[None])
        self.loss[worker] = 0.5 * float((gap**2).sum())
        self.stayed[worker] = True
        self.number[worker] += 1
        report = Report(
            number=int(self.number[worker]),
            iteration=int(self.read[worker]),
            loss=float(self.loss[worker]),
            grad_p_norm=float(np.linalg.norm(gap)),
            grad_q_norm=1.5,
            costs=Costs(80, 4000 + t, 0.25, 90),
            sent_time=t + 0.25,
            p=self.p[worker].copy(),
            q=self.q[worker].copy(),
            losses=np.full(SHAPES.samples, self.loss[worker]),
        )
        return UsedReport(worker + 1, report, t + 0.5)

    def _dual_steps(self) -> DualSteps:
        algorithm = self.config.algorithm
        return DualSteps(
            self.config.steps.lam,
            algorithm.dual_bound,
            algorithm.dual_regularisation,
            algorithm.dual_regularisation_floor,
        )

    def _estimate(self, t: int, before: np.ndarray) -> Estimation:
        algorithm, steps = self.config.algorithm, self.config.steps
        weights = LowerSteps(steps.lower_z, steps.rho, algorithm.penalty, algorithm.robust_weight)
        lower = LowerLevel.start(self.p, self.z, self.live, weights)
        for _ in range(algorithm.lower_steps):
            for worker in np.flatnonzero(self.live):
                gradient = lower.p[worker] - self.targets[worker]
                dual_gradient = lower.dual_gradients(np.array([worker]))[0]
                lower.p[worker] = worker_step(
                    lower.p[worker], gradient, dual_gradient, steps.lower_p
                )
            lower.server_step()
        h = residual(self.p, self.z, lower.p, lower.z, algorithm.lower_distance)
        drops = self.polyhedron.drop_slack(before, algorithm.plane_threshold)
        plane, more = self.polyhedron.add(
            self.p, self.z, lower.p, lower.z, h, algorithm.tolerance, t
        )
        answers = algorithm.lower_steps * int(self.live.sum())
        k = np.array([self._draw(index, self.estimates) for index in range(WORKERS)])
        k[~self.live] = -1
        self.estimates += 1
        return Estimation(
            t, k, lower.p, lower.z, h, 20 * answers, (900 + t) * answers, plane, drops + more
        )

    def _draw(self, index: int, estimate: int) -> np.ndarray:
        purpose = Purpose.LOWER_DEMONSTRATIONS
        generator = stream(self.config.run.seed, index + 1, estimate, purpose)
        return sample(self.q[index], generator.random((1, SHAPES.classes)))[0]

    def _lower_reports(self, t: int) -> Iterator[Event]:
        rounds = self.config.algorithm.lower_steps
        for number in range(self.estimates * rounds, (self.estimates + 1) * rounds):
            for worker in np.flatnonzero(self.live) + 1:
                yield Event(
                    EventKind.LOWER_REPORT, int(worker), number, t, t + 0.6,
                    Costs(20, 900 + t, 0.25, 20), losses=np.full(SHAPES.samples, 0.6),
                )  # fmt: skip

    def _evaluations(self, t: int) -> Iterator[Event | Evaluation]:
        for worker in (np.flatnonzero(self.live)[:2] + 1).tolist():
            words, demonstrations = (x[worker - 1].argmax(axis=1) for x in (self.p, self.q))
            rows, costs = scores(t % 5), Costs(20, 900 + t, 0.25, 20)
            accuracy, loss = t % 5 / 4, float(rows.losses.mean())
            yield Event(
                EventKind.EVALUATION, worker, t + 1, t + 1, t + 0.9, costs,
                losses=np.array([loss]), accuracy=accuracy, rows=rows,
            )  # fmt: skip
            yield Evaluation(
                t + 1, worker, Split.VALIDATION, Candidate.TUNED, accuracy, loss, words,
                demonstrations, costs.calls, costs.prompt_tokens, t + 0.9, np.zeros(SHAPES.classes),
                rows,
            )  # fmt: skip


def scores(right: int) -> RowLosses:
    """Of four rows, of which so many are answered right."""
    return RowLosses(-np.log(np.where(np.arange(4) < right, 0.7, 0.3)))


def not_in(log: Log, records: Iterable[Record]) -> Iterator[Record]:
    """What a run that goes on with ``log`` has to write of all its ``records``."""
    events, evaluations = (log.committed_rows[group] for group in ("event", "evaluation"))
    for record in records:
        if isinstance(record, Event):
            events -= 1
            new = events < 0
        elif isinstance(record, Evaluation):
            evaluations -= 1
            new = evaluations < 0
        else:
            new = record.number >= log.committed
        if new:
            yield record


def start_of(committed: int, config: Config, records: Iterable[Record]) -> np.ndarray:
    """z after so many iterations of the run whose ``records`` they are; (M, N)."""
    z = Run(config).z0
    for record in records:
        if isinstance(record, Iteration) and record.number < committed:
            z = record.z
    return z


def write_log(
    path: Path, config: Config, iterations: int = 40, absences: tuple[Absence, ...] = ()
) -> list[Record]:
    """A finished log at ``path``, and the records that went into it."""
    run = Run(config, absences)
    kept = []
    with Writer(path, config, SHAPES, WORKERS, VOCABULARY, "virtual", run.z0) as writer:
        for record in run.records(iterations):
            writer.write(record)
            kept.append(record)
    return kept
