"""`asyndbt stationarity`: how far the iterates of a finished run are from stationarity."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asyndbt_mpi.algorithm.estimator import leave_one_out, sample
from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.stationarity import of_duals, on_simplex, squared_norm
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.assemble import rebuild
from asyndbt_mpi.config import Config
from asyndbt_mpi.jobs.given import configuration
from asyndbt_mpi.log.annotate import add_stationarity
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.events import attendance
from asyndbt_mpi.log.iterates import InOrder, Planes
from asyndbt_mpi.log.reader import Log, Stationarity
from asyndbt_mpi.protocol.blackbox import BlackBox, Query
from asyndbt_mpi.protocol.messages import Split
from asyndbt_mpi.task.synthetic import Synthetic
from asyndbt_mpi.view.bar import Count


@dataclass(frozen=True, slots=True)
class _State:
    """Server and workers after an iteration: p (R, M, N), q (R, U, V), z (M, N) and the planes.

    The planes are those of the next iteration: a new plane is among them, with duals 0, and dropped
    ones are not. ``live`` (R,) marks the workers that count, neither lost nor excluded (D5);
    ``changed`` lists those, from 0, whose p and q changed since the last state.
    """

    iteration: int
    p: FloatArray
    q: FloatArray
    z: FloatArray
    planes: Planes
    live: BoolArray
    changed: IntArray


class _Gradients(Protocol):
    """Derivatives of the expected loss: one answer if exact, else two independent ones."""

    kind: str
    answers: int

    def at(self, state: _State, workers: IntArray) -> list[tuple[FloatArray, FloatArray]]:
        """Gradients in p (W, M, N) and q (W, U, V) of ``workers``, from 0; one for each answer."""
        ...


def add(
    path: str | os.PathLike[str],
    every: int,
    samples: int,
    quiet: bool = False,
    given: Config | None = None,
) -> str:
    """Compute ||grad G^t||^2 for every ``every``-th iterate of a log, and add it to the log.

    It is exact for a synthetic task; for a language model it is estimated, from twice ``samples``
    prompts per worker and iterate on all training rows. ``given`` is the run's configuration,
    needed if its log names places; see `given.configuration`.

    Returns
    -------
    one line with the results.

    Raises
    ------
    LogError
        The run has not finished, or its log is empty or lacks iterates; the log is unchanged.
    ConfigurationError
        Its data or its language model are not available here.
    """
    with Log(path) as log:
        log.check_public("||grad G||^2 is at the workers' q")
        _check(log)
        # New answers are kept, so that an interrupted command does not pay again.
        config = configuration(log, given, asks_model=True)
        workers, black_box = rebuild(log, config, keeps_answers=True)
        gradients: _Gradients = (
            _Exact(black_box)
            if isinstance(black_box, Synthetic)
            else _Estimated(black_box, log.seed, samples)
        )
        # A worker's q starts uniform over its demonstrations.
        try:
            found = _measure(log, gradients, workers.q > 0, every, quiet)
        except FloatingPointError:
            raise LogError(f"{log.path}: is damaged; asyndbt verify tells where") from None
    norms = found.squared_norm
    if not np.isfinite(norms).all():
        raise LogError(f"{os.fspath(path)}: is damaged; asyndbt verify tells where")
    add_stationarity(path, found)
    return (
        f"{os.fspath(path)}: {found.kind}, ||grad G||^2 is {norms[0]:.3g} after iteration"
        f" {found.iteration[0] + 1}, {norms[-1]:.3g} after {found.iteration[-1] + 1};"
        f" least {norms.min():.3g}, after {found.iteration[norms.argmin()] + 1}"
    )


def _check(log: Log) -> None:
    if log.status == "running":
        raise LogError(
            f"{log.path}: the run has not finished (or was killed), so its log must not change"
        )
    if not log.committed:
        raise LogError(f"{log.path}: no iteration is committed")
    workers = log["report/worker"]
    if workers.min() < 1 or workers.max() > log.workers:
        raise LogError(f"{log.path}: is damaged; asyndbt verify tells where")
    if log.every > 1:
        raise LogError(f"{log.path}: lacks iterates; the run needs log.iterates = 'all'")


def _measure(
    log: Log, gradients: _Gradients, allowed: BoolArray, every: int, quiet: bool
) -> Stationarity:
    """All parts of the gradient mapping along the run; ``allowed`` (R, U, V)."""
    config = log.config
    steps, bound = config.steps, config.algorithm.dual_bound
    shape = log.workers, log.shapes.positions, log.shapes.words
    of_p = [np.empty(shape) for _ in range(gradients.answers)]
    of_q = [np.empty(allowed.shape) for _ in range(gradients.answers)]
    rows = []
    for state in _counted(_states(log, allowed, every), -(-log.committed // every), quiet):
        changed = state.changed
        for answer, (p_gradient, q_gradient) in enumerate(gradients.at(state, changed)):
            of_p[answer][changed], of_q[answer][changed] = p_gradient, q_gradient
        planes, dual_gradient = state.planes, state.planes.worker_gradients()
        live = state.live[:, None, None]
        p = [live * on_simplex(state.p, gradient + dual_gradient, steps.p) for gradient in of_p]
        q = [live * on_simplex(state.q, gradient, steps.q, allowed) for gradient in of_q]
        z = [on_simplex(state.z, planes.consensus_gradient(), steps.z)]
        values, active = planes.values(state.p, state.z), planes.active(state.iteration + 1)
        dual = [of_duals(planes.dual, values, active, steps.lam, bound)]
        norms = (squared_norm(mappings[0], mappings[-1]) for mappings in (p, q, z, dual))
        rows.append((state.iteration, *norms))
    columns = np.array(rows).T
    return Stationarity(gradients.kind, columns[0].astype(np.int64), *columns[1:])


def _counted(states: Iterator[_State], total: int, quiet: bool) -> Iterator[_State]:
    if quiet:
        yield from states
        return
    with Count(total, "iterates") as bar:
        for state in states:
            yield state
            bar.add(1)


def _states(log: Log, allowed: BoolArray, every: int) -> Iterator[_State]:
    """The state after every ``every``-th iteration, and the last."""
    planes = Planes(log)
    logged_z, logged_p, logged_q = (
        InOrder(log, path) for path in ("iteration/z", "report/p", "report/q")
    )
    workers = log["report/worker"] - 1
    ends = np.searchsorted(log["report/iteration"], np.arange(log.committed + 1))
    p = np.repeat(logged_z[0][None], log.workers, axis=0)  # every worker starts from z
    q_start = allowed / allowed.sum(axis=2, keepdims=True)
    q = q_start.copy()  # and from a uniform q, also after it was lost
    attended = attendance(log)
    changed = set(range(log.workers))
    for iteration in range(log.committed):
        for row in range(ends[iteration], ends[iteration + 1]):
            p[workers[row]], q[workers[row]] = logged_p[row], logged_q[row]
            changed.add(int(workers[row]))
        for back_in, index in attended.returns:
            if back_in == iteration:
                q[index] = q_start[index]
                changed.add(index)
        planes.read_duals(iteration)
        planes.end(iteration)
        if (iteration + 1) % every == 0 or iteration + 1 == log.committed:
            z, changes = logged_z[iteration + 1], np.array(sorted(changed))
            yield _State(iteration, p, q, z, planes, attended.live[iteration], changes)
            changed.clear()


class _Exact:
    """The closed form of a synthetic task."""

    kind = "exact"
    answers = 1

    def __init__(self, black_box: Synthetic) -> None:
        self.black_box = black_box

    def at(self, state: _State, workers: IntArray) -> list[tuple[FloatArray, FloatArray]]:
        return [self.black_box.gradient(state.p[workers], state.q[workers], workers)]


class _Estimated:
    """Two independent estimates by eq. (27), on all training rows of each worker."""

    kind = "estimated"
    answers = 2

    def __init__(self, black_box: BlackBox, seed: int, samples: int) -> None:
        self.black_box = black_box
        self.seed = seed
        self.samples = samples

    def at(self, state: _State, workers: IntArray) -> list[tuple[FloatArray, FloatArray]]:
        halves = zip(*(self._of_worker(state, int(index)) for index in workers), strict=True)
        first_p, second_p, first_q, second_q = (np.array(half) for half in halves)
        return [(first_p, first_q), (second_p, second_q)]

    def _of_worker(self, state: _State, index: int) -> list[FloatArray]:
        """Gradients in p by either half of the samples, then in q."""
        worker, halves = index + 1, 2 * self.samples
        generator = stream(self.seed, worker, state.iteration, Purpose.STATIONARITY)
        variables = state.p[index], state.q[index]
        words, shown = (sample(x, generator.random((halves, len(x)))) for x in variables)
        rows = np.arange(self.black_box.data_sizes[worker].rows[Split.TRAIN])
        [answer] = self.black_box.answer([Query(worker, Split.TRAIN, rows, words, shown)])
        return [
            leave_one_out(x, drawn[half], answer.losses[half])
            for x, drawn in zip(variables, (words, shown), strict=True)
            for half in (slice(self.samples), slice(self.samples, None))
        ]
