"""Tests that need a CUDA device; without one they are skipped, and that is said."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from asyndbt_mpi.llm.transformers import TransformersModel
from tests.llm.tiny import SMALL, save

NO_GPU = f"no GPU here: torch {torch.__version__} sees no CUDA device"


@pytest.fixture(scope="session", autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip(NO_GPU)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not torch.cuda.is_available():
        terminalreporter.write_line(f"{NO_GPU}; nothing was tested on one.")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), LlamaConfig(**SMALL))


@pytest.fixture
def load(folder: Path) -> Callable[..., TransformersModel]:
    return lambda device="cuda", **options: TransformersModel(str(folder), device=device, **options)


@pytest.fixture
def allow() -> Iterator[Callable[[int], None]]:
    """Lets this process take so many bytes more of the GPU's memory than it has, and no more."""

    def limit(more: int) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        allowed = torch.cuda.memory_reserved() + more
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()
