"""A whole run over MPI with a language model in the workers."""

from pathlib import Path

import pytest
from transformers import LlamaConfig

from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from tests.llm.tiny import SMALL, save
from tests.llm.two_workers import run


def test_on_the_cpu_and_the_server_does_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    model = save(tmp_path / "model", LlamaConfig(**SMALL))
    log, with_torch, said = run(tmp_path, model)
    assert with_torch == {1, 2}
    assert verify(log).violations == []
    assert "warning" not in said
    with Log(log) as read:
        assert (read.status, read.committed) == ("finished", 3)
        assert all(text.endswith(", cpu, 1 thread, float32") for text in read.descriptions)
