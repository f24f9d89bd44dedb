"""What one rank knows about itself and its node, sent to rank 0 as JSON."""

from dataclasses import dataclass, field

from pydantic import TypeAdapter

from asyndbt_mpi.doctor.findings import Finding
from asyndbt_mpi.transport.launcher import Launcher

SERVER = 0


@dataclass(frozen=True, slots=True)
class Process:
    """A rank as MPI and its launcher see it.

    Attributes
    ----------
    node : identifies the node, even if several have the same ``host`` name
    local_rank : number among the workers of the node
    library : MPI's name and version; "" if none can be loaded, for the reason ``why_none``
    survives_deaths : user-level failure mitigation is on
    versions : of Python and of packages, by name
    """

    rank: int
    size: int
    host: str
    node: str
    local_rank: int
    launcher: Launcher
    library: str
    survives_deaths: bool
    versions: dict[str, str]
    why_none: str = ""

    @property
    def works(self) -> bool:
        """Whether it is a worker, or alone and checks what a worker would need."""
        return self.rank != SERVER or self.size == 1


@dataclass(frozen=True, slots=True)
class Cores:
    """Cores of the node, and which of them the process may run on."""

    number: int
    allowed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs by their UUIDs.

    Attributes
    ----------
    asked : the variable that promises one to the process, as NAME=VALUE; "" if there is none
    on_node : the node has one
    held : those that the process was given, as the driver's own tool lists them
    seen : those that torch sees; rank 0 never looks
    taken : the one that the worker would compute on; "" on the CPU
    memory : of that GPU, in bytes
    wrong : why there is no such device
    torch, cuda : versions of torch, and of the CUDA (or ROCm) that it is built for, "" if none
    """

    asked: str = ""
    on_node: bool = False
    held: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    taken: str = ""
    memory: int = 0
    wrong: str = ""
    torch: str = ""
    cuda: str = ""


@dataclass(frozen=True, slots=True)
class Shared:
    """Whether the rank sees rank 0's file in the output folder, and its lock."""

    sees_file: bool
    sees_lock: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that one rank reports.

    Attributes
    ----------
    digests : of what every rank reads for itself, by what it is
    findings : what the rank could judge by itself
    """

    process: Process
    cores: Cores | None = None
    gpus: Gpus | None = None
    shared: Shared | None = None
    digests: dict[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    @property
    def rank(self) -> int:
        """Number of the rank."""
        return self.process.rank

    @property
    def works(self) -> bool:
        """See `Process.works`."""
        return self.process.works

    def to_json(self) -> str:
        """Inverse of `from_json`."""
        return _ADAPTER.dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> "Facts":
        """The facts of another rank."""
        return _ADAPTER.validate_json(text)


_ADAPTER = TypeAdapter(Facts)
