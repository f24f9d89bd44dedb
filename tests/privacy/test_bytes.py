"""Of the texts of workers, nothing leaves them: every byte of whole runs is searched."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.records import EventKind
from tests.helpers import needs_mpiexec
from tests.llm.tiny import SMALL, byte_level_tokenizer, save
from tests.privacy.marks import Search, write_rows
from tests.privacy.place import WORKERS, Place

pytestmark = [needs_mpiexec, pytest.mark.long, pytest.mark.timeout(580)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    marks = write_rows(tmp_path / "rows.jsonl")
    save(tmp_path / "model", LlamaConfig(**SMALL))
    tokenizer = byte_level_tokenizer()
    tokens = [tokenizer(mark, add_special_tokens=False)["input_ids"] for mark in marks]
    model, known = tmp_path / "model", {tmp_path / "rows.jsonl", tmp_path / "model"}
    return Place(tmp_path, Search(marks, tokens), (f"llm.model={model}", "llm.threads=1"), known)


@pytest.mark.parametrize(
    "settings",
    [
        ("algorithm.lower_gradient=black_box", "estimator.name=loo", "task.calibration=none"),
        ("algorithm.lower_gradient=model", "task.calibration=batch"),
        ("log.private=true", "privacy.noise=8", "task.test=0"),
    ],
)
def test_nothing_leaves(place: Place, settings: tuple[str, ...]) -> None:
    done = place.run("", *settings)
    assert done.returncode == 0, done.stderr.decode()
    assert place.found(done) == {}
    with Log(place.folder / "world" / "run.h5") as log:
        kinds, worker = log["event/kind"], log["event/worker"]
        assert log.status == "finished"
        assert {EventKind.RACE, EventKind.EVALUATION} <= set(kinds.tolist())
        assert (EventKind.TEST in kinds) == (not log.config.log.private)
    homes = list((place.folder / "world" / "run.h5.home").glob("worker-*.jsonl"))
    assert len(homes) == WORKERS * ("log.private=true" in settings)
    # All messages were recorded, and the answers of the model were kept.
    for rank in range(1, WORKERS + 1):
        calls = Counter((place.records / f"calls.{rank}").read_text().split())
        assert calls["Isend"] >= np.isin(kinds[worker == rank], [*EventKind]).sum()
        assert (place.records / f"sent.{rank}").stat().st_size > 1000
    answers = list((place.folder / "world" / "run.h5.cache").rglob("*.answers"))
    assert len(answers) == WORKERS


def test_what_is_planted_is_found(place: Place) -> None:
    texts = "send_text warn_of_text write_file write_temporary write_elsewhere"
    done = place.run(f"{texts} send_tokens show_tokens", "run.evaluate_every=0", "task.test=0")
    found = place.found(done)
    for rank in range(1, WORKERS + 1):
        sent = found[f"records/sent.{rank}"]
        assert {what.split()[0] == "tokens" for what in sent} == {True, False}
    assert {what.split()[0] == "tokens" for what in found["stderr"]} == {True, False}
    assert any(name.startswith("records/removed.") for name in found)
    assert {"world/run.h5", "world/notes.txt", "elsewhere"} <= set(found)
    assert found["elsewhere"] == {str(place.folder / "elsewhere.txt")}


def test_an_error_quotes_nothing(place: Place) -> None:
    done = place.run("fail")
    assert place.found(done) == {}
    assert done.returncode == 3
    assert "Traceback" in done.stderr.decode()
    for rank, kind in ((1, "ValueError in in_a_library"), (2, "LookupError in in_the_template")):
        said = (place.records / f"sent.{rank}").read_bytes().decode("latin1")
        assert f"{kind} (rank.py, line" in said
