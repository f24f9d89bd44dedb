"""The memory that a run needs, computed from its shapes before anything is allocated.

Only arrays whose size the configuration sets are counted. A run that passes may still be too large,
with its model and data; a run that is refused could not have worked.
"""

import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.inputs.files import size
from asyndbt_mpi.protocol.messages import Shapes
from asyndbt_mpi.task.synthetic import ROWS

NUMBER = 8
"""Bytes."""

LARGEST_MESSAGE = 2**31 - 1
"""Bytes that MPI can carry in one message."""

WORKERS = "the number of workers"


@dataclass(frozen=True, slots=True)
class Part:
    """``bytes`` taken by ``what``, proportional to the factors in ``of``."""

    what: str
    bytes: int
    of: tuple[str, ...]


def check_memory(config: Config, shapes: Shapes, workers: int, held: int = 1) -> None:
    """Refuse a run that this machine cannot hold: its server, and ``held`` of its R workers.

    Raises
    ------
    ConfigurationError
        The memory needed, the memory there is, and which key to lower.
    """
    parts = [*_of_server(config, shapes, workers), *_of_workers(config, shapes, held)]
    needed, there = sum(part.bytes for part in parts), machine_memory()
    if needed > there:
        most = max(parts, key=lambda part: part.bytes)
        key, value = _unusual(config, shapes, workers, most.of)
        raise ConfigurationError(
            f"{key} = {value}: the run needs {size(needed)} of memory, of which {most.what}"
            f" {size(most.bytes)}, and this machine has {size(there)}; lower {key}"
        )
    p, q = shapes.positions * shapes.words, shapes.classes * shapes.pool
    report = NUMBER * (p * (1 + 2 * config.algorithm.pools) + q + shapes.samples)
    if report > LARGEST_MESSAGE:
        key, value = _unusual(config, shapes, workers, (*WORDS, *DEMONSTRATIONS, SAMPLES[0]))
        raise ConfigurationError(
            f"{key} = {value}: a worker's report has {size(report)}, but a message can have at most"
            f" {size(LARGEST_MESSAGE)}; lower {key}"
        )
    tested = 0 if config.llm.is_function else config.task.test
    answers = NUMBER * tested * (1 + shapes.classes)
    if answers > LARGEST_MESSAGE:
        raise ConfigurationError(
            f"task.test = {tested}: the answers on so many rows have {size(answers)}, but a"
            f" message can have at most {size(LARGEST_MESSAGE)}; lower task.test"
        )


def _unusual(config: Config, shapes: Shapes, workers: int, names: Sequence[str]) -> tuple[str, int]:
    """The factor among ``names`` that most exceeds usual runs, and its value."""
    values = _values(config, shapes, workers)
    usual = _values(Config(), Shapes(4, 16, 2, 8, 8), 4)
    key = max(names, key=lambda name: values[name] / usual[name])
    return key, values[key]


def machine_memory() -> int:
    """Bytes of memory of this machine, or the limit of this process if it is lower."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    return there if allowed == resource.RLIM_INFINITY else min(there, allowed)


def _values(config: Config, shapes: Shapes, workers: int) -> Mapping[str, int]:
    return {
        WORKERS: workers,
        "prompt.fragment_length": shapes.positions,
        "prompt.vocabulary_size": shapes.words,
        "prompt.pool": shapes.pool,
        "task.labels": shapes.classes,
        "estimator.samples": config.estimator.samples,
        "algorithm.max_planes": config.algorithm.max_planes,
    }


WORDS = "prompt.fragment_length", "prompt.vocabulary_size"
DEMONSTRATIONS = "task.labels", "prompt.pool"
PLANES = *WORDS, "algorithm.max_planes"
SAMPLES = "estimator.samples", "prompt.fragment_length", "task.labels"


def _of_server(config: Config, shapes: Shapes, workers: int) -> list[Part]:
    p = NUMBER * shapes.positions * shapes.words
    q = NUMBER * shapes.classes * shapes.pool
    planes, pools = config.algorithm.max_planes, config.algorithm.pools
    coefficient = 1 if config.algorithm.lower_distance == "l1" else NUMBER
    plane = shapes.positions * shapes.words * coefficient
    return [
        # Including the scratch copy of the lower level, its multipliers, and the reports; and what
        # the workers know of words, with the effects that follow.
        Part("all workers' p at the server", (4 + 5 * pools) * workers * p, (WORKERS, *WORDS)),
        Part("all workers' q at the server", 3 * workers * q, (WORKERS, *DEMONSTRATIONS)),
        Part("the cutting planes", (workers + 1) * planes * plane, (WORKERS, *PLANES)),
    ]


def _of_workers(config: Config, shapes: Shapes, held: int) -> list[Part]:
    p, q = shapes.positions * shapes.words, shapes.classes * shapes.pool
    rows = shapes.positions + shapes.classes
    # The effects with their variances and last values used; or the moments of Adam.
    copies = 4 if config.estimator.name == "additive" else 1
    copies += 2 * (config.steps.optimizer == "adam")
    copies += 2 * config.algorithm.pools  # what the others know
    parts = [
        Part("the workers' p and what they learn about words", NUMBER * held * copies * p,
             (WORKERS, *WORDS)),
        Part("the workers' q and what they learn about demonstrations", NUMBER * held * copies * q,
             (WORKERS, *DEMONSTRATIONS)),
    ]  # fmt: skip
    samples = config.estimator.samples
    if config.estimator.name != "exact":
        parts.append(Part("the samples of an assignment", NUMBER * 2 * samples * rows, SAMPLES))
    if config.estimator.name == "additive":
        # Which samples have a word in common, and the resulting covariance.
        shared = samples**2 * (rows * (NUMBER + 1) + 3 * NUMBER)
        parts.append(Part("the covariance of an assignment's samples", shared, SAMPLES))
    if config.llm.backend == "synthetic":
        pairs = (shapes.positions - 1) * shapes.words**2
        cross = shapes.classes * shapes.words * shapes.pool
        parts += [
            Part("the synthetic task's rows", NUMBER * held * len(ROWS) * max(ROWS.values()),
                 (WORKERS,)),
            Part("the synthetic task's pairs of words", NUMBER * pairs, WORDS),
            # Once more to find the optimum.
            Part("the synthetic task's words and demonstrations", NUMBER * 2 * cross,
                 (*DEMONSTRATIONS, "prompt.vocabulary_size")),
        ]  # fmt: skip
    return parts
