"""How well the prompts did on the test rows: accuracies, differences, classes; for people."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
from rich.table import Table
from rich.text import Text

from asyndbt_mpi.algorithm.types import IntArray
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.protocol.messages import Candidate
from asyndbt_mpi.view import intervals
from asyndbt_mpi.view.intervals import Interval
from asyndbt_mpi.view.outcomes import NAMES, Comparison, Outcome, compare, newest_tests

MOST_SINGLE = 8
"""With more workers than this, only their mean is shown."""
NOTHING = "-"

TUNED = (Candidate.TUNED, Candidate.CONSENSUS)
BASELINES = {
    Candidate.UNTUNED: "the untuned prompt",
    Candidate.CALIBRATED: "the untuned prompt, calibrated",
    Candidate.RANDOM: "random demonstrations",
}
"""What the `TUNED` prompts are compared with."""

Outcomes = Mapping[Candidate, Outcome]


def accuracy_table(log: Log, found: Outcomes) -> Table:
    """Accuracy with its interval, and mean loss, by kind of prompt and worker."""
    # A synthetic task classifies nothing: its accuracies are all NaN.
    classified = not all(
        math.isnan(value) for outcome in found.values() for value in outcome.accuracies.values()
    )
    sure = any(outcome.answers for outcome in found.values())
    table = Table(
        title=_title(log, found, classified),
        title_justify="left",
        caption="\n".join(filter(None, [_shortage(log, found), _rule(log)])) or None,
        caption_justify="left",
    )
    table.add_column("prompt")
    table.add_column("worker", justify="right")
    if classified:
        table.add_column("accuracy", justify="right")
    if sure:
        table.add_column("95 %", justify="right")
    table.add_column("loss", justify="right")
    for candidate, outcome in found.items():
        name = NAMES[candidate]
        for worker, accuracy, interval, loss in _lines(outcome, candidate, log.workers):
            cells = [name, worker]
            cells += [_percent(accuracy)] * classified
            cells += [_ends(interval) if interval else ""] * sure
            table.add_row(*cells, f"{loss:.3f}")
            name = ""
        table.add_section()
    return table


def _shortage(log: Log, found: Outcomes) -> str | None:
    """Whether there were fewer test rows than the run would have taken."""
    rows = min((each.right().shape[1] for each in found.values() if each.answers), default=None)
    task = log.config.task
    if rows is None or log.config.llm.is_function or rows >= task.test:
        return None
    return f"warning: only {rows:,} test rows, where {task.rows_wanted} would take more"


def _rule(log: Log) -> str:
    """What "mean" means where workers may lie, and for what intervals then hold."""
    liars = log.config.defence.tolerated(log.workers)
    if not liars:
        return ""
    rule = log.config.defence.mean_in_words(log.workers).replace(",", "").strip()
    return (
        f'"mean": the {rule}, as up to {liars} of {log.workers} workers may lie. Intervals and p'
        " say how sure it is for other rows if nobody does."
    )


def _title(log: Log, found: Outcomes, classified: bool) -> str:
    title = "In the tests at the end: mean loss"  # a function has no rows
    if classified:
        rows = {outcome.right().shape[1] for outcome in found.values() if outcome.answers}
        number = f"{rows.pop():,}" if rows else "the"
        title = f"On {number} test rows: accuracy in per cent, mean loss"
    ended = int(log["evaluation/iteration"][newest_tests(log)].max())
    if ended < log.committed:
        title += f" (from the end after {ended} iterations)"
    return title


def _lines(
    outcome: Outcome, candidate: Candidate, workers: int
) -> Iterator[tuple[str, float, Interval | None, float]]:
    """Worker, accuracy, interval and loss: of single workers if they are few, and of their mean."""
    shared = candidate is Candidate.UNTUNED and len(outcome.losses) == 1
    single = not shared and workers <= MOST_SINGLE
    if single:
        for worker, loss in sorted(outcome.losses.items()):
            interval = intervals.accuracy(outcome.right([worker])) if outcome.answers else None
            yield str(worker), outcome.accuracies[worker], interval, loss
    if len(outcome.losses) > 1 or not single:
        mean = outcome.mean_accuracy
        yield "all" if shared else "mean", mean, outcome.accuracy, outcome.mean_loss


def difference_lines(found: Outcomes) -> Iterator[str]:
    """What tuning has gained over the untuned prompt and over random demonstrations, in words."""
    for who, name, comparison in differences(found):
        yield f"{who}, against {name}:\n    {in_words(comparison)}"


def differences(found: Outcomes) -> Iterator[tuple[str, str, Comparison]]:
    """Whose answers are compared, and with whose, for all pairs with answers by row."""
    for candidate in TUNED:
        for baseline, name in BASELINES.items():
            if candidate not in found or baseline not in found:
                continue
            shared = len(found[baseline].losses) == 1 and baseline is Candidate.UNTUNED
            comparison = compare(found[candidate], found[baseline], shared)
            if comparison is None:
                continue
            workers = ", ".join(map(str, comparison.workers))
            some = len(comparison.workers) < len(found[candidate].losses)
            against = f"{name} (workers {workers})" if some else name
            yield NAMES[candidate], against, comparison


def setback(found: Outcomes) -> str:
    """What to warn of if the tuned prompts are worse than a baseline beyond chance; else ""."""
    worse = [
        f"{-100 * comparison.accuracy.value:.1f} points below {name}"
        f" (95 %: {-100 * comparison.accuracy.high:.1f} to {-100 * comparison.accuracy.low:.1f})"
        for who, name, comparison in differences(found)
        if who == NAMES[Candidate.TUNED] and comparison.accuracy.high < 0
    ]
    if not worse:
        return ""
    return (
        f"on the test rows the tuned prompts are {' and '.join(worse)}: more rows to train and"
        " validate on, other words (prompt.vocabulary) or a larger model may help"
    )


def verdict(comparison: Comparison) -> str:
    """What the interval of a difference in accuracy says, in plain words.

    Where that does not decide, the interval of the loss may.
    """
    low, high = comparison.accuracy.low, comparison.accuracy.high
    if low > 0:
        return "better, and most likely also on other rows like these"
    if high < 0:
        return "worse, and most likely also on other rows like these"
    alike = low == high == 0
    said = "right on the same rows" if alike else "these rows cannot tell which is right more often"
    if comparison.loss.high < 0:
        return f"{said}, but the loss is lower"
    if comparison.loss.low > 0:
        return f"{said}, but the loss is higher"
    return said


def in_words(comparison: Comparison) -> str:
    """Such as "+9.3 points, 95 %: 4.1 to 14.2 (p < 0.001); loss -0.081, -0.122 to -0.040"."""
    points, loss = comparison.accuracy, comparison.loss
    if points.low == points.high == 0:
        said = "right on the same rows"
    else:
        said = f"{100 * points.value:+z.1f} points, 95 %: {_ends(points)}"
        p_value = comparison.p_value
        said += f" (p = {p_value:.2g})" if p_value >= 0.001 else " (p < 0.001)"
    return f"{said}; loss {loss.value:+z.3f}, {loss.low:z.3f} to {loss.high:z.3f}"


def class_table(log: Log, found: Outcomes) -> Table | None:
    """Accuracy by class, with intervals; None if the log has no answers by row."""
    known = {candidate: outcome for candidate, outcome in found.items() if outcome.answers}
    if not known:
        return None
    labels = test_labels(known)
    classes, counts = np.unique(labels, return_counts=True)
    table = Table(
        title="By right label: accuracy in per cent, 95 % interval",
        caption=Text(majority(log, labels), "table.caption"),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("label")
    table.add_column("rows", justify="right")
    for candidate in known:
        table.add_column(candidate.name.lower(), justify="right")
    for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
        shares = [each.accuracy_on(labels == label) for each in known.values()]
        cells = [f"{_percent(share.value)}\n{_ends(share, 0)}" for share in shares]
        table.add_row(Text(label_name(log, label)), f"{count:,}", *cells)
    return table


def test_labels(found: Outcomes) -> IntArray:
    """The right labels of the test rows (B,); empty if the log has no answers by row."""
    known = (answers.labels for each in found.values() for answers in each.answers.values())
    return next(known, np.empty(0, dtype=np.int64))


def majority(log: Log, labels: IntArray) -> str:
    """How good the most frequent of ``labels`` (B,) would be as the answer to every row."""
    counts = np.bincount(labels)
    most = int(counts.argmax())
    name = label_name(log, most)
    return f"always {name}: {_percent(counts[most] / len(labels))} per cent"


def label_name(log: Log, label: int) -> str:
    """The text of a class, without its leading space."""
    names = log.config.task.label_texts
    return printable(names[label].strip()) if label < len(names) else str(label)


def _percent(accuracy: float) -> str:
    return NOTHING if math.isnan(accuracy) else f"{100 * accuracy:.1f}"


def _ends(interval: Interval, digits: int = 1) -> str:
    return f"{100 * interval.low:z.{digits}f} to {100 * interval.high:z.{digits}f}"
