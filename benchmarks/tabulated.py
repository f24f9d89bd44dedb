"""A real language model as a table: every prompt of a small task, scored once.

Two positions, four words, four demonstrations of each class and eight queries: 256 prompts. With
the table a seed costs no calls to the model, and the expected loss is exact, by enumeration.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.assemble import Place, language_model, prepare, workers_with_black_box
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.blackbox import Answer, AnyQuery, DataSizes, Query
from asyndbt_mpi.protocol.messages import Split

CHUNK = 16
"""Prompts that the model is asked for at once."""


class Tabulated:
    """The black box of ``workers`` that all hold the same data: a table (N, N, V, V) of losses.

    Every prompt is scored on all ``rows`` training queries. ``least`` is the least expected loss,
    that of the best prompt, as the expectation is linear in each row of p and q.
    """

    def __init__(self, table: FloatArray, rows: int, workers: Sequence[int]) -> None:
        self.table = table
        self.rows = rows
        self.least = float(table.min())
        held = dict.fromkeys(Split, rows)
        self.data_sizes = {worker: DataSizes(np.array(table.shape[2:]), held) for worker in workers}
        self.descriptions = dict.fromkeys(workers, "tabulated")
        self.digests = dict.fromkeys(workers, "")

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        """Look the prompts up."""
        answers = []
        for query in queries:
            assert isinstance(query, Query)
            losses = self.table[(*query.words.T, *query.demonstrations.T)]
            calls = len(losses) * len(query.rows)
            nothing = np.full(len(losses), np.nan)
            answers.append(Answer(losses, nothing, calls, 0, prompts=calls))
        return answers

    def expected_loss(self, p: FloatArray, q: FloatArray) -> float:
        """Mean over the workers of E[loss] under p (W, 2, N), q (W, 2, V)."""
        factors = p[:, 0], p[:, 1], q[:, 0], q[:, 1]
        losses: FloatArray = np.einsum("ijkl,wi,wj,wk,wl->w", self.table, *factors, optimize=True)
        return float(losses.mean())


def tabulate(config: Config, path: Path) -> FloatArray:
    """The table of the first worker's prompts, from ``path`` if it is there, or else to it."""
    if path.exists():
        table: FloatArray = np.load(path)
        return table
    materials = prepare(config, 1)
    model = language_model(config, Place(0, 2), None)
    _, box = workers_with_black_box(config, materials, [1], model)
    shapes = materials.shapes
    sizes = [shapes.words] * shapes.positions + [shapes.pool] * shapes.classes
    prompts = np.array(list(itertools.product(*map(range, sizes))))
    rows = np.arange(box.data_sizes[1].rows[Split.TRAIN])
    losses = []
    for start in range(0, len(prompts), CHUNK):
        words, shown = np.split(prompts[start : start + CHUNK], [shapes.positions], axis=1)
        [answer] = box.answer([Query(1, Split.TRAIN, rows, words, shown)])
        losses.append(answer.losses)
        print(f"scored {start + len(words):,} of {len(prompts):,} prompts", end="\r", flush=True)
    table = np.concatenate(losses).reshape(sizes)
    np.save(path, table)
    return table
