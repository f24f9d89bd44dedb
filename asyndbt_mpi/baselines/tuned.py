"""Methods that are settings of AsynDBT: each is a run in one process, with a log of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from asyndbt_mpi.assemble import Materials
from asyndbt_mpi.baselines.logged_run import run, tuned_prompt
from asyndbt_mpi.baselines.trial import Chosen, Predict, Trial
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import WorkerData
from asyndbt_mpi.task.template import Template

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
    return run(trial, trial.materials)


def local(trial: Trial) -> Mapping[int, Predict]:
    """Every worker alone: no consensus, and nothing is shared."""
    return run(trial, trial.materials, ALONE)


def synchronous(trial: Trial) -> Mapping[int, Predict]:
    """AsynDBT that waits for all workers in every iteration."""
    return run(
        *(trial, trial.materials),
        (f"algorithm.active_workers={len(trial.data)}", "algorithm.max_delay=0"),
    )


def cendbt(trial: Trial) -> Mapping[int, Predict]:
    """The paper's centralised version: one worker with the rows of all; no z, no duals."""
    return run(trial, united(trial.materials), CENTRAL)


def words_only(trial: Trial) -> Mapping[int, Predict]:
    """The words that `cendbt` finds, without its demonstrations."""
    cendbt(trial)
    words, _ = tuned_prompt(trial)
    return _by_part(trial, (words, trial.without_demonstrations()))


def demonstrations_only(trial: Trial) -> Mapping[int, Predict]:
    """The demonstrations that `cendbt` finds, without its words."""
    cendbt(trial)
    _, demonstrations = tuned_prompt(trial)
    return _by_part(trial, (trial.without_words(), demonstrations))


def bdpl(trial: Trial) -> Mapping[int, Predict]:
    """Words alone, by the estimator of BDPL, with the rows of all workers.

    The words are those of public texts.
    """
    template = Undemonstrated(trial.config.task.template, trial.template.labels)
    materials = replace(united(trial.materials), vocabulary=trial.public_words())
    return run(trial, without_demonstrations(materials, template), BDPL)


def _by_part(trial: Trial, chosen: Chosen) -> Mapping[int, Predict]:
    return trial.predict({1: chosen}, trial.black_box(united(trial.materials)))


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
