"""The summary of a run, made from its log alone."""

from typing import TypeAlias

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.protocol.final_tests import number_of_tests
from asyndbt_mpi.protocol.messages import WITHOUT, Candidate
from asyndbt_mpi.protocol.records import EventKind
from asyndbt_mpi.protocol.spending import price
from asyndbt_mpi.view.accuracy import (
    Outcomes,
    accuracy_table,
    class_table,
    difference_lines,
    setback,
)
from asyndbt_mpi.view.outcomes import newest_tests, outcomes
from asyndbt_mpi.view.privacy import guarantee, releases

MOST_ROWS = 32
"""Number of workers whose words are shown; means are always over all workers."""

WON_AS = {
    Candidate.TUNED: "most probable",
    Candidate.UNTUNED: "untuned",
    Candidate.RANDOM: "random",
    Candidate.CONSENSUS: "consensus",
    Candidate.MODEL: "best by model",
}
"""What a prompt in a race was."""

Prompt: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Words (M,) and demonstrations (U,), as indices."""

HAPPENED = {
    EventKind.DROPPED: "caught sending a malformed message",
    EventKind.LOST: "lost",
    EventKind.RETURNED: "back",
    EventKind.EXCLUDED: "excluded",
}
"""What can happen to a worker."""


def print_summary(log: Log, console: Console | None = None) -> None:
    """Print what the run did, cost and learnt, and how much better the result is."""
    console = console or Console()
    lines = [*run_lines(log), *cost_lines(log), *worker_lines(log)]
    if log.config.privacy.noise:
        lines.append(f"At most {guarantee(log.config, releases(log))}")
    for line in lines:
        console.print(Text(printable(line)))  # others' markup and emoji codes are printed as text
    prompts = learnt_prompts(log, MOST_ROWS)
    if not (prompts or log.count("report")):
        console.print("No worker's report has been used yet.")
        return
    console.print(learnt_table(log, prompts))
    found = outcomes(log)
    if found:
        console.print(accuracy_table(log, found))
    for line in difference_lines(found):
        console.print(line, highlight=False)
    if worse := setback(found):
        console.print(f"warning: {worse}", highlight=False)
    best = best_table(log, found)
    if best is not None:
        console.print(best)


def classes_of_tests(log: Log) -> Table:
    """The test accuracy by class.

    Raises
    ------
    LogError
        The log does not have it; one line says why.
    """
    table = class_table(log, outcomes(log))
    if table is not None:
        return table
    config = log.config
    if config.llm.is_function:
        why = "its task is a function, which classifies nothing"
    elif not number_of_tests(config, log.workers):
        why = "its run made no tests, as run.evaluate_every or task.test is 0"
    else:
        why = "there are no tests in it yet, or none with answers to each row"
    raise log.file.error(f"no accuracy by class: {why}")


def learnt_prompts(log: Log, most: int | None = None) -> dict[int, Prompt]:
    """What the first ``most`` workers have learnt.

    The prompt that was tested, else the one that won the race, else the best one that was
    validated, else the newest, whose demonstrations a log that is private does not have: (0,).
    """
    tests = newest_tests(log)
    rows = tests[log["evaluation/candidate"][tests] == Candidate.TUNED]
    row_tuned = dict(zip(log["evaluation/worker"][rows].tolist(), rows.tolist(), strict=True))
    reporting = log["report/worker"]
    row_newest = dict(zip(reporting.tolist(), range(len(reporting)), strict=True))
    prompts: dict[int, Prompt] = {}
    for worker in range(1, log.workers + 1)[:most]:
        if worker in row_tuned:
            chosen = row_tuned[worker]
            prompts[worker] = (
                log["evaluation/words"][chosen],
                log["evaluation/demonstrations"][chosen],
            )
        elif worker in log.winners:
            won = log.winners[worker]
            prompts[worker] = won.words, won.demonstrations
        elif worker in log.best:
            prompts[worker] = log.best[worker].words, log.best[worker].demonstrations
        elif worker in row_newest:
            newest = row_newest[worker]
            p, q = (log.rows(f"report/{name}", newest, newest + 1)[0] for name in "pq")
            if not np.isnan(p).any():  # else log.iterates left it out
                shown = q[:0] if log.config.log.private else q
                prompts[worker] = p.argmax(axis=1), shown.argmax(axis=1)
    return prompts


def run_lines(log: Log) -> list[str]:
    """What was run, and by which workers."""
    state = "running, or killed," if log.status == "running" else log.status
    limits = log["event/text"][log["event/kind"] == EventKind.CLOSING].tolist()
    by = f", at {limits[-1]}" if limits and limits[-1] else ""
    lines = [
        f"{log.config.run.name} ({log.path}): {state} after {log.committed} iterations{by}",
        f"{log.workers} workers, {log.active_workers} active per iteration,"
        f" none more than {log.max_delay} iterations late",
        f"defence: {log.config.defence.in_words(log.workers)}",
    ]
    if malicious := sorted(log.config.adversary.of(log.workers)):
        numbers = ", ".join(map(str, malicious))
        lines.append(f"malicious workers: {numbers} ({log.config.adversary.attack})")
    if log.starts > 1:
        times = log.starts - 1
        lines.append(f"resumed {times} time{'s' if times > 1 else ''}")
    return lines


def duration(log: Log) -> float:
    """Seconds to the last iteration, or the last test."""
    times = log["iteration/time"]
    return max(
        float(times[-1]) if len(times) else 0.0, float(log["evaluation/time"].max(initial=0.0))
    )


def cost_lines(log: Log) -> list[str]:
    """The calls of the black box, the time and the cost."""
    clock = "virtual seconds" if log.transport == "virtual" else "seconds"
    calls, prompt, completion = (
        int(log[f"event/{name}"].sum())
        for name in ("llm_calls", "prompt_tokens", "completion_tokens")
    )
    llm = log.config.llm
    tokens = f" {prompt:,} prompt tokens," if not llm.is_function else ""
    if completion:
        tokens += f" {completion:,} completion tokens,"
    lines = [f"{calls:,} calls,{tokens} {duration(log):.1f} {clock}"]
    if tokens and (llm.input_price or llm.output_price):
        lines.append(f"{price(llm, prompt, completion):,.2f} at the prices of [llm]")
    asked, paid = (int(log[f"event/{name}"].sum()) for name in ("prompts", "llm_calls"))
    if paid < asked:
        lines.append(f"{1 - paid / asked:.0%} of the prompts were repeats, and free")
    if unrecognised := int(log["event/unrecognised"].sum()):
        share = f"{unrecognised / max(asked, 1):.1%}"
        lines.append(
            f"{unrecognised:,} of {asked:,} answers ({share}) named no label or were refused;"
            " these count all labels as equally probable"
        )
    return lines


def worker_lines(log: Log) -> list[str]:
    """What each worker runs on, and when it was lost, returned or excluded."""
    kinds, workers, iterations = (log[f"event/{name}"] for name in ("kind", "worker", "iteration"))
    happened: dict[int, list[str]] = {}
    for row in np.flatnonzero(np.isin(kinds, list(HAPPENED))).tolist():
        what = f"{HAPPENED[EventKind(int(kinds[row]))]} in iteration {iterations[row]}"
        happened.setdefault(int(workers[row]), []).append(what)
    lines = [
        f"worker {number}: {text or 'was never heard from'}"
        for number, text in enumerate(log.descriptions[:MOST_ROWS], start=1)
    ]
    for number, parts in sorted(happened.items())[:MOST_ROWS]:
        lines.append(f"worker {number} was {', '.join(parts)}")
    return lines


def learnt_table(log: Log, prompts: dict[int, Prompt]) -> Table:
    """Words and demonstrations of every worker, and the words of the consensus."""
    what = "number" if log.config.llm.is_function else "row"
    where = f"{what} in the pool of each class, from 0"
    if log.config.log.private:
        where = (
            "numbers of choices, which only the worker's own file explains (log.private),"
            " \N{EN DASH} if none was scored"
        )
    first = f"; the first {len(prompts)} workers" if log.workers > MOST_ROWS else ""
    table = Table(
        title="What was learnt",
        caption=f"demonstrations: {where}{first}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("worker", justify="right")
    table.add_column("words")
    table.add_column("demonstrations")
    if log.winners:
        table.add_column("won as")
    for worker, (words, demonstrations) in prompts.items():
        won = [WON_AS[log.winners[worker].candidate]] if worker in log.winners else []
        table.add_row(str(worker), _words(log, words), _shown(demonstrations), *won)
    consensus = log.rows("iteration/z", log.committed, log.committed + 1)[0]
    if not np.isnan(consensus).any():
        table.add_section()
        table.add_row("consensus", _words(log, consensus.argmax(axis=1)), "")
    return table


def best_table(log: Log, found: Outcomes) -> Table | None:
    """The smallest loss on the validation rows so far; None once there are tests, in ``found``."""
    if not log.best or (log.status == "finished" and found):
        return None
    on = "in validation" if log.config.llm.is_function else "on the validation rows"
    noisy = ", with noise" * (log.config.privacy.noise > 0)
    table = Table(title=f"Best so far {on}{noisy}", title_justify="left")
    for name in ("worker", "iteration", "loss"):
        table.add_column(name, justify="right")
    table.add_column("words")
    table.add_column("demonstrations")
    for worker, best in sorted(log.best.items())[:MOST_ROWS]:
        loss, words = f"{best.loss:.3f}", _words(log, best.words)
        table.add_row(str(worker), str(best.iteration), loss, words, _shown(best.demonstrations))
    return table


def _shown(demonstrations: np.ndarray) -> str:
    if not demonstrations.size:
        return "\N{EN DASH}"  # they are not in the log
    return "none" if (demonstrations == WITHOUT).any() else ", ".join(map(str, demonstrations))


def _words(log: Log, words: np.ndarray) -> Text:
    if (words == WITHOUT).any():
        return Text("none")
    # A word may be a phrase: in a table it must be seen where one ends.
    return Text(printable(" | ".join(log.vocabulary[word] for word in words)))
