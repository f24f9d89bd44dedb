"""With a model behind an API, texts leave a worker for that server alone, whatever it answers."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import EventKind
from tests.helpers import needs_mpiexec
from tests.llm.api_server import Manners, Server, serving
from tests.llm.tiny import byte_level_tokenizer
from tests.privacy.marks import Search, write_rows
from tests.privacy.place import WORKERS, Place

pytestmark = [needs_mpiexec, pytest.mark.long, pytest.mark.timeout(580)]

FAULTS = "echo 429", "echo 500", "malformed", "no choices", "truncated", "closed"


@dataclass(frozen=True)
class Served:
    """A ``server`` of models, and the ``place`` of a run whose rows have the ``marks``."""

    server: Server
    place: Place
    marks: list[str]

    @property
    def heard(self) -> set[str]:
        """The marks of which the server was asked."""
        asked = json.dumps(self.server.asked)
        return {mark for mark in self.marks if mark in asked}

    def answer(self, make: Callable[[str], str]) -> None:
        """Have prompts with a mark answered by what ``make`` makes of them."""
        polite = self.server.choose

        def choose(prompt: str) -> str:
            if any(mark in prompt for mark in self.marks):
                return make(prompt)
            return polite(prompt)

        self.server.choose = choose  # type: ignore[method-assign]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    marks = write_rows(tmp_path / "rows.jsonl")
    tokenizer = byte_level_tokenizer()
    tokens = [tokenizer(mark, add_special_tokens=False)["input_ids"] for mark in marks]
    with serving(Manners()) as server:
        model = (
            *("llm.backend=openai", "llm.model=toy", "llm.key_variable=", "llm.timeout=5"),
            *(f"llm.base_url={server.url}", "llm.concurrency=2", "llm.attempts=12"),
        )
        address = "127.0.0.1", server.server_address[1]
        known = {tmp_path / "rows.jsonl"}
        yield Served(server, Place(tmp_path, Search(marks, tokens), model, known, address), marks)


@pytest.mark.parametrize(
    "settings",
    [
        ("llm.api=completion", "algorithm.lower_gradient=black_box", "task.calibration=batch"),
        (
            "llm.api=chat",
            "llm.scores=answers",
            "task.test=0",
            "log.private=true",
            "privacy.noise=8",
        ),
    ],
)
def test_nothing_leaves_for_elsewhere(served: Served, settings: tuple[str, ...]) -> None:
    faults = list(FAULTS)
    served.answer(lambda prompt: faults.pop() if faults else "answer")
    done = served.place.run("", *settings)
    assert done.returncode == 0, done.stderr.decode()
    assert not faults
    assert served.place.found(done) == {}
    assert len(served.heard) > len(served.marks) / 3
    world = served.place.folder / "world"
    with Log(world / "run.h5") as log:
        assert log.status == "finished"
        assert {EventKind.RACE, EventKind.EVALUATION} <= set(log["event/kind"].tolist())
    assert len(list((world / "run.h5.cache").rglob("*.answers"))) == WORKERS


def echoed(prompt: str) -> str:
    """The answer of a model that writes nothing but the row that it has read."""
    row = prompt.splitlines()[-2]
    return json.dumps({"choices": [{"text": row, "finish_reason": "length"}], "model": "toy"})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda prompt: "echo 400", "answered 400: (a message that quotes the prompt)"),
        (echoed, "its answers were '(a message that quotes the prompt)'"),
    ],
    ids=["error", "answer"],
)
def test_a_server_that_quotes_is_not_quoted(
    served: Served, answer: Callable[[str], str], said: str
) -> None:
    served.answer(answer)
    settings = "llm.api=completion", "llm.scores=answers", "llm.attempts=2"
    done = served.place.run("", *settings)
    assert served.place.found(done) == {}
    assert done.returncode == 3
    assert served.heard
    assert said in done.stderr.decode()


def test_an_error_of_the_library_quotes_nothing(served: Served) -> None:
    done = served.place.run("fail_at_request", "llm.api=completion")
    assert served.place.found(done) == {}
    assert done.returncode == 3
    assert "ValueError in at_request (rank.py, line" in done.stderr.decode()


def test_what_is_planted_is_found(served: Served) -> None:
    settings = "llm.api=completion", "run.evaluate_every=0", "task.test=0"
    done = served.place.run("send_text warn_of_text write_temporary connect", *settings)
    found = served.place.found(done)
    assert {"stderr", "world/run.h5", "records/sent.1", "records/sent.2"} <= set(found)
    assert any(name.startswith("records/removed.") for name in found)
    [line] = found["elsewhere"]
    assert line.startswith("socket.connect")
    assert line.endswith("('127.0.0.1', 9))")
