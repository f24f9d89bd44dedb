"""One line about the machine, for the head of every benchmark's output."""

import os
import platform
from pathlib import Path


def describe() -> str:
    """Processor, cores that may be used, and memory."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    name = names[0] if names else platform.machine()
    return f"{name}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}"
