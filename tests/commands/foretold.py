"""Estimates of runs whose tokens are words, so that they can be counted by hand."""

from asyndbt_mpi.assemble import prepare
from asyndbt_mpi.commands.estimate import Estimate, estimate
from asyndbt_mpi.config import load

OPENAI = ("llm.backend=openai", "llm.model=none", "llm.input_price=2", "llm.output_price=3")


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def foretold(
    source: str, *settings: str, workers: int = 3, seconds_per_call: float | None = None
) -> Estimate:
    if source == "reviews":
        settings = "task.calibration=none", *settings
    config = load(source, settings)
    return estimate(config, prepare(config, workers), workers, words, seconds_per_call)
