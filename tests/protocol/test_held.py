"""Answers on rows: a worker can give them on its own rows alone, with the labels that these have."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from asyndbt_mpi.algorithm.types import IntArray
from asyndbt_mpi.assemble import Materials, prepare, workers_with_black_box
from asyndbt_mpi.config import load
from asyndbt_mpi.protocol.blackbox import Completed
from asyndbt_mpi.protocol.messages import (
    EvaluationReport,
    LowerReport,
    MalformedMessage,
    Report,
    RowLosses,
    RowScores,
    Split,
    ToServer,
)
from asyndbt_mpi.protocol.scoring import scored
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.task.partition import held, most_rows, rows_of
from tests.conftest import Opinionated

SETTINGS = (
    *("run.iterations=4", "run.evaluate_every=2", "run.race=4", "task.test=12"),
    *("algorithm.lower_gradient=black_box", "algorithm.plane_period=2", "algorithm.tolerance=0"),
)
LIAR = 3


class Run:
    """Three workers with reviews, whose answers go over the wire; ``lie`` changes the third's."""

    def __init__(self, *settings: str) -> None:
        config = load("reviews", [*SETTINGS, *settings])
        self.materials = materials = prepare(config, 3)
        self.private = config.log.private
        made = workers_with_black_box(config, materials, [1, 2, 3], Opinionated())
        self.workers, self.box = made
        known = held(materials.data)
        self.server = Server(config, materials.shapes, 3, held=known)
        self.codec = Codec(
            materials.shapes,
            free_losses=False,
            rows=most_rows(materials.data),
            pools=config.algorithm.pools,
            private=self.private,
        )
        self.inbox: dict[int, deque[Any]] = {v: deque() for v in (1, 2, 3)}
        for v in self.inbox:
            self.deliver(v, self.workers.hello(v, ""))

    def deliver(self, worker: int, message: ToServer) -> None:
        decoded = self.codec.decode(self.codec.encode(message))
        assert isinstance(decoded, ToServer)
        for whom, told in self.server.receive(worker, decoded, 0.0).messages:
            self.inbox[whom].append(told)

    def until(self, is_wanted: Callable[[ToServer], bool]) -> ToServer:
        """The first answer of the liar that is wanted, which the server has not had."""
        for _ in range(1000):
            for worker, inbox in self.inbox.items():
                if not inbox:
                    continue
                [query] = self.workers.receive([(worker, inbox.popleft())])
                if query is None:
                    continue
                [answer] = self.box.answer([query])
                [reply] = self.workers.answer([Completed(worker, answer, 0.0, 0.0)])
                if worker == LIAR and is_wanted(reply):
                    return reply
                self.deliver(worker, reply)
        raise AssertionError("there is no such answer")

    def refuses(self, message: ToServer, why: str) -> None:
        """The server drops ``message``, and takes it from the liar as little the next time."""
        for _ in range(2):
            with pytest.raises(MalformedMessage, match=why):
                self.deliver(LIAR, message)


def evaluation_on(split: Split) -> Callable[[ToServer], bool]:
    return lambda reply: isinstance(reply, EvaluationReport) and reply.split is split


def on_rows(report: EvaluationReport, rows: RowScores | RowLosses) -> EvaluationReport:
    """``report`` of other ``rows``, which agrees with itself."""
    if isinstance(rows, RowLosses):
        return replace(report, rows=rows, loss=float(rows.losses.mean()))
    losses, accuracies = scored(rows.log_probabilities[None], rows.labels)
    return replace(report, rows=rows, loss=float(losses[0]), accuracy=float(accuracies[0]))


def test_rank_0_knows_every_split_and_the_labels() -> None:
    run = Run()
    assert run.materials.data is not None
    for worker, known in run.server.held.items():
        data = run.materials.data[worker]
        assert known.labels.tolist() == [row.label for row in data.test]
        assert known.rows == {split: len(rows_of(data, split)) for split in Split}
        assert known.rows[Split.RACE] == len(data.train) + len(data.validation)
    assert held(None) == {}


@pytest.mark.parametrize("private", ["false", "true"])
@pytest.mark.parametrize("split", [Split.VALIDATION, Split.RACE, Split.TEST])
def test_an_answer_is_on_the_rows_that_were_asked_for(split: Split, private: str) -> None:
    run = Run(f"log.private={private}")
    report = run.until(evaluation_on(split))
    assert isinstance(report, EvaluationReport)
    rows = report.rows
    assert rows is not None
    for count in (1, len(rows) - 1):
        some: RowScores | RowLosses
        if isinstance(rows, RowScores):
            some = RowScores(rows.labels[:count], rows.log_probabilities[:count])
        else:
            some = RowLosses(rows.losses[:count])
        run.refuses(on_rows(report, some), rf"{len(rows)}( |$)")
    run.deliver(LIAR, report)  # it had not been counted as answered


@pytest.mark.parametrize("private", ["false", "true"])
def test_a_test_row_has_the_label_of_the_data(private: str) -> None:
    run = Run(f"log.private={private}")
    report = run.until(evaluation_on(Split.TEST))
    assert isinstance(report, EvaluationReport)
    rows = report.rows
    assert isinstance(rows, RowScores)

    def named(labels: IntArray) -> EvaluationReport:
        return on_rows(report, RowScores(labels, rows.log_probabilities))

    run.refuses(named(1 - rows.labels), "12 of 12 test rows, first for row 0")
    one = rows.labels.copy()
    one[7] = 1 - one[7]
    run.refuses(named(one), "1 of 12 test rows, first for row 7")
    run.deliver(LIAR, report)


def test_what_is_gone_through_again_was_judged_when_it_came() -> None:
    run = Run()
    report = run.until(evaluation_on(Split.TEST))
    assert isinstance(report, EvaluationReport)
    assert isinstance(report.rows, RowScores)
    run.server.replaying = True
    other = RowScores(1 - report.rows.labels, report.rows.log_probabilities)
    run.deliver(LIAR, on_rows(report, other))


@pytest.mark.parametrize("by", [-1, 1])
def test_the_race_has_the_rows_of_the_data(by: int) -> None:
    """Also not fewer: its prompt's loss would be that of the few that it likes best."""
    run = Run()
    hello = run.workers.hello(LIAR, "")
    rows = hello.cost_bounds.race_rows + by
    bounds = replace(hello.cost_bounds, race_rows=rows)
    with pytest.raises(MalformedMessage, match=f"says that its race has {rows} rows"):
        run.server.check_hello(LIAR, replace(hello, cost_bounds=bounds))


def few(materials: Materials) -> tuple[int, int]:
    """A class of which the liar has fewer demonstrations than others may have, and how many."""
    assert materials.data is not None
    counts = [len(pool) for pool in materials.data[LIAR].pool]
    assert min(counts) < materials.shapes.pool
    return int(np.argmin(counts)), min(counts)


@pytest.mark.parametrize("kind", [Report, LowerReport])
def test_a_worker_shows_demonstrations_that_it_has(kind: type) -> None:
    """Others would break where they look up the text."""
    run = Run("task.partition=dirichlet", "task.alpha=0.3", "prompt.pool=8")
    cls, count = few(run.materials)
    reply = run.until(lambda reply: isinstance(reply, kind))
    if isinstance(reply, Report):
        q = np.zeros_like(reply.q)
        q[:, 0] = 1.0
        q[cls, 0], q[cls, count] = 0.0, 1.0
        off = q.copy()
        off[cls] = 0.0
        off[cls, :count] = -5.0  # the projection moves the mass to what it does not have
        run.refuses(replace(reply, q=q), "which it does not have")
        run.refuses(replace(reply, q=off), "which it does not have")
    else:
        assert isinstance(reply, LowerReport)
        k = reply.k.copy()
        k[cls] = count
        run.refuses(replace(reply, k=k), "which it does not have")
    run.deliver(LIAR, reply)
