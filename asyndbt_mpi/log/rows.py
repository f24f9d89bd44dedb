"""Records turned into rows: one value for each column of `schema.groups`, in its order."""

import re
from dataclasses import astuple
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.polyhedron import Plane
from asyndbt_mpi.protocol.messages import CostBounds, RowLosses, RowScores
from asyndbt_mpi.protocol.ranges import COUNT
from asyndbt_mpi.protocol.records import Estimation, Evaluation, Event, Iteration, UsedReport

Row: TypeAlias = tuple[object, ...]
"""Values of the columns; None leaves it out."""

BLOCKS = ("dual",)
"""Groups that have many rows for each iteration, which are taken in together."""

SEVEN_COUNTS = re.compile("[0-9]{1,20}(?: [0-9]{1,20}){6}")


def iteration_row(iteration: Iteration, keep: bool) -> Row:
    """Row of /iteration; z and its gradient only if ``keep``."""
    return (
        iteration.z if keep else None,
        iteration.gradient if keep else None,
        iteration.active,
        iteration.delay,
        iteration.time,
        iteration.objective,
    )


def report_row(used: UsedReport, iteration: int, keep: bool) -> Row:
    """Row of /report; p and q only if ``keep``."""
    report = used.report
    return (
        used.worker,
        report.number,
        iteration,
        report.iteration,
        report.p if keep else None,
        report.q if keep and report.q.size else None,
        report.loss,
        report.grad_p_norm,
        report.grad_q_norm,
        report.costs.prompts,
        report.costs.calls,
        report.costs.prompt_tokens,
        report.costs.compute_seconds,
        report.sent_time,
        used.used_time,
    )


def dual_block(iteration: Iteration) -> Row:
    """Rows of /dual, one for each plane in force: the values are arrays of them; see `BLOCKS`."""
    planes = iteration.planes
    return np.full(len(planes), iteration.number), planes, iteration.duals


def lower_row(estimation: Estimation) -> Row:
    """Row of /lower."""
    return (
        estimation.iteration,
        estimation.k,
        estimation.phi_p,
        estimation.phi_z,
        estimation.h,
        estimation.calls,
        estimation.prompt_tokens,
    )


def plane_row(plane: Plane) -> Row:
    """Row of /plane, with nothing dropped yet."""
    return (
        plane.identifier,
        plane.created,
        plane.positions,
        plane.a,
        plane.b,
        plane.c,
        np.full(len(plane.positions), -1),
    )


def evaluation_row(evaluation: Evaluation) -> Row:
    """Row of /evaluation."""
    return (
        evaluation.iteration,
        evaluation.worker,
        int(evaluation.split),
        int(evaluation.candidate),
        evaluation.accuracy,
        evaluation.loss,
        evaluation.words,
        evaluation.demonstrations,
        evaluation.calls,
        evaluation.prompt_tokens,
        evaluation.time,
        evaluation.bias,
    )


def answer_rows(row: int, rows: RowScores | RowLosses, classes: int) -> list[Row]:
    """Rows of /answer, one for each of the ``rows`` that /evaluation's ``row`` was scored on.

    Of a worker's own rows there are only losses; their label is -1, and the rest is NaN.
    """
    losses = rows.losses.tolist()
    if isinstance(rows, RowLosses):
        unknown = np.full(classes, np.nan)
        return [(row, number, loss, -1, unknown) for number, loss in enumerate(losses)]
    scores = zip(losses, rows.labels.tolist(), rows.log_probabilities, strict=True)
    return [(row, number, *of_row) for number, of_row in enumerate(scores)]


def event_row(event: Event, samples: int) -> Row:
    """Row of /event, its losses NaN where it has fewer than ``samples``.

    No text is left out rather than stored empty.
    """
    costs, losses = event.costs, event.losses
    if losses is None or len(losses) < samples:
        few = () if losses is None else losses
        losses = np.full(samples, np.nan)
        losses[: len(few)] = few
    return (
        int(event.kind),
        event.worker,
        event.number,
        event.iteration,
        event.time,
        costs.compute_seconds,
        event.sent_time,
        costs.prompts,
        costs.calls,
        costs.prompt_tokens,
        costs.completion_tokens,
        costs.unrecognised,
        losses,
        event.accuracy,
        event.text or None,
    )


def cost_bounds_text(cost_bounds: CostBounds | None) -> str:
    """Entry of /worker/cost_bounds: the seven numbers of `CostBounds`, "" if they are not known."""
    return "" if cost_bounds is None else " ".join(map(str, astuple(cost_bounds)))


def cost_bounds_of(text: str) -> CostBounds | None:
    """Inverse of `cost_bounds_text`.

    Raises
    ------
    ValueError
        It is none of its results.
    """
    if not text:
        return None
    if not SEVEN_COUNTS.fullmatch(text):
        raise ValueError("is not seven counts")
    counts = [int(word) for word in text.split()]
    if not all(map(COUNT.holds, counts)):
        raise ValueError(f"has a count outside {COUNT}")
    cost_bounds = CostBounds(*counts)
    if cost_bounds.race_rows > cost_bounds.race:
        raise ValueError("has a count of race rows above that of the calls for them")
    return cost_bounds
