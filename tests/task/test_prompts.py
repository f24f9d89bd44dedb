import math

import numpy as np
import pytest

from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import WITHOUT, Split
from asyndbt_mpi.task.prompts import PromptBlackBox
from asyndbt_mpi.task.template import Template
from tests.task.fake import DATA, Fake

NONE = [WITHOUT, WITHOUT]


def black_box(probabilities: list[list[float]]) -> tuple[PromptBlackBox, Fake]:
    model = Fake(probabilities)
    template = Template("[[{fragment}: ]]{sentence1}?", [" no", " yes"])
    return PromptBlackBox({1: DATA}, template, ["w0", "w1", "w2"], 3, model), model


def query(
    words: list[list[int]],
    demonstrations: list[list[int]],
    rows: list[int],
    split: Split = Split.TRAIN,
) -> Query:
    return Query(1, split, np.array(rows, dtype=int), np.array(words), np.array(demonstrations))


def test_holdings_count_pools_and_rows() -> None:
    box, _ = black_box([])
    assert box.data_sizes[1].pool.tolist() == [1, 2]
    assert box.data_sizes[1].rows == {
        Split.TRAIN: 2,
        Split.VALIDATION: 1,
        Split.TEST: 3,
        Split.RACE: 3,
    }
    assert (box.descriptions[1], box.digests[1]) == ("fake", "0f")


def test_losses_and_accuracies_by_hand() -> None:
    # Two prompts on rows 1 (label 1) and 0 (label 0).
    box, model = black_box([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1], [0.3, 0.7]])
    [answer] = box.answer([query([[0, 2], [1, 1]], [[0, 1], [0, 0]], [1, 0])])
    assert answer.losses == pytest.approx(
        [-(math.log(0.8) + math.log(0.5)) / 2, -(math.log(0.1) + math.log(0.3)) / 2]
    )
    assert answer.accuracies.tolist() == [0.5, 0.0]  # a tie is no right answer
    assert (answer.prompts, answer.calls, answer.prompt_tokens) == (4, 4, 70)
    assert (answer.completion_tokens, answer.unrecognised) == (7, 2)
    assert len(model.asked) == 1


def test_a_tie_is_never_right_whatever_the_label() -> None:
    box, _ = black_box([[0.5, 0.5]] * 3)
    [answer] = box.answer([query([[0, 1]], [[0, 0]], [0, 1, 2], Split.TEST)])
    assert answer.accuracies.tolist() == [0.0]
    assert answer.losses == pytest.approx([math.log(2)])


def test_prompts_hold_demonstrations_fragment_and_query() -> None:
    box, model = black_box([[0.5, 0.5]] * 4)
    box.answer([query([[0, 2], [1, 1]], [[0, 1], [0, 0]], [1, 0])])
    first = "w0 w2: a0? no\n\nw0 w2: b1? yes\n\n"
    second = "w1 w1: a0? no\n\nw1 w1: b0? yes\n\n"
    assert model.asked[0] == [
        Prompt(first, "w0 w2: t1?"),
        Prompt(first, "w0 w2: t0?"),
        Prompt(second, "w1 w1: t1?"),
        Prompt(second, "w1 w1: t0?"),
    ]


def test_without_words_or_demonstrations() -> None:
    box, model = black_box([[0.5, 0.5]] * 3)
    box.answer([query([NONE, [0, 1], NONE], [[0, 0], NONE, NONE], [2], Split.TEST)])
    assert model.asked[0] == [
        Prompt("a0? no\n\nb0? yes\n\n", "s2?"),
        Prompt("", "w0 w1: s2?"),
        Prompt("", "s2?"),
    ]


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (query([[0, 3]], [NONE], [0]), "word 3 at position 1 is out of range; there are 3"),
        (query([[0, -2]], [NONE], [0]), "word -2"),
        (query([[WITHOUT, 1]], [NONE], [0]), "word -1 at position 0"),
        (
            query([NONE], [[1, 0]], [0]),
            "demonstration 1 at position 0 is out of range; there are 1",
        ),
        (
            query([NONE], [[0, 2]], [0]),
            "demonstration 2 at position 1 is out of range; there are 2",
        ),
        (query([NONE], [[0, WITHOUT]], [0]), "demonstration -1 at position 1"),
        (query([NONE], [NONE], [0, 2]), "TRAIN row 2 at position 1 is out of range; there are 2"),
        (query([NONE], [NONE], [-1]), "TRAIN row -1"),
        (query([NONE], [NONE], [1], Split.VALIDATION), "VALIDATION row 1"),
    ],
)
def test_an_index_out_of_range_is_an_error(wrong: Query, fault: str) -> None:
    box, model = black_box([[0.5, 0.5]])
    with pytest.raises(IndexError, match=fault):
        box.answer([wrong])
    assert not model.asked


def test_no_rows_are_an_error() -> None:
    box, _ = black_box([])
    with pytest.raises(ValueError, match="at least one row"):
        box.answer([query([[0, 1]], [NONE], [])])


@pytest.mark.parametrize(("probability", "shown"), [(math.nan, "nan"), (0.0, "-inf")])
def test_a_log_probability_that_is_not_finite_is_named_without_its_text(
    probability: float, shown: str
) -> None:
    good = [0.5, 0.5]
    box, _ = black_box([good, good, good, [0.5, probability]])
    with pytest.raises(FloatingPointError) as caught:
        box.answer([query([[0, 1], [1, 2]], [[0, 1], [0, 0]], [0, 1])])
    message = str(caught.value)
    assert f"returned {shown} as the log-probability of label 1, for prompt 1 on row 1" in message
    assert not any(text in message for text in ("t1", "a0", "b0", "w1"))
