"""A Python function as the black box: what it may return, and what it is called."""

import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.protocol.blackbox import ExactQuery, Query
from asyndbt_mpi.protocol.messages import Shapes, Split
from asyndbt_mpi.protocol.ranges import FREE_LOSS
from asyndbt_mpi.task.function import LossFunction, checked_losses, code_name

SHAPES = Shapes(2, 3, 1, 2)
WORDS = ["red", "green", "blue"]


def first_word(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
    return words[:, 0] + worker


def query(worker: int = 1, prompts: int = 4) -> Query:
    words = np.arange(2 * prompts).reshape(prompts, 2) % 3
    return Query(worker, Split.TRAIN, np.zeros(1, int), words, np.zeros((prompts, 1), int))


def box(loss: Any, **options: Any) -> LossFunction:
    return LossFunction(loss, SHAPES, WORDS, **options)


@given(st.lists(st.floats(), min_size=1, max_size=6), st.booleans())
def test_one_finite_number_for_each_of_four_prompts_and_nothing_else(
    numbers: list[float], in_a_column: bool
) -> None:
    returned = np.array(numbers)[:, None] if in_a_column else np.array(numbers)
    if returned.shape == (4,) and FREE_LOSS.holds_all(returned):
        losses = checked_losses(returned, 2, 4)
        assert losses.tolist() == returned.tolist()
        assert not np.shares_memory(losses, returned)
    else:
        with pytest.raises(
            ConfigurationError, match=r"for worker 2; it must return 4 finite .* shape \(4,\)"
        ):
            checked_losses(returned, 2, 4)


@pytest.mark.parametrize(
    "returned",
    [[1, 2, 3, 4], (0.5, 1, 2, 3), np.arange(4, dtype=np.float32), np.arange(4, dtype=np.uint8)],
    ids=["list", "tuple", "float32", "uint8"],
)
def test_real_numbers_of_any_kind_become_float64(returned: Any) -> None:
    losses = checked_losses(returned, 1, 4)
    assert losses.dtype == np.float64
    assert losses.tolist() == [float(each) for each in returned]


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (None, "a NoneType of dtype object"),
        (0.5, "a float of shape ()"),
        (["1", "2", "3", "4"], "a list of dtype <U1"),
        (np.ones(4, dtype=bool), "a ndarray of dtype bool"),
        (np.ones(4, dtype=complex), "a ndarray of dtype complex128"),
        ([[1], [2, 3], [4], [5]], "a list, which is not an array"),
        ([1.0, np.nan, 2.0, 3.0], "nan as the loss of prompt 1"),
        ([1.0, 2.0, 3.0, -np.inf], "-inf as the loss of prompt 3"),
    ],
)
def test_what_is_wrong_is_told_with_the_worker_and_what_is_due(returned: Any, found: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        box(lambda *_: returned).of_workers([3]).answer([query(worker=3)])
    assert str(error.value) == (
        f"the loss function returned {found} for worker 3; it must return 4 finite real numbers of"
        " shape (4,), one per prompt"
    )


def test_every_prompt_is_a_call_without_tokens() -> None:
    [answer] = box(first_word).of_workers([1, 2]).answer([query(worker=2)])
    assert answer.losses.tolist() == [2, 4, 3, 2]
    assert (answer.calls, answer.prompts, answer.prompt_tokens) == (4, 4, 0)
    assert np.isnan(answer.accuracies).all()


def test_the_function_may_write_into_what_it_gets() -> None:
    def spoil(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
        words[:], demonstrations[:] = 0, 0
        return words[:, 0]

    asked = query()
    before = asked.words.copy()
    box(spoil).of_workers([1]).answer([asked])
    assert np.array_equal(asked.words, before)


def test_a_function_has_no_exact_gradient() -> None:
    asked = ExactQuery(1, np.zeros((2, 3)), np.zeros((1, 2)))
    with pytest.raises(TypeError, match="no exact gradient"):
        box(first_word).of_workers([1]).answer([asked])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((3.0, SHAPES, WORDS), r"loss is a float, not a function of \(worker, words,"),
        ((first_word, (2, 3, 1, 2), WORDS), r"shapes is a tuple, not a Shapes\(positions"),
        ((first_word, Shapes(0, 3, 1, 2), WORDS), "shapes.positions = 0: must be a whole number"),
        ((first_word, Shapes(2, 3, 1, 2.0), WORDS), r"shapes.pool = 2.0: must be a whole number"),  # type: ignore[arg-type]
        ((first_word, SHAPES, WORDS[:2]), "vocabulary has 2 entries; it must be a list of 3 words"),
        ((first_word, SHAPES, "red"), "vocabulary has 1 entries; it must be a list of 3 words"),
        (
            (first_word, SHAPES, ["a", "b", 3]),
            "vocabulary has 3 entries; it must be a list of 3 words",
        ),
        ((first_word, SHAPES, ["a", "b", "a"]), "'a' is a repeat of number 1"),
        ((first_word, SHAPES, ["a", "b", "c  d"]), "a blank at an end"),
        ((first_word, SHAPES, WORDS, "a\nb"), "name "),
        ((first_word, SHAPES, WORDS, "a" * 201), "name has more than 200 characters"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_one_line(arguments: Any, line: str) -> None:
    with pytest.raises(ConfigurationError, match=line) as error:
        LossFunction(*arguments)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- names


def compiled(source: str, name: str = "loss") -> Any:
    place: dict[str, Any] = {}
    exec(source, place)
    return place[name]


SOURCE = "def loss(worker, words, demonstrations):\n    return 2.0 * words[:, 0]"
SAME = {
    "lines": f"\n\n{SOURCE}",
    "comments": SOURCE.replace("\n", "  # of a worker\n"),
    "spaces": SOURCE.replace("2.0 * words", "2.0*words"),
}
OTHER = {
    "constant": SOURCE.replace("2.0", "3.0"),
    "type of a constant": SOURCE.replace("2.0", "2"),
    "operator": SOURCE.replace("*", "+"),
    "global": SOURCE.replace("2.0", "scale"),
    "inner function": SOURCE.replace("2.0", "(lambda: 2.0)()"),
    "constant of an inner function": SOURCE.replace("2.0", "(lambda: 3.0)()"),
    "set": SOURCE.replace("2.0", "(worker in {1, 2})"),
    "another set": SOURCE.replace("2.0", "(worker in {1, 3})"),
}


def test_a_name_says_what_the_code_does_and_not_where_it_stands() -> None:
    name = code_name(compiled(SOURCE))
    assert name.startswith("loss, code ")
    assert {code_name(compiled(source)) for source in SAME.values()} == {name}
    others = {code_name(compiled(source)) for source in OTHER.values()}
    assert len(others) == len(OTHER)
    assert name not in others


def test_a_name_is_the_same_in_every_process() -> None:
    source = "def loss(w, j, k):\n    return w in {'a', 'b', 'c', 'd', 'e', (1, 'f')}"
    program = (
        f"place = {{}}; exec({source!r}, place)\n"
        "from asyndbt_mpi.task.function import code_name; print(code_name(place['loss']))"
    )
    names = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout.strip()
        for seed in "123"
        for path in [":".join(sys.path)]
    }  # fmt: skip
    assert names == {code_name(compiled(source))}


class Scaled:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
        return self.scale * words[:, 0]

    def method(self, worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
        return words[:, 0]


class Other(Scaled):
    def method(self, worker: int, words: np.ndarray, demonstrations: np.ndarray) -> Any:
        return words[:, 1]


def test_whatever_can_be_called_has_a_name() -> None:
    called = [Scaled(1.0), Scaled(1.0).method, Other(1.0), partial(first_word, 1), np.sum, min]
    names = [code_name(each) for each in called]
    assert [name.partition(",")[0] for name in names] == [
        "Scaled", "Scaled.method", "Other", "first_word", "sum", "min",
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    assert code_name(Scaled(1.0)) == code_name(Scaled(2.0))  # data are no code
    assert box(Scaled(1.0), name="scaled by 1").name == "scaled by 1"
