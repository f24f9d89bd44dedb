"""Hostile messages, through decoding and through a server that has two honest workers besides.

    python -m tests.fuzz.messages [SEED [CASES]]

The third worker sends messages of its own with bits turned, fields set to the ends of their types,
parts of other messages in them, too long, too short, twice, or noise. Each is refused or taken;
nothing else may be raised, the server's state stays a valid one, which what is refused does not
change at all, and the honest two stay and get on, however often the third is excluded.
"""

import random
import struct
import sys
from collections import Counter

import numpy as np

from asyndbt_mpi.algorithm.aggregation import RULES
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.messages import (
    Candidate,
    Costs,
    EvaluationReport,
    Failure,
    MalformedMessage,
    Message,
    RowLosses,
    RowScores,
    Split,
    Stop,
    ToServer,
)
from asyndbt_mpi.protocol.wire import HEADER, KINDS, Buffer, Codec
from asyndbt_mpi.protocol.worker import state_length
from tests.protocol.hand import SHAPES, Hand, configuration
from tests.protocol.invariants import snapshot

HOSTILE = 3
MOST_OF_ONE, LEAST_OF_ONE = 256, 16
"""Messages that one run is sent: a worker that was excluded goes on sending for a while."""

REALS = [0.0, -0.0, 5e-324, 1.0, -1.0, 1e3, 1e4, -1e4, 1e100, 1.7e308, -1.7e308]
REALS += [float("nan"), float("inf"), float("-inf")]
KEPT = [("black_box", False), ("model", False), ("black_box", True)]
"""`algorithm.lower_gradient` and `log.private`, which change what messages are made of."""
INTEGERS = [0, 1, -1, 2, 7, 2**31 - 1, -(2**31), 2**40, 2**53, 2**62, 2**63 - 1, -(2**63)]

PROMPT = np.array([0, 3, 1]), np.array([4, 0])
OF_MODEL = Codec(SHAPES, free_losses=False, rows=4)
"""What the server of a language model would decode by: it has answers on rows."""


def codec_of(config: Config) -> Codec:
    """What the server of a function decodes by."""
    kept = {"pools": config.algorithm.pools, "private": config.log.private}
    return Codec(SHAPES, state_length(config, SHAPES), free_losses=True, **kept)


def fuzz(seed: int, cases: int) -> Counter[str]:
    """How often each outcome came of ``cases`` messages.

    Raises
    ------
    AssertionError
        With the message, on anything but a refusal or a message taken.
    """
    generator = random.Random(seed)
    outcomes: Counter[str] = Counter()
    hand, own, usual = _run(generator)
    sent = 0
    for number in range(cases):
        barred = HOSTILE in hand.server.members.barred
        if sent >= MOST_OF_ONE or (barred and sent >= LEAST_OF_ONE):
            _get_on(hand)
            (hand, own, usual), sent = _run(generator), 0
        buffer, codec = damaged(generator, own), generator.choice([usual, usual, OF_MODEL])
        sent += 1
        try:
            outcomes[outcome_of(hand, buffer, codec)] += 1
        except Exception as error:
            case = f"seed {seed}, message {number}: {buffer.tobytes()[:300]!r}"
            raise AssertionError(case) from error
    return outcomes


def _run(generator: random.Random) -> tuple[Hand, list[Buffer], Codec]:
    """A run that has got somewhere, what the hostile worker could honestly say, and its codec."""
    most = generator.choice([20, 50])  # some are in their races and tests
    lower_gradient, private = generator.choice(KEPT)
    config = configuration(
        run={"evaluate_every": generator.choice([0, 2]), "race": 6, "iterations": most},
        algorithm={
            "plane_period": generator.choice([2, 1000]),
            "tolerance": 0.0,
            "lower_gradient": lower_gradient,
        },
        defence={
            "aggregator": generator.choice(["rsa", *RULES]),
            "preaggregator": generator.choice(["none", "nnm", "bucketing"]),
            "malicious": 0.4,  # one of three
            "strikes": generator.choice([1, 2, 1000]),
        },
        log={"private": private},
    )
    hand = Hand(config, 3)
    assert hand.server.algorithm.aggregation.is_mean == (config.defence.adds_up)
    hand.hello()
    for _ in range(generator.randrange(4)):
        hand.work(*(worker for worker, inbox in hand.inbox.items() if inbox))
    costs = Costs(calls=12, prompts=12)
    own: list[Message] = [
        hand.workers.hello(HOSTILE, "by hand"),
        EvaluationReport(
            2, Split.VALIDATION, Candidate.TUNED, 0.5, 0.5, costs, np.zeros(2), *PROMPT
        ),
        Failure("cannot go on"),
        Stop(),
    ]
    if hand.inbox[HOSTILE]:
        own.append(hand.inbox[HOSTILE][0])
        reply = hand.reply(HOSTILE)
        own += [reply, reply, reply] if reply is not None else []
    answers = RowScores(np.array([0, 1, 1]), np.log([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]))
    loss, bias = -np.log([0.9, 0.8, 0.3]).mean(), np.log([0.6, 0.4])
    means = Candidate.CALIBRATED, loss, 2 / 3, costs, bias
    tested = OF_MODEL.encode(EvaluationReport(2, Split.TEST, *means, *PROMPT, answers))
    own_rows = RowLosses(np.array([0.1, 0.3]))
    raced = Candidate.MODEL, 0.2, 0.5, costs, bias, *PROMPT, own_rows
    of_model = tested, OF_MODEL.encode(EvaluationReport(2, Split.RACE, *raced))
    codec = codec_of(config)
    return hand, [*(codec.encode(each) for each in own), *of_model], codec


def damaged(generator: random.Random, buffers: list[Buffer]) -> Buffer:
    """One of ``buffers``, whole or changed in up to three places."""
    content = bytearray(generator.choice(buffers).tobytes())
    for _ in range(generator.choice([0, 1, 1, 1, 2, 3])):
        _change(generator, content, buffers)
    return np.frombuffer(bytes(content), np.uint8).copy()


def _change(generator: random.Random, content: bytearray, buffers: list[Buffer]) -> None:
    place = generator.randrange(len(content) + 1)
    match generator.randrange(8):
        case 0 if content:
            content[place % len(content)] ^= 1 << generator.randrange(8)
        case 1 | 2 if len(content) >= 16:
            eighth = 8 * generator.randrange(len(content) // 8)
            struct.pack_into("<d", content, eighth, generator.choice(REALS))
        case 3 if len(content) >= 16:
            eighth = 8 * generator.randrange(min(len(content), HEADER.size) // 8)
            struct.pack_into("<q", content, eighth, generator.choice(INTEGERS))
        case 4:
            del content[place:]
        case 5:
            content[place:place] = generator.randbytes(generator.choice([1, 8, 100, 20_000]))
        case 6:
            other = generator.choice(buffers).tobytes()
            content[place:] = other[place:]
        case 7 if len(content) > 8:
            struct.pack_into("<I", content, 4, generator.randrange(len(KINDS) + 2))


def outcome_of(hand: Hand, buffer: Buffer, codec: Codec) -> str:
    server = hand.server
    try:
        message = codec.decode(buffer)
    except MalformedMessage as error:
        _check_reason(str(error))
        return "refused when decoded"
    if not isinstance(message, ToServer):
        return "not for the server"
    if HOSTILE in server.members.barred:
        hand.deliver(HOSTILE, message)
        return "not listened to"
    before = snapshot(server)
    try:
        hand.deliver(HOSTILE, message)
        outcome = "taken"
    except MalformedMessage as error:
        assert snapshot(server) == before, "a refused message has changed the state"
        _check_reason(str(error))
        hand.take(server.strike(HOSTILE, str(error), hand.time))
        outcome = "refused by the server"
    assert server.failure is None
    assert server.refusal is None or not server.iteration
    return outcome


def _check_reason(reason: str) -> None:
    assert reason, "a refusal without a reason"
    assert "\n" not in reason
    assert len(reason) < 1000


def _get_on(hand: Hand) -> None:
    """The honest workers are there, and without the third the run gets on."""
    server = hand.server
    if server.refusal is not None:  # before the first iteration, where nobody has paid anything
        return
    assert server.members.is_live(1)
    assert server.members.is_live(2)
    hand.take(server.exclude(HOSTILE, "fuzzed enough", hand.time))
    before = server.iteration
    for _ in range(30):
        hand.work(*(worker for worker in (1, 2) if hand.inbox[worker]))
        if server.iteration > before:
            return
    raise AssertionError("the run does not get on")


if __name__ == "__main__":
    seed, cases = ([*map(int, sys.argv[1:]), 0, 10_000])[:2] if sys.argv[1:] else (0, 10_000)
    for name, count in sorted(fuzz(seed, cases).items()):
        print(f"{name:24} {count}")
