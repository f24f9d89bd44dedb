"""Workers that hold different language models."""

from dataclasses import replace

import pytest

from asyndbt_mpi.protocol.messages import Failure, Hello, Reset, Stop
from asyndbt_mpi.protocol.records import Event, EventKind, Iteration
from asyndbt_mpi.transport.replay import Recorded, Replay
from tests.protocol.hand import Hand, configuration


def hand_of(workers: int = 3, may_differ: bool = False, **algorithm) -> Hand:
    llm = {"backend": "transformers", "model_may_differ": may_differ}
    algorithm = {"active_workers": 1, **algorithm}
    return Hand(configuration(algorithm=algorithm, llm=llm, steps={"p": 0.1, "q": 0.1}), workers)


def hello(hand: Hand, worker: int, digest: str) -> Hello:
    return replace(hand.workers.hello(worker, f"n{worker}: cpu"), digest=digest)


def greet(hand: Hand, *digests: str) -> None:
    for worker, digest in enumerate(digests, start=1):
        hand.deliver(worker, hello(hand, worker, digest))


def kinds(hand: Hand, worker: int) -> list[EventKind]:
    return [event.kind for event in hand.of_type(Event) if event.worker == worker]


def test_nothing_is_committed_before_all_have_said_hello() -> None:
    hand = hand_of()
    greet(hand, "aa", "aa")
    hand.work(1, 2)
    assert hand.server.iteration == 0
    hand.deliver(3, hello(hand, 3, "aa"))
    assert hand.server.iteration == 1


@pytest.mark.parametrize("leave", ["lose", "exclude"])
def test_who_is_gone_is_not_waited_for(leave: str) -> None:
    hand = hand_of()
    greet(hand, "aa", "aa")
    hand.work(1)
    hand.take(getattr(hand.server, leave)(3, "gone", 9.0))
    assert hand.server.iteration == 1


def test_a_synthetic_task_waits_for_nobody() -> None:
    hand = Hand(configuration(algorithm={"active_workers": 1}), 2)
    hand.hello(1)
    hand.work(1)
    assert hand.server.iteration == 1


def test_two_models_end_the_run_before_its_first_iteration() -> None:
    hand = hand_of()
    greet(hand, "aa", "aa", "bb")
    assert hand.server.finished
    refusal = hand.server.refusal or ""
    for part in ("worker 3 (n3: cpu)", "worker 1 (n1: cpu)", "bb and aa", "llm.model_may_differ"):
        assert part in refusal
    assert hand.of_type(Iteration) == []
    assert all(isinstance(hand.inbox[worker][-1], Stop) for worker in (1, 2, 3))
    assert EventKind.HELLO not in kinds(hand, 3)


@pytest.mark.parametrize("digests", [("aa", "", "aa"), ("", "aa", ""), ("", "", "")])
def test_what_is_not_known_is_not_compared(digests: tuple[str, ...]) -> None:
    hand = hand_of()
    greet(hand, *digests)
    hand.work(1)
    assert (hand.server.refusal, hand.server.iteration) == (None, 1)


def test_an_unknown_one_hides_no_difference() -> None:
    hand = hand_of()
    greet(hand, "", "aa", "bb")
    assert "worker 3 (n3: cpu)" in (hand.server.refusal or "")
    assert "worker 2 (n2: cpu)" in (hand.server.refusal or "")


def test_models_may_differ() -> None:
    hand = hand_of(may_differ=True)
    greet(hand, "aa", "bb", "cc")
    hand.work(1)
    assert (hand.server.refusal, hand.server.iteration) == (None, 1)
    models = [event.model for event in hand.of_type(Event) if event.kind is EventKind.HELLO]
    assert models == ["aa", "bb", "cc"]


def test_who_comes_back_with_another_model_is_out() -> None:
    hand = hand_of()
    greet(hand, "aa", "aa", "aa")
    hand.work(1, 2)
    went_on = hand.server.iteration
    hand.take(hand.server.lose(3, "silent", 9.0))
    hand.inbox[3].clear()
    hand.deliver(3, Hello(hand.workers.q[2], "n3: cpu", digest="bb"))
    assert isinstance(hand.inbox[3][-1], Reset)
    hand.deliver(3, hello(hand, 3, "bb"))
    assert kinds(hand, 3)[-2:] == [EventKind.RETURNED, EventKind.EXCLUDED]
    assert isinstance(hand.inbox[3][-1], Stop)
    assert "bb and aa" in hand.of_type(Event)[-1].text
    hand.deliver(3, hello(hand, 3, "aa"))
    assert not hand.server.members.is_live(3)
    hand.work(1, 2)
    assert hand.server.iteration > went_on
    assert hand.server.refusal is None


def test_a_worker_may_refuse_the_run_as_long_as_nothing_is_committed() -> None:
    hand = hand_of(2)
    greet(hand, "aa")
    hand.deliver(2, Failure("d/dev.jsonl, line 3: too long", refuses=True))
    assert hand.server.refusal == "worker 2: d/dev.jsonl, line 3: too long"
    assert hand.server.finished
    hand = hand_of(2)
    greet(hand, "aa", "aa")
    hand.work(1, 2)
    hand.deliver(2, Failure("d/dev.jsonl, line 3: too long", refuses=True))
    assert hand.server.refusal is None
    assert kinds(hand, 2)[-1] is EventKind.LOST
    assert not hand.server.finished


# ---------------------------------------------------------------- resumed runs


@pytest.fixture
def resumed() -> tuple[Hand, Replay]:
    """A run of three workers with the model aa, gone through again from its events."""
    first = hand_of()
    greet(first, "aa", "aa", "aa")
    first.work(1, 2, 3, 1, 2, 3)
    again = hand_of()
    events = first.of_type(Event)
    replay = Replay(again.server, again.workers, Recorded(events, again.box))
    replay.run(events, lambda records: None)
    assert again.server.iteration == first.server.iteration > 0
    return again, replay


def settle(hand: Hand, replay: Replay) -> list[int]:
    """Who was told to stop."""
    output = replay.settle(9.0)
    hand.records.extend(output.records)
    return [worker for worker, message in output.messages if isinstance(message, Stop)]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_a_worker_of_a_resumed_run_with_another_model_is_out(
    resumed: tuple[Hand, Replay], order: tuple[int, ...]
) -> None:
    hand, replay = resumed
    for worker in order:
        answers = replay.greet(worker, hello(hand, worker, "bb" if worker == 2 else "aa"))
        assert (answers == []) == (worker == 2)
        settle(hand, replay)
    excluded = [e.worker for e in hand.of_type(Event) if e.kind is EventKind.EXCLUDED]
    assert excluded == [2]
    assert hand.server.refusal is None
    assert settle(hand, replay) == []


def test_a_resumed_run_is_refused_where_nobody_has_its_model(
    resumed: tuple[Hand, Replay],
) -> None:
    hand, replay = resumed
    for worker in (1, 2, 3):
        assert hand.server.refusal is None
        assert replay.greet(worker, hello(hand, worker, "bb")) == []
        settle(hand, replay)
    assert "bb and aa" in (hand.server.refusal or "")
    assert hand.of_type(Event) == [], "nobody is excluded for it"
    assert hand.server.finished


def test_nobody_waits_for_a_stranger_that_is_gone(resumed: tuple[Hand, Replay]) -> None:
    hand, replay = resumed
    assert replay.greet(1, hello(hand, 1, "bb")) == []
    for worker in (2, 3):
        hand.server.lose(worker, "gone", 9.0)
    assert settle(hand, replay) == [1]
    assert hand.server.refusal
