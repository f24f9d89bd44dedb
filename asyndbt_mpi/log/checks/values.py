"""Checks of a log's single numbers: what they may be, whatever else happened."""

from collections.abc import Iterator
from typing import get_args

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray
from asyndbt_mpi.log import schema
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.rows import cost_bounds_of
from asyndbt_mpi.protocol.evaluations import CONSENSUS
from asyndbt_mpi.protocol.ranges import FREE_LOSS, LOSS, RANGES, Range
from asyndbt_mpi.protocol.records import SPLIT_OF, EventKind

MEASURED = {
    "report/grad_p_norm": "grad_p_norm",
    "report/grad_q_norm": "grad_q_norm",
    "report/prompts": "prompts",
    "report/llm_calls": "calls",
    "report/prompt_tokens": "prompt_tokens",
    "report/compute_seconds": "compute_seconds",
    "lower/llm_calls": "calls",
    "lower/prompt_tokens": "prompt_tokens",
    "evaluation/llm_calls": "calls",
    "evaluation/prompt_tokens": "prompt_tokens",
    "event/time": "time",
    "event/compute_seconds": "compute_seconds",
    "event/prompts": "prompts",
    "event/llm_calls": "calls",
    "event/prompt_tokens": "prompt_tokens",
    "event/completion_tokens": "completion_tokens",
    "event/unrecognised": "unrecognised",
}
"""Columns, and by which of `RANGES` they are bounded."""


OF_SAMPLES = (EventKind.REPORT, EventKind.LOWER_REPORT)
OF_A_SPLIT = tuple(SPLIT_OF)
"""Events that hold a loss for each sample, or one loss and the accuracy of a prompt."""


def attributes(log: Log) -> Iterator[str]:
    """Root attributes that differ from the stored configuration or mean nothing."""
    config = log.config
    due = {
        "seed": (log.seed, config.run.seed),
        "active_workers": (log.active_workers, config.algorithm.active_workers),
        "max_delay": (log.max_delay, config.algorithm.max_delay),
        "positions": (log.shapes.positions, config.prompt.fragment_length),
        "words": (log.shapes.words, config.prompt.vocabulary_size),
        "pool": (log.shapes.pool, config.prompt.pool),
    }
    for name, (logged, configured) in due.items():
        if logged != configured:
            yield f"the attribute {name} is {logged}, but the configuration says {configured}"
    known = {
        "transport": (log.transport, get_args(schema.Transport)),
        "status": (log.status, get_args(schema.Status)),
    }
    for name, (value, values) in known.items():
        if value not in values:
            yield f"the attribute {name} is {value!r}, not one of {', '.join(values)}"


def stationarity(log: Log) -> Iterator[str]:
    """What was added to the log and is of no iteration, or cannot be a squared norm."""
    try:
        found = log.stationarity
    except LogError as error:
        yield str(error)
        return
    if found is None:
        return
    iteration, norm = found.iteration, found.squared_norm
    ordered = (np.diff(iteration) > 0).all() and (iteration[:1] >= 0).all()
    if not ordered or iteration.max(initial=-1) >= log.committed:
        yield "the iterations of /stationarity are not the run's, or not in order"
    wrong = ~np.isfinite(norm) | ((norm < 0) & (found.kind == "exact"))
    for row in np.flatnonzero(wrong):
        yield f"iteration {iteration[row]}: ||grad G||^2 is {norm[row]:.6g}"


def cost_bounds(log: Log) -> Iterator[str]:
    """What workers said that their answers can cost, where it is no counts."""
    for row, text in enumerate(log.cost_bounds):
        try:
            cost_bounds_of(text)
        except ValueError as error:
            yield f"/worker/cost_bounds row {row} {error}"


def times(log: Log) -> Iterator[str]:
    """Times of iterations that are none or run backwards, and reports used at another time."""
    time = log["iteration/time"]
    for iteration in np.flatnonzero(~(np.isfinite(time) & (time >= 0))):
        yield f"iteration {iteration}: its time {time[iteration]:.6g} is impossible"
    for iteration in np.flatnonzero(np.diff(time) < 0) + 1:
        yield f"iteration {iteration}: its time {time[iteration]:.6g} is before the previous one"


def moments(log: Log) -> Iterator[str]:
    """Reports used outside the time of their iteration, or sent at no time."""
    time, iteration = log["iteration/time"], log["report/iteration"]
    used, sent = log["report/used_time"], log["report/sent_time"]
    opened = np.append(0.0, time)[iteration]
    for row in np.flatnonzero(~((used >= opened) & (used <= time[iteration]))).tolist():
        yield f"{_of_report(log, row)}: used_time {used[row]:.6g} is not in its iteration"
    for row in np.flatnonzero(RANGES["sent_time"].outside(sent)).tolist():
        yield f"{_of_report(log, row)}: sent_time is {sent[row]}"


def measured(log: Log) -> Iterator[str]:
    """Norms and costs that are negative or not finite."""
    for path, name in MEASURED.items():
        values, due = log[path], RANGES[name]
        for row in np.flatnonzero(due.outside(values)).tolist():
            place = f"/{path} row {row}"
            if path.startswith("report/"):
                place = f"{_of_report(log, row)}: {path.removeprefix('report/')}"
            yield f"{place} is {values[row]}, outside {due}"


def unrecognised(log: Log) -> Iterator[str]:
    """More answers without a label than prompts, or than an accuracy leaves room for."""
    prompts, without = log["event/prompts"], log["event/unrecognised"]
    right = np.nan_to_num(log["event/accuracy"]) * prompts
    (evaluated,) = np.nonzero(np.isin(log["event/kind"], OF_A_SPLIT))
    calibrated = log.rows("evaluation/bias")[log.rows("evaluation/worker") != CONSENSUS].any(axis=1)
    if len(calibrated) == len(evaluated):  # else `accounts` tells
        # Some prompts are references, and where no label was named one may be right nevertheless.
        right[evaluated[calibrated]] = 0
    for row in np.flatnonzero((prompts >= 0) & (right + without > prompts + 0.5)).tolist():
        yield (
            f"/event/unrecognised row {row} is {without[row]} of {prompts[row]} prompts, of which"
            f" {right[row]:.0f} were answered correctly"
        )


def losses(log: Log) -> Iterator[str]:
    """Losses that are not finite or, being mean negative log-probabilities, negative."""
    loss = log["report/loss"]
    for row in np.flatnonzero(_losses_due(log).outside(loss)).tolist():
        yield f"{_of_report(log, row)}: loss is {loss[row]}, impossible for the backend"


def answers(log: Log) -> Iterator[str]:
    """Events without what the black box must have answered, or with what it cannot have."""
    kind, loss, accuracy = log["event/kind"], log["event/losses"], log["event/accuracy"]
    due = np.zeros(loss.shape, dtype=bool)
    due[np.isin(kind, OF_SAMPLES)] = True
    of_a_split = np.isin(kind, OF_A_SPLIT)
    due[of_a_split, :1] = True
    fits = np.where(due, ~_losses_due(log).outside(loss), np.isnan(loss))
    for row in np.flatnonzero(~fits.all(axis=1)).tolist():
        name = EventKind(int(kind[row])).name.lower()
        yield f"/event/losses row {row}: {loss[row].tolist()} are impossible for a {name}"
    wrong = ~np.isnan(accuracy) & ~(of_a_split & (accuracy >= 0) & (accuracy <= 1))
    for row in np.flatnonzero(wrong).tolist():
        name = EventKind(int(kind[row])).name.lower()
        yield f"/event/accuracy row {row}: {accuracy[row]:.6g} is impossible for a {name}"
    sent = log["event/sent_time"]
    for row in np.flatnonzero(RANGES["sent_time"].outside(sent)).tolist():
        yield f"/event/sent_time row {row} is {sent[row]}"


def _losses_due(log: Log) -> Range:
    return FREE_LOSS if log.config.llm.is_function else LOSS


def _of_report(log: Log, row: int) -> str:
    iteration, worker = (
        log.rows(path, row, row + 1)[0] for path in ("report/iteration", "report/worker")
    )
    return f"iteration {iteration}, worker {worker}"


def evaluations(log: Log) -> Iterator[str]:
    """Evaluations of an iteration that is not there, or with impossible results or prompts."""
    rows = log.rows("evaluation/iteration")
    # Evaluations may be ahead of the iterations that count: beside a run, after a kill, and where
    # a run that was killed is resumed and soon interrupted.
    last = max(log.committed, log["event/iteration"].max(initial=0))
    if log.status == "running":
        last = np.iinfo(rows.dtype).max
    for row in np.flatnonzero((rows < 0) | (rows > last)):
        yield f"/evaluation/iteration row {row}: there is no iteration {rows[row]}"
    accuracy = log.rows("evaluation/accuracy")
    for row in np.flatnonzero(RANGES["accuracy"].outside(accuracy) & ~np.isnan(accuracy)):
        yield f"/evaluation/accuracy row {row}: {accuracy[row]:.6g} is outside [0, 1]"
    choices = int(RANGES["choice"].most) + 1 if log.config.log.private else log.shapes.pool
    for name, size in (("words", log.shapes.words), ("demonstrations", choices)):
        shown = log.rows(f"evaluation/{name}")
        for row in np.flatnonzero(_outside(shown, size).any(axis=1)):
            yield f"/evaluation/{name} row {row}: {shown[row].tolist()} is outside [-1, {size})"


def demonstrations(log: Log) -> Iterator[str]:
    """Demonstrations of an estimate of phi outside the pool, or of a part of the classes."""
    iteration, k, pool = log["lower/iteration"], log["lower/k"], log.shapes.pool
    for row, worker in np.argwhere(_outside(k, pool).any(axis=2)):
        yield (
            f"iteration {iteration[row]}, worker {worker + 1}: the k {k[row, worker].tolist()} of "
            f"its estimate is outside [-1, {pool})"
        )
    none = k == -1
    for row, worker in np.argwhere(none.any(axis=2) & ~none.all(axis=2)):
        yield (
            f"iteration {iteration[row]}, worker {worker + 1}: its estimate has a k for a part "
            "of the classes only"
        )


def _outside(indices: np.ndarray, size: int) -> BoolArray:
    """Where ``indices`` are neither of ``size`` things nor -1, which stands for none."""
    outside: BoolArray = (indices < -1) | (indices >= size)
    return outside
