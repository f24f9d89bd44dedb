"""The page of one run: what it learnt, how good and how sure that is, costs, and how it went."""

import shlex
from collections.abc import Iterator, Mapping

import numpy as np
import tomli_w

from asyndbt_mpi.analysis import timing
from asyndbt_mpi.analysis.convergence import clock
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.inputs.defaults import UNUSED_BY_A_MODEL
from asyndbt_mpi.inputs.sections import OWN_ESTIMATOR, TaskSection
from asyndbt_mpi.log.reader import Candidate, Log
from asyndbt_mpi.protocol.records import EventKind
from asyndbt_mpi.protocol.spending import price
from asyndbt_mpi.report import figures
from asyndbt_mpi.report.page import render
from asyndbt_mpi.report.svg import Picture
from asyndbt_mpi.report.tables import PageTable, page_table
from asyndbt_mpi.view import accuracy
from asyndbt_mpi.view.outcomes import NAMES, Outcome, outcomes
from asyndbt_mpi.view.predictions import MOST_CONFUSED, confusion_table
from asyndbt_mpi.view.recommended import recommended
from asyndbt_mpi.view.summary import (
    MOST_ROWS,
    best_table,
    cost_lines,
    duration,
    learnt_prompts,
    learnt_table,
    run_lines,
    worker_lines,
)

PURPOSES = {
    EventKind.REPORT: "tuning",
    EventKind.LOWER_REPORT: "estimates of the lower level",
    EventKind.EVALUATION: "validation",
    EventKind.RACE: "the race at the end",
    EventKind.TEST: "tests",
    EventKind.RESUMED: "ends of the run that were taken back",
}
"""What answers are paid for."""
HAPPENINGS = {
    EventKind.HELLO: "ready",
    EventKind.DROPPED: "sent a message that was dropped",
    EventKind.EXCLUDED: "excluded",
    EventKind.LOST: "lost",
    EventKind.RETURNED: "heard of again",
    EventKind.CLOSING: "the iterations are over",
    EventKind.RESUMED: "the run was resumed",
}
MOST_EVENTS = 200

Found = Mapping[Candidate, Outcome]


def run_page(
    log: Log,
    texts: Mapping[int, str],
    texts_need_config: bool = False,
    replay_needs_config: bool = False,
) -> str:
    """The page of a log; ``texts`` are the workers' prompts in full, if they may be shown.

    The other two say whether reading these texts, and a replay, need the run's configuration.

    Raises
    ------
    LogError
        The log is damaged.
    """
    found = outcomes(log)
    divided = _divided(log)
    return render(
        "run.html",
        title=log.config.run.name,
        cited=log.package_version,
        log=log,
        headlines=list(_headlines(log, found)),
        run_lines=run_lines(log),
        is_text=not log.config.llm.is_function,
        task=log.config.task,
        labels=[accuracy.label_name(log, u) for u in range(log.shapes.classes)],
        learnt=_learnt(log, found),
        recommended=_recommended(log),
        setback=accuracy.setback(found),
        texts=texts,
        tests=_tests(log, found),
        test_picture=figures.tests(dict(found)),
        course=list(figures.course(log)) if log.committed else [],
        time=_time(log, divided),
        divided=divided,
        after=_after(log, divided),
        cost_lines=cost_lines(log),
        costs=_costs(log),
        worker_lines=worker_lines(log),
        workers_left_out=max(0, log.workers - MOST_ROWS),
        events=_events(log),
        models=sorted(set(filter(None, log.models))),
        path=shlex.quote(log.path),
        texts_need_config=texts_need_config,
        replay_needs_config=replay_needs_config,
        repeat=repeating(log),
        shares=_shares(divided),
        toml=configuration_file(log.config),
    )


def configuration_file(config: Config) -> str:
    """Every key of a configuration but those that it does not use, as a file that can be run."""
    tables = config.model_dump(mode="json")
    for section, key in UNUSED_BY_A_MODEL if config.algorithm.pools else ():
        tables[section].pop(key, None)
    if config.task.path and config.task.name == TaskSection().name:
        del tables["task"]["name"]  # beside a path it looks as if the shipped data had been used
    return tomli_w.dumps(tables)


def _headlines(log: Log, found: Found) -> Iterator[tuple[str, str, str]]:
    """The least that a reader should take away: what, how much, how sure."""
    tuned = found.get(Candidate.TUNED)
    if tuned and tuned.accuracy:
        rows, share = tuned.right().shape[1], tuned.accuracy
        value = f"{100 * share.value:.1f} %"
        yield (
            f"tuned prompts, right on {rows:,} test rows",
            value,
            _ends(100 * share.low, 100 * share.high),
        )
        for who, against, comparison in accuracy.differences(found):
            if who == NAMES[Candidate.TUNED]:
                gain = comparison.accuracy
                ends = _ends(100 * gain.low, 100 * gain.high)
                said = f"{ends}: {accuracy.verdict(comparison)}"
                yield f"against {against}", f"{100 * gain.value:+.1f} points", said
    elif tuned:
        yield "mean loss of the tuned prompts in the tests", f"{tuned.mean_loss:.3f}", ""


def _ends(low: float, high: float) -> str:
    return f"95 %: {low:z.1f} to {high:z.1f}"


def _learnt(log: Log, found: Found) -> list[PageTable]:
    prompts = learnt_prompts(log, MOST_ROWS)
    tables = [learnt_table(log, prompts)] if prompts else []
    best = best_table(log, found)
    return [page_table(table) for table in (*tables, *([best] if best else []))]


def _recommended(log: Log) -> tuple[int, str] | None:
    try:
        return recommended(log)
    except ConfigurationError:
        return None  # nothing was scored; the page says so


def _tests(log: Log, found: Found) -> dict[str, object] | None:
    """The tables of the final tests; None if there were none."""
    if not found:
        return None
    labels = accuracy.test_labels(found)
    classes = accuracy.class_table(log, found)
    return {
        "accuracy": page_table(accuracy.accuracy_table(log, found)),
        "majority": accuracy.majority(log, labels) if len(labels) else "",
        "differences": _differences(found),
        "classes": page_table(classes) if classes else None,
        "confusions": _confusions(log, found),
    }


def _differences(found: Found) -> PageTable | None:
    heads = [("prompt", False), ("against", False), ("difference", False), ("in words", False)]
    rows = [
        [who, against, accuracy.in_words(comparison), accuracy.verdict(comparison)]
        for who, against, comparison in accuracy.differences(found)
    ]
    if not rows:
        return None
    return PageTable(
        "What tuning has gained, row by row", heads, [rows],
        "Accuracy in points, with a 95 % interval over test rows; p: how often as large a"
        " difference would come about if neither prompt were better.",
    )  # fmt: skip


def _confusions(log: Log, found: Found) -> PageTable | None:
    """Of the recommended worker's tuned prompt, as it was tested."""
    chosen, tuned = _recommended(log), found.get(Candidate.TUNED)
    if chosen is None or tuned is None or chosen[0] not in tuned.answers:
        return None
    if log.shapes.classes > MOST_CONFUSED:
        return None
    answers = tuned.answers[chosen[0]]
    names = [accuracy.label_name(log, u) for u in range(log.shapes.classes)]
    return page_table(confusion_table(names, answers.labels, answers.predicted), heat=True)


def _divided(log: Log) -> timing.Timing | str:
    """Where the time went, or why that is not known."""
    try:
        return timing.divide(log)
    except ConfigurationError:
        return "No time passes in this run: it was simulated without delays."


def _time(log: Log, divided: timing.Timing | str) -> list[Picture]:
    pictures = [figures.activity(log)] if log.committed else []
    return pictures if isinstance(divided, str) else [*pictures, figures.seconds(divided)]


def _after(log: Log, divided: timing.Timing | str) -> str:
    """Which seconds of the run are not divided: those of races and tests, if they took any."""
    if isinstance(divided, str):
        return ""
    iterations = divided.shares[0].duration
    later = duration(log) - iterations
    if later < 0.05:
        return ""
    return (
        f"Of the iterations, {iterations:,.1f} {clock(log)}. Races and tests came after them, took"
        f" {later:,.1f} more, and are not in these figures."
    )


def _costs(log: Log) -> PageTable:
    """Calls, tokens and money, by what they were for; of the total see `cost_lines`."""
    llm, kinds = log.config.llm, log["event/kind"]
    names = ("llm_calls", "prompt_tokens", "completion_tokens")
    columns = [log[f"event/{name}"] for name in names]
    heads = [("what for", False), ("calls", True)]
    heads += [("prompt tokens", True), ("completion tokens", True)] * (not llm.is_function)
    priced = not llm.is_function and bool(llm.input_price or llm.output_price)
    heads += [("cost", True)] * priced
    chosen = {what: kinds == kind for kind, what in PURPOSES.items() if (kinds == kind).any()}
    rows = []
    for what, mine in (chosen | {"all": np.ones(len(kinds), dtype=bool)}).items():
        calls, prompt, completion = (int(column[mine].sum()) for column in columns)
        cells = [what, f"{calls:,}", f"{prompt:,}", f"{completion:,}"][: len(heads) - priced]
        rows.append([*cells, *[f"{price(llm, prompt, completion):,.2f}"] * priced])
    return PageTable("What was paid for", heads, [rows[:-1], rows[-1:]])


def _events(log: Log) -> PageTable | None:
    """What happened besides answers, in order; the last of very many."""
    kinds = log["event/kind"]
    rows = np.flatnonzero(np.isin(kinds, list(HAPPENINGS)))
    names = ("kind", "worker", "iteration", "time", "text")
    columns = [log[f"event/{name}"][rows[-MOST_EVENTS:]].tolist() for name in names]
    cells = [
        [f"{time:,.1f}", f"{iteration}", str(worker) if worker else "server",
         HAPPENINGS[EventKind(kind)], text]
        for kind, worker, iteration, time, text in zip(*columns, strict=True)
    ]  # fmt: skip
    heads = [(clock(log), True), ("iteration", True), ("worker", True)]
    heads += [("what", False), ("text", False)]
    left_out = len(rows) - len(cells)
    note = f"The first {left_out:,} are left out." if left_out else ""
    return PageTable("What happened", heads, [cells], note) if cells else None


def _shares(divided: timing.Timing | str) -> PageTable | None:
    """The seconds behind the figure."""
    if isinstance(divided, str):
        return None
    shares = timing.shown(divided.shares)
    parts = [
        name for name in timing.COMPONENTS
        if any(share.of(name) > timing.ROUNDING for share in shares)
    ]  # fmt: skip
    rows = [
        [
            str(share.worker) if share.worker else "server",
            *(f"{getattr(share, p):,.4g}" for p in parts),
        ]
        for share in shares
    ]
    left_out = len(divided.shares) - len(shares)
    notes = [f"{left_out} workers between are left out."] * bool(left_out)
    if timing.note(divided):
        notes.append(timing.note(divided))
    heads = [("worker", False), *((timing.label(part), True) for part in parts)]
    return PageTable(f"Where the {divided.unit} went", heads, [rows], " ".join(notes))


def repeating(log: Log) -> str:
    """The command that makes the run again; "" for a function, which no command knows."""
    config = log.config
    if config.llm.backend == "python" or config.estimator.name.startswith(OWN_ESTIMATOR):
        return ""
    if log.transport == "virtual":
        return f"asyndbt simulate run.toml --workers {log.workers} --output again.h5"
    return f"mpiexec -n {log.workers + 1} asyndbt run run.toml --output again.h5"
