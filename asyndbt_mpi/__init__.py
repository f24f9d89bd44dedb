"""Asynchronous distributed bilevel tuning of prompts over MPI (AsynDBT; Ma et al., 2026).

    import asyndbt_mpi as adbt

Everything in `__all__` is loaded on first use: the import itself neither starts MPI nor loads a
library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyndbt_mpi.algorithm.estimator import Estimator, FromScores, leave_one_out
    from asyndbt_mpi.api import (
        Result,
        RunError,
        State,
        iterate,
        predict,
        replay,
        run,
        simulate,
        tuned_prompt,
        verify,
    )
    from asyndbt_mpi.config import Config, ConfigurationError, load
    from asyndbt_mpi.llm.base import ModelError
    from asyndbt_mpi.log.errors import LogError
    from asyndbt_mpi.log.reader import Log
    from asyndbt_mpi.protocol.divergence import Diverged
    from asyndbt_mpi.protocol.messages import Shapes
    from asyndbt_mpi.task.function import LossFunction
    from asyndbt_mpi.task.tuned import TunedPrompt, read_prompt

__version__ = "0.1.0"

__all__ = [
    "Config", "ConfigurationError", "Diverged", "Estimator", "FromScores", "Log", "LogError",
    "LossFunction", "ModelError", "Result", "RunError", "Shapes", "State", "TunedPrompt", "iterate",
    "leave_one_out", "load", "predict", "read_prompt", "replay", "run", "simulate", "tuned_prompt",
    "verify",
]  # fmt: skip

_PLACES = {
    "algorithm.estimator": ("Estimator", "FromScores", "leave_one_out"),
    "api": (
        *("Result", "RunError", "State", "iterate", "predict", "replay", "run", "simulate"),
        *("tuned_prompt", "verify"),
    ),
    "config": ("Config", "ConfigurationError", "load"),
    "llm.base": ("ModelError",),
    "log.errors": ("LogError",),
    "log.reader": ("Log",),
    "protocol.divergence": ("Diverged",),
    "protocol.messages": ("Shapes",),
    "task.function": ("LossFunction",),
    "task.tuned": ("TunedPrompt", "read_prompt"),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_PLACE_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
