"""Which of torch's devices a worker computes on, and which piece of hardware that is."""

import torch


def choose(name: str, local_rank: int) -> torch.device:
    """The device that ``name`` (llm.device) stands for, of a worker's number on its node.

    Raises
    ------
    ValueError
        There is none.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", local_rank % count) if count else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError("give auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"torch sees {count} GPU{'s' * (count != 1)}")
    return device


def identity(device: torch.device) -> str:
    """The GPU's UUID, like "GPU-..."; "" of the CPU."""
    if device.type != "cuda":
        return ""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
