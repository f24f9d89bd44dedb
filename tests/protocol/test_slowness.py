"""How long liars can hold up a run, and which honest workers may be slow: under a virtual clock.

What is waited and what is worked is measured by the test's own clock.
"""

from asyndbt_mpi.protocol.membership import MOST_HELD_UP, MOST_RETURNS, State
from asyndbt_mpi.protocol.messages import Reset
from asyndbt_mpi.protocol.records import Event, EventKind
from tests.protocol.hand import Hand, configuration

TIMEOUT = 200.0
STALL = 190.0
"""What a liar takes for an answer: it is not silent for too long."""


class Clocked:
    """A run whose seconds are those in which all work, or in which all but a few wait."""

    def __init__(self, workers: int) -> None:
        limits = {"worker_timeout": TIMEOUT, "iterations": 10**6}
        self.hand = Hand(configuration(run=limits, algorithm={"max_delay": 1}), workers)
        self.members = self.hand.server.members
        self.worked = self.waited = 0.0

    def pass_by(self, seconds: float) -> None:
        """The server looks at its clock every second."""
        until = self.hand.time + seconds
        while self.hand.time < until:
            self.hand.time = min(self.hand.time + 1.0, until)
            self.hand.take(self.hand.server.tick(self.hand.time))

    def greet(self, *workers: int) -> None:
        for worker in workers:
            hello = self.hand.workers.hello(worker, "")
            self.hand.take(self.hand.server.receive(worker, hello, self.hand.time))

    def answer(self, *workers: int) -> None:
        """Let each of ``workers`` that owes something answer once, without a second passing."""
        for worker in workers:
            if self.members.is_live(worker) and self.hand.inbox[worker]:
                reply = self.hand.reply(worker)
                if reply is not None:
                    self.hand.take(self.hand.server.receive(worker, reply, self.hand.time))

    def work(self, *workers: int, seconds: float = 1.0) -> None:
        """``workers`` take ``seconds`` for an answer, a few times or until all of them wait."""
        for _ in range(5):
            if any(self.hand.inbox[worker] for worker in workers):
                self.pass_by(seconds)
                self.worked += seconds
                self.answer(*workers)

    def wait(self, seconds: float) -> None:
        self.pass_by(seconds)
        self.waited += seconds

    def hold_up(self, liar: int, *others: int) -> None:
        """Until it is lost ``liar`` answers, but only just within the time-out."""
        while self.members.is_live(liar):
            left = STALL
            while self.members.is_live(liar) and left:
                self.wait(1.0)
                left -= 1.0
            self.answer(liar)
            if self.members.is_live(liar):
                self.work(*others, seconds=0.125)

    def most(self) -> float:
        """What one liar may take; the server may notice a second late."""
        return TIMEOUT + MOST_HELD_UP * self.worked + 1.0


def lost(run: Clocked, worker: int) -> int:
    return sum(e.kind is EventKind.LOST and e.worker == worker for e in run.hand.of_type(Event))


def test_a_liar_that_answers_just_in_time_is_lost_within_the_bound() -> None:
    run = Clocked(4)
    run.greet(1, 2, 3, 4)
    run.work(1, 2, 3)
    run.hold_up(4, 1, 2, 3)
    assert lost(run, 4) == 1
    assert run.most() - 2.0 <= run.waited <= run.most()
    assert run.members.joined == {1, 2, 3}


def test_to_wait_for_a_late_hello_is_no_work_that_buys_time() -> None:
    run = Clocked(4)
    run.greet(1, 2, 3)
    run.work(1, 2, 3, seconds=0.0)
    run.pass_by(TIMEOUT - 5.0)
    run.greet(4)
    run.work(1, 2, 3)
    run.hold_up(4, 1, 2, 3)
    assert lost(run, 4) == 1
    assert run.waited <= run.most()
    assert run.worked < 10.0


def test_a_return_buys_no_time() -> None:
    """However often a liar comes back, all that it takes is what it may take once."""
    run = Clocked(4)
    run.greet(1, 2, 3, 4)
    run.work(1, 2, 3)
    for returns in range(1, MOST_RETURNS + 1):
        run.hold_up(4, 1, 2, 3)
        assert lost(run, 4) == returns
        run.hand.inbox[4].clear()
        run.greet(4)
        assert isinstance(run.hand.inbox[4][0], Reset)
        run.hand.reply(4)
        run.greet(4)
        assert run.members.state(4) is State.JOINED
        run.work(1, 2, 3)
    run.hold_up(4, 1, 2, 3)
    run.greet(4)
    assert run.members.state(4) is State.EXCLUDED
    assert run.waited <= run.most() + MOST_RETURNS * 1.0


def test_colluders_take_as_much_as_each_of_them_may() -> None:
    run = Clocked(7)
    run.greet(*range(1, 8))
    honest = (1, 2, 3, 4, 5)
    run.work(*honest, 7)
    run.hold_up(6, *honest, 7)
    run.work(*honest)
    run.hold_up(7, *honest)
    assert run.members.joined == set(honest)
    assert run.most() < run.waited <= 2 * run.most()


def test_an_honest_worker_may_be_fifty_times_slower_for_hours() -> None:
    run = Clocked(4)
    run.greet(1, 2, 3, 4)
    while run.waited < 7200.0:
        run.work(1, 2, 3, seconds=2.0)
        run.wait(100.0)
        run.answer(4)
    assert run.members.joined == {1, 2, 3, 4}


def test_an_honest_worker_may_load_its_model_for_almost_the_timeout_and_then_be_slow() -> None:
    run = Clocked(4)
    run.greet(1, 2, 3)
    run.pass_by(TIMEOUT - 5.0)
    run.greet(4)
    for _ in range(20):
        run.work(1, 2, 3)
        run.wait(50.0)
        run.answer(4)
    assert run.members.joined == {1, 2, 3, 4}


def test_an_honest_worker_whose_job_is_queued_again_takes_part_again() -> None:
    """It was silent for the time-out once, and is as slow as the others afterwards."""
    run = Clocked(4)
    run.greet(1, 2, 3, 4)
    for _ in range(3):
        run.work(1, 2, 3)
        run.answer(4)
    run.work(1, 2, 3)
    run.wait(TIMEOUT + 1.0)
    assert lost(run, 4) == 1
    for _ in range(10):
        run.pass_by(1.0)
        run.answer(1, 2, 3)
    run.hand.inbox[4].clear()
    run.greet(4)
    run.hand.reply(4)
    run.greet(4)
    assert run.members.returns[4] == 1
    for _ in range(20):
        run.pass_by(1.0)
        run.answer(1, 2, 3, 4)
    assert run.members.joined == {1, 2, 3, 4}
