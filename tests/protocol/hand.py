"""Drives a server and its workers by hand, one message at a time."""

from collections import deque
from typing import Any

import numpy as np

from asyndbt_mpi.config import Config, parse
from asyndbt_mpi.protocol.blackbox import Completed
from asyndbt_mpi.protocol.messages import (
    Candidate,
    Reset,
    Shapes,
    Split,
    Stop,
    ToServer,
    ToWorker,
)
from asyndbt_mpi.protocol.records import Evaluation, Output, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.task.synthetic import Synthetic
from tests.protocol.invariants import Account

SHAPES = Shapes(positions=3, words=4, classes=2, pool=5, samples=4)


def configuration(**sections: dict[str, Any]) -> Config:
    base: dict[str, dict[str, Any]] = {
        "run": {"iterations": 50, "race": 0},
        "algorithm": {
            "active_workers": 2,
            "max_delay": 3,
            "plane_period": 1000,
            "lower_gradient": "black_box",
        },
        "steps": {"optimizer": "sgd"},
        "estimator": {"samples": 4, "batch": 3},
        "llm": {"backend": "synthetic"},
        "defence": {"aggregator": "rsa", "preaggregator": "none"},
    }
    for name, section in sections.items():
        base.setdefault(name, {}).update(section)
    return parse(base, "test")


def validated(worker: int, loss: float) -> Evaluation:
    """What the server makes of a worker's answer on its validation split."""
    prompt = np.zeros(SHAPES.positions, int), np.zeros(SHAPES.classes, int)
    kind, costs, bias = (Split.VALIDATION, Candidate.TUNED), (0, 0, 0.0), np.zeros(SHAPES.classes)
    return Evaluation(0, worker, *kind, 0.5, loss, *prompt, *costs, bias)


class Hand:
    """Messages to a worker wait in its inbox until `work` lets it answer the oldest.

    After everything that happens to the server its state is validated. With ``expecting`` it
    knows what hellos the workers' data give.
    """

    def __init__(self, config: Config, workers: int, expecting: bool = False) -> None:
        self.box = Synthetic(0, SHAPES, range(1, workers + 1), 0.3)
        self.workers = Workers(config, SHAPES, self.box.data_sizes)
        hellos = {v: self.workers.hello(v, "") for v in self.box.data_sizes}
        self.server = Server(config, SHAPES, workers, expected=hellos if expecting else None)
        self.account = Account(self.server)
        self.inbox: dict[int, deque[ToWorker]] = {v: deque() for v in range(1, workers + 1)}
        self.records: list[Record] = []
        self.time = 0.0

    def take(self, output: Output) -> None:
        self.account.take(output)
        for worker, message in output.messages:
            self.inbox[worker].append(message)
        self.records.extend(output.records)

    def hello(self, *workers: int) -> None:
        for v in workers or self.box.data_sizes:
            self.deliver(v, self.workers.hello(v, "by hand"))

    def deliver(self, worker: int, message: ToServer) -> None:
        self.time += 1.0
        self.take(self.server.receive(worker, message, self.time))

    def reply(self, worker: int) -> ToServer | None:
        """What ``worker`` answers to the oldest message in its inbox; None after a stop or a reset."""
        message = self.inbox[worker].popleft()
        [query] = self.workers.receive([(worker, message)])
        if query is None:
            assert isinstance(message, Stop | Reset)
            return None
        [answer] = self.box.answer([query])
        [reply] = self.workers.answer([Completed(worker, answer, 0.1, self.time)])
        return reply

    def work(self, *workers: int) -> None:
        """Let each of ``workers`` answer one message and deliver the answer."""
        for worker in workers:
            reply = self.reply(worker)
            if reply is not None:
                self.deliver(worker, reply)

    def of_type(self, kind: type) -> list[Any]:
        return [record for record in self.records if isinstance(record, kind)]


def until_finished(hand: Hand) -> None:
    while not hand.server.finished:
        waiting = [v for v, inbox in hand.inbox.items() if inbox]
        assert waiting, "nobody has anything to do, and the server is not finished"
        hand.work(*waiting)
