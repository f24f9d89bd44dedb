"""Prompts that nobody tunes: the template alone, or with random demonstrations."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from asyndbt_mpi.baselines.trial import Predict, Trial
from asyndbt_mpi.protocol.final_tests import draw_demonstrations


def manual(trial: Trial) -> Mapping[int, Predict]:
    """The paper's ManualPrompt: no words, no demonstrations."""
    prompt = trial.without_words(), trial.without_demonstrations()
    return trial.predict(dict.fromkeys(trial.data, prompt))


def calibrated(trial: Trial) -> Mapping[int, Predict]:
    """`manual`, with the model's preference for some labels taken out of its scores.

    By batch calibration (Zhou et al., ICLR 2024), unless task.calibration names another.
    """
    task = trial.config.task
    if task.calibration == "none":
        task = task.model_copy(update={"calibration": "batch"})
    return manual(replace(trial, config=trial.config.model_copy(update={"task": task})))


def random_icl(trial: Trial) -> Mapping[int, Predict]:
    """One random demonstration of each class: those that a run of AsynDBT tests in comparison."""
    shapes, words = trial.materials.shapes, trial.without_words()
    prompts = {}
    for worker, held in trial.data.items():
        there = np.arange(shapes.pool) < np.array([[len(rows)] for rows in held.pool])
        shown = draw_demonstrations(there.astype(float), trial.config.run.seed, worker)
        prompts[worker] = words, shown
    return trial.predict(prompts)
