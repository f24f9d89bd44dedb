"""Checks of what was reported: /report, /lower and /evaluation say what the events say."""

from collections.abc import Iterator

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, IntArray
from asyndbt_mpi.log.checks.equations import TOLERANCE
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.asyndbt import aggregation_of
from asyndbt_mpi.protocol.evaluations import CONSENSUS
from asyndbt_mpi.protocol.messages import Candidate, Split
from asyndbt_mpi.protocol.records import SPLIT_OF, EventKind

OF_REPORTS = ("prompts", "llm_calls", "prompt_tokens", "compute_seconds", "sent_time")
OF_ESTIMATES = ("llm_calls", "prompt_tokens")
OF_EVALUATIONS = {
    "worker": "worker",
    "iteration": "number",
    "accuracy": "accuracy",
    "llm_calls": "llm_calls",
    "prompt_tokens": "prompt_tokens",
    "time": "time",
}
"""Columns that have to be the same in /event, there maybe under another name."""


def arrival_rows(log: Log) -> IntArray:
    """For every row of /report that of its event, -1 where there is none; (A,)."""
    kinds = log["event/kind"]
    rows = np.flatnonzero(kinds == EventKind.REPORT)[::-1]  # of several the first
    keys = zip(log["event/worker"][rows].tolist(), log["event/number"][rows].tolist(), strict=True)
    row_of = dict(zip(keys, rows.tolist(), strict=True))
    used = zip(log["report/worker"].tolist(), log["report/seq"].tolist(), strict=True)
    found: IntArray = np.array([row_of.get(key, -1) for key in used], dtype=np.int64)
    return found


def reports(log: Log) -> Iterator[str]:
    """Reports with another loss or other costs than arrived, or used before they arrived."""
    event = arrival_rows(log)
    (rows,) = np.nonzero(event >= 0)  # of the others `arrivals` tells
    event = event[rows]
    for name in OF_REPORTS:
        logged, due = log[f"report/{name}"][rows], log[f"event/{name}"][event]
        yield from _compare(f"report/{name}", rows, logged, due, event)
    means = log["event/losses"][event].mean(axis=1)
    yield from _compare("report/loss", rows, log["report/loss"][rows], means, event, TOLERANCE)
    used, arrived = log["report/used_time"][rows], log["event/time"][event]
    for index in np.flatnonzero(used < arrived):
        yield (
            f"/report/used_time row {rows[index]} is {used[index]:.12g}, before the report "
            f"arrived: /event row {event[index]} says {arrived[index]:.12g}"
        )


def estimates(log: Log) -> Iterator[str]:
    """Estimates of phi whose costs are not those of their lower reports, or of other workers."""
    (events,) = np.nonzero(log["event/kind"] == EventKind.LOWER_REPORT)
    row_of = {number: row for row, number in enumerate(estimate_numbers(log).tolist())}
    numbers = log["event/number"][events] // log.config.algorithm.lower_steps
    # An estimate that is under way, or that the end of the run left open, has no row.
    row = np.array([row_of.get(number, -1) for number in numbers.tolist()], dtype=np.int64)
    events, row = events[row >= 0], row[row >= 0]
    rows = np.arange(len(log["lower/iteration"]))
    for name in OF_ESTIMATES:
        sums = np.zeros(len(rows), dtype=np.int64)
        np.add.at(sums, row, log[f"event/{name}"][events])
        yield from _compare(f"lower/{name}", rows, log[f"lower/{name}"], sums)
    if log.config.log.private:
        return  # each k is with its worker
    reported = np.zeros((len(rows), log.workers + 1), dtype=bool)
    reported[row, log["event/worker"][events]] = True
    took_part: BoolArray = np.any(log["lower/k"] >= 0, axis=2)
    for each, index in np.argwhere(took_part != reported[:, 1:]):
        has = "has a k" if took_part[each, index] else "has no k"
        did = "took part" if reported[each, index + 1] else "did not take part"
        yield f"/lower/k row {each}: worker {index + 1} {has}, but its events say that it {did}"


def estimate_numbers(log: Log) -> IntArray:
    """For every row of /lower, the how-manieth estimate it is of the run, from 0; (P,)."""
    numbers: IntArray = (log["lower/iteration"] + 1) // log.config.algorithm.plane_period - 1
    return numbers


def evaluations(log: Log) -> Iterator[str]:
    """Evaluations that are not, one by one, those of the events; and the consensus' means."""
    (rows,) = np.nonzero(log.rows("evaluation/worker") != CONSENSUS)
    kinds = log["event/kind"]
    (events,) = np.nonzero(np.isin(kinds, list(SPLIT_OF)))
    if len(rows) != len(events):
        yield f"/evaluation has {len(rows)} answers of workers, but /event has {len(events)}"
        return
    for name, in_event in OF_EVALUATIONS.items():
        logged, due = log.rows(f"evaluation/{name}")[rows], log[f"event/{in_event}"][events]
        yield from _compare(f"evaluation/{name}", rows, logged, due, events)
    losses = log["event/losses"][events][:, 0]
    yield from _compare("evaluation/loss", rows, log.rows("evaluation/loss")[rows], losses, events)
    splits = np.array([SPLIT_OF[kind] for kind in kinds[events].tolist()], dtype=int)
    split = log.rows("evaluation/split")[rows]
    yield from _compare("evaluation/split", rows, split, splits, events)
    yield from _of_consensus(log)


def _of_consensus(log: Log) -> Iterator[str]:
    """Whether worker 0 has the means of what the workers found for the consensus."""
    column = {name: log.rows(f"evaluation/{name}") for name in (
        "worker", "split", "candidate", "iteration", "accuracy", "loss", "llm_calls",
        "prompt_tokens", "time",
    )}  # fmt: skip
    of_consensus = (column["split"] == Split.TEST) & (column["candidate"] == Candidate.CONSENSUS)
    (answers,) = np.nonzero(of_consensus & (column["worker"] != CONSENSUS))
    (rows,) = np.nonzero(column["worker"] == CONSENSUS)
    due = 1 if len(answers) and log.status == "finished" else 0
    if not due <= len(rows) <= min(1, len(answers)):
        yield (
            f"/evaluation has {len(rows)} rows of worker {CONSENSUS}, for the consensus, but "
            f"{len(answers)} workers have tested it"
        )
        return
    aggregation = aggregation_of(log.config, log.workers)
    for row in rows:
        expected = {
            "split": Split.TEST,
            "candidate": Candidate.CONSENSUS,
            "iteration": column["iteration"][answers[0]],
            "accuracy": aggregation.mean(column["accuracy"][answers]),
            "loss": aggregation.mean(column["loss"][answers]),
            "llm_calls": 0,
            "prompt_tokens": 0,
        }
        for name, value in expected.items():
            logged = column[name][row]
            if not np.isclose(logged, value, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
                yield (
                    f"/evaluation/{name} row {row}, of the consensus, is {logged}, but the "
                    f"workers' rows give {value}"
                )
        before = column["time"][answers].max()
        if column["time"][row] < before:
            yield (
                f"/evaluation/time row {row}, of the consensus, is {column['time'][row]:.12g}, "
                f"before the last worker's {before:.12g}"
            )


def _compare(
    path: str,
    rows: IntArray,
    logged: np.ndarray,
    due: np.ndarray,
    events: IntArray | None = None,
    tolerance: float = 0.0,
) -> Iterator[str]:
    """Numbers that are ``logged`` in the ``rows`` of ``path`` and are not those ``due``."""
    equal = np.isclose(logged, due, rtol=tolerance, atol=tolerance, equal_nan=True)
    for index in np.flatnonzero(~equal):
        source = "its events say" if events is None else f"/event row {events[index]} says"
        was, should = logged[index].item(), due[index].item()
        yield f"/{path} row {rows[index]} is {was}, but {source} {should}"
