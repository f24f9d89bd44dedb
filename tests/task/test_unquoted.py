"""Errors about rows are told without them."""

import traceback

import numpy as np
import pytest

from asyndbt_mpi.llm.base import LabelError, ModelError
from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import Shapes, Split
from asyndbt_mpi.task.function import LossFunction
from asyndbt_mpi.task.unquoted import UnquotedError, unquoted
from asyndbt_mpi.transport.interruption import Interrupted

SECRET = "a row that nobody is to see"


def told(error: BaseException) -> str:
    """The whole traceback of what becomes of ``error``, which another one caused."""
    try:
        with unquoted():
            try:
                raise KeyError(SECRET)
            except KeyError as cause:
                raise error from cause
    except BaseException as found:
        return "".join(traceback.format_exception(found))
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    ],
)
def test_the_words_of_other_errors_are_left_out(error: Exception) -> None:
    said = told(error)
    assert SECRET not in said
    assert f"UnquotedError: {type(error).__name__} in told (test_unquoted.py, line" in said


@pytest.mark.parametrize(
    "error", [ModelError("too long"), LabelError("too long"), OSError(28, "too long")]
)
def test_words_of_its_own_are_kept_without_their_cause(error: Exception) -> None:
    said = told(error)
    assert "too long" in said
    assert SECRET not in said


def test_who_is_asked_to_end_is_not_kept() -> None:
    with pytest.raises(Interrupted), unquoted():
        raise Interrupted("SIGTERM")


@pytest.mark.parametrize("private", [False, True])
def test_a_private_function_is_not_quoted(private: bool) -> None:
    def loss(worker: int, words: np.ndarray, demonstrations: np.ndarray) -> np.ndarray:
        raise ValueError(SECRET)

    function = LossFunction(loss, Shapes(1, 2, 1, 2), vocabulary=["one", "two"])
    box = function.of_workers([1], private)
    indices = np.zeros((1, 1), dtype=int)
    query = Query(1, Split.TRAIN, np.zeros(1, int), indices, indices)
    with pytest.raises(UnquotedError if private else ValueError) as found:
        box.answer([query])
    assert (SECRET in str(found.value)) == (not private)
