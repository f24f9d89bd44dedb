import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.task.dataset import Dataset, Row
from asyndbt_mpi.task.partition import WorkerData, interleaved, split

LABELS = [" a", " b", " c"]


def numbered(train: int, dev: int, classes: int = 3) -> Dataset:
    """So many rows a class; the text of a row is its file and index."""
    return Dataset(
        train=[Row({"sentence1": f"train {i}"}, i % classes) for i in range(train * classes)],
        dev=[Row({"sentence1": f"dev {i}"}, i % classes) for i in range(dev * classes)],
        labels=LABELS,
        names=("train.csv", "dev.csv"),
    )


def section(**keys: Any) -> TaskSection:
    return TaskSection(**{"labels": LABELS, **keys})


def own_rows(data: WorkerData) -> list[str]:
    rows = [*data.train, *data.validation, *(row for rows in data.pool for row in rows)]
    return [row.texts["sentence1"] for row in rows]


def per_class(rows: list[Row], classes: int = 3) -> list[int]:
    counts = Counter(row.label for row in rows)
    return [counts[cls] for cls in range(classes)]


@given(
    train=st.integers(1, 6),
    pool=st.integers(1, 6),
    validation=st.integers(1, 6),
    workers=st.integers(1, 5),
    partition=st.sampled_from(["iid", "dirichlet"]),
    alpha=st.sampled_from([1e-3, 0.3, 10.0]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_shares_are_disjoint_and_of_the_right_size(
    train: int, pool: int, validation: int, workers: int, partition: str, alpha: float, seed: int
) -> None:
    task = section(
        train_per_class=train,
        validation_per_class=validation,
        test=20,
        partition=partition,
        alpha=alpha,
    )
    # Enough even if one class gets everything.
    parts = split(numbered(200, 200), task, pool, workers, seed)
    assert len(parts) == workers
    dealt = [text for part in parts for text in own_rows(part)]
    test = [row.texts["sentence1"] for row in parts[0].test]
    assert len(set(dealt + test)) == len(dealt) + len(test)
    assert len(test) == 20
    for part in parts:
        assert part.test == parts[0].test
        assert len(part.train) == 3 * train
        assert len(part.validation) == 3 * validation
        assert len(part.pool) == 3
        assert all(row.label == cls for cls, rows in enumerate(part.pool) for row in rows)
        assert all(1 <= len(rows) <= pool for rows in part.pool)
        assert all(row.texts["sentence1"].startswith("dev") for row in part.validation + part.test)
        assert all(text.startswith("train") for text in own_rows(part)[: len(part.train)])
        if partition == "iid":
            assert per_class(part.train) == [train] * 3
            assert per_class(part.validation) == [validation] * 3
            assert [len(rows) for rows in part.pool] == [pool] * 3


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_every_worker_knows_how_many_rows_of_each_class_the_training_file_has(
    partition: str,
) -> None:
    whole = numbered(60, 40)
    kept = [row for row in whole.train if row.texts["sentence1"] != "train 4"]
    data = replace(whole, train=kept)
    for part in split(data, section(partition=partition, test=5), 2, 2, seed=1):
        assert part.class_counts == [60, 59, 60]


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_the_split_is_a_function_of_the_seed(partition: str) -> None:
    task = section(partition=partition, test=30)
    data = numbered(300, 300)
    one = split(data, task, 8, 3, seed=1)
    np.random.seed(0)
    assert split(data, task, 8, 3, seed=1) == one
    assert split(data, task, 8, 3, seed=2) != one


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_more_workers_leave_the_first_ones_their_rows(partition: str) -> None:
    task = section(partition=partition, test=30)
    data = numbered(300, 300)
    few, many = split(data, task, 8, 2, seed=1), split(data, task, 8, 4, seed=1)
    assert [own_rows(part) for part in few] == [own_rows(part) for part in many[:2]]


def test_rows_are_shuffled() -> None:
    part = split(numbered(100, 100), section(), 10, 1, seed=0)[0]
    drawn = [int(row.texts["sentence1"].split()[1]) for row in part.train]
    assert drawn != sorted(drawn)
    assert max(drawn) > 150


def test_dirichlet_makes_workers_differ_in_labels_and_pools() -> None:
    task = section(train_per_class=20, partition="dirichlet", alpha=0.5)
    parts = split(numbered(600, 600), task, 20, 5, seed=3)
    assert len({tuple(per_class(part.train)) for part in parts}) == 5
    assert len({tuple(len(rows) for rows in part.pool) for part in parts}) > 1


def test_pools_follow_the_same_shares_as_the_training_rows() -> None:
    task = section(train_per_class=20, partition="dirichlet", alpha=0.5)
    for part in split(numbered(600, 600), task, 20, 5, seed=3):
        train = per_class(part.train)
        assert [len(rows) for rows in part.pool] == [min(max(n, 1), 20) for n in train]


def test_a_large_alpha_comes_near_the_same_shares() -> None:
    task = section(train_per_class=20, partition="dirichlet", alpha=1e6)
    for part in split(numbered(600, 600), task, 20, 5, seed=3):
        assert all(abs(count - 20) <= 1 for count in per_class(part.train))


@given(
    left=st.tuples(*[st.integers(0, 40)] * 3), wanted=st.integers(1, 130), seed=st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_the_test_set_has_the_class_shares_of_what_is_left(
    left: tuple[int, ...], wanted: int, seed: int
) -> None:
    whole = numbered(60, 50)
    seen = Counter[int]()
    dev = []
    for row in whole.dev:
        if seen[row.label] < 10 + left[row.label]:
            seen[row.label] += 1
            dev.append(row)
    data, task = replace(whole, dev=dev), section(test=wanted, validation_per_class=10)
    if not sum(left):
        with pytest.raises(ConfigurationError, match="no row of"):
            split(data, task, 8, 1, seed)
        return
    test = split(data, task, 8, 1, seed)[0].test
    assert len(test) == min(wanted, sum(left))
    exact = [len(test) * each / sum(left) for each in left]
    assert all(abs(one - other) < 1 for one, other in zip(per_class(test), exact, strict=True))


def test_the_rows_of_a_test_set_are_drawn_and_shuffled() -> None:
    one, other = (split(numbered(60, 100), section(test=90), 8, 2, seed)[0].test for seed in (0, 1))
    assert one != other
    assert [row.label for row in one] != sorted(row.label for row in one)


def test_few_rows_left_make_a_smaller_test_set() -> None:
    part = split(numbered(60, 25), section(test=200, validation_per_class=10), 8, 2, seed=0)[0]
    assert per_class(part.test) == [5, 5, 5]


def test_no_test_set_is_an_error_only_if_one_was_wanted() -> None:
    data = numbered(60, 20)
    with pytest.raises(ConfigurationError, match=r"task.test = 200: no row of dev.csv is left"):
        split(data, section(test=200, validation_per_class=10), 8, 2, seed=0)
    assert split(data, section(test=0, validation_per_class=10), 8, 2, seed=0)[0].test == []


def test_too_few_rows_are_counted() -> None:
    with pytest.raises(ConfigurationError) as caught:
        split(numbered(30, 30), section(train_per_class=10), 8, 3, seed=0)
    assert str(caught.value) == (
        "task: train.csv has 30 rows of class 0 (' a'), but the 3 workers need 54; "
        "lower task.train_per_class, prompt.pool or the number of workers"
    )
    with pytest.raises(ConfigurationError, match=re.escape("lower task.validation_per_class or")):
        split(numbered(60, 20), section(), 8, 3, seed=0)


def test_a_missing_class_is_a_shortage() -> None:
    data = numbered(60, 60, classes=2)
    with pytest.raises(ConfigurationError, match=r"train.csv has 0 rows of class 2"):
        split(data, section(), 8, 3, seed=0)


def test_the_first_rows_of_a_race_have_the_class_shares_of_all() -> None:
    """Of 85 and 15 rows any first n have 0.15 n of the second class, up to one."""
    rows = [Row({"sentence1": str(k)}, int(k >= 85), f"file, line {k}") for k in range(100)]
    order = interleaved(rows)
    assert sorted(row.texts["sentence1"] for row in order) == sorted(
        row.texts["sentence1"] for row in rows
    )
    second = np.cumsum([row.label for row in order])
    assert (np.abs(second - 0.15 * np.arange(1, 101)) <= 1).all()
    assert [row.place for row in order if row.label] == [f"file, line {k}" for k in range(85, 100)]
