"""Memory of the server over a long run with planes added and dropped all the time.

Example: python benchmarks/memory.py --iterations 20000

Prints the private memory of rank 0 along the way; it should hardly grow with the iterations.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

from machine import describe

from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log

WORKERS = 4


def server_process(launcher: int) -> int | None:
    """Process id of rank 0 among the descendants of ``launcher``."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"PMIX_RANK=0" in environment and b"asyndbt" in command and parent == launcher:
            return int(folder.name)
    return None


def resident(process: int) -> float:
    """Resident memory in MiB, without shared libraries' file pages."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no RssAnon in /proc/PID/status")


def committed(path: Path) -> int:
    try:
        with Log(path) as log:
            return log.committed
    except LogError:
        return 0  # not there yet, or in the middle of being created


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=20_000)
    iterations = parser.parse_args().iterations
    print(describe())
    print("iterations   resident MiB of the server")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.h5"
        command = ["mpiexec", "-n", str(WORKERS + 1), "asyndbt", "run", "synthetic"]
        command += ["--output", str(path)]
        settings = {
            "run.iterations": iterations,
            "algorithm.plane_until": iterations,
            "algorithm.plane_period": 5,
            "algorithm.lower_gradient": "black_box",
            "algorithm.lower_participation": "quorum",
            "algorithm.tolerance": 0.0,
            "prompt.fragment_length": 22,
        }
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as job:
            server, due = None, iterations // 20
            while job.poll() is None:
                server = server or server_process(job.pid)
                if server and committed(path) >= due and os.path.exists(f"/proc/{server}"):
                    print(f"{due:10}   {resident(server):8.1f}", flush=True)
                    due += iterations // 10
                time.sleep(0.2)
        if job.returncode:
            raise SystemExit(f"the run ended with {job.returncode}")
        with Log(path) as log:
            planes = len(log["plane/id"])
            print(f"planes made {planes}, at once at most {log.config.algorithm.max_planes};"
                  f" log {path.stat().st_size / 2**20:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
