"""What `llm.precision = "auto"` comes to: bfloat16 where it is fast and near enough, else float32.

It is decided once, before the log is opened, and then stands in the configuration like any other
value: in the log, in the names of the kept answers, and for every worker.
"""

import gc
from dataclasses import dataclass
from typing import Literal

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.assemble import Materials, Place, in_process
from asyndbt_mpi.config import Config
from asyndbt_mpi.jobs.job import Job
from asyndbt_mpi.jobs.resume import log_to_resume
from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.task.unquoted import unquoted

NEAR = 0.05
"""Nats by which the log-probabilities of labels may change, on average."""

ROWS = 16
"""Rows that are scored to see by how much they do, without demonstrations and with."""

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Decision:
    """The ``precision``, and ``why`` in words."""

    precision: Precision
    why: str

    def __str__(self) -> str:
        return f"llm.precision is {self.precision}, as {self.why}"

    def to_text(self) -> str:
        """For other ranks."""
        return f"{self.precision} {self.why}"

    @classmethod
    def of_text(cls, text: str) -> "Decision":
        """Inverse of `to_text`."""
        precision, _, why = text.partition(" ")
        return cls("bfloat16" if precision == "bfloat16" else "float32", why)


def is_open(config: Config) -> bool:
    """Whether the precision is still to be decided."""
    return config.llm.backend == "transformers" and config.llm.precision == "auto"


def of_log(job: Job) -> str:
    """What the log that ``job`` is to resume was made with; "" if there is none.

    Raises
    ------
    ConfigurationError
        It cannot be resumed.
    """
    log = log_to_resume(job)
    if log is None:
        return ""
    with log:
        return log.config.llm.precision


def why_slow(config: Config, local_rank: int) -> str:
    """Why bfloat16 is not fast on the device of this process's model; "" if it is.

    Raises
    ------
    ModelError
        There is no such device.
    """
    from asyndbt_mpi.llm.local.device import choose, why_bfloat16_is_slow

    return why_bfloat16_is_slow(choose(config.llm.device, local_rank))


def compare(config: Config, materials: Materials, place: Place) -> Decision:
    """Score prompts of worker 1 in both precisions; every rank could, with the same result.

    Raises
    ------
    ModelError
        The model cannot be found, loaded or used.
    """
    assert materials.template is not None
    labels, prompts = materials.template.labels, _prompts(materials)
    found: list[FloatArray] = []
    for precision in ("float32", "bfloat16"):
        model = in_process(decided(config, precision).llm, place)
        with unquoted():
            found.append(model.label_log_probabilities(prompts, labels).log_probabilities)
        del model
        gc.collect()  # the next one needs its memory
    change = float(np.abs(found[0] - found[1]).mean())
    said = f"changes log-probabilities of labels by {change:.3f} nats on average"
    if change <= NEAR:  # NaN is not
        return Decision("bfloat16", f"it is fast here, and {said}")
    return Decision("float32", f"bfloat16 {said}, more than {NEAR:g}")


def _prompts(materials: Materials) -> list[Prompt]:
    """Training rows of worker 1, without demonstrations and words, and with its first ones."""
    template, data = materials.template, materials.data
    assert template is not None
    assert data is not None
    held = data[1]
    words = materials.vocabulary[: materials.shapes.positions]
    rows = held.train[:ROWS]
    found = []
    for shown, fragment in (([], None), ([pool[0] for pool in held.pool], words)):
        context = template.context(shown, fragment)
        found += [Prompt(context, template.render(row, fragment)) for row in rows]
    return found


def decide(config: Config, materials: Materials, place: Place) -> Decision:
    """For all workers of this process.

    Raises
    ------
    ModelError
        As `compare`.
    """
    slow = why_slow(config, place.local_rank)
    return Decision("float32", slow) if slow else compare(config, materials, place)


def settled(config: Config, materials: Materials, place: Place) -> tuple[Config, Decision | None]:
    """``config`` with its precision decided by this process, and how if it was still open.

    Raises
    ------
    ModelError
        As `compare`.
    """
    if not is_open(config):
        return config, None
    decision = decide(config, materials, place)
    return decided(config, decision.precision), decision


def decided(config: Config, precision: str) -> Config:
    """``config``, with the ``precision``."""
    llm = config.llm.model_copy(update={"precision": precision})
    return config.model_copy(update={"llm": llm})
