"""What a method is given and what it keeps, on rows made by hand."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.assemble import Materials, prepare
from asyndbt_mpi.baselines import tuned
from asyndbt_mpi.baselines.methods import method
from asyndbt_mpi.baselines.roberta import roberta
from asyndbt_mpi.baselines.similar import NearestRows
from asyndbt_mpi.baselines.trial import Counted, Trial
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import WorkerData
from asyndbt_mpi.task.template import Template
from tests.conftest import Opinionated

SMALL = "task.test=20", "prompt.pool=4", "task.train_per_class=5", "task.validation_per_class=5"
OTHERWISE = (
    *("algorithm.lower_gradient=model", "algorithm.plane_until=99", "algorithm.min_workers=2"),
    *("algorithm.active_workers=2", "algorithm.max_delay=7", "run.race=5"),
    *("delay.model=lognormal", "delay.mean=1", "delay.slow_workers=1"),
)
"""Settings that a method may have to change."""

Vector = tuple[float, ...]


def row(text: str, label: int = 0) -> Row:
    return Row({"sentence1": text}, label)


def held(train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
         pool: Sequence[Sequence[Row]] = ((), ())) -> WorkerData:  # fmt: skip
    return WorkerData(list(train), list(map(list, pool)), list(validation), list(test), [9, 9])


def trial(
    folder: Path,
    data: Mapping[int, WorkerData] | None = None,
    vectors: Mapping[str, Vector] | None = None,
    template: Template | None = None,
    settings: Sequence[str] = (),
) -> Trial:
    """Of reviews, or of ``data`` whose texts are these ``vectors``."""
    assignments = *SMALL, *settings
    config = load("reviews", assignments)
    materials = prepare(config, 3)
    if data:
        materials = replace(materials, data=dict(data), template=template or materials.template)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return np.array([(vectors or {})[text] for text in texts])

    return Trial(
        *("reviews", assignments, config, materials, Counted(Opinionated()), 300, encode, ""),
        folder / "run.h5",
    )


# ---------------------------------------------------------------- KATE


def test_the_five_nearest_others_are_shown_the_nearest_last(tmp_path: Path) -> None:
    angles = {"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.3, "e": 0.7, "f": 0.2, "g": 1.1, "query": 0.0}
    vectors = {text: (math.cos(angle), math.sin(angle)) for text, angle in angles.items()}
    rows = [row(text) for text in vectors]
    asked = trial(tmp_path, {1: held([], [], rows)}, vectors)
    shown = NearestRows(asked, rows)(rows[-1])
    assert [each.texts["sentence1"] for each in shown] == ["e", "c", "d", "f", "b"]


# ---------------------------------------------------------------- settings of AsynDBT


def logged(name: str, folder: Path) -> tuple[Config, int]:
    """The settings and the number of workers in the log of a run."""
    asked = trial(folder, settings=OTHERWISE)
    method(name)(asked)
    with Log(asked.log) as log:
        return log.config, log.workers


def check_alone(config: Config) -> None:
    """No planes, no words in common."""
    assert config.algorithm.plane_until == 0
    assert config.algorithm.lower_gradient == "black_box"


def check_central(config: Config, workers: int) -> None:
    """The only worker waits for nobody."""
    check_alone(config)
    algorithm = config.algorithm
    assert workers == 1
    assert (algorithm.active_workers, algorithm.min_workers, algorithm.max_delay) == (1, 1, 0)
    assert config.delay.slow_workers == 0


def test_local_workers_share_nothing(tmp_path: Path) -> None:
    config, workers = logged("local", tmp_path)
    check_alone(config)
    assert workers == 3
    assert config.run.race == 5


def test_cendbt_is_one_worker(tmp_path: Path) -> None:
    config, workers = logged("cendbt", tmp_path)
    check_central(config, workers)
    assert config.prompt.pool == 3 * 4
    assert config.estimator.name == "additive"
    assert config.run.race == 5


def test_bdpl_is_one_worker_with_its_own_estimator_and_no_race(tmp_path: Path) -> None:
    config, workers = logged("bdpl", tmp_path)
    check_central(config, workers)
    assert config.estimator.name == "bdpl"
    assert config.steps.optimizer == "adam"
    assert config.run.race == 0


def test_asyndbt_has_the_settings_that_are_given(tmp_path: Path) -> None:
    config, workers = logged("asyndbt", tmp_path)
    assert workers == 3
    assert config.algorithm == load("reviews", (*SMALL, *OTHERWISE)).algorithm


def test_the_synchronous_run_waits_for_all(tmp_path: Path) -> None:
    config, workers = logged("synchronous", tmp_path)
    assert workers == config.algorithm.active_workers == 3
    assert config.algorithm.max_delay == 0


# ---------------------------------------------------------------- one worker with the rows of all


def united(data: Mapping[int, WorkerData]) -> Materials:
    materials = prepare(load("reviews", SMALL), len(data))
    return tuned.united(replace(materials, data=dict(data)))


def test_one_worker_has_exactly_the_rows_of_all() -> None:
    test = [row("test")]
    found = united(
        {
            1: held([row("t1"), row("t2", 1)], [row("v1")], test, [[row("p1")], [row("q1", 1)]]),
            2: held(
                *([row("t3")], [row("v2", 1), row("v3")], test),
                [[row("p2")], [row("q2", 1), row("q3", 1)]],
            ),
        }
    )
    assert found.data == {
        1: held(
            *([row("t1"), row("t2", 1), row("t3")], [row("v1"), row("v2", 1), row("v3")], test),
            [[row("p1"), row("p2")], [row("q1", 1), row("q2", 1), row("q3", 1)]],
        )
    }
    assert found.shapes.pool == 3


def test_no_test_row_is_tuned_on() -> None:
    of_workers = prepare(load("reviews", SMALL), 3).data
    assert of_workers
    found = united(of_workers).data
    assert found
    pool = [each for rows in found[1].pool for each in rows]
    parts = {"train": found[1].train, "validation": found[1].validation, "pool": pool}
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train": 3 * 2 * 5, "validation": 3 * 2 * 5, "pool": 3 * 2 * 4,
    }  # fmt: skip
    tuned_on = {each.place for rows in parts.values() for each in rows}
    assert len(tuned_on) == 30 + 30 + 24
    assert found[1].test == of_workers[2].test
    assert len({each.place for each in found[1].test} - tuned_on) == 20


# ---------------------------------------------------------------- classifier


def test_the_classifier_is_that_of_the_epoch_with_the_least_validation_loss(
    tmp_path: Path,
) -> None:
    vectors = {"up": (1.0,), "down": (-1.0,)}
    train = [row("up", 1), row("down", 0)]
    # Training makes it ever surer; three rows of four say that 3/4 is best.
    validation = [row("up", 1)] * 3 + [row("up", 0)]
    test = [row("up", 0), row("down", 1)]
    asked = trial(tmp_path, {1: held(train, validation, test)}, vectors)
    found = np.exp(roberta(asked)[1]())
    np.testing.assert_allclose(found, [[1 / 4, 3 / 4], [3 / 4, 1 / 4]], atol=0.01)


def test_the_classifier_sees_the_sum_of_all_columns(tmp_path: Path) -> None:
    def pair(first: str, second: str, label: int = 0) -> Row:
        return Row({"first": first, "second": second}, label)

    template = Template("{first} and {second}[[ {fragment}]]", [" no", " yes"])
    vectors = {"up": (1.0,), "down": (-1.0,), "nil": (0.0,)}
    train = [
        *(pair("up", "nil", 1), pair("nil", "up", 1)),
        *(pair("down", "nil", 0), pair("nil", "down", 0)),
    ]
    test = [pair("up", "nil"), pair("nil", "up"), pair("up", "up"), pair("up", "down")]
    asked = trial(tmp_path, {1: held(train, train, test)}, vectors, template)
    scores = roberta(asked)[1]()
    first, second, both, neither = scores[:, 1] - scores[:, 0]
    assert first > 1
    assert second == pytest.approx(first)
    assert both == pytest.approx(2 * first)
    assert neither == pytest.approx(0, abs=1e-9)
