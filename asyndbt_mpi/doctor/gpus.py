"""GPUs: which of them each rank was given, and which one its worker would use.

Rank 0 needs none and touches none: the driver's own tool tells what it was given.
"""

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from asyndbt_mpi.doctor.facts import Gpus, Process
from asyndbt_mpi.inputs.sections import Llm
from asyndbt_mpi.llm.base import ModelError

ASKING = ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "ROCR_VISIBLE_DEVICES")
"""Variables in which a batch system or a user promises GPUs to a process."""
NOTHING = ("", "-1", "NoDevFiles", "void", "none")

TOOL = "nvidia-smi"
TOOL_SECONDS = 20.0


def look(llm: Llm, process: Process) -> Gpus:
    """Which of its node's GPUs this rank has, and would use."""
    found = Gpus(
        asked=asked_for(os.environ),
        on_node=Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists(),
        held=given(_listed(), os.environ.get("CUDA_VISIBLE_DEVICES")),
    )
    if llm.backend != "transformers" or not process.works:
        return found
    with warnings.catch_warnings():
        # From a mismatched driver, which the findings report.
        warnings.simplefilter("ignore")
        return _as_torch_sees_it(found, llm.device, process.local_rank)


def _as_torch_sees_it(found: Gpus, name: str, local_rank: int) -> Gpus:
    import torch

    from asyndbt_mpi.llm.local.device import choose, identity

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = replace(
        found,
        seen=tuple(identity(torch.device("cuda", number)) for number in range(count)),
        torch=torch.__version__,
        cuda=torch.version.cuda or torch.version.hip or "",
    )
    try:
        device = choose(name, local_rank)
    except ModelError as error:
        return replace(found, wrong=str(error))
    if device.type != "cuda":
        return found
    memory = torch.cuda.get_device_properties(device).total_memory
    return replace(found, taken=identity(device), memory=memory)


def asked_for(environment: Mapping[str, str]) -> str:
    """What promises GPUs to the process, as NAME=VALUE; "" if nothing does."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in NOTHING:
        return ""  # hidden on purpose, whatever the batch system granted
    for name in ASKING:
        if environment.get(name, "").strip() not in NOTHING:
            return f"{name}={environment[name]}"
    return ""


def _listed() -> list[str]:
    """UUIDs of the GPUs that the driver lets this process use, whatever its environment says."""
    tool = shutil.which(TOOL)
    if tool is None:
        return []
    try:
        answer = subprocess.run(
            [tool, "-L"], capture_output=True, text=True, timeout=TOOL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU \d+:.*\(UUID: (\S+)\)", answer.stdout, re.MULTILINE)


def given(listed: list[str], visible: str | None) -> tuple[str, ...]:
    """The GPUs among ``listed`` that CUDA_VISIBLE_DEVICES = ``visible`` leaves.

    A name that matches none ends the list, as in CUDA; a part of a GPU keeps its own name.
    """
    if visible is None:
        return tuple(listed)
    chosen: list[str] = []
    for name in (part.strip() for part in visible.split(",")):
        if name.startswith("MIG-"):
            chosen.append(name)
        elif name.isdecimal() and int(name) < len(listed):
            chosen.append(listed[int(name)])
        elif fitting := [each for each in listed if name and each.startswith(name)]:
            chosen.append(fitting[0])
        else:
            break
    return tuple(chosen)
