import itertools
import os
import select
import threading
import time

import pytest

from asyndbt_mpi.transport.bell import Bell

RUNS = itertools.count(os.getpid() << 20)
FOREVER = 60.0
"""Seconds that no test waits."""


@pytest.fixture
def bells():
    run = next(RUNS)
    made = Bell(run, 0, [1, 2]), Bell(run, 1, [0])
    yield made
    for each in made:
        each.close()


def is_rung(bell: Bell) -> bool:
    return bool(select.select([bell._socket], [], [], 0.0)[0])


def test_a_ring_before_the_sleep_is_not_lost(bells) -> None:
    server, worker = bells
    worker.ring(0)
    started = time.perf_counter()
    server.sleep(FOREVER)
    assert time.perf_counter() - started < FOREVER / 2


def test_a_ring_wakes(bells) -> None:
    server, worker = bells
    sleeper = threading.Thread(target=server.sleep, args=(FOREVER,), daemon=True)
    sleeper.start()
    worker.ring(0)
    sleeper.join(FOREVER / 2)
    assert not sleeper.is_alive()


def test_many_rings_wake_once_and_hold_up_nobody(bells) -> None:
    server, worker = bells
    for _ in range(10_000):
        worker.ring(0)
    assert is_rung(server)
    server.sleep(FOREVER)
    assert not is_rung(server)


def test_nobody_rings_at_another_run(bells) -> None:
    stranger = Bell(next(RUNS), 1, [0])
    stranger.ring(0)
    assert not is_rung(bells[0])
    stranger.close()


def test_a_bell_is_enough_once_all_callers_are_known_to_hear_it(bells) -> None:
    server, worker = bells
    worker.ring(0)
    assert worker.is_enough
    server.ring(1)
    assert not server.is_enough, "rank 2 may be anywhere"


def test_a_bell_is_not_enough_for_callers_on_other_machines(bells) -> None:
    server, _ = bells
    server.ring(2)  # there is none here
    server.ring(1)
    assert not server.is_enough
    server.ring(2)
