"""Is a log whole, and does it keep what the algorithm promises?"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import h5py
import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, IntArray
from asyndbt_mpi.log import schema
from asyndbt_mpi.log.checks import accounts, planes, reports, scores, values
from asyndbt_mpi.log.checks.equations import TOLERANCE, recompute
from asyndbt_mpi.log.checks.prompts import Prompts
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.events import attendance
from asyndbt_mpi.log.integrity import damaged_roots, damaged_rows
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.asyndbt import aggregation_of
from asyndbt_mpi.protocol.records import EventKind

MOST_LINES = 10
"""Violations that one check may list; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What is wrong with a log, and (``notes``) what could not be checked; one line each."""

    violations: list[str]
    notes: list[str]


def verify(path: str | os.PathLike[str]) -> Verification:
    """Check every invariant of the log at ``path``.

    Raises
    ------
    LogError
        The file is no log at all.
    """
    with Log(path) as log:
        violations = _listed(damaged_roots(log))
        if violations:  # any number may stand there, and checks that take it for true never end
            return Verification(violations, ["the rest, which relies on the attributes"])
        violations += _listed(values.attributes(log))
        structure = _listed(_columns(log)) or _listed(_lengths(log)) or _listed(_references(log))
        if structure:
            violations += structure
            return Verification(
                violations, ["the contents of the rows, because they cannot be matched"]
            )
        damaged = _listed(damaged_rows(log))
        violations += damaged
        notes: list[str] = []

        def prompts(log: Log) -> Iterator[str]:
            of_log = Prompts(log)
            yield from of_log.scored()
            yield from of_log.drawn()
            notes.extend(of_log.notes)

        for check in (*CHECKS, prompts, *([recompute] if log.every == 1 else [])):
            try:
                # What damaged numbers come to is told as a violation.
                with np.errstate(all="ignore"):
                    violations += _listed(check(log))
            except Exception as error:
                if not damaged:
                    raise
                # It relies on what does not hold any more in what is damaged.
                notes.append(f"{check.__name__}, because of the damage: {error}")
        if log.every > 1:
            notes.append(
                "whether z obeys (21), lambda (22) and the planes (31)-(33), because "
                f"log.iterates is {log.every}"
            )
        if log.status == "running":
            notes.append(
                f"rows beyond the {log.committed} committed iterations, because the run is still "
                "in progress or was killed"
            )
    return Verification(violations, notes)


def _listed(lines: Iterator[str]) -> list[str]:
    listed = list(islice(lines, MOST_LINES))
    rest = sum(1 for _ in lines)
    return [*listed, f"... and {rest} more like these"] if rest else listed


# ---------------------------------------------------------------- the file's structure


def _columns(log: Log) -> Iterator[str]:
    """Datasets that are missing, or of another type."""
    columns = [column for group in log.groups.values() for column in group]
    for column in (*columns, *(schema.Column(path, "", schema.TEXT) for path in schema.FIXED)):
        yield from _column(log, column)
    for path, due in schema.batch().items():
        try:
            dtype, _ = log.type_and_row(path)
        except LogError as error:
            yield str(error)
        else:
            if dtype != due:
                yield f"/{path} has different fields from those that this version writes"


def _column(log: Log, column: schema.Column) -> Iterator[str]:
    try:
        dtype, _ = log.type_and_row(column.path)
    except LogError:
        yield f"/{column.path} is missing"
        return
    if _kind(dtype) != _kind(column.dtype):
        yield f"/{column.path} is of type {dtype}, not {column.dtype}"


def _kind(dtype: np.dtype) -> tuple[object, ...]:
    """What makes two types the same: numpy's comparison knows no names and no text."""
    return dtype, h5py.check_enum_dtype(dtype), h5py.check_string_dtype(dtype)


def _references(log: Log) -> Iterator[str]:
    """Rows that name an iteration, a worker or a plane that does not exist."""
    for path in schema.KEY.values():
        iterations = log.rows(path)
        for row in np.flatnonzero(np.diff(iterations, prepend=0) < 0):
            yield f"/{path} row {row}: iteration {iterations[row]} is out of order"
    for path, least in (("report/worker", 1), ("event/worker", 0), ("evaluation/worker", 0)):
        workers = log[path]
        for row in np.flatnonzero((workers < least) | (workers > log.workers)):
            yield f"/{path} row {row}: there is no worker {workers[row]}"
    kinds = log["event/kind"]
    for row in np.flatnonzero(~np.isin(kinds, list(EventKind))):
        yield f"/event/kind row {row}: there is no event of kind {kinds[row]}"
    identifiers = log["plane/id"]
    for row in np.flatnonzero(identifiers != np.arange(len(identifiers))):
        yield f"/plane/id row {row}: plane {identifiers[row]} is not numbered like its row"
    named = log["dual/plane"]
    for row in np.flatnonzero((named < 0) | (named >= len(identifiers))):
        yield f"/dual/plane row {row}: there is no plane {named[row]}"


def _lengths(log: Log) -> Iterator[str]:
    """Columns that are too short or, in a file that was closed, too long."""
    for group, columns in log.groups.items():
        for column in columns:
            length = log.length(column.path)
            due = log.committed_rows[group] + (column.path == "iteration/z")
            if length < due or (log.status != "running" and length > due):
                yield f"/{column.path} has {length} rows, not {due}"
    for group in ("iteration", *schema.KEY):
        rows, counting = log.committed_rows[group], log.count(group)
        if rows < counting or (log.status != "running" and rows > counting):
            yield f"/{group} has {rows} rows, but the committed iterations claim {counting}"


# ---------------------------------------------------------------- the invariants


def _simplex(log: Log) -> Iterator[str]:
    """Rows of p, q and z off the simplex, or not there although they are due."""
    used_in = log["report/iteration"]
    of_row = {
        "iteration/z": np.arange(log.committed + 1) - 1,
        "report/p": used_in,
        "report/q": used_in,
    }
    if log.config.log.private:
        del of_row["report/q"]
    for path, iterations in of_row.items():
        for start, block in log.blocks(path):
            off = np.maximum(-block.min(axis=(1, 2)), np.abs(block.sum(axis=2) - 1).max(axis=1))
            absent = np.isnan(block).all(axis=(1, 2)) & ~_due(log, iterations[start:][: len(block)])
            for row in np.flatnonzero(~(off <= TOLERANCE) & ~absent):
                place = _place(log, path, start + int(row), int(iterations[start + row]))
                yield f"{place} is off the simplex by {off[row]:.1e} (nan: not there)"


def _due(log: Log, iterations: IntArray) -> BoolArray:
    """Whether the iterates of ``iterations`` must be there; the last ones come on closing.

    A process that was killed after the last iteration took them along: who went on has them not.
    """
    due: BoolArray = np.array([schema.kept(int(t), log.every) for t in iterations], dtype=bool)
    made_here = log.starts == 1 or log.committed > log.kept_rows["iteration"]
    if log.status != "running" and made_here:
        due |= iterations == log.committed - 1
    return due


def _place(log: Log, path: str, row: int, iteration: int) -> str:
    if path == "iteration/z":
        return f"iteration {iteration}: z" if row else "the start: z"
    worker = log.rows("report/worker", row, row + 1)[0]
    return f"iteration {iteration}, worker {worker}: {path.removeprefix('report/')}"


def _quorum(log: Log) -> Iterator[str]:
    """Iterations that went on with fewer than min(S, live) reports."""
    attended = attendance(log)
    live = attended.live.copy()
    for place in attended.returns:
        live[place] = False  # it may have come back while phi was estimated, after the quorum
    counts = log["iteration/active"].sum(axis=1)
    due = np.minimum(log.config.algorithm.active_workers, live.sum(axis=1))
    for iteration in np.flatnonzero(counts < due):
        yield f"iteration {iteration}: {counts[iteration]} active workers, not {due[iteration]}"


def _delays(log: Log) -> Iterator[str]:
    """Delays beyond tau, or other than the iterations since the worker was last active."""
    logged = log["iteration/delay"]
    number = np.arange(log.committed)[:, None]
    attended, estimating = attendance(log), set(planes.estimating(log).tolist())
    fresh = np.where(log["iteration/active"], number, -1)
    for iteration, worker in attended.returns:
        # As if active in the iteration before; in this one if it came while phi was estimated,
        # when the iteration had been counted already.
        counted = iteration in estimating and logged[iteration, worker] == 0
        last = iteration if counted else iteration - 1
        fresh[iteration, worker] = max(fresh[iteration, worker], last)
    delay = number - np.maximum.accumulate(fresh, axis=0)
    for iteration, worker in np.argwhere(logged != delay):
        yield (
            f"iteration {iteration}, worker {worker + 1}: delay {logged[iteration, worker]} is "
            f"logged, but {delay[iteration, worker]} iterations have passed"
        )
    max_delay = log.config.algorithm.max_delay
    for iteration, worker in np.argwhere((delay > max_delay) & attended.live):
        yield (
            f"iteration {iteration}, worker {worker + 1}: delay {delay[iteration, worker]} "
            f"exceeds max_delay {max_delay}"
        )


def _reports(log: Log) -> Iterator[str]:
    """Iterations whose reports are not those of its active workers."""
    worker, iteration = log["report/worker"], log["report/iteration"]
    counts = np.zeros((log.committed, log.workers), dtype=int)
    np.add.at(counts, (iteration, worker - 1), 1)
    active = log["iteration/active"]
    for at, index in np.argwhere(counts != active):
        state = "active" if active[at, index] else "not active"
        yield f"iteration {at}, worker {index + 1}: {state}, with {counts[at, index]} reports"


def _duals(log: Log) -> Iterator[str]:
    """Duals out of bounds, of planes that take no part, or missing."""
    iteration, plane, value = log["dual/iteration"], log["dual/plane"], log["dual/value"]
    created, positions, dropped = log["plane/created"], log["plane/positions"], log["plane/dropped"]
    bound = log.config.algorithm.dual_bound
    for row, position in np.argwhere(~((value >= 0) & (value <= bound))):
        yield (
            f"iteration {iteration[row]}, plane {plane[row]}, position {position}: "
            f"lambda {value[row, position]:.6g} is outside [0, {bound:g}]"
        )
    gone = (dropped[plane] >= 0) & (dropped[plane] < iteration[:, None])
    for row, position in np.argwhere((value != 0) & (gone | ~positions[plane])):
        yield (
            f"iteration {iteration[row]}, plane {plane[row]}, position {position}: "
            f"lambda {value[row, position]:.6g}, but the plane does not have that position"
        )
    for row in np.flatnonzero(iteration <= created[plane]):
        yield (
            f"iteration {iteration[row]}, plane {plane[row]}: a dual before the plane is in force"
        )
    logged = set(zip(plane.tolist(), iteration.tolist(), strict=True))
    stands = (positions & (dropped < 0)).any(axis=1)
    last = np.where(stands, log.committed - 1, dropped.max(axis=1, initial=-1))
    for each in range(len(created)):
        for due in range(created[each] + 1, last[each] + 1):
            if (each, due) not in logged:
                yield f"iteration {due}, plane {each}: its dual is missing"


def _objective(log: Log) -> Iterator[str]:
    """Objectives other than the mean of the newest losses, by the aggregation of the run."""
    loss = log["report/loss"]
    newest = np.full((log.committed, log.workers), -1)
    newest[log["report/iteration"], log["report/worker"] - 1] = np.arange(len(loss))
    newest = np.maximum.accumulate(newest, axis=0)
    counted = _counted(log, newest)
    losses = np.append(loss, 0.0)[newest]
    aggregation = aggregation_of(log.config, log.workers)
    if aggregation.is_mean:
        expected = np.where(counted, losses, 0.0).sum(axis=1) / np.maximum(1, counted.sum(axis=1))
    else:
        there = enumerate(zip(losses, counted, strict=True))
        expected = np.array([aggregation.mean(of[heard], t) for t, (of, heard) in there])
    logged = log["iteration/objective"]
    wrong = ~(np.abs(logged - expected) <= TOLERANCE * np.maximum(1.0, np.abs(expected)))
    for iteration in np.flatnonzero(wrong):
        yield (
            f"iteration {iteration}: objective {logged[iteration]:.12g} is logged, but the newest "
            f"losses give {expected[iteration]:.12g}"
        )


def _counted(log: Log, newest: IntArray) -> BoolArray:
    """Whose ``newest`` reports (T, R), rows or -1, count in the objective of each iteration.

    Those that have not been lost or excluded since the report arrived; and always those that the
    iteration used.
    """
    kinds, workers, numbers, iterations = (
        log[f"event/{name}"] for name in ("kind", "worker", "number", "iteration")
    )
    (rows,) = np.nonzero(kinds == EventKind.REPORT)
    of_report = zip(workers[rows].tolist(), numbers[rows].tolist(), strict=True)
    row_of = dict(zip(of_report, rows.tolist(), strict=True))
    used = zip(log["report/worker"].tolist(), log["report/seq"].tolist(), strict=True)
    arrived = np.array([*(row_of.get(each, len(kinds)) for each in used), -1])
    left = np.full(newest.shape, -1)  # the row of the event by which each left last
    for row in np.flatnonzero(np.isin(kinds, (EventKind.LOST, EventKind.EXCLUDED))).tolist():
        left[iterations[row] :, workers[row] - 1] = row
    counted: BoolArray = (newest >= 0) & ((arrived[newest] > left) | log["iteration/active"])
    return counted


CHECKS = (
    values.stationarity,
    values.cost_bounds,
    values.times,
    values.moments,
    values.measured,
    values.unrecognised,
    values.losses,
    values.answers,
    values.evaluations,
    values.demonstrations,
    _simplex,
    _quorum,
    _delays,
    _reports,
    _duals,
    _objective,
    reports.reports,
    accounts.reports,
    accounts.estimates,
    accounts.evaluations,
    scores.biases,
    scores.answers,
    planes.estimates,
    planes.drops,
)
"""What every log must keep, with or without all its iterates."""
