"""What tuning competes with: random prompts, and the best of them by training and validation rows.

Every worker searches alone, on rows of its own. A prompt is M words and one demonstration of each
class, as indices.
"""

from collections.abc import Iterator

import numpy as np

from asyndbt_mpi.baselines.trial import Chosen
from asyndbt_mpi.inputs.sections import Calibration
from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import Shapes, Split
from asyndbt_mpi.task.prompts import PromptBlackBox


def random_prompts(shapes: Shapes, seed: int, worker: int) -> Iterator[Chosen]:
    """Words and demonstrations, all equally likely; always the same ones."""
    generator = np.random.default_rng([seed, worker])
    while True:
        words = generator.integers(shapes.words, size=shapes.positions)
        yield words, generator.integers(shapes.pool, size=shapes.classes)


class Judge:
    """Scores prompts on a worker's first rows, validation and then training, and counts the calls.

    The rows are those of AsynDBT's own race. Calibration is by the rows that were scored.

    Attributes
    ----------
    rows : their number, B
    references : further calls that calibration may cost a prompt
    calls : paid for so far; the black box must have an empty cache to begin with
    """

    def __init__(self, box: PromptBlackBox, worker: int, calibration: Calibration) -> None:
        self.box = box
        self.worker = worker
        self.calibration = calibration
        self.rows = box.data_sizes[worker].rows[Split.RACE]
        self.references = box.data_sizes[worker].references[Split.RACE]
        self.calls = 0

    def loss(self, prompt: Chosen, rows: int) -> float:
        """Mean loss on the first so many ``rows``."""
        words, demonstrations = (each[None] for each in prompt)
        first = self.worker, Split.RACE, np.arange(rows)
        query = Query(*first, words, demonstrations, calibration=self.calibration)
        (answer,) = self.box.answer([query])
        self.calls += answer.calls
        return float(answer.losses[0])
