"""The events of a log, read back as records."""

from collections.abc import Iterator

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.messages import Costs, Needs
from asyndbt_mpi.protocol.records import Event, EventKind

NUMBERS = ("worker", "number", "iteration", "time", "sent_time", "accuracy")
COSTS = (
    *("llm_calls", "prompt_tokens", "compute_seconds", "prompts", "completion_tokens"),
    "unrecognised",
)


def events(log: Log) -> Iterator[Event]:
    """Every event that counts, in the order in which they happened.

    A hello has the needs, and the digest of the model, that the worker named last.
    """
    needs = [Needs(*map(int, text.split())) if text else None for text in log.needs]
    kinds, texts, losses = log["event/kind"], log["event/text"], log["event/losses"]
    numbers = [log[f"event/{name}"].tolist() for name in NUMBERS]
    costs = [log[f"event/{name}"].tolist() for name in COSTS]
    for row, kind in enumerate(kinds.tolist()):
        worker, number, iteration, time, sent_time, accuracy = (column[row] for column in numbers)
        yield Event(
            EventKind(kind), worker, number, iteration, time, Costs(*(c[row] for c in costs)),
            sent_time, losses[row], accuracy, str(texts[row]),
            needs[worker - 1] if kind == EventKind.HELLO else None,
            log.models[worker - 1] if kind == EventKind.HELLO else "",
        )  # fmt: skip
