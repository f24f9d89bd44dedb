"""A whole run under the virtual clock, for tests of what reads logs."""

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from asyndbt_mpi.assemble import prepare, workers_with_black_box
from asyndbt_mpi.config import load, parse
from asyndbt_mpi.llm.base import Prompt, Scores, Written
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.messages import Shapes
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.task.synthetic import Synthetic
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.virtual import VirtualCluster
from tests.helpers import OPEN_MPI, ROOT

# A machine may be busy: how long an example takes says nothing.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# For every process that a test starts, wherever it runs.
os.environ.update(OPEN_MPI)
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)

SHAPES = Shapes(positions=4, words=6, classes=2, pool=3, samples=8)


@pytest.fixture
def virtual_run(tmp_path: Path) -> Callable[..., Path]:
    """Runs a configuration, given by its tables, on the synthetic black box; the log's path."""

    def run(workers: int = 3, name: str = "run", **tables: Any) -> Path:
        tables.setdefault("delay", {"model": "lognormal", "mean": 1.0})
        tables.setdefault("algorithm", {"active_workers": 2, "max_delay": 5})
        tables.setdefault("llm", {"backend": "synthetic"})
        prompt = {"fragment_length": 4, "vocabulary_size": 6, "pool": 3}
        config = parse({"steps": {"optimizer": "sgd"}, "prompt": prompt, **tables}, "test")
        server = Server(config, SHAPES, workers)
        everyone = range(1, workers + 1)
        box = Synthetic(config.run.seed, SHAPES, everyone, 0.2)
        delays = {v: Delays(config.delay, config.run.seed, v, workers) for v in everyone}
        cluster = VirtualCluster(server, Workers(config, SHAPES, box.data_sizes), box, delays)
        path = tmp_path / f"{name}.h5"
        words = [f"word{j}" for j in range(SHAPES.words)]
        with Writer(path, config, SHAPES, workers, words, "virtual", server.algorithm.z) as writer:
            cluster.run(writer.write_all)
        return path

    return run


class Opinionated:
    """A language model whose scores follow from the prompt's text alone."""

    description, digest, at_once = "opinionated", "0f", None

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        texts = [f"{prompt.context}{prompt.query}".encode() for prompt in prompts]
        odds = [np.random.default_rng(zlib.crc32(text)).random(len(labels)) for text in texts]
        scores = np.log(np.array(odds) / np.sum(odds, axis=1, keepdims=True))
        return Scores(scores, len(prompts), len(prompts))

    def write(self, prompts: Sequence[str], most_tokens: int) -> Written:
        words = [
            ("positive", "negative", "hard to tell")[zlib.crc32(p.encode()) % 3] for p in prompts
        ]
        texts = [f"Let me see. The final answer is {word}." for word in words]
        sizes, count = [len(text) for text in texts], len(prompts)
        return Written(texts, sizes, [False] * count, count, count, sum(sizes))

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        return prompts

    def longest(self, text: str) -> int:
        return len(text)


@pytest.fixture
def demo_run(tmp_path: Path) -> Path:
    """The log of a short run of the demo, by a model that takes no time."""
    config = load("demo", ["run.iterations=8", "run.evaluate_every=2", "task.test=40"])
    materials, everyone = prepare(config, 3), [1, 2, 3]
    workers, box = workers_with_black_box(config, materials, everyone, Opinionated())
    server = Server(config, materials.shapes, 3)
    delays = {v: Delays(config.delay, config.run.seed, v, 3) for v in everyone}
    path, words = tmp_path / "demo.h5", materials.vocabulary
    with Writer(path, config, materials.shapes, 3, words, "virtual", server.algorithm.z) as writer:
        VirtualCluster(server, workers, box, delays).run(writer.write_all)
    return path
