"""Whole runs over MPI on the synthetic black box."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from asyndbt_mpi.config import Config, parse
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.blackbox import Answer, AnyQuery, BlackBox, Completed, Query
from asyndbt_mpi.protocol.messages import (
    Candidate,
    Message,
    Report,
    Shapes,
    Split,
    ToServer,
)
from asyndbt_mpi.protocol.records import EventKind, Iteration, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.wire import Buffer, Codec
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.task.synthetic import Synthetic
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.drive import serve, stop_all, work
from asyndbt_mpi.transport.mpi import Channel

COMM = MPI.COMM_WORLD
SHAPES = Shapes(positions=5, words=7, classes=2, pool=4, samples=4)
LAST = COMM.Get_size() - 1
pytestmark = pytest.mark.mpi(min_size=3)


def configuration(**sections: dict[str, Any]) -> Config:
    base: dict[str, dict[str, Any]] = {
        "run": {"iterations": 100},
        "algorithm": {
            "active_workers": LAST - 1,
            "max_delay": 6,
            "tolerance": 0.0,
            "lower_gradient": "black_box",
        },
        "steps": {"optimizer": "sgd"},
        "prompt": {"fragment_length": 5, "vocabulary_size": 7, "pool": 4},
        "llm": {"backend": "synthetic"},
        "estimator": {"samples": 4, "batch": 3},
    }
    for name, section in sections.items():
        base.setdefault(name, {}).update(section)
    return parse(base, "test")


class LogOnly:
    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def write(self, records: list[Record]) -> None:
        for record in records:
            self.writer.write(record)

    def idle(self) -> None:
        self.writer.flush_if_due()


class Obliging(Codec):
    """Also encodes a report whose p is not of the run's shape."""

    def encode(self, message: Message) -> Buffer:
        if isinstance(message, Report):
            shapes = dataclasses.replace(SHAPES, positions=len(message.p))
            return Codec(shapes).encode(message)
        return super().encode(message)


class Lying(Workers):
    """Replaces its third report by what ``lie`` makes of it."""

    lie: Any = None

    def answer(self, completed: Sequence[Completed]) -> list[ToServer]:
        [reply] = super().answer(completed)
        if self.lie is not None and isinstance(reply, Report) and reply.number == 3:
            return [self.lie(reply)]
        return [reply]


def run(
    config: Config, path: Path, lie: Any = None, wrap: Any = None, sink: Any = LogOnly
) -> Server | None:
    """Run on all ranks; the last one lies, or has its black box wrapped. Rank 0: the server."""
    channel = Channel(COMM, Obliging(SHAPES))
    try:
        if channel.rank == 0:
            server = Server(config, SHAPES, LAST)
            words = [f"w{i}" for i in range(SHAPES.words)]
            writer = Writer(path, config, SHAPES, LAST, words, "mpi", server.algorithm.z)
            try:
                assert serve(channel, server, sink(writer))
                return server
            finally:
                writer.close("finished" if server.finished else "interrupted")
                stop_all(channel, server)

        def prepare() -> tuple[Workers, BlackBox]:
            box: BlackBox = Synthetic(0, SHAPES, [channel.rank], 0.2)
            if channel.rank == LAST and wrap:
                box = wrap(box)
            worker = Lying(config, SHAPES, box.data_sizes)
            worker.lie = lie if channel.rank == LAST else None
            return worker, box

        work(channel, prepare, Delays(config.delay, 0, channel.rank, LAST))
        return None
    finally:
        assert channel.close(60.0), "the ranks did not meet again"


def on_server(check: Any) -> None:
    if COMM.Get_rank() == 0:
        check()


@pytest.mark.parametrize("participation", ["all", "quorum"])
def test_s_and_tau_hold_with_one_rank_twenty_times_slower(
    shared_path: Path, participation: str
) -> None:
    config = configuration(
        algorithm={"lower_participation": participation},
        delay={"model": "lognormal", "mean": 0.002, "slow_workers": 1, "slow_factor": 20},
    )
    path = shared_path / f"{participation}.h5"
    run(config, path)

    def check() -> None:
        result = verify(path)
        assert result.violations == []
        with Log(path) as log:
            assert (log.status, log.committed) == ("finished", 100)
            assert (log["iteration/active"].sum(axis=1) >= LAST - 1).all()
            assert log["iteration/delay"].max() <= 6
            assert log["iteration/delay"][:, -1].max() >= 2, "the slow rank was never late"
            used = log["iteration/active"].sum(axis=0)
            assert used[-1] < used[:-1].min(), "the slow rank took as large a part as the others"
            assert len(log["plane/id"]) > 0
            gap = np.diff(log["report/seq"][log["report/worker"] == LAST])
            assert (gap == 1).all(), "a report of the slow rank was dropped"

    on_server(check)


def test_the_synchronous_algorithm_is_a_parameter(shared_path: Path) -> None:
    config = configuration(algorithm={"active_workers": LAST, "max_delay": 0})
    path = shared_path / "synchronous.h5"
    run(config, path)

    def check() -> None:
        assert verify(path).violations == []
        with Log(path) as log:
            assert log["iteration/active"].all()

    on_server(check)


def test_an_mpi_run_repeats_bit_by_bit_when_it_is_synchronous(shared_path: Path) -> None:
    config = configuration(algorithm={"active_workers": LAST, "max_delay": 0})
    paths = [shared_path / "one.h5", shared_path / "two.h5"]
    for path in paths:
        run(config, path)

    def check() -> None:
        with Log(paths[0]) as one, Log(paths[1]) as two:
            np.testing.assert_array_equal(one["iteration/z"], two["iteration/z"])
            np.testing.assert_array_equal(one["report/p"], two["report/p"])

    on_server(check)


def nan(report: Report) -> Report:
    return dataclasses.replace(report, p=np.full_like(report.p, np.nan))


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (nan, "Report.p holds a number outside"),
        (lambda report: dataclasses.replace(report, loss=float("inf")), "Report.loss is inf"),
        (lambda report: dataclasses.replace(report, number=99), "answers no outstanding"),
        (
            lambda report: dataclasses.replace(report, iteration=99),
            "(read at iteration 99) answers",
        ),
        (lambda report: dataclasses.replace(report, iteration=2**60), "Report.iteration is"),
        (lambda report: dataclasses.replace(report, p=report.p * 1e4), "Report.p holds a number"),
    ],
)
def test_a_worker_that_sends_garbage_is_excluded_and_the_run_goes_on(
    shared_path: Path, lie: Any, reason: str
) -> None:
    path = shared_path / "garbage.h5"
    run(configuration(), path, lie=lie)

    def check() -> None:
        assert verify(path).violations == []
        with Log(path) as log:
            assert (log.status, log.committed) == ("finished", 100)
            excluded = [text for text in log["event/text"] if reason in text]
            assert len(excluded) == 1
            last = log["report/worker"] == LAST
            assert last.sum() == 2, "its two honest reports, and no more"
            assert np.isfinite(log["iteration/z"]).all()

    on_server(check)
    if COMM.Get_rank() == 0:
        path.unlink()


def test_a_report_of_the_wrong_shape_is_refused(shared_path: Path) -> None:
    path = shared_path / "shape.h5"

    def transposed(report: Report) -> Report:
        # The codec would not notice a transposed array of the same size, so make it shorter.
        return dataclasses.replace(report, p=report.p[:-1])

    run(configuration(), path, lie=transposed)

    def check() -> None:
        with Log(path) as log:
            assert log.status == "finished"
            assert any("bytes of arrays" in text for text in log["event/text"])

    on_server(check)


def test_too_few_honest_workers_end_the_run(shared_path: Path) -> None:
    path = shared_path / "few.h5"
    server = run(configuration(algorithm={"min_workers": LAST}), path, lie=nan)

    def check() -> None:
        assert "Report.p holds a number outside" in server.failure
        assert verify(path).violations == []
        with Log(path) as log:
            assert log.committed > 0

    on_server(check)


class Broken:
    """A black box that raises at its fifth question."""

    def __init__(self, box: BlackBox) -> None:
        self.box, self.asked = box, 0
        self.data_sizes, self.descriptions = box.data_sizes, box.descriptions
        self.digests = box.digests

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        self.asked += 1
        if self.asked == 5:
            raise ZeroDivisionError("the fifth question")
        return self.box.answer(queries)


def test_the_others_go_on_without_a_worker_that_raises(shared_path: Path) -> None:
    path = shared_path / "broken.h5"
    run(configuration(), path, wrap=Broken)

    def check() -> None:
        assert verify(path).violations == []
        host = MPI.Get_processor_name().split(".")[0]
        with Log(path) as log:
            assert (log.status, log.committed) == ("finished", 100)
            (lost,) = np.flatnonzero(log["event/kind"] == EventKind.LOST)
            assert log["event/worker"][lost] == LAST
            text = log["event/text"][lost]
            assert text.startswith(f"ZeroDivisionError: the fifth question (on {host}")
            assert "\n" not in text, "a traceback may hold private texts"

    on_server(check)


class BreaksInItsRace(Broken):
    """Raises at the second prompt of its race."""

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        self.asked += any(isinstance(q, Query) and q.split is Split.RACE for q in queries)
        if self.asked == 2:
            raise ZeroDivisionError("in the race")
        return self.box.answer(queries)


@pytest.mark.parametrize("wrap", [None, BreaksInItsRace])
def test_workers_race_whoever_leaves(shared_path: Path, wrap: Any) -> None:
    path = shared_path / "raced.h5"
    run(configuration(run={"iterations": 20, "evaluate_every": 5, "race": 6}), path, wrap=wrap)

    def check() -> None:
        assert verify(path).violations == []
        with Log(path) as log:
            assert (log.status, log.committed) == ("finished", 20)
            tuned = (log["evaluation/candidate"] == Candidate.TUNED) & (
                log["evaluation/split"] == Split.TEST
            )
            others = set(range(1, LAST + (wrap is None)))
            assert set(log["evaluation/worker"][tuned]) == others <= set(log.winners)
            lost = log["event/worker"][log["event/kind"] == EventKind.LOST]
            assert lost.tolist() == ([LAST] if wrap else [])

    on_server(check)


def test_the_others_go_on_without_a_worker_that_cannot_start(shared_path: Path) -> None:
    def refuse(box: BlackBox) -> BlackBox:
        raise OSError("no such model")

    path = shared_path / "refused.h5"
    run(configuration(), path, wrap=refuse)

    def check() -> None:
        with Log(path) as log:
            assert (log.status, log.committed) == ("finished", 100)
            assert any("OSError: no such model" in text for text in log["event/text"])

    on_server(check)


def test_too_few_that_can_start_end_the_run(shared_path: Path) -> None:
    def refuse(box: BlackBox) -> BlackBox:
        raise OSError("no such model")

    config = configuration(algorithm={"min_workers": LAST})
    server = run(config, shared_path / "nobody.h5", wrap=refuse)
    on_server(lambda: assert_told(server))


def assert_told(server: Server) -> None:
    assert f"the last to go was worker {LAST}: OSError: no such model" in server.failure


class Slow(Broken):
    """A black box that takes its time once."""

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        self.asked += 1
        if self.asked == 3:
            time.sleep(0.5)  # what is tested is slowness itself
        return self.box.answer(queries)


def test_the_others_go_on_to_tau_while_one_is_away(shared_path: Path) -> None:
    path = shared_path / "slow.h5"
    run(configuration(algorithm={"active_workers": 1, "plane_period": 1000}), path, wrap=Slow)

    def check() -> None:
        with Log(path) as log:
            assert log["iteration/delay"][:, -1].max() == 6
            assert verify(path).violations == []

    on_server(check)


class StandsStill(LogOnly):
    """A disk that is away for longer than a worker may be silent, once."""

    seconds = 3.0

    def write(self, records: list[Record]) -> None:
        super().write(records)
        if self.seconds and any(isinstance(record, Iteration) for record in records):
            time.sleep(self.seconds)
            self.seconds = 0.0


def test_nobody_is_blamed_while_the_server_stands_still(shared_path: Path) -> None:
    path = shared_path / "still.h5"
    config = configuration(run={"worker_timeout": 2.0}, delay={"model": "constant", "mean": 0.01})
    run(config, path, sink=StandsStill)

    def check() -> None:
        with Log(path) as log:
            assert (log.status, log.committed) == ("finished", 100)
            assert EventKind.LOST not in log["event/kind"]

    on_server(check)
