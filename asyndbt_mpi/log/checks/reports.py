"""Checks of the reports: did each arrive, in order, and come of what its worker was sent?"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import EventKind


@dataclass(slots=True)
class _Arrival:
    """A report at the server: the number that is due, its iteration, and since which hello.

    ``lost_in`` is the iteration in which the worker was lost, if nothing more had arrived.
    """

    number: int
    iteration: int
    hello: int
    lost_in: int | None = None


@dataclass(slots=True)
class _Life:
    """What the events say of one worker: its reports, the iterations of its hellos, its end."""

    arrivals: list[_Arrival] = field(default_factory=list)
    hellos: list[int] = field(default_factory=list)
    excluded_in: int | None = None
    faults: list[str] = field(default_factory=list)


def reports(log: Log) -> Iterator[str]:
    """Used reports that are not each worker's first, second, third ..., or came of elsewhere."""
    events = {name: log[f"event/{name}"] for name in ("kind", "worker", "number", "iteration")}
    used = {
        name: log[f"report/{name}"] for name in ("worker", "seq", "read_iteration", "iteration")
    }
    for worker in range(1, log.workers + 1):
        rows = np.flatnonzero(used["worker"] == worker)
        columns = (used[name][rows].tolist() for name in ("seq", "read_iteration", "iteration"))
        yield from _used(worker, _life(worker, events), list(zip(*columns, strict=True)))


def _life(worker: int, events: dict[str, np.ndarray]) -> _Life:
    """Go through the events of ``worker``, and note those that cannot follow one another."""
    life = _Life()
    state = "has not said hello"
    number = lost = 0  # of the last arrival; and of the assignments that may be gone since then
    rows = np.flatnonzero(events["worker"] == worker)
    columns = (events[name][rows].tolist() for name in ("kind", "number", "iteration"))
    for row, kind, logged, iteration in zip(rows.tolist(), *columns, strict=True):
        place = f"/event row {row}: worker {worker}"
        if kind == EventKind.HELLO:
            if state not in ("has not said hello", "was told to start afresh"):
                life.faults.append(f"{place} says hello, but it {state}")
            life.hellos.append(iteration)
            state = "is working"
        elif kind == EventKind.REPORT:
            if state != "is working" and life.hellos:
                life.faults.append(f"{place}'s report {logged} arrives, but it {state}")
            number += 1
            if number < logged <= number + lost:
                number = logged  # the assignments between were lost with the worker
            if logged != number:
                life.faults.append(f"{place}'s report {logged} arrives as its number {number}")
            lost = 0
            life.arrivals.append(_Arrival(number, iteration, len(life.hellos) - 1))
        elif kind == EventKind.LOST:
            if state == "is working":
                lost += 1
                if life.arrivals and life.arrivals[-1].hello == len(life.hellos) - 1:
                    life.arrivals[-1].lost_in = iteration
            state = "was lost"
        elif kind == EventKind.RETURNED:
            if state not in ("was lost", "was told to start afresh"):
                life.faults.append(f"{place} returns, but it {state}")
            state = "was told to start afresh"
        elif kind == EventKind.EXCLUDED:
            life.excluded_in = iteration
            state = "was excluded"
    return life


def _used(worker: int, life: _Life, used: list[tuple[int, int, int]]) -> Iterator[str]:
    """Hold the reports that were used (number, read in, used in) against the ``life``."""
    if used and not life.hellos:
        yield f"iteration {used[0][2]}, worker {worker}: has a report, but it never said hello"
        return
    yield from life.faults
    arrivals = iter(life.arrivals)
    last: _Arrival | None = None
    due_read = life.hellos[0] if life.hellos else 0
    for number, read, iteration in used:
        place = f"iteration {iteration}, worker {worker}"
        arrival = next(arrivals, None)
        while arrival and arrival.lost_in is not None and number > arrival.number:
            arrival = next(arrivals, None)  # what was not used yet is gone with the worker
        due = arrival.number if arrival else last.number + 1 if last else 1
        if number != due:
            yield f"{place}: report {number} should have number {due}"
        if arrival and (last is None or arrival.hello > last.hello):
            due_read = life.hellos[max(0, arrival.hello)]
        if read != due_read:
            yield (f"{place}: its report is from iteration {read}, but should be from {due_read}")
        if arrival is None:
            yield f"{place}: its report has no event"
        elif arrival.iteration > iteration:
            yield f"{place}: its report arrived only in iteration {arrival.iteration}"
        gone_in, why = life.excluded_in, "excluded"
        if arrival and arrival.lost_in is not None:
            gone_in, why = arrival.lost_in, "lost"
        if gone_in is not None and iteration > gone_in:
            yield f"{place}: has a report, but it was {why} in iteration {gone_in}"
        due_read = iteration + 1  # a worker is answered as soon as it was used
        last = arrival or _Arrival(due, iteration, len(life.hellos) - 1)
