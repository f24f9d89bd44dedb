"""GPUs that are missing, shared, idle or wasted: planted in facts made by hand."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from asyndbt_mpi.doctor import gpus
from asyndbt_mpi.doctor.facts import Facts, Gpus
from asyndbt_mpi.doctor.findings import Level
from asyndbt_mpi.doctor.gpu_checks import check_gpus
from asyndbt_mpi.inputs.sections import Llm
from tests.doctor.hand import gpu, job, only, process

OK, WARNING, PROBLEM = Level
AUTO = Llm()
SERVER = Gpus()


def having(*each: Gpus, nodes: int = 1) -> list[Facts]:
    """A job whose ranks have these."""
    return [
        replace(facts, gpus=own) for facts, own in zip(job(len(each), nodes), each, strict=True)
    ]


def test_healthy_jobs_are_ok() -> None:
    facts = having(SERVER, gpu("GPU-a"), gpu("GPU-b"))
    only(check_gpus(facts, AUTO), OK, "2 workers each on its own GPU, of 80 GiB")
    only(check_gpus(job(3), AUTO), OK, "the model computes on the CPU")
    only(check_gpus(job(3), Llm(backend="synthetic")), OK, "none needed")
    # All ranks of a node see all of its GPUs, the server, too.
    both = {"held": ("GPU-a", "GPU-b"), "seen": ("GPU-a", "GPU-b")}
    facts = having(Gpus(held=both["held"]), gpu("GPU-a", **both), gpu("GPU-b", **both))
    only(check_gpus(facts, AUTO), OK)


def test_the_same_number_on_two_nodes_is_no_clash() -> None:
    facts = having(SERVER, gpu("GPU-a"), gpu("GPU-b"), nodes=2)
    only(check_gpus(facts, AUTO), OK)


def test_a_worker_without_a_gpu_beside_others() -> None:
    facts = having(SERVER, gpu("GPU-a"), Gpus(torch="2.13.0", cuda="12.8"), nodes=2)
    only(check_gpus(facts, AUTO), WARNING, "1 worker on GPUs", "rank 2 computes on the CPU")


def test_workers_that_share_a_gpu() -> None:
    facts = having(SERVER, gpu("GPU-a"), gpu("GPU-a"), gpu("GPU-a"))
    only(
        check_gpus(facts, AUTO), WARNING, "ranks 1-3 on n1 share GPU-a", "80 GiB",
        "llm.max_tokens_per_batch",
    )  # fmt: skip


def test_gpus_that_no_worker_uses() -> None:
    facts = having(SERVER, gpu("GPU-a", "GPU-a", "GPU-b", "GPU-c"))
    only(check_gpus(facts, AUTO), WARNING, "2 of 3 on n1 would be used by no worker")
    # One process says nothing of what others would use.
    only(check_gpus([replace(Facts(process(0, 1)), gpus=facts[1].gpus)], AUTO), OK)


def test_a_gpu_that_only_the_server_was_given() -> None:
    facts = having(Gpus(held=("GPU-a",)), gpu("GPU-b"), gpu("GPU-c"))
    only(
        check_gpus(facts, AUTO), WARNING, "rank 0 on n1 has 1 GPU that no worker", "--gpus-per-node"
    )
    facts = having(Gpus(held=("GPU-a",)), gpu("GPU-b"), nodes=2)
    only(check_gpus(facts, AUTO), WARNING, "rank 0 on n1")


def test_gpus_promised_to_a_torch_without_cuda() -> None:
    blind = Gpus(asked="SLURM_STEP_GPUS=0,1", torch="2.13.0+cpu")
    only(
        check_gpus(having(SERVER, blind, blind), AUTO), PROBLEM,
        "promised to ranks 1, 2 (SLURM_STEP_GPUS=0,1)", "2.13.0+cpu is built without CUDA",
    )  # fmt: skip
    only(
        check_gpus(having(SERVER, replace(blind, asked="", on_node=True)), AUTO), WARNING, "rank 1"
    )
    only(check_gpus(having(SERVER, blind), Llm(device="cpu")), WARNING, "llm.device = 'cpu'")


def test_gpus_promised_where_the_driver_gives_none() -> None:
    blind = Gpus(asked="CUDA_VISIBLE_DEVICES=7", torch="2.13.0", cuda="12.8")
    only(check_gpus(having(SERVER, blind), AUTO), PROBLEM, "built for 12.8", "nvidia-smi")


def test_a_device_that_is_not_there() -> None:
    none = Gpus(wrong="torch sees 0 GPUs", torch="2.13.0+cpu")
    only(
        check_gpus(having(SERVER, none), Llm(device="cuda")),
        PROBLEM,
        "rank 1",
        "with CUDA instead of 2.13.0+cpu",
    )
    few = gpu("", "GPU-a", wrong="llm.device = 'cuda:3': there is only cuda:0")
    found = check_gpus(having(SERVER, few), Llm(device="cuda:3"))
    assert "rank 1: llm.device = 'cuda:3': there is only cuda:0" in str(found[0])
    assert found[0].level is PROBLEM


def test_gpus_that_the_backend_does_not_use() -> None:
    facts = having(SERVER, Gpus(asked="SLURM_JOB_GPUS=0"))
    only(check_gpus(facts, Llm(backend="openai")), WARNING, "rank 1", "llm.backend = 'openai'")


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, ""),
        ({"CUDA_VISIBLE_DEVICES": "1"}, "CUDA_VISIBLE_DEVICES=1"),
        ({"SLURM_JOB_GPUS": "0,1"}, "SLURM_JOB_GPUS=0,1"),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_GPUS": "0,1"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ""),
    ],
)
def test_what_promises_gpus(environment: dict[str, str], asked: str) -> None:
    assert gpus.asked_for(environment) == asked


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ("GPU-aa", "GPU-bb")),
        ("", ()),
        ("1", ("GPU-bb",)),
        ("1,0", ("GPU-bb", "GPU-aa")),
        ("0,5,1", ("GPU-aa",)),
        ("GPU-b", ("GPU-bb",)),
        ("MIG-1/2", ("MIG-1/2",)),
    ],
)
def test_what_of_the_nodes_gpus_a_process_was_given(
    visible: str | None, expected: tuple[str, ...]
) -> None:
    assert gpus.given(["GPU-aa", "GPU-bb"], visible) == expected


def test_the_drivers_tool_is_asked_and_rank_0_needs_no_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / gpus.TOOL
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-12-34)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    found = gpus.look(AUTO, process(0, 2))
    assert (found.asked, found.held, found.torch) == ("CUDA_VISIBLE_DEVICES=0", ("GPU-12-34",), "")


def test_what_a_worker_sees_and_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def properties(device) -> SimpleNamespace:
        return SimpleNamespace(uuid=f"12-{device.index}", total_memory=2**30)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", properties)
    found = gpus.look(AUTO, process(2, 4))
    assert found.seen == ("GPU-12-0", "GPU-12-1")
    assert (found.taken, found.memory, found.wrong) == ("GPU-12-1", 2**30, "")
    assert gpus.look(Llm(device="cuda:7"), process(2, 4)).wrong.endswith(
        "there is only cuda:0 to cuda:1"
    )
    assert gpus.look(Llm(device="cpu"), process(2, 4)).taken == ""
