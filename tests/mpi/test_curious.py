"""A curious rank 0, which asks more than the configuration says: with noise it is not answered."""

import numpy as np
import pytest
from mpi4py import MPI

from asyndbt_mpi.config import parse
from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.messages import Assignment, Failure, Hello, Report, Shapes, Stop
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.task.synthetic import Synthetic
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.drive import work
from asyndbt_mpi.transport.mpi import SERVER, Channel

SHAPES = Shapes(positions=5, words=7, classes=2, pool=4, samples=4)
ITERATIONS = 6
CONFIG = parse(
    {
        "run": {"iterations": ITERATIONS},
        "prompt": {"fragment_length": 5, "vocabulary_size": 7, "pool": 4},
        "llm": {"backend": "synthetic"},
        "estimator": {"samples": 4, "batch": 3},
        "log": {"private": True},
        "privacy": {"noise": 2.0},
    },
    "test",
)
pytestmark = pytest.mark.mpi(min_size=2)


def test_who_asks_once_more_is_told_why_not() -> None:
    channel = Channel(MPI.COMM_WORLD, Codec(SHAPES, free_losses=True, private=True))
    if channel.rank == SERVER:
        ask_without_end(channel)
    else:
        box: BlackBox = Synthetic(0, SHAPES, [channel.rank], 0.2)
        workers = Workers(CONFIG, SHAPES, box.data_sizes)
        delays = Delays(CONFIG.delay, 0, channel.rank, channel.comm.Get_size() - 1)
        work(channel, lambda: (workers, box), delays)
    assert channel.close(60.0), "the ranks did not meet again"


def ask_without_end(channel: Channel) -> None:
    """Answer every report by the next assignment, whatever the iteration."""
    everyone = range(1, channel.comm.Get_size())
    answers, reasons = dict.fromkeys(everyone, 0), dict.fromkeys(everyone, "")
    while not all(reasons.values()):
        arrived = channel.receive()
        assert arrived is not None
        worker, message = arrived[0], channel.codec.decode(arrived[1])
        if isinstance(message, Failure):
            assert not message.refuses
            reasons[worker] = message.text
            channel.send(worker, Stop())
            continue
        assert isinstance(message, Hello | Report)
        answers[worker] += isinstance(message, Report)
        if answers[worker] > ITERATIONS:
            reasons[worker] = "none: it was answered"
            channel.send(worker, Stop())
            continue
        force = np.zeros((SHAPES.positions, SHAPES.words))
        channel.send(worker, Assignment(answers[worker] + 1, 0, force))
    assert set(answers.values()) == {ITERATIONS}
    assert set(reasons.values()) == {
        f"was asked for more than {ITERATIONS} noisy answers, which is all that its configuration"
        " needs and its guarantee is for"
    }
