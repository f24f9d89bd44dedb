"""The split of a data set over workers, following the paper's protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from asyndbt_mpi.algorithm.random import Purpose, stream
from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.protocol.held import Held
from asyndbt_mpi.protocol.messages import Split
from asyndbt_mpi.task.dataset import EVERYBODY, Dataset, Row


@dataclass(frozen=True, slots=True)
class WorkerData:
    """What one worker holds. ``pool`` (U lists) has the demonstrations of each class.

    ``train``, ``pool`` and ``validation`` are the worker's alone; all workers share ``test``, and
    ``class_counts`` (U,), the rows of each class in the whole training file.
    """

    train: list[Row]
    pool: list[list[Row]]
    validation: list[Row]
    test: list[Row]
    class_counts: list[int]


def rows_of(data: WorkerData, split: Split) -> list[Row]:
    """A worker's rows of a split."""
    match split:
        case Split.TRAIN:
            return data.train
        case Split.VALIDATION:
            return data.validation
        case Split.TEST:
            return data.test
        case Split.RACE:
            return interleaved(data.validation) + interleaved(data.train)
        case _:
            assert_never(split)


def most_rows(data: Mapping[int, WorkerData] | None) -> int:
    """The most rows that any worker has of a split; a function, without ``data``, has none."""
    held = data.values() if data else ()
    return max((len(rows_of(each, split)) for each in held for split in Split), default=0)


def held(data: Mapping[int, WorkerData] | None) -> dict[int, Held]:
    """By worker what rank 0 knows of its rows; nothing of a function, without ``data``."""
    return {
        worker: Held(
            {split: len(rows_of(each, split)) for split in Split},
            np.array([row.label for row in each.test], dtype=np.int64),
        )
        for worker, each in (data or {}).items()
    }


def interleaved(rows: Sequence[Row]) -> list[Row]:
    """The ``rows`` in an order in which the first few have the class shares of all."""
    of_class: dict[int, list[Row]] = {}
    for row in rows:
        of_class.setdefault(row.label, []).append(row)
    places = [
        ((number + 0.5) / len(own), row)
        for own in of_class.values()
        for number, row in enumerate(own)
    ]
    return [row for _, row in sorted(places, key=lambda each: each[0])]


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of rows of each class for every worker, (R, U) each."""

    train: IntArray
    pool: IntArray
    validation: IntArray


def split(
    dataset: Dataset, task: TaskSection, pool: int, workers: int, seed: int
) -> list[WorkerData]:
    """Deal the rows to R = ``workers`` workers, the first being rank 1; deterministic in ``seed``.

    Per class and worker: ``task.train_per_class`` rows and up to ``pool`` (V) demonstrations
    of the training part, ``task.validation_per_class`` rows of the part for judging. The test
    set is up to ``task.test`` of the rows for judging that no worker validates on, with the class
    shares that these have.

    Raises
    ------
    ConfigurationError
        A part has too few rows of a class, or none are left to test on.
    """
    classes = len(dataset.labels)
    counts = _counts(task, classes, pool, workers, seed)
    taken = counts.train + counts.pool
    train = [_deal(dataset, False, cls, taken[:, cls], seed) for cls in range(classes)]
    dev = [_deal(dataset, True, cls, counts.validation[:, cls], seed) for cls in range(classes)]
    test = _test([rows[-1] for rows in dev], task.test, seed, dataset.names[1])
    class_counts = [sum(map(len, rows)) for rows in train]
    return [
        WorkerData(
            train=[row for cls in range(classes) for row in train[cls][v][counts.pool[v, cls] :]],
            pool=[train[cls][v][: counts.pool[v, cls]] for cls in range(classes)],
            validation=[row for cls in range(classes) for row in dev[cls][v]],
            test=test,
            class_counts=class_counts,
        )
        for v in range(workers)
    ]


# ---------------------------------------------------------------- how many


def _counts(task: TaskSection, classes: int, pool: int, workers: int, seed: int) -> Counts:
    """The same counts for all, or counts that follow a draw of Dirichlet(alpha) per worker.

    Under Dirichlet the totals of training and validation rows do not change. The pool of a class
    has at least 1 and at most V demonstrations, since the prompt shows one of each class and q has
    V columns; so the total of the pools is smaller.
    """
    if task.partition == "iid":
        shape = workers, classes
        return Counts(
            train=np.full(shape, task.train_per_class),
            pool=np.full(shape, pool),
            validation=np.full(shape, task.validation_per_class),
        )
    shares = np.stack(
        [
            stream(seed, rank, 0, Purpose.SPLIT).dirichlet(np.full(classes, task.alpha))
            for rank in range(1, workers + 1)
        ]
    )
    return Counts(
        train=_apportion(shares, classes * task.train_per_class),
        pool=np.clip(_apportion(shares, classes * pool), 1, pool),
        validation=_apportion(shares, classes * task.validation_per_class),
    )


def _apportion(shares: FloatArray, total: int) -> IntArray:
    """Whole numbers near ``shares`` (R, U) times ``total``, each row summing to ``total``.

    Largest remainders: the parts are rounded down, and the missing units go one by one to those
    that lost most.
    """
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    # Rank of every part when the remainders are sorted in descending order.
    places = np.argsort(np.argsort(counts - exact, axis=1, kind="stable"), axis=1)
    missing = total - counts.sum(axis=1, keepdims=True)
    rounded: IntArray = counts + (places < missing)
    return rounded


# ---------------------------------------------------------------- which


def _deal(
    dataset: Dataset, judging: bool, cls: int, needed: IntArray, seed: int
) -> list[list[Row]]:
    """Disjoint draws of ``needed`` (R,) rows of one class, and as the last list the rest."""
    own = [row for row in (dataset.dev if judging else dataset.train) if row.label == cls]
    if needed.sum() > len(own):
        raise ConfigurationError(_shortage(dataset, judging, cls, needed, len(own)))
    # One stream per part and class, so that draws of one never shift those of another.
    number = 2 * cls + 1 + judging
    order = stream(seed, EVERYBODY, number, Purpose.SPLIT).permutation(len(own))
    ends = np.cumsum(needed)
    return [[own[place] for place in part] for part in np.split(order, ends)]


def _shortage(dataset: Dataset, judging: bool, cls: int, needed: IntArray, there: int) -> str:
    keys = "task.validation_per_class" if judging else "task.train_per_class, prompt.pool"
    return (
        f"task: {dataset.names[judging]} has {there} rows of class {cls}"
        f" ({dataset.labels[cls]!r}), but the {len(needed)} workers need "
        f"{needed.sum()}; lower {keys} or the number of workers"
    )


def _test(left: Sequence[Sequence[Row]], wanted: int, seed: int, name: str) -> list[Row]:
    """Up to ``wanted`` of the rows ``left`` in each class, with the shares that classes have there.

    Within a class all rows are equally likely.
    """
    rows = [row for part in left for row in part]
    if not wanted:
        return []
    if not rows:
        raise ConfigurationError(
            f"task.test = {wanted}: no row of {name} is left after validation; lower "
            "task.validation_per_class or the number of workers, or set task.test = 0"
        )
    shares = np.array([[len(part) for part in left]]) / len(rows)
    open_places = _apportion(shares, min(wanted, len(rows)))[0].tolist()
    order = stream(seed, EVERYBODY, 0, Purpose.SPLIT).permutation(len(rows))
    test = []
    for place in order:
        row = rows[place]
        if open_places[row.label]:
            open_places[row.label] -= 1
            test.append(row)
    return test
