"""Malicious workers with data: what their rows say, and what that does to their prompts."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from asyndbt_mpi.adversary.boxes import Invented
from asyndbt_mpi.assemble import (
    Materials,
    delays_of_workers,
    prepare,
    workers_with_black_box,
)
from asyndbt_mpi.commands.simulate import colluders
from asyndbt_mpi.config import load
from asyndbt_mpi.protocol.records import Event, EventKind, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.mislabelled import mislabelled
from asyndbt_mpi.transport.virtual import VirtualCluster
from tests.conftest import Opinionated

SMALL = "task.test=20", "run.iterations=8", "run.evaluate_every=4", "algorithm.plane_period=3"


def materials(attack: str, workers: int = 1) -> Materials:
    settings = f"adversary.attack={attack}", f"adversary.workers={workers}"
    return prepare(load("reviews", [*SMALL, *settings]), 3)


def labels(rows: Sequence[Row]) -> list[int]:
    return [row.label for row in rows]


@pytest.mark.parametrize("attack", ["label_flip", "bad_demonstrations"])
def test_the_labels_of_the_malicious_are_wrong_and_nobody_elses(attack: str) -> None:
    honest, malicious = materials(attack, 0), materials(attack)
    assert honest.data is not None
    assert malicious.data is not None
    for worker in (1, 2):
        assert malicious.data[worker] == honest.data[worker]
    before, after = honest.data[3], malicious.data[3]
    assert after.test == before.test
    demonstrations = attack == "bad_demonstrations"
    for name in ("train", "validation"):
        rows, were = labels(getattr(after, name)), labels(getattr(before, name))
        assert rows == (were if demonstrations else [1 - label for label in were])
    for cls in range(2):
        shown = 1 - cls if demonstrations else cls
        assert labels(after.pool[cls]) == [shown] * len(before.pool[cls])
    # Whose files differ is told by the digest, which must not say who attacks.
    assert malicious.data_digest == honest.data_digest


def test_with_more_classes_each_label_is_the_next() -> None:
    held = materials("ipm", 0).data
    assert held is not None
    data = replace(held[1], train=[replace(held[1].train[0], label=k) for k in (0, 1, 2)])
    data = replace(data, pool=[[], [], []])
    assert labels(mislabelled(data, "label_flip").train) == [1, 2, 0]


@pytest.mark.parametrize("attack", ["label_flip", "bad_demonstrations", "flood", "alie"])
def test_a_run_on_data_under_attack(attack: str) -> None:
    settings = f"adversary.attack={attack}", "adversary.workers=1", "delay.model=lognormal"
    config = load("demo", [*SMALL, *settings, "delay.mean=1"])
    held, everyone = prepare(config, 3), [1, 2, 3]
    workers, box = workers_with_black_box(config, held, everyone, Opinionated())
    assert isinstance(box, Invented) == (attack == "flood")
    server = Server(config, held.shapes, 3)
    liars = colluders(config, held.shapes, 3)
    records: list[Record] = []
    delays = delays_of_workers(config, 3)
    VirtualCluster(server, workers, box, delays, liars).run(records.extend)
    events = [each for each in records if isinstance(each, Event)]
    assert server.iteration == 8
    assert not {EventKind.EXCLUDED, EventKind.LOST} & {each.kind for each in events}
    steps = [each for each in events if each.kind is EventKind.REPORT and each.worker == 3]
    assert all((each.costs.calls == 0) == (attack == "flood") for each in steps)
