"""The closing tables of a run, made from its log alone."""

import math
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.messages import Candidate, Split

MOST_ROWS = 32
"""Workers shown one by one; the means are always over all."""
NOTHING = "-"
COLUMNS = (
    (Candidate.RANDOM, "random demonstrations"),
    (Candidate.TUNED, "tuned"),
    (Candidate.CONSENSUS, "consensus words"),
)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a worker ended with: word and demonstration indices, and test accuracies."""

    worker: int
    words: np.ndarray
    demonstrations: np.ndarray
    accuracies: dict[Candidate, float]


def accuracies_on_test(log: Log) -> dict[tuple[Candidate, int], float]:
    """Accuracy on the test split by (candidate, worker); worker 0 is the consensus."""
    chosen = log["evaluation/split"] == Split.TEST
    columns = (log[f"evaluation/{name}"][chosen] for name in ("candidate", "worker", "accuracy"))
    return {
        (Candidate(int(candidate)), int(worker)): float(accuracy)
        for candidate, worker, accuracy in zip(*columns, strict=True)
    }


def learnt(log: Log) -> list[Learnt]:
    """For every worker, its tuned prompt if the run got that far, else its last iterate's."""
    accuracies = accuracies_on_test(log)
    rows = []
    for worker in range(1, log.workers + 1):
        prompt = _tuned_prompt(log, worker) or _last_prompt(log, worker)
        if prompt is None:
            continue
        own = {c: accuracies[c, worker] for c, _ in COLUMNS if (c, worker) in accuracies}
        rows.append(Learnt(worker, *prompt, own))
    return rows


def _tuned_prompt(log: Log, worker: int) -> tuple[np.ndarray, np.ndarray] | None:
    chosen = np.flatnonzero(
        (log["evaluation/worker"] == worker)
        & (log["evaluation/candidate"] == Candidate.TUNED)
        & (log["evaluation/split"] == Split.TEST)
    )
    if not len(chosen):
        return None
    row = chosen[-1]
    return log["evaluation/words"][row], log["evaluation/demonstrations"][row]


def _last_prompt(log: Log, worker: int) -> tuple[np.ndarray, np.ndarray] | None:
    mine = np.flatnonzero(log["report/worker"] == worker)
    if not len(mine):
        return None
    p, q = (log.rows(f"report/{name}", mine[-1], mine[-1] + 1)[0] for name in "pq")
    if np.isnan(p).any():
        return None  # this iterate was left out by log.iterates
    return p.argmax(axis=1), q.argmax(axis=1)


def print_summary(log: Log, console: Console | None = None) -> None:
    """Print what the run did, what it cost, what it learnt and how much better that is."""
    console = console or Console()
    _print_run(log, console)
    rows = learnt(log)
    if not rows:
        console.print("No worker has reported yet.")
        return
    consensus = log.rows("iteration/z", log.committed, log.committed + 1)[0]
    if not np.isnan(consensus).any():
        console.print(f"Consensus words: {_words(log, consensus.argmax(axis=1))}", highlight=False)
    console.print(_table(log, rows))
    if any(row.accuracies for row in rows):
        _print_untuned(log, console)


def _print_run(log: Log, console: Console) -> None:
    times = log["iteration/time"]
    console.print(
        f"[bold]{log.config.run.name}[/bold] ({log.path}): {log.status},"
        f" {log.committed} iterations, {log.workers} workers of which"
        f" {log.active_workers} active, no one more than {log.max_delay} iterations late",
        highlight=False,
    )
    seconds = max(times[-1] if len(times) else 0.0, log["evaluation/time"].max(initial=0.0))
    calls, tokens = (
        sum(int(log[f"{group}/{name}"].sum()) for group in ("report", "lower", "evaluation"))
        for name in ("llm_calls", "prompt_tokens")
    )
    clock = "virtual seconds" if log.transport == "virtual" else "s"
    console.print(f"{calls:,} calls, {tokens:,} prompt tokens, {seconds:.1f} {clock}")
    for number, text in enumerate(log.descriptions[:MOST_ROWS], start=1):
        console.print(f"worker {number}: {text or 'did not start'}", highlight=False, markup=False)


def _table(log: Log, rows: list[Learnt]) -> Table:
    table = Table(title="What was learnt" + _accuracy_note(rows))
    table.add_column("worker", justify="right")
    table.add_column("words")
    table.add_column("demonstrations (row of each class's pool)")
    shown = [(c, title) for c, title in COLUMNS if any(c in row.accuracies for row in rows)]
    for _, title in shown:
        table.add_column(title, justify="right")
    for row in rows[:MOST_ROWS]:
        table.add_row(
            str(row.worker),
            _words(log, row.words),
            ", ".join(str(k) for k in row.demonstrations),
            *(_percent(row.accuracies.get(c, math.nan)) for c, _ in shown),
        )
    if shown:
        table.add_section()
        means = (np.nanmean([row.accuracies.get(c, math.nan) for row in rows]) for c, _ in shown)
        table.add_row("mean", "", "", *(_percent(float(mean)) for mean in means))
    return table


def _accuracy_note(rows: list[Learnt]) -> str:
    return ", and test accuracy in per cent" if any(row.accuracies for row in rows) else ""


def _print_untuned(log: Log, console: Console) -> None:
    untuned = [a for (c, _), a in accuracies_on_test(log).items() if c is Candidate.UNTUNED]
    if untuned:
        console.print(f"Untuned prompt, without demonstrations: {_percent(untuned[0])}")


def _words(log: Log, words: np.ndarray) -> str:
    return " ".join(log.vocabulary[word] for word in words)


def _percent(accuracy: float) -> str:
    return NOTHING if math.isnan(accuracy) else f"{100 * accuracy:.1f}"
