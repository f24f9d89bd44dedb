"""A run of AsynDBT in this process, within a trial's calls, with a log of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from asyndbt_mpi.adversary.colluders import colluders
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.assemble import Materials, delays_of_workers, workers_with_black_box
from asyndbt_mpi.baselines.trial import Chosen, Predict, Trial
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.final_tests import number_of_tests
from asyndbt_mpi.protocol.messages import Candidate, Split
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.transport.virtual import VirtualCluster


def run(
    trial: Trial, materials: Materials, assignments: Sequence[str] = ()
) -> Mapping[int, Predict]:
    """Run to the end of the trial's calls; the tuned prompts' answers are those of the log.

    Raises
    ------
    ConfigurationError
        The calls do not suffice for one iteration.
    """
    assert materials.data is not None
    if trial.config.log.private:
        raise ConfigurationError("log.private = true: a method's prompts are read from its log")
    workers = len(materials.data)
    config = _budgeted(trial, materials, workers, assignments)
    shapes = replace(materials.shapes, samples=config.estimator.losses)
    everyone = range(1, workers + 1)
    with trial.counted.counting():  # the model is compared with itself, which is no tuning
        machines, box = workers_with_black_box(config, materials, everyone, trial.model())
    server = Server(config, shapes, workers)
    delays, liars = delays_of_workers(config, workers), colluders(config, shapes, workers)
    cluster = VirtualCluster(server, machines, box, delays, liars)
    writer = Writer(
        *(trial.log, config, shapes, workers, materials.vocabulary, "virtual"),
        server.algorithm.z,
        overwrite=True,
        # Of other rows than the configuration's, a log cannot be replayed.
        data_digest=materials.data_digest if materials is trial.materials else "",
    )
    with writer:
        cluster.run(writer.write_all)
    if not server.iteration:
        raise ConfigurationError(f"--calls: {trial.calls} are too few for one iteration")
    with Log(trial.log) as log:
        return _answers(trial, log)


def _budgeted(
    trial: Trial, materials: Materials, workers: int, assignments: Sequence[str]
) -> Config:
    """The settings of a run that may spend the trial's calls; those of its tests come on top.

    It makes at most ten times as many iterations as the calls pay for if no prompt comes twice:
    repeats are free.
    """
    shapes = materials.shapes
    fitting = f"prompt.vocabulary_size={shapes.words}", f"prompt.pool={shapes.pool}"
    config = trial.configured(*assignments, *fitting)
    step = config.algorithm.active_workers * config.estimator.samples * config.estimator.batch
    box = trial.black_box(materials)
    test = max(
        sizes.rows[Split.TEST] + sizes.references[Split.TEST] for sizes in box.data_sizes.values()
    )
    budget = trial.calls + number_of_tests(config, workers) * test
    return trial.configured(
        *assignments,
        *fitting,
        f"budget.calls={budget}",
        f"run.iterations={max(1, 10 * trial.calls // step)}",
    )


def _answers(trial: Trial, log: Log) -> dict[int, Predict]:
    """Of the prompts that the run ended with; what its tests cost is not counted as tuning."""
    names = ("worker", "split", "candidate", "llm_calls", "prompt_tokens")
    workers, splits, candidates, calls, tokens = (log[f"evaluation/{name}"] for name in names)
    tests = splits == Split.TEST
    trial.counted.spent.calls -= int(calls[tests].sum())
    trial.counted.spent.prompt_tokens -= int(tokens[tests].sum())
    trial.details["iterations"] = log.committed
    tuned = np.flatnonzero(tests & (candidates == Candidate.TUNED)).tolist()
    return {
        int(workers[row]): _logged(trial, int(calls[row]), int(tokens[row]), log.answers(row)[1])
        for row in tuned
    }


def tuned_prompt(trial: Trial) -> Chosen:
    """The prompt that the run of a single worker ended with."""
    with Log(trial.log) as log:
        split, candidate = log["evaluation/split"], log["evaluation/candidate"]
        (row,) = np.flatnonzero((split == Split.TEST) & (candidate == Candidate.TUNED))
        return log["evaluation/words"][row], log["evaluation/demonstrations"][row]


def _logged(trial: Trial, calls: int, tokens: int, log_probabilities: FloatArray) -> Predict:
    def predict() -> FloatArray:
        trial.counted.spent.calls += calls
        trial.counted.spent.prompt_tokens += tokens
        return log_probabilities

    return predict
