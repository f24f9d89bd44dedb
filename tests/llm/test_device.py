"""The choice of a device, on machines that are only described."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from asyndbt_mpi.config import ConfigurationError, parse
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.local.device import (
    CONTEXT_BYTES,
    bind,
    choose,
    describe,
    identity,
    memory_for,
)

GIB = 2**30
NAME = "NVIDIA H100 80GB HBM3"
UUID = "41255406-c9af-f94b-4ebf-9d57ad1853da"


class Machine:
    """Stands for ``torch.cuda`` on a machine with so many visible GPUs of 80 GiB."""

    def __init__(self, patch: pytest.MonkeyPatch, count: int, **properties: Any) -> None:
        self.bound: list[object] = []
        self.fractions: list[float] = []
        given = {"uuid": UUID, "total_memory": 80 * GIB, **properties}
        for name, fake in {
            "is_available": lambda: count > 0,
            "device_count": lambda: count,
            "get_device_name": lambda device: NAME,
            "get_device_properties": lambda device: SimpleNamespace(**given),
            "set_device": self.bound.append,
            "set_per_process_memory_fraction": lambda part, device: self.fractions.append(part),
            "mem_get_info": lambda device: (3 * GIB // 2, 80 * GIB),
        }.items():
            patch.setattr(torch.cuda, name, fake)
        patch.setattr(torch.version, "cuda", "13.0")
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    return lambda count, **properties: Machine(monkeypatch, count, **properties)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_workers_of_a_node_take_its_gpus_in_turn(
    machine: Callable[..., Machine], name: str
) -> None:
    machine(4)
    assert [choose(name, rank).index for rank in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_of_the_process_alone_is_number_0(machine: Callable[..., Machine], name: str) -> None:
    machine(1)
    assert {choose(name, rank) for rank in range(8)} == {torch.device("cuda", 0)}


def test_what_is_named_is_taken(machine: Callable[..., Machine]) -> None:
    machine(4)
    assert choose("cuda:2", 1) == torch.device("cuda", 2)
    assert choose("cpu", 1) == torch.device("cpu")


def test_without_a_gpu_auto_is_the_cpu(machine: Callable[..., Machine]) -> None:
    machine(0)
    assert choose("auto", 3) == torch.device("cpu")


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [
        (4, "cuda:7", r"^llm.device = 'cuda:7': there is only cuda:0 to cuda:3$"),
        (1, "cuda:1", r"^llm.device = 'cuda:1': there is only cuda:0$"),
        (0, "cuda", r"^llm.device = 'cuda': torch sees no GPU; give auto or cpu$"),
        (0, "cuda:0", r"^llm.device = 'cuda:0': torch sees no GPU; give auto or cpu$"),
        (4, "gpu", r"^llm.device = 'gpu': give auto, cpu, cuda or cuda:N$"),
        (4, "cuda:-1", r"give auto, cpu, cuda or cuda:N$"),
        (4, "cuda:", r"give auto, cpu, cuda or cuda:N$"),
    ],
)
def test_what_cannot_be_had_is_an_error_of_one_line(
    machine: Callable[..., Machine], count: int, name: str, message: str
) -> None:
    machine(count)
    with pytest.raises(ModelError, match=message):
        choose(name, 0)


def test_the_error_names_what_hides_the_gpus(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ModelError, match="sees no GPU with CUDA_VISIBLE_DEVICES = ''; give"):
        choose("cuda", 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ModelError, match=r"torch [\w.+]+ is built without CUDA; give auto or cpu"):
        choose("cuda", 0)


def test_the_configuration_knows_the_names() -> None:
    for name in ("auto", "cpu", "cuda", "cuda:12"):
        assert parse({"llm": {"device": name}}, "test").llm.device == name
    with pytest.raises(ConfigurationError, match=r"llm.device = 'gpu:1': .*auto.cpu.cuda"):
        parse({"llm": {"device": "gpu:1"}}, "test")


@pytest.mark.parametrize(
    ("shown", "uuid", "expected"),
    [
        (None, UUID, f"GPU-{UUID}"),
        ("3,5", UUID, f"GPU-{UUID}"),
        ("MIG-a, MIG-b", UUID, "MIG-b"),
        (None, None, "device 1"),
        ("3,5", None, "device 5"),
        ("3", None, "device 1"),
    ],
)
def test_what_tells_a_gpu_from_others(
    machine: Callable[..., Machine],
    monkeypatch: pytest.MonkeyPatch,
    shown: str | None,
    uuid: str | None,
    expected: str,
) -> None:
    machine(2, uuid=uuid)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert identity(torch.device("cuda", 1)) == expected
    assert identity(torch.device("cpu")) == ""


def test_the_description_says_who_shares(machine: Callable[..., Machine]) -> None:
    machine(2)
    device = torch.device("cuda", 1)
    assert describe(device) == f"cuda:1 ({NAME}, GPU-{UUID})"
    assert describe(device, 2) == f"cuda:1 ({NAME}, GPU-{UUID}, shared by 2 workers)"
    assert "shared" not in describe(torch.device("cpu"), 0)


def test_workers_that_share_a_gpu_keep_to_their_parts(machine: Callable[..., Machine]) -> None:
    fake, device = machine(2), torch.device("cuda", 1)
    bind(device, 1)
    assert (fake.bound, fake.fractions) == ([device], [])
    bind(device, 4)
    assert fake.fractions == [(80 * GIB / 4 - CONTEXT_BYTES) / (80 * GIB)]
    bind(torch.device("cpu"), 4)
    assert fake.bound == [device] * 2
    small = machine(1, total_memory=GIB)
    bind(device, 4)
    assert small.fractions == [1 / 8]


def test_full_memory_is_told_with_what_is_free(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(1)
    device, full = torch.device("cuda", 0), torch.OutOfMemoryError("CUDA out of memory")
    told = rf"^model 'm' does not fit into the memory of cuda:0 \({NAME}, GPU-{UUID}"
    help_ = "use a lower llm.precision, a smaller model or fewer workers on a GPU$"
    with pytest.raises(ModelError, match=rf"{told}\): 1.5 of 80.0 GiB are free; {help_}"):
        fill(device, 1, full)
    with pytest.raises(ModelError, match=rf"2 workers\): .*, of which this .* 39.5; {help_}"):
        fill(device, 2, full)

    def no_context(_: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", no_context)
    with pytest.raises(ModelError, match=rf"{told}\): {help_}"):
        fill(device, 1, full)
    with pytest.raises(RuntimeError, match=r"^another$"):
        fill(device, 1, RuntimeError("another"))


def fill(device: torch.device, sharing: int, error: RuntimeError) -> None:
    with memory_for("model 'm'", device, sharing):
        raise error
