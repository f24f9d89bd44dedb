"""A classifier without prompts: one linear layer on the sum of the sentence vectors of a row."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.baselines.trial import Predict, Trial
from asyndbt_mpi.task.dataset import Row

if TYPE_CHECKING:
    from torch import Tensor

EPOCHS = 500
STEP = 1e-2
"""Of Adam (Kingma and Ba, 2015)."""


def roberta(trial: Trial) -> Mapping[int, Predict]:
    """Trained on a worker's training rows; the epoch with the least validation loss counts.

    No language model is asked.
    """
    return {worker: _trained(trial, worker) for worker in trial.data}


def _trained(trial: Trial, worker: int) -> Predict:
    import torch

    held = trial.data[worker]
    (x, y), (judged, right) = (_tensors(trial, rows) for rows in (held.train, held.validation))
    classes = len(trial.template.labels)
    layer = torch.nn.Linear(x.shape[1], classes, dtype=torch.float64)
    # From zero, so that nothing depends on a seed.
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer, loss = torch.optim.Adam(layer.parameters(), STEP), torch.nn.functional.cross_entropy
    least, best = float("inf"), {name: each.clone() for name, each in layer.state_dict().items()}
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        off: Any = loss(layer(x), y)  # its methods have no types
        off.backward()
        optimizer.step()
        with torch.no_grad():
            now = float(loss(layer(judged), right))
        if now < least:
            least, best = now, {name: each.clone() for name, each in layer.state_dict().items()}
    layer.load_state_dict(best)

    def predict() -> FloatArray:
        with torch.no_grad():
            scores = layer(_tensors(trial, held.test)[0])
            found: FloatArray = torch.log_softmax(scores, dim=1).numpy()
        return found

    return predict


def _tensors(trial: Trial, rows: Sequence[Row]) -> tuple["Tensor", "Tensor"]:
    """Vectors (n, d) and labels (n,)."""
    import torch

    columns = trial.template.columns
    parts = [trial.encode([row.texts[column] for row in rows]) for column in columns]
    labels = np.array([row.label for row in rows], dtype=np.int64)
    return torch.from_numpy(np.sum(parts, axis=0)), torch.from_numpy(labels)
