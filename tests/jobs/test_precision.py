"""`llm.precision = "auto"`: what it comes to, and that this is what a run, its log and others use."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig

from asyndbt_mpi.assemble import Materials, Place, prepare
from asyndbt_mpi.commands.replay import replay
from asyndbt_mpi.commands.simulate import simulate_silently
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.jobs import precision
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.jobs.precision import Decision, compare, decide, is_open
from asyndbt_mpi.llm.base import Prompt, Scores
from asyndbt_mpi.llm.local import device
from asyndbt_mpi.log.reader import Log
from tests.llm.tiny import SMALL, save

ALONE = Place(0, 1)
SHORT = (
    "llm.precision=auto", "run.iterations=2", "run.evaluate_every=0", "estimator.batch=2",
    "estimator.samples=2", "prompt.pool=2", "algorithm.plane_period=2", "llm.cache_folder=",
)  # fmt: skip
LONG_CONTEXT = SMALL | {"max_position_embeddings": 4096}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with instructions for bfloat16."""
    monkeypatch.setattr(device, "processor_has", lambda kind: True)


def asked(folder: Path, *further: str) -> tuple[Config, Materials]:
    config = load("demo", [*SHORT, f"llm.model={folder}", "llm.device=cpu", *further])
    materials = prepare(config, 3)
    return materials.configured(config), materials


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(("spread", "expected"), [(0.05, "bfloat16"), (2.0, "float32")])
def test_a_tiny_model_that_is_near_enough_and_one_that_is_not(
    tmp_path: Path, spread: float, expected: str
) -> None:
    """With large weights, attention is all but a maximum, and rounding decides which."""
    folder = save(tmp_path / "tiny", LlamaConfig(**LONG_CONTEXT), spread=spread)
    decision = decide(*asked(folder), ALONE)
    assert decision.precision == expected
    assert ("it is fast here" in decision.why) == (expected == "bfloat16")
    assert ("more than 0.05" in decision.why) == (expected == "float32")


@dataclass
class Shifted:
    """Two labels' log-probabilities differ by so much from those of even odds."""

    shift: float

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        assert len({prompt.context for prompt in prompts}) == 2
        scores = np.full((len(prompts), len(labels)), -np.log(len(labels))) + self.shift
        return Scores(scores, len(prompts), len(prompts))


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(0.049, "bfloat16"), (-0.049, "bfloat16"), (0.051, "float32"), (np.nan, "float32")],
)
def test_the_bound_is_on_the_mean_change(
    monkeypatch: pytest.MonkeyPatch, shift: float, expected: str
) -> None:
    def model(llm: Any, place: Place) -> Shifted:
        return Shifted({"float32": 0.0, "bfloat16": shift}[llm.precision])

    monkeypatch.setattr(precision, "in_process", model)
    decision = compare(*asked(Path("none")), ALONE)
    assert decision.precision == expected
    assert Decision.of_text(decision.to_text()) == decision


def test_where_it_is_slow_no_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "processor_has", lambda kind: False)
    decision = decide(*asked(Path("none")), ALONE)
    assert decision.precision == "float32"
    assert str(decision) == (
        "llm.precision is float32, as this processor has no instructions for bfloat16"
    )


def test_only_a_model_in_this_process_has_a_precision() -> None:
    assert is_open(load("demo", ["llm.precision=auto"]))
    assert not is_open(load("demo"))
    assert not is_open(load("synthetic", ["llm.precision=auto"]))


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
def test_a_run_is_logged_replayed_and_resumed_with_what_was_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    folder = save(tmp_path / "tiny", LlamaConfig(**LONG_CONTEXT), spread=0.05)
    monkeypatch.setattr(
        "asyndbt_mpi.jobs.precision.decide", lambda *_: Decision(kind, "it was decided")
    )
    settings = *SHORT, f"llm.model={folder}", "llm.device=cpu"
    path = tmp_path / "run.h5"
    request = Request("demo", settings, str(path), True, False)
    simulate_silently(Job.of(request, 3), 1)
    with Log(path) as log:
        assert log.config.llm.precision == kind
        assert all(text.endswith(kind) for text in log.descriptions)
    monkeypatch.setattr("asyndbt_mpi.jobs.precision.decide", lambda *_: pytest.fail("again"))
    assert not replay(path, load("demo", settings)).difference
    longer = *settings, "run.iterations=3"
    simulate_silently(Job.of(Request("demo", longer, str(path), False, False, True), 3), 1, True)
    with Log(path) as log:
        assert (log.committed, log.config.llm.precision) == (3, kind)
