import threading

from asyndbt_mpi.llm.servers.pace import Pace


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_requests_begin_evenly_spaced() -> None:
    clock = Clock()
    pace = Pace(30, clock, clock.sleep)
    begun = []
    for _ in range(4):
        pace.wait()
        begun.append(clock.now)
    assert begun == [100, 102, 104, 106]
    clock.now += 1.5
    pace.wait()
    assert clock.slept[-1] == 0.5


def test_time_that_nobody_used_is_not_saved_up() -> None:
    clock = Clock()
    pace = Pace(60, clock, clock.sleep)
    clock.now += 1000
    pace.wait()
    pace.wait()
    assert clock.slept == [1]


def test_no_limit_is_no_wait() -> None:
    clock = Clock()
    pace = Pace(0, clock, clock.sleep)
    for _ in range(10):
        pace.wait()
    assert clock.slept == []


def test_no_two_threads_have_the_same_turn() -> None:
    slept: list[float] = []
    pace = Pace(60, lambda: 0.0, slept.append)
    threads = [threading.Thread(target=pace.wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(slept) == [float(n) for n in range(1, 20)]
