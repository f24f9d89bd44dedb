"""A hostile worker of a run on rows, from its first answer to the end, and the log that is left.

    python -m tests.fuzz.rows [SEED [RUNS]]

As rank 0 of a language model's run does, the server knows what each worker holds and may spend. The
third of four workers answers with damaged messages, or with lies that agree with themselves: other
labels, rows, losses, demonstrations, costs. It may be excluded; nothing else may be raised, the others
end their tests, and the log can be shown and verified, whatever it was told: at most the liar's
demonstrations of an estimate do not follow from its q and the seed, of which `verify` tells.
"""

import io
import random
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.membership import State
from asyndbt_mpi.protocol.messages import (
    EvaluationReport,
    LowerReport,
    Report,
    RowLosses,
    RowScores,
    ToServer,
)
from asyndbt_mpi.protocol.scoring import scored
from asyndbt_mpi.view.accuracy import class_table, setback
from asyndbt_mpi.view.outcomes import EVERYBODY, outcomes
from asyndbt_mpi.view.recommended import recommended
from asyndbt_mpi.view.summary import print_summary
from tests.fuzz.messages import HOSTILE, KEPT, damaged, outcome_of
from tests.protocol.rows import OnRows

WORKERS = 4
HONEST = {*range(1, WORKERS + 1)} - {HOSTILE}
MOST_TRIES = 4
"""Messages in place of one answer; the true one follows if none of them was taken."""
EXTREME = [0.0, 1e-300, 1e-9, 1.0, 1e6, 1e100]
"""Losses that a message can have."""
MANY = [0, 1, 2**31, 2**40]
SETTINGS = (
    *("run.iterations=4", "run.evaluate_every=2", "task.test=12", "task.partition=dirichlet"),
    *("task.alpha=0.5", "algorithm.plane_period=2", "algorithm.tolerance=0"),
    *("task.train_per_class=8", "task.validation_per_class=4", "estimator.batch=4"),
)


def fuzz(seed: int, runs: int) -> Counter[str]:
    """How often each outcome came of the messages of so many ``runs``, and of their logs.

    Raises
    ------
    AssertionError
        With the run, on anything but a refusal or a message taken.
    """
    generator = random.Random(seed)
    found: Counter[str] = Counter()
    for number in range(runs):
        config = _configuration(generator)
        hand = OnRows(config, WORKERS)
        try:
            _go(hand, generator, found)
            found[_shown(hand)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, run {number}") from error
    return found


def _configuration(generator: random.Random) -> Config:
    choice = generator.choice
    lower_gradient, private = choice(KEPT)
    return load(
        "reviews",
        [
            *SETTINGS,
            f"log.private={str(private).lower()}",
            f"algorithm.lower_gradient={lower_gradient}",
            f"task.calibration={choice(['none', 'batch'])}",
            f"run.race={choice([0, 4])}",
            f"defence.strikes={choice([1, 1000])}",
            f"defence.malicious={choice([0.3, 0.3, 0.0])}",
        ],
    )


def _go(hand: OnRows, generator: random.Random, found: Counter[str]) -> None:
    """To the end of the run, with lies wherever the hostile worker is asked something."""
    hand.hello()
    said = [hand.codec.encode(hand.workers.hello(HOSTILE, ""))]
    while not hand.server.finished:
        if HOSTILE in hand.server.members.barred:
            hand.inbox[HOSTILE].clear()
        waiting = [v for v, inbox in hand.inbox.items() if inbox]
        assert waiting, "nobody has anything to do, and the server is not finished"
        worker = generator.choice(waiting)
        reply = hand.reply(worker)
        if reply is None:
            continue
        if worker == HOSTILE:
            said.append(hand.codec.encode(reply))
            if _lies(hand, generator, reply, said, found):
                continue
        hand.deliver(worker, reply)
    assert hand.server.failure is None
    assert {hand.server.members.state(worker) for worker in HONEST} == {State.STOPPED}
    assert hand.server.iteration == hand.server.config.run.iterations


def _lies(
    hand: OnRows,
    generator: random.Random,
    reply: ToServer,
    said: list[Any],
    found: Counter[str],
) -> bool:
    """Some messages in place of ``reply``; whether one was taken, or it may say nothing more."""
    for _ in range(generator.randrange(MOST_TRIES)):
        if generator.random() < 0.3:
            buffer = damaged(generator, [said[-1], generator.choice(said)])
        else:
            buffer = hand.codec.encode(_lie(generator, reply))
        outcome = outcome_of(hand, buffer, hand.codec)
        found[outcome] += 1
        if outcome == "taken" or HOSTILE in hand.server.members.barred:
            return True
    return False


def _lie(generator: random.Random, reply: ToServer) -> ToServer:
    """``reply`` with something else in it that agrees with the rest."""
    if generator.random() < 0.2 and not isinstance(reply, EvaluationReport):
        reply = _with_losses(generator, reply)
    if generator.random() < 0.2:
        assert isinstance(reply, Report | LowerReport | EvaluationReport)
        name = generator.choice(["prompts", "calls", "compute_seconds", "prompt_tokens"])
        some = {name: generator.choice(MANY), "unrecognised": 0}
        reply = replace(reply, costs=replace(reply.costs, **some))
    match reply:
        case Report(q=q) if q.size:
            return replace(reply, q=_off(generator, q), p=_off(generator, reply.p))
        case LowerReport(k=k) if k.size:
            shown = k.copy()
            shown[0] = generator.randrange(8)
            return replace(reply, k=shown, p=_off(generator, reply.p))
        case EvaluationReport():
            return _other_rows(generator, reply)
    return reply


def _with_losses(generator: random.Random, reply: ToServer) -> ToServer:
    assert isinstance(reply, Report | LowerReport)
    losses = np.full_like(reply.losses, generator.choice(EXTREME))
    return replace(reply, losses=losses, loss=float(losses.mean()))


def _off(generator: random.Random, values: np.ndarray) -> np.ndarray:
    """All mass on one column, some off the simplex, or as it was."""
    match generator.randrange(3):
        case 0:
            one = np.zeros_like(values)
            one[:, generator.randrange(values.shape[1])] = 1.0
            return one
        case 1:
            return values - generator.choice([0.0, 1.0, 900.0])
    return values


def _other_rows(generator: random.Random, report: EvaluationReport) -> EvaluationReport:
    rows = report.rows
    assert rows is not None
    count = generator.choice([len(rows)] * 4 + [1, len(rows) - 1])
    if isinstance(rows, RowLosses):
        losses = np.full(count, generator.choice(EXTREME))
        other = replace(report, rows=RowLosses(losses), loss=float(losses.mean()))
        return replace(other, accuracy=generator.choice([0.0, 1.0]))
    labels = rows.labels[:count].copy()
    if generator.random() < 0.3:
        labels[generator.randrange(count) :] = generator.randrange(2)
    scores = rows.log_probabilities[:count]
    if generator.random() < 0.7:  # sure of one label, right or wrong
        sure = labels if generator.random() < 0.5 else 1 - labels
        none = -generator.choice([1.0, 700.0, 1e9, 1e100])
        scores = np.where(np.arange(scores.shape[1]) == sure[:, None], 0.0, none)
        scores = scores - np.logaddexp.reduce(scores, axis=1)[:, None]
    losses, accuracies = scored(scores[None], labels)
    told = RowScores(labels, scores)
    return replace(report, rows=told, loss=float(losses[0]), accuracy=float(accuracies[0]))


def _shown(hand: OnRows) -> str:
    """Write the log of the run, and open it as commands do; what `verify` finds."""
    server, materials = hand.server, hand.materials
    config, start = materials.configured(server.config), np.full_like(server.algorithm.z, 1.0)
    start /= start.shape[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        names = materials.shapes, WORKERS, materials.vocabulary, "virtual", start
        with Writer(path, config, *names) as writer:
            writer.write_all(hand.records)
        with Log(path) as log:
            assert log.status == "finished"
            found = outcomes(log)
            for each in found.values():
                assert {*each.losses} <= {EVERYBODY, *range(1, WORKERS + 1)}
            class_table(log, found)
            setback(found)
            print_summary(log, Console(file=io.StringIO()))
            try:
                recommended(log)
            except ConfigurationError:
                assert not config.run.evaluate_every
        violations = verify(path).violations
    others = [each for each in violations if not each.startswith("/lower/k row ")]
    assert not others, others
    assert all(f", worker {HOSTILE}: " in each for each in violations), violations
    return "log with k of its own" if violations else "log that is intact"


if __name__ == "__main__":
    seed, runs = ([*map(int, sys.argv[1:]), 0, 20])[:2] if sys.argv[1:] else (0, 20)
    for name, count in sorted(fuzz(seed, runs).items()):
        print(f"{name:24} {count}")
