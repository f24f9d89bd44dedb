"""Methods that are settings of AsynDBT: each is a run in one process, with a log of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.assemble import Materials, delays_of_workers, workers_with_black_box
from asyndbt_mpi.baselines.trial import Chosen, Predict, Trial
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.final_tests import number_of_tests
from asyndbt_mpi.protocol.messages import Candidate, Split
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import WorkerData
from asyndbt_mpi.task.template import Template
from asyndbt_mpi.transport.virtual import VirtualCluster

ALONE = "algorithm.plane_until=0", "algorithm.lower_gradient=black_box"
"""No cutting planes, no words in common."""

CENTRAL = (
    *ALONE,
    "algorithm.active_workers=1",
    "algorithm.min_workers=1",
    "algorithm.max_delay=0",
    "delay.slow_workers=0",
)

BDPL = *CENTRAL, "estimator.name=bdpl", "steps.optimizer=adam", "steps.p=0.4", "run.race=0"
"""Steps that were the best for a language model in benchmarks/estimators.py; the prompt with the
least validation loss wins, as in BDPL (Diao et al., TMLR 2023)."""


def asyndbt(trial: Trial) -> Mapping[int, Predict]:
    """The package with the configuration's settings, under the virtual clock."""
    return _run(trial, trial.materials)


def local(trial: Trial) -> Mapping[int, Predict]:
    """Every worker alone: no consensus, and nothing is shared."""
    return _run(trial, trial.materials, ALONE)


def synchronous(trial: Trial) -> Mapping[int, Predict]:
    """AsynDBT that waits for all workers in every iteration."""
    return _run(
        *(trial, trial.materials),
        (f"algorithm.active_workers={len(trial.data)}", "algorithm.max_delay=0"),
    )


def cendbt(trial: Trial) -> Mapping[int, Predict]:
    """The paper's centralised version: one worker with the rows of all; no z, no duals."""
    return _run(trial, united(trial.materials), CENTRAL)


def words_only(trial: Trial) -> Mapping[int, Predict]:
    """The words that `cendbt` finds, without its demonstrations."""
    cendbt(trial)
    words, _ = _tuned(trial)
    return _by_part(trial, (words, trial.without_demonstrations()))


def demonstrations_only(trial: Trial) -> Mapping[int, Predict]:
    """The demonstrations that `cendbt` finds, without its words."""
    cendbt(trial)
    _, demonstrations = _tuned(trial)
    return _by_part(trial, (trial.without_words(), demonstrations))


def bdpl(trial: Trial) -> Mapping[int, Predict]:
    """Words alone, by the estimator of BDPL, with the rows of all workers.

    The words are those of public texts.
    """
    template = Undemonstrated(trial.config.task.template, trial.template.labels)
    materials = replace(united(trial.materials), vocabulary=trial.public_words())
    return _run(trial, without_demonstrations(materials, template), BDPL)


# ---------------------------------------------------------------- rows


def united(materials: Materials) -> Materials:
    """One worker with the rows of all; the test rows stay the same."""
    assert materials.data is not None
    held = list(materials.data.values())
    pools = [[row for each in held for row in each.pool[cls]] for cls in range(len(held[0].pool))]
    everything = WorkerData(
        train=[row for each in held for row in each.train],
        pool=pools,
        validation=[row for each in held for row in each.validation],
        test=held[0].test,
        class_counts=held[0].class_counts,
    )
    shapes = replace(materials.shapes, pool=max(map(len, pools)))
    return replace(materials, data={1: everything}, shapes=shapes)


class Undemonstrated(Template):
    """Shows no demonstrations, whatever they are."""

    def context(self, rows: Sequence[Row], words: Sequence[str] | None) -> str:
        """See `Template`."""
        return ""


def without_demonstrations(materials: Materials, template: Undemonstrated) -> Materials:
    """Prompts have words only: of each class there is one demonstration, and it is not shown."""
    assert materials.data is not None
    data = {
        worker: replace(held, pool=[rows[:1] for rows in held.pool])
        for worker, held in materials.data.items()
    }
    return replace(
        materials, template=template, data=data, shapes=replace(materials.shapes, pool=1)
    )


# ---------------------------------------------------------------- the run


def _run(
    trial: Trial, materials: Materials, assignments: Sequence[str] = ()
) -> Mapping[int, Predict]:
    """Run to the end of the trial's calls; the tuned prompts' answers are those of the log."""
    assert materials.data is not None
    workers = len(materials.data)
    config = _budgeted(trial, materials, workers, assignments)
    shapes = replace(materials.shapes, samples=config.estimator.losses)
    everyone = range(1, workers + 1)
    machines, box = workers_with_black_box(config, materials, everyone, trial.model())
    server = Server(config, shapes, workers)
    cluster = VirtualCluster(server, machines, box, delays_of_workers(config, workers))
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
    return {int(workers[row]): _logged(trial, *log.answers(row)) for row in tuned}


def _tuned(trial: Trial) -> Chosen:
    """The prompt that the run of a single worker ended with."""
    with Log(trial.log) as log:
        split, candidate = log["evaluation/split"], log["evaluation/candidate"]
        (row,) = np.flatnonzero((split == Split.TEST) & (candidate == Candidate.TUNED))
        return log["evaluation/words"][row], log["evaluation/demonstrations"][row]


def _by_part(trial: Trial, chosen: Chosen) -> Mapping[int, Predict]:
    return trial.predict({1: chosen}, trial.black_box(united(trial.materials)))


def _logged(trial: Trial, labels: IntArray, log_probabilities: FloatArray) -> Predict:
    def predict() -> FloatArray:
        trial.counted.spent.calls += len(labels)
        return log_probabilities

    return predict
