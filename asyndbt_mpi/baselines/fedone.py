"""FedOne: BDPL in a federation, with one active client at a time (Wang et al., ICML 2025)."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from asyndbt_mpi.algorithm import estimator
from asyndbt_mpi.algorithm.optimizer import Adam
from asyndbt_mpi.baselines.trial import Predict, Trial
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import Split

STEP = 0.4
"""As that of `tuned.BDPL`."""


def fedone(trial: Trial) -> Mapping[int, Predict]:
    """The client drawn takes the words' distributions, makes a step by BDPL, and hands them back.

    Without demonstrations; the words are those of public texts. All workers end with the same
    words, the most probable ones.

    Raises
    ------
    ConfigurationError
        The calls do not suffice for one step.
    """
    settings, shapes = trial.config.estimator, trial.materials.shapes
    box = trial.black_box(replace(trial.materials, vocabulary=trial.public_words()))
    references = max(sizes.references[Split.TRAIN] for sizes in box.data_sizes.values())
    step = settings.samples * (settings.batch + references)
    if trial.calls < step:
        raise ConfigurationError(f"--calls: {trial.calls} are too few for one step")
    generator = trial.generator(0)
    p = np.full((1, shapes.positions, shapes.words), 1.0 / shapes.words)
    optimizer, one = Adam(STEP, p.shape), np.array([0])
    nothing = np.tile(trial.without_demonstrations(), (settings.samples, 1))
    # Repeats are free, as in a run of AsynDBT, which makes as many iterations at most.
    rounds = 0
    while trial.counted.spent.calls + step <= trial.calls and rounds < 10 * trial.calls // step:
        rounds += 1
        client = int(generator.integers(1, len(trial.data) + 1))
        count = box.data_sizes[client].rows[Split.TRAIN]
        rows = generator.choice(count, min(settings.batch, count), replace=False)
        uniform = generator.random((1, settings.samples, shapes.positions))
        words = estimator.sample(p, uniform)
        (answer,) = box.answer([Query(client, Split.TRAIN, rows, words[0], nothing)])
        gradient = estimator.bdpl(p, words, answer.losses[None])
        p = optimizer.step(p, gradient, one)
    trial.details["rounds"] = rounds
    prompt = p[0].argmax(axis=1), trial.without_demonstrations()
    return trial.predict(dict.fromkeys(trial.data, prompt), box)
