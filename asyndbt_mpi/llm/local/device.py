"""The device that a model runs on: which one, how it is told from others, how much of it is free.

Several processes may share a GPU. Each then keeps to its share of the memory, so that none can
starve the others.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from asyndbt_mpi.llm.base import ModelError

CONTEXT_BYTES = 2**29
"""Set aside for every process on a shared GPU: the driver's context and the loaded kernels, some
hundred MiB, which torch's limit does not count."""

SIGNS_OF_FULL_MEMORY = (
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "HIP error: out of memory",
    "BLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
)
"""In the messages of errors that have no type of their own.  Those of CUDA itself, cuBLAS and cuDNN
are seen when another process has taken what torch's allocator does not manage."""


def choose(name: str, local_rank: int) -> torch.device:
    """The device that ``llm.device = name`` means for a process.

    Parameters
    ----------
    name : str
        "auto": a GPU if torch sees one, else the CPU; "cuda": a GPU; "cuda:N": that one; "cpu".
    local_rank : int
        Number of this process among those of its node that load a model: they take the visible
        GPUs in turn. Where the launcher shows each process a GPU of its own, that is number 0.

    Raises
    ------
    ModelError
        The name is none of these, or there is no such GPU.
    """
    number = re.fullmatch(r"cuda:(\d+)", name, re.ASCII)
    if name not in ("auto", "cpu", "cuda") and not number:
        raise ModelError(f"llm.device = {name!r}: give auto, cpu, cuda or cuda:N")
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        if name == "auto":
            return torch.device("cpu")
        raise ModelError(f"llm.device = {name!r}: {_why_no_gpu()}; give auto or cpu")
    if number is None:
        return torch.device("cuda", local_rank % count)
    index = int(number[1])
    if index >= count:
        last = f" to cuda:{count - 1}" if count > 1 else ""
        raise ModelError(f"llm.device = {name!r}: there is only cuda:0{last}")
    return torch.device("cuda", index)


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "" if shown is None else f" with CUDA_VISIBLE_DEVICES = {shown!r}"
    return f"torch sees no GPU{hint}"


def identity(device: torch.device) -> str:
    """What tells a GPU from all others, as in ``nvidia-smi -L``: "GPU-..."; "" for the CPU.

    Of a slice of a GPU it is "MIG-...". A torch that does not know the UUID leaves the number by
    which the driver was told to show the device, which other nodes use, too.
    """
    if device.type != "cuda":
        return ""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    entry = shown[device.index].strip() if device.index < len(shown) else ""
    if entry.startswith("MIG-"):
        return entry  # the UUID below may be that of the whole GPU
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return f"GPU-{uuid}" if uuid else f"device {entry or device.index}"


def why_bfloat16_is_slow(device: torch.device) -> str:
    """Why this hardware computes bfloat16 no faster than float32, if it does; else ""."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return ""
        return f"{torch.cuda.get_device_name(device)} has no units for bfloat16"
    return "" if processor_has("bf16") else "this processor has no instructions for bfloat16"


def processor_has(kind: str) -> bool:
    """Whether the processor has instructions for numbers of a ``kind``: bf16, fp16."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return False  # an older torch, which cannot tell
    return any(able for name, able in torch.cpu.get_capabilities().items() if kind in name)


def describe(device: torch.device, sharing: int = 1) -> str:
    """One line: the device's name and identity, and how many workers share it; or the threads."""
    if device.type != "cuda":
        threads = torch.get_num_threads()
        return f"{device}, {threads} thread{'s' if threads > 1 else ''}"
    parts = [torch.cuda.get_device_name(device), identity(device)]
    if sharing > 1:
        parts.append(f"shared by {sharing} workers")
    return f"{device} ({', '.join(parts)})"


def bind(device: torch.device, sharing: int) -> None:
    """Make a GPU this process's only one, of whose memory it takes its share at the most."""
    if device.type != "cuda":
        return
    # Else a library that asks for no device in particular makes a context on the first GPU.
    torch.cuda.set_device(device)
    if sharing > 1:
        torch.cuda.set_per_process_memory_fraction(_share(device, sharing), device)


def _share(device: torch.device, sharing: int) -> float:
    """Part of a GPU's memory that torch may take in each of ``sharing`` processes."""
    context = CONTEXT_BYTES / torch.cuda.get_device_properties(device).total_memory
    # Half at least: on a small slice contexts would leave next to nothing.
    return max(1 / sharing - context, 0.5 / sharing)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether ``error`` says that memory is exhausted, so that less could still work."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(sign in str(error) for sign in SIGNS_OF_FULL_MEMORY)


@contextmanager
def memory_for(what: str, device: torch.device, sharing: int) -> Iterator[None]:
    """Turn exhausted memory into a `ModelError`: ``what`` does not fit, and what would help."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        place = "GPU" if device.type == "cuda" else "node"
        raise ModelError(
            f"{what} does not fit into the memory of {describe(device, sharing)}:"
            f" {_memory(device, sharing)}use a lower llm.precision, a smaller model or fewer"
            f" workers on a {place}"
        ) from error


def _memory(device: torch.device, sharing: int) -> str:
    if device.type != "cuda":
        return ""
    try:
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(device))
    except RuntimeError:
        return ""  # not even a context could be made
    own = ""
    if sharing > 1:
        own = f", of which this worker may take {total * _share(device, sharing):.1f}"
    return f"{free:.1f} of {total:.1f} GiB are free{own}; "
