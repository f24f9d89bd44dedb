"""The methods that the benchmark of quality compares: from nothing to AsynDBT, at equal calls."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from prompt_search import Judge, random_prompts
from quality_tasks import WORKERS, Tables, Trial, merged, settings

from asyndbt_mpi.assemble import Materials, delays_of_workers, workers_with_black_box
from asyndbt_mpi.baselines.search import Search, best_of, halving
from asyndbt_mpi.baselines.trial import Chosen
from asyndbt_mpi.config import parse
from asyndbt_mpi.inputs.sections import Calibration
from asyndbt_mpi.protocol.final_tests import draw_demonstrations, number_of_tests
from asyndbt_mpi.protocol.messages import WITHOUT, Candidate, Split
from asyndbt_mpi.protocol.records import Evaluation, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.prompts import PromptBlackBox
from asyndbt_mpi.task.template import Template
from asyndbt_mpi.transport.virtual import VirtualCluster

Prompts: TypeAlias = dict[int, Chosen]
"""By worker, 1 to R."""

EVERYONE = range(1, WORKERS + 1)


@dataclass(frozen=True, slots=True)
class Found:
    """What a method ends with: by kind of prompt, one for each worker; "own" is its result.

    ``box`` can score them, with ``calibration``; ``calls`` were paid for by all workers.
    """

    box: PromptBlackBox
    calibration: Calibration
    prompts: dict[str, Prompts]
    calls: int = 0
    details: dict[str, int] = field(default_factory=dict)


# ---------------------------------------------------------------- without tuning


def _box(trial: Trial) -> PromptBlackBox:
    materials = trial.materials
    assert materials.data is not None
    assert materials.template is not None
    texts = materials.data, materials.template, materials.vocabulary, materials.shapes.positions
    return PromptBlackBox(*texts, trial.model())


def _without_words(trial: Trial) -> np.ndarray:
    return np.full(trial.materials.shapes.positions, WITHOUT)


def _random_demonstrations(trial: Trial, worker: int) -> np.ndarray:
    """Those that a run tests in comparison."""
    shapes = trial.materials.shapes
    return draw_demonstrations(np.ones((shapes.classes, shapes.pool)), trial.seed, worker)


def untuned(trial: Trial, _: int, calibration: Calibration) -> Found:
    none_shown = np.full(trial.materials.shapes.classes, WITHOUT)
    prompts = {worker: (_without_words(trial), none_shown) for worker in EVERYONE}
    return Found(_box(trial), calibration, {"own": prompts})


def random(trial: Trial, _: int, calibration: Calibration) -> Found:
    words = _without_words(trial)
    prompts = {worker: (words, _random_demonstrations(trial, worker)) for worker in EVERYONE}
    return Found(_box(trial), calibration, {"own": prompts})


# ---------------------------------------------------------------- search


def searched(trial: Trial, calls: int, calibration: Calibration, by: Search) -> Found:
    """Each worker has its share of the ``calls``."""
    box, found, paid = _box(trial), {}, 0
    for worker in EVERYONE:
        judge = Judge(box, worker, calibration)
        prompts = random_prompts(trial.materials.shapes, trial.seed, worker)
        found[worker] = by(judge.loss, prompts, judge.rows, calls // WORKERS, judge.references)
        paid += judge.calls
    return Found(box, calibration, {"own": found}, paid)


# ---------------------------------------------------------------- AsynDBT


RUN: Tables = {
    "run": {"evaluate_every": 20},
    "algorithm": {"active_workers": 2, "max_delay": 4},
    "estimator": {"samples": 8, "batch": 5},
    "delay": {"model": "lognormal", "mean": 1.0},
}

AS_IT_WAS: Tables = {
    "run": {"race": 0, "evaluate_every": 10},
    "algorithm": {"lower_gradient": "black_box"},
    "estimator": {"samples": 4, "batch": 10},
}

NO_PLANES: Tables = {"algorithm": {"plane_until": 0}}


class Wordless(Template):
    """Leaves out the fragment, whatever its words are."""

    def render(self, row: Row, words: object) -> str:
        """See `Template`."""
        return super().render(row, None)


def without_words(trial: Trial) -> Materials:
    """Prompts have demonstrations only, and there is one word to choose from."""
    materials, task = trial.materials, trial.config.task
    return replace(
        materials,
        shapes=replace(materials.shapes, words=1),
        vocabulary=materials.vocabulary[:1],
        template=Wordless(task.template, task.label_texts),
    )


def with_random_demonstrations(trial: Trial) -> Materials:
    """Each worker has those that `random` shows, and no others to choose from."""
    materials = trial.materials
    assert materials.data is not None
    data = {}
    for worker, held in materials.data.items():
        shown = _random_demonstrations(trial, worker)
        data[worker] = replace(
            held, pool=[[rows[k]] for rows, k in zip(held.pool, shown, strict=True)]
        )
    return replace(materials, shapes=replace(materials.shapes, pool=1), data=data)


def as_it_is(trial: Trial) -> Materials:
    return trial.materials


def asyndbt(
    trial: Trial,
    calls: int,
    calibration: Calibration,
    tables: Tables | None = None,
    given: Callable[[Trial], Materials] = as_it_is,
) -> Found:
    """Run to the end of its ``calls``, under the virtual clock.

    Besides every worker's own prompt, the words of the consensus and of the mean of p are kept,
    with the worker's own demonstrations.

    Raises
    ------
    ValueError
        The calls do not suffice for one iteration.
    """
    materials = given(trial)
    tables = run_tables(calls, calibration, tables or {})
    shapes = replace(materials.shapes, samples=tables["estimator"]["samples"])
    materials = replace(materials, shapes=shapes)
    sizes = {"prompt": {"vocabulary_size": shapes.words, "pool": shapes.pool}}
    tables = merged(tables, sizes)
    config = trial.configured(tables)
    workers, box = workers_with_black_box(config, materials, EVERYONE, trial.model())
    assert isinstance(box, PromptBlackBox)
    # A budget sets the tests at the end aside.
    test = max(s.rows[Split.TEST] + s.references[Split.TEST] for s in box.data_sizes.values())
    budget = calls + number_of_tests(config, WORKERS) * test
    config = trial.configured(merged(tables, {"budget": {"calls": budget}}))
    server = Server(config, shapes, WORKERS)
    tests = Tests()
    delays = delays_of_workers(config, WORKERS)
    VirtualCluster(server, workers, box, delays).run(tests.take)
    if not server.iteration:
        raise ValueError(f"{calls} calls are too few for one iteration; give more --calls")
    own = tests.prompts[Candidate.TUNED]
    mean = server.algorithm.p.mean(axis=0).argmax(axis=1)
    consensus = tests.prompts[Candidate.CONSENSUS]
    of_mean = {worker: (mean, shown) for worker, (_, shown) in consensus.items()}
    kinds = {"own": own, "consensus": consensus, "mean": of_mean}
    paid = server.spending.spent.calls - tests.calls
    return Found(box, calibration, kinds, paid, {"iterations": server.iteration})


def run_tables(calls: int, calibration: Calibration, tables: Tables) -> dict[str, dict[str, Any]]:
    """Settings of a run, beside those of all methods.

    It makes at most ten times as many iterations as the calls pay for if no prompt comes twice:
    repeats are free.
    """
    tables = merged(RUN, tables)
    step = tables["estimator"]["samples"] * tables["estimator"]["batch"]
    iterations = 10 * calls // (tables["algorithm"]["active_workers"] * step)
    return merged(tables, {"run": {"iterations": iterations}, "task": {"calibration": calibration}})


class Tests:
    """The prompts that a run tests at its end, and what that costs."""

    def __init__(self) -> None:
        self.prompts: dict[Candidate, Prompts] = {candidate: {} for candidate in Candidate}
        self.calls = 0

    def take(self, records: Iterable[Record]) -> None:
        """Look through a run's ``records``."""
        for record in records:
            if isinstance(record, Evaluation) and record.split is Split.TEST and record.worker:
                self.prompts[record.candidate][record.worker] = record.words, record.demonstrations
                self.calls += record.calls


EITHER_WAY: dict[str, Callable[..., Found]] = {
    "random": random,
    "search": partial(searched, by=best_of),
    "halving": partial(searched, by=halving),
    "now": asyndbt,
    "words-off": partial(asyndbt, given=without_words),
    "demonstrations-off": partial(asyndbt, given=with_random_demonstrations),
    "planes-off": partial(asyndbt, tables=NO_PLANES),
}
"""Methods that come with plain scores and, as "...-calibrated", with calibrated ones."""


def _methods() -> dict[str, "partial[Found]"]:
    found = {
        "untuned": partial(untuned, calibration="none"),
        "calibrated": partial(untuned, calibration="batch"),
    }
    for name, method in EITHER_WAY.items():
        if name == "now":
            found["was"] = partial(asyndbt, calibration="none", tables=AS_IT_WAS)
        found[name] = partial(method, calibration="none")
        found[f"{name}-calibrated"] = partial(method, calibration="batch")
    return found


METHODS = _methods()
"""All of them, in the order of the tables. Each takes a trial and the calls for all workers."""


def made_with(task: str, method: str, calls: int, test: int) -> dict[str, Any]:
    """The settings of a cell, seed and folders apart.

    For AsynDBT these are all of a run, so that a cell is told from one with other defaults.
    """
    common = settings(task, test)
    chosen = METHODS[method]
    if chosen.func is not asyndbt:
        return common
    tables = chosen.keywords.get("tables", {})
    own = run_tables(calls, chosen.keywords["calibration"], tables)
    written: dict[str, Any] = parse(merged(common, own), "the benchmark").model_dump(mode="json")
    return written


USUAL = [name for name in METHODS if name not in ("words-off", "demonstrations-off", "planes-off")]
"""Without a part, AsynDBT is compared with calibrated scores only."""
