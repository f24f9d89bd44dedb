"""Calibrated scores: by hand, by enumeration, and what must hold for all of them."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.protocol.blackbox import Query
from asyndbt_mpi.protocol.messages import WITHOUT, Split
from asyndbt_mpi.task.calibration import bias, bias_at, calibrated, log_prior, references
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.longest import longest_parts
from asyndbt_mpi.task.prompts import PromptBlackBox
from asyndbt_mpi.task.template import Template
from tests.task.fake import DATA, Fake
from tests.task.weighting import weighted

TEMPLATE = Template("[[{fragment}: ]]{sentence1}?", [" no", " yes"])
NONE = [WITHOUT, WITHOUT]
TRAIN = replace(
    DATA,
    train=[Row({"sentence1": "t0"}, 0), Row({"sentence1": "t1"}, 1), Row({"sentence1": "t2"}, 1)],
)
OWN, SHARED = np.array([2, 3]) / 5, np.array([6, 3]) / 9
"""pi of the worker's own rows, and of the test rows."""


def box(probabilities: list[list[float]], calibration: str) -> tuple[PromptBlackBox, Fake]:
    model = Fake(probabilities)
    return PromptBlackBox({1: TRAIN}, TEMPLATE, ["w0", "w1"], 2, model, calibration), model  # type: ignore[arg-type]


def query(split: Split, rows: list[int], prompts: int = 1) -> Query:
    words = np.array([[0, 1], [1, 0]][:prompts])
    return Query(1, split, np.array(rows), words, np.full((prompts, 2), WITHOUT))


def corrected(p: list[float], mean: list[float], pi: np.ndarray = OWN) -> np.ndarray:
    """p / mean * pi, normalised: the definition."""
    scores = np.array(p) / np.array(mean) * pi
    found: np.ndarray = scores / scores.sum()
    return found


# ---------------------------------------------------------------- by hand


def test_a_training_batch_is_its_own_reference() -> None:
    answers = [[0.9, 0.1], [0.7, 0.3]]
    black_box, model = box(answers, "batch")
    [answer] = black_box.answer([query(Split.TRAIN, [0, 2])])
    mean = [0.8, 0.2]
    right = corrected(answers[0], mean)[0], corrected(answers[1], mean)[1]
    assert answer.losses == pytest.approx([-np.log(right).mean()])
    assert answer.accuracies.tolist() == [1.0]  # of the raw scores one half is right
    assert answer.bias is not None
    assert np.exp(answer.bias) == pytest.approx(np.array([mean]))
    assert [prompt.query for prompt in model.asked[0]] == ["w0 w1: t0?", "w0 w1: t2?"]
    assert answer.prompts == 2


OF_REFERENCES = [[[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], [[0.6, 0.4], [0.4, 0.6], [0.2, 0.8]]]


@pytest.mark.parametrize(
    ("split", "text", "label", "means", "pi"),
    [
        (Split.VALIDATION, "v0", 1, [[0.8, 0.2], [0.4, 0.6]], OWN),
        # 6/9 of the row of class 0, 3/9 of the mean of the two of class 1
        (Split.TEST, "s0", 0, [[0.85, 0.15], [0.5, 0.5]], SHARED),
    ],
)
def test_what_is_judged_has_the_training_rows_as_reference_under_the_same_prompt(
    split: Split, text: str, label: int, means: list[list[float]], pi: np.ndarray
) -> None:
    own = [[0.6, 0.4], [0.3, 0.7]]
    answers = [own[0], *OF_REFERENCES[0], own[1], *OF_REFERENCES[1]]
    black_box, model = box(answers, "batch")
    [answer] = black_box.answer([query(split, [0], prompts=2)])
    due = [corrected(own[prompt], means[prompt], pi)[label] for prompt in (0, 1)]
    assert answer.losses == pytest.approx(-np.log(due))
    assert np.exp(answer.bias) == pytest.approx(np.array(means))  # type: ignore[arg-type]
    asked = [f"{words}: {row}?" for words in ("w0 w1", "w1 w0") for row in
             (text, "t0", "t1", "t2")]  # fmt: skip
    assert model.asked == [[Prompt("", text) for text in asked]]
    assert answer.prompts == 8


@pytest.mark.parametrize("split", Split)
def test_content_free_rows_are_asked_for_each_prompt_of_any_split(split: Split) -> None:
    answers = [[0.6, 0.4], [0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]
    black_box, model = box(answers, "content_free")
    [answer] = black_box.answer([query(split, [0])])
    label = {Split.VALIDATION: 1, Split.RACE: 1}.get(split, 0)
    pi = SHARED if split is Split.TEST else OWN
    due = corrected(answers[0], [0.7, 0.3], pi)[label]
    assert answer.losses == pytest.approx([-math.log(due)])
    assert [prompt.query.removeprefix("w0 w1: ") for prompt in model.asked[0][1:]] == [
        "N/A?", "?", "[MASK]?",
    ]  # fmt: skip


def test_both_texts_of_a_pair_are_replaced() -> None:
    template = Template("[[{fragment} ]]{sentence1} / {sentence2} =", [" no", " yes"])
    texts = [template.render(row, None) for row in references("content_free", Split.TEST, [])]
    assert texts == ["N/A / N/A =", " /  =", "[MASK] / [MASK] ="]


def test_scores_that_are_not_calibrated_are_those_of_the_model_bit_for_bit() -> None:
    answers = [[0.2, 0.8], [0.7, 0.3], [0.45, 0.55]]
    [answer] = box(answers, "none")[0].answer([query(Split.TRAIN, [0, 1, 2])])
    assert answer.log_probabilities is not None
    assert np.array_equal(answer.log_probabilities[0], np.log(answers))
    assert answer.bias is None
    assert answer.losses[0] == -np.log([0.2, 0.3, 0.55]).mean()


def test_a_query_may_name_its_own_calibration() -> None:
    answers = [[0.6, 0.4]]
    raw = replace(query(Split.TEST, [0]), calibration="none")
    [answer] = box(answers, "batch")[0].answer([raw])
    assert answer.losses == pytest.approx([-math.log(0.6)])
    further = [[0.6, 0.4], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]
    own = replace(query(Split.TEST, [0]), calibration="batch")
    [answer] = box(further, "none")[0].answer([own])
    due = corrected([0.6, 0.4], [0.85, 0.15], SHARED)[0]
    assert answer.losses == pytest.approx([-math.log(due)])


@pytest.mark.parametrize(
    ("calibration", "further"),
    [("none", (0, 0, 3, 0)), ("batch", (0, 3, 3, 0)), ("content_free", (3, 3, 3, 3))],
)
def test_what_calibration_asks_besides_is_known_before(
    calibration: str, further: tuple[int, int, int, int]
) -> None:
    """Of the test split it is that of the calibrated untuned prompt, at least."""
    held = box([], calibration)[0].data_sizes[1]
    assert tuple(held.references[split] for split in Split) == further
    assert held.rows == {Split.TRAIN: 3, Split.VALIDATION: 1, Split.TEST: 3, Split.RACE: 4}


def test_content_free_texts_count_among_the_longest_prompts() -> None:
    def characters(texts: list[str]) -> list[int]:
        return list(map(len, texts))

    parts = [
        longest_parts(TEMPLATE, ["w"], 1, TRAIN, calibration, characters)  # type: ignore[arg-type]
        for calibration in ("none", "batch", "content_free")
    ]
    assert [each.queries[0].row.texts["sentence1"] for each in parts] == ["t0", "t0", "[MASK]"]
    assert parts[0].tokens == parts[1].tokens == parts[2].tokens - len("[MASK]") + len("t0")


def test_an_answer_on_a_reference_that_is_not_finite_is_named_as_such() -> None:
    black_box, _ = box([[0.5, 0.5], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]], "batch")
    with pytest.raises(FloatingPointError, match="label 0, for prompt 0 on reference row 1"):
        black_box.answer([query(Split.TEST, [0])])


def test_a_class_without_a_row_by_hand() -> None:
    """Shares (1, 2, 1) / 4; of the last class there is no row, but two of the first."""
    p = [[0.7, 0.1, 0.2], [0.5, 0.3, 0.2], [0.2, 0.4, 0.4]]
    # As rows of the last class: the first two with their first probability last, and the third
    # with its second one last; a third of them of the first class, two thirds of the second.
    stand_in = np.array([0.2, 0.2, 0.6]) / 3 + 2 * np.array([0.2, 0.4, 0.4]) / 3
    due = np.array([0.6, 0.2, 0.2]) / 4 + np.array([0.2, 0.4, 0.4]) / 2 + stand_in / 4
    found = bias_at(np.log(p), np.array([0, 0, 1]), np.log([0.25, 0.5, 0.25]))
    assert np.exp(found) == pytest.approx(due)


@pytest.mark.parametrize("cls", [0, 1])
def test_rows_of_one_class_of_two_correct_nothing(cls: int) -> None:
    p, pi = np.log([[0.9, 0.1], [0.6, 0.4]]), np.log([0.5, 0.5])
    off = bias_at(p, np.array([cls, cls]), pi)
    assert calibrated(p[None], off[None], pi)[0] == pytest.approx(p)


# ---------------------------------------------------------------- by enumeration


def test_the_mean_corrected_answer_is_what_enumeration_gives() -> None:
    """All models of two classes and three rows whose probabilities are tenths from 0.1 to 0.9."""
    tenths = np.arange(1, 10) / 10
    first = np.array(list(itertools.product(tenths, repeat=3)))  # (9^3, B)
    p = np.stack([first, 1 - first], axis=-1)
    prior = log_prior([1, 2])
    found = np.exp(calibrated(np.log(p), bias(np.log(p)), prior))
    mean = p.mean(axis=1, keepdims=True)
    due = p / mean * np.array([2, 3]) / 5
    assert found == pytest.approx(due / due.sum(axis=2, keepdims=True))
    # A model that answers the same whatever the row is left with the prior.
    constant = (first == first[:, :1]).all(axis=1)
    assert found[constant] == pytest.approx(np.broadcast_to([0.4, 0.6], (9, 3, 2)))


# ---------------------------------------------------------------- what always holds


LOG_PROBABILITIES = arrays(np.float64, (2, 5, 3), elements=st.floats(-50, 0))
CONSTANTS = arrays(np.float64, 3, elements=st.floats(-20, 20))


@given(LOG_PROBABILITIES, CONSTANTS, arrays(np.int64, 4, elements=st.integers(0, 2)))
def test_a_constant_for_each_label_changes_nothing(
    scores: np.ndarray, constants: np.ndarray, labels: np.ndarray
) -> None:
    prior = log_prior(np.bincount(labels, minlength=3))
    before = calibrated(scores, bias(scores), prior)
    after = calibrated(scores + constants, bias(scores + constants), prior)
    assert np.allclose(before, after, rtol=0, atol=1e-9)
    assert np.allclose(np.logaddexp.reduce(before, axis=-1), 0, atol=1e-12)
    assert (before <= 0).all()


SHARES = arrays(np.int64, 3, elements=st.integers(0, 9)).map(log_prior)
LABELS = arrays(np.int64, 5, elements=st.integers(0, 2))


@given(LOG_PROBABILITIES, st.permutations([0, 0, 1, 2, 2]))
def test_weighted_to_their_own_shares_references_are_not_weighted(
    scores: np.ndarray, labels: list[int]
) -> None:
    """Up to the row that pi adds for each class."""
    assert np.allclose(bias_at(scores, np.array(labels), np.log([0.4, 0.2, 0.4])), bias(scores))


@given(LOG_PROBABILITIES, LABELS, SHARES, st.lists(st.integers(1, 4), min_size=3, max_size=3))
def test_how_many_references_a_class_has_does_not_count(
    scores: np.ndarray, labels: np.ndarray, shares: np.ndarray, times: list[int]
) -> None:
    more = np.repeat(np.arange(5), np.array(times)[labels])
    before = bias_at(scores, labels, shares)
    assert np.allclose(bias_at(scores[:, more], labels[more], shares), before)


@given(LOG_PROBABILITIES, LABELS, SHARES)
def test_weighted_means_are_those_of_rows_one_by_one(
    scores: np.ndarray, labels: np.ndarray, shares: np.ndarray
) -> None:
    """Also with classes that have no row; the means of probabilities sum to 1."""
    p = np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True))
    found = bias_at(np.log(p), labels, shares)
    assert np.exp(found) == pytest.approx(weighted(p, labels, np.exp(shares)))
    assert np.allclose(np.logaddexp.reduce(found, axis=-1), 0, atol=1e-12)


@given(LOG_PROBABILITIES, CONSTANTS, st.permutations([0, 0, 1, 2, 2]), SHARES)
def test_a_constant_for_each_label_changes_nothing_at_other_shares(
    scores: np.ndarray, constants: np.ndarray, labels: list[int], shares: np.ndarray
) -> None:
    before, after = (
        calibrated(each, bias_at(each, np.array(labels), shares), shares)
        for each in (scores, scores + constants)
    )
    assert np.allclose(before, after, rtol=0, atol=1e-9)


@settings(max_examples=30)
@given(
    arrays(np.float64, (6, 2), elements=st.floats(-8, 0)),
    st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
)
def test_the_score_of_a_test_row_depends_on_no_other(scores: np.ndarray, rows: list[int]) -> None:
    """Whatever rows are evaluated together, and in whatever order."""
    answers = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
    own, of_references = answers[:3], answers[3:].tolist()
    [together] = box([*own[rows].tolist(), *of_references], "batch")[0].answer(
        [query(Split.TEST, rows)]
    )
    assert together.log_probabilities is not None
    for place, row in enumerate(rows):
        [alone] = box([own[row].tolist(), *of_references], "batch")[0].answer(
            [query(Split.TEST, [row])]
        )
        assert alone.log_probabilities is not None
        assert np.array_equal(alone.log_probabilities[0, 0], together.log_probabilities[0, place])
        assert np.array_equal(alone.bias, together.bias)  # type: ignore[arg-type]


# ---------------------------------------------------------------- workers that differ


def toy(
    labels: np.ndarray, preference: np.ndarray, generator: np.random.Generator, slope: float = 2
) -> np.ndarray:
    """Scores of a model that weighs the evidence right with slope 2, but for a preference."""
    evidence = generator.normal(size=(len(labels), len(preference)))
    evidence[np.arange(len(labels)), labels] += 2
    scores: np.ndarray = slope * evidence + preference
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 7])
def test_workers_with_few_classes_are_not_harmed(classes: int) -> None:
    """Shares of Dirichlet(0.3); accuracy on rows of the worker's own shares, mean of workers.

    Without a preference nothing is lost by calibration, with one much is gained; with a uniform
    pi much would be lost.
    """
    generator = np.random.default_rng(0)
    for size, gain in ((0.0, 0.0), (1.5, 0.02)):
        raw, own, uniform = [], [], []
        for _ in range(60):
            shares = generator.dirichlet(np.full(classes, 0.3))
            preference = size * generator.normal(size=classes)
            train, judged = (generator.choice(classes, n, p=shares) for n in (10 * classes, 301))
            of_train, scores = (toy(rows, preference, generator) for rows in (train, judged))
            off, pi = bias(of_train[None]), log_prior(np.bincount(train, minlength=classes))
            for found, prior in ((own, pi), (uniform, np.zeros(classes))):
                found.append((calibrated(scores[None], off, prior)[0].argmax(1) == judged).mean())
            raw.append((scores.argmax(1) == judged).mean())
        assert np.mean(own) >= np.mean(raw) + gain
        assert np.mean(uniform) < np.mean(own) - 0.05


def shared_test(
    shares: list[float], alpha: float | None, preference: float, slope: float
) -> tuple[float, float, float]:
    """Accuracy on test rows of ``shares``, the mean of 100 workers with 10 training rows a class.

    Not calibrated, by the worker's own shares, and by those of the test rows. The workers have as
    many rows of each class, or shares of Dirichlet(``alpha``).
    """
    generator, classes = np.random.default_rng(0), len(shares)
    found = []
    for _ in range(100):
        train = np.repeat(np.arange(classes), 10)
        if alpha is not None:
            own = generator.dirichlet(np.full(classes, alpha))
            train = generator.choice(classes, 10 * classes, p=own)
        judged = generator.choice(classes, 301, p=shares)
        bent = preference * generator.normal(size=classes)
        of_train, scores = (toy(rows, bent, generator, slope)[None] for rows in (train, judged))
        of_worker, of_test = log_prior(np.bincount(train, minlength=classes)), np.log(shares)
        ways = (
            scores,
            calibrated(scores, bias(of_train), of_worker),
            calibrated(scores, bias_at(of_train, train, of_test), of_test),
        )
        found.append([(each[0].argmax(axis=1) == judged).mean() for each in ways])
    raw, by_worker, by_test = np.mean(found, axis=0)
    return raw, by_worker, by_test


EQUAL, UNEQUAL, SEVEN = [0.5, 0.5], [0.7, 0.3], [1 / 7] * 7


@pytest.mark.parametrize("slope", [0.5, 1, 2])
@pytest.mark.parametrize(
    ("shares", "alpha"),
    [(EQUAL, None), (EQUAL, 0.3), (SEVEN, None), (SEVEN, 0.3), (UNEQUAL, None), (UNEQUAL, 0.3)],
)
def test_on_the_shared_test_rows_nobody_is_harmed(
    shares: list[float], alpha: float | None, slope: float
) -> None:
    """Without a preference nothing is lost but by chance, with one the more is gained."""
    for preference, gain in ((0.0, -0.015), (0.5, 0.0), (1.5, 0.005)):
        raw, by_worker, by_test = shared_test(shares, alpha, preference, slope)
        assert by_test >= raw + gain
        if alpha is None and len(set(shares)) == 1:
            assert by_test == pytest.approx(by_worker)


@pytest.mark.parametrize(("shares", "loss"), [(EQUAL, 0.02), (SEVEN, 0.15)])
def test_by_a_workers_shares_it_would_be_harmed(shares: list[float], loss: float) -> None:
    raw, by_worker, _ = shared_test(shares, 0.3, preference=0.0, slope=1)
    assert by_worker < raw - loss
