"""Logs that say what a test wants."""

from pathlib import Path

import h5py
import numpy as np


def evaluate(path: Path, *evaluations: tuple[int, int, float, float]) -> Path:
    """Make the validations of a log these: iteration, worker, loss, accuracy, as they arrived."""
    with h5py.File(path, "r+") as file:
        own = np.flatnonzero(file["evaluation/split"][:] == 1)
        assert len(own) >= len(evaluations)
        file["evaluation/split"][own[len(evaluations) :]] = 0
        for row, values in zip(own, evaluations, strict=False):
            for name, value in zip(
                ("iteration", "worker", "loss", "accuracy"), values, strict=True
            ):
                file[f"evaluation/{name}"][row] = value
    return path
