"""A Slurm of several nodes on this one machine, with daemons and jobs of its own."""

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
SECONDS = 90.0
"""After which what is waited for counts as not happening."""

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
TmpFS={folder}/tmp.%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs={cores} Gres=gpu:{gpus}
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=INFINITE State=UP
"""


@dataclass
class Cluster:
    """Nodes n1, n2, ... of so many cores and (pretended) GPUs, below ``folder``."""

    folder: Path
    nodes: int
    cores: int
    gpus: int

    def __post_init__(self) -> None:
        self.names = [f"n{number}" for number in range(1, self.nodes + 1)]
        first = _free_ports(self.nodes + 1)
        # What a user's shell would have, but for what a test as root needs of Open MPI.
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM", "PRTE_MCA", "OMPI_MCA", "ASYNDBT"))
        } | {
            "PATH": PATH,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PRTE_ALLOW_RUN_AS_ROOT": "1",
            "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_btl": "^ofi",
            "ASYNDBT_VENV": sys.prefix,
            "PYTHONPATH": str(ROOT),
        }
        for place in (
            "state",
            *(f"{kind}.{name}" for name in self.names for kind in ("spool", "tmp")),
        ):
            (self.folder / place).mkdir(parents=True)
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                folder=self.folder, user=getpass.getuser(), host=socket.gethostname().split(".")[0],
                port=first, ports=f"{first + 1}-{first + self.nodes}", gpus=self.gpus,
                nodes=f"n[1-{self.nodes}]", cores=self.cores,
            )
        )  # fmt: skip
        for number in range(self.gpus):  # any device will do: Slurm only counts them
            (self.folder / f"gpu{number}").symlink_to(os.devnull)
        (self.folder / "gres.conf").write_text(
            f"NodeName=n[1-{self.nodes}] Name=gpu File={self.folder}/gpu[0-{self.gpus - 1}]\n"
        )

    def up(self) -> None:
        """Start the daemons, and wait until every node is idle."""
        key, munge = self.folder / "munge.key", self.folder / "munge"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self.call(
            "munged", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket",
            f"--pid-file={munge}.pid", f"--log-file={munge}.log", f"--seed-file={munge}.seed",
        )  # fmt: skip
        self.call("slurmctld")
        for name in self.names:
            self.call("slurmd", "-N", name)
        self.until_nodes("idle")

    def down(self) -> None:
        """End all jobs and daemons."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.call("scancel", f"--user={getpass.getuser()}")
            wait_for(lambda: not self.call("squeue", "--noheader"), "the jobs' end")
        for file in (*self.folder.glob("slurmd.*.pid"), *self.folder.glob("*.pid")):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.kill(int(file.read_text()), signal.SIGTERM)

    def call(self, *command: str, folder: Path | None = None, **variables: str) -> str:
        """The output of a command of Slurm, or of the package."""
        result = subprocess.run(
            command, cwd=folder or self.folder, env=self.environment | variables, text=True,
            capture_output=True, timeout=SECONDS,
        )  # fmt: skip
        if result.returncode:
            print(result.stdout, result.stderr, sep="\n")
            result.check_returncode()
        return result.stdout.strip()

    def until_nodes(self, state: str, *names: str) -> None:
        """Wait until the nodes named, or all, are in a state."""
        what = f"--nodes={','.join(names or self.names)}"
        wait_for(
            lambda: set(
                self.call("sinfo", "--noheader", "--Node", "--format=%t", what).split()
            ) == {state},
            f"{names or 'all nodes'} {state}",
        )  # fmt: skip

    def lose(self, name: str, job: "Job") -> None:
        """Let a node vanish, with all that ``job`` has running there."""
        os.kill(int((self.folder / f"slurmd.{name}.pid").read_text()), signal.SIGKILL)
        self.kill(job, f"SLURMD_NODENAME={name}")

    def kill(self, job: "Job", variable: str) -> None:
        """Kill the processes of ``job`` in whose environment is NAME=VALUE."""
        # Jobs of other clusters on this machine have the same numbers.
        configuration = self.environment["SLURM_CONF"]
        wanted = {variable, f"SLURM_JOB_ID={job.number}", f"SLURM_CONF={configuration}"}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted <= set((process / "environ").read_text().split("\0")):
                    os.kill(int(process.name), signal.SIGKILL)

    def submit(self, folder: Path, *words: str, **variables: str) -> "Job":
        """Submit options, script and arguments from ``folder``, which then has slurm/."""
        if not (folder / "slurm").exists():
            (folder / "slurm").symlink_to(ROOT / "slurm")
        number = self.call("sbatch", "--parsable", *words, folder=folder, **variables)
        return Job(self, folder, number)


@dataclass
class Job:
    """A job, or an element of an array; it was submitted from ``folder``."""

    cluster: Cluster
    folder: Path
    number: str

    def shown(self, name: str) -> str:
        """What Slurm says of it."""
        line = self.cluster.call("scontrol", "--oneliner", "show", "job", self.number)
        found = dict(word.split("=", 1) for word in line.split() if "=" in word)
        return found[name]

    @property
    def output(self) -> str:
        """All that it has written, as lines."""
        names = (f"*-{self.number}.log", f"*-{self.number}_*.log", f"slurm-{self.number}.out")
        files = [file for name in names for file in self.folder.glob(name)]
        return "".join(file.read_text().replace("\r", "\n") for file in files)

    @property
    def nodes(self) -> list[str]:
        """The nodes that it has, or had at last."""
        return self.cluster.call("scontrol", "show", "hostnames", self.shown("NodeList")).split()

    @property
    def at_work(self) -> bool:
        """Whether anything of it may still run."""
        return bool(self.cluster.call("squeue", "--noheader", f"--jobs={self.number}"))

    def until(self, *states: str, seconds: float = SECONDS) -> str:
        """Wait for one of the states, and say which."""
        wait_for(
            lambda: self.shown("JobState") in states,
            lambda: f"{states}: {self.shown('JobState')}\n{self.output}",
            seconds,
        )
        return self.shown("JobState")

    def until_done(self, seconds: float = SECONDS) -> None:
        """Wait for its end, which must be a good one."""
        state = self.until("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL",
                           seconds=seconds)  # fmt: skip
        assert state == "COMPLETED", f"{state}: {self.output}"

    def start_again(self) -> None:
        """Spare a requeued job Slurm's two minutes of patience."""
        self.until("PENDING")
        try:
            # Not now: Slurm revokes what is allowed to a job by the second.
            self.cluster.call("scontrol", "update", f"JobId={self.number}", "StartTime=now+2")
        except subprocess.CalledProcessError:
            if self.shown("JobState") == "PENDING":  # else it has started by itself
                raise


def wait_for(
    condition: Callable[[], object], what: str | Callable[[], str], seconds: float = SECONDS
) -> None:
    """Wait until ``condition`` holds; an error that says ``what`` if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        said = what if isinstance(what, str) else what()
        assert time.monotonic() < end, f"after {seconds:.0f} s still not {said}"
        time.sleep(0.1)


def missing() -> list[str]:
    """What has to be installed before a cluster can be started."""
    return [command for command in NEEDED if shutil.which(command, path=PATH) is None]


def _free_ports(count: int) -> int:
    """The first of so many neighbouring ports that nobody listens at."""
    # At random, for another cluster may be looking for its own; below those given to clients.
    starts = list(range(16000, 32000, 16))
    random.shuffle(starts)
    for first in starts:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no ports are free")
