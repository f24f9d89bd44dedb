"""All ranks decide on one precision, or refuse the run together."""

from pathlib import Path
from typing import Any

import pytest

from asyndbt_mpi.commands import run
from asyndbt_mpi.commands.run import Refused
from asyndbt_mpi.jobs import precision
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.jobs.precision import Decision
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.transport.mpi import WORLD
from asyndbt_mpi.transport.together import Together

RANK = WORLD.Get_rank()
LAST = WORLD.Get_size() - 1


def decided(folder: Path, resuming: bool = False) -> str:
    settings = "llm.precision=auto", "llm.cache_folder="
    request = Request("demo", settings, str(folder / "run.h5"), False, False)
    job = run._with_precision(Job.of(request, 3), resuming, Together(WORLD, 60.0))
    return job.config.llm.precision


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fast everywhere, and near enough; the ranks that compare."""
    ranks: list[int] = []

    def compare(*_: Any) -> Decision:
        ranks.append(RANK)
        return Decision("bfloat16", "it is near")

    monkeypatch.setattr(precision, "why_slow", lambda *_: "")
    monkeypatch.setattr(precision, "compare", compare)
    return ranks


@pytest.mark.mpi(min_size=3)
def test_rank_1_compares_for_all(
    tmp_path: Path, compared: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert decided(tmp_path) == "bfloat16"
    assert compared == [1] * (RANK == 1)
    said = "llm.precision is bfloat16, as it is near"
    assert (said in capfd.readouterr().err) == (RANK == 0)


@pytest.mark.mpi(min_size=3)
def test_one_slow_worker_is_enough(
    tmp_path: Path,
    compared: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(precision, "why_slow", lambda *_: "it is slow" if RANK == LAST else "")
    assert decided(tmp_path) == "float32"
    assert compared == []
    assert ("it is slow" in capfd.readouterr().err) == (RANK == 0)


@pytest.mark.mpi(min_size=3)
def test_a_resumed_run_keeps_its_own(
    tmp_path: Path, compared: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "of_log", lambda job: "float16")
    assert decided(tmp_path, resuming=True) == "float16"
    assert compared == []


@pytest.mark.mpi(min_size=3)
def test_a_model_that_cannot_be_loaded_is_reported_once(
    tmp_path: Path, compared: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Decision:
        raise ModelError("no such model")

    monkeypatch.setattr(precision, "compare", fail)
    with pytest.raises(Refused) as caught:
        decided(tmp_path)
    assert caught.value.why == ("no such model" if RANK == 1 else None)
    assert caught.value.code == 2
