"""An estimator and a black box that Python code gives: what is refused, and what is checked."""

from typing import Any

import numpy as np
import pytest

from asyndbt_mpi.algorithm.estimator import FromScores, leave_one_out
from asyndbt_mpi.assemble import prepare
from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.jobs.own import CheckedEstimator, Own
from asyndbt_mpi.protocol.messages import Shapes
from asyndbt_mpi.task.function import LossFunction

P, Q = (2, 3, 4), (2, 1, 5)
"""Shapes of p and q of two workers."""


def box() -> LossFunction:
    return LossFunction(lambda worker, words, _: words[:, 0], Shapes(2, 3, 4, 5), ["a", "b", "c"])


class Plain(FromScores):
    """Leave one out, as somebody might write it."""

    def __init__(self, p_shape: tuple[int, ...], q_shape: tuple[int, ...]) -> None:
        super().__init__(leave_one_out)


def ask(estimator: CheckedEstimator) -> None:
    """All that workers ask of an estimator."""
    members, losses = np.arange(2), np.zeros((2, 6))
    p, q = np.full(P, 0.25), np.full(Q, 0.2)
    words, shown = np.zeros((2, 6, 3), int), np.zeros((2, 6, 1), int)
    estimator.couple(np.zeros((2, 6, 3)))
    estimator.upper(members, p, q, words, shown, losses)
    estimator.lower(members, p, words, shown, losses)
    assert estimator.state is not None


def wrong(**methods: Any) -> type:
    return type("Wrong", (Plain,), methods)


def test_a_class_and_a_function_that_makes_one_are_taken() -> None:
    for each in (Plain, lambda p_shape, q_shape: FromScores(leave_one_out)):
        own = Own.of(estimator=each)
        assert own.estimator is not None
        made = own.estimator(P, Q)
        assert isinstance(made, CheckedEstimator)
        ask(made)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("loo", "estimator is a str; it must be a class, or a function that makes an estimator"),
        (FromScores(leave_one_out), "estimator is a FromScores; it must be a class"),
        (lambda: None, "could not be made from the shapes of p"),
        (lambda p, q: None, "NoneType has no method couple; it needs state, couple, upper, lower"),
        (wrong(lower=None), "Wrong has no method lower"),
        (wrong(state=None), "state must be a list of float64 arrays"),
        (wrong(state=property(lambda _: [np.zeros(1)])), "one row for each of the 2 workers"),
        (wrong(state=property(lambda _: [np.zeros(2, int)])), "state must be a list of float64"),
        (wrong(state=property(lambda _: [[0.0, 0.0]])), "state must be a list of float64 arrays"),
    ],
)
def test_a_wrong_one_is_refused_before_anything_is_started(given: Any, line: str) -> None:
    with pytest.raises(ConfigurationError, match=line) as error:
        Own.of(estimator=given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("methods", "line"),
    [
        ({"couple": lambda _, u: u[..., :1]}, r"couple returned an array of shape \(2, 6, 1\)"),
        ({"couple": lambda _, u: u + 1}, r"couple must return numbers in \[0, 1\)"),
        ({"couple": lambda _, u: u - 1}, r"couple must return numbers in \[0, 1\)"),
        ({"upper": lambda _, m, p, *rest: p}, "upper returned a ndarray; it must be a pair, the gradients in p"),
        ({"upper": lambda _, m, p, q, *rest: (q, p)}, r"upper .* shape \(2, 1, 5\); it must .* \(2, 3, 4\)"),
        ({"upper": lambda _, m, p, q, *rest: (p, q * np.nan)}, "upper .* not finite"),
        ({"upper": lambda _, m, p, q, *rest: (p.tolist(), q)}, "upper returned a list; it must be"),
        ({"lower": lambda _, m, p, *rest: p.astype("f4")}, "an array of float32; it must be a float64"),
        ({"lower": lambda _, m, p, *rest: None}, "lower returned a NoneType; it must be"),
    ],
)  # fmt: skip
def test_every_result_is_checked(methods: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError, match=line):
        ask(CheckedEstimator(wrong(**methods), P, Q))


@pytest.mark.parametrize("default", ["none", "batch"])
def test_the_configuration_says_what_was_given(
    monkeypatch: pytest.MonkeyPatch, default: str
) -> None:
    monkeypatch.setattr("asyndbt_mpi.inputs.defaults.CALIBRATION", default)
    own = Own.of(box(), Plain)
    config = own.configured(load("demo"))
    assert (config.llm.backend, config.llm.model) == ("python", own.black_box.name)  # type: ignore[union-attr]
    assert config.estimator.name.startswith("python: Plain, code ")
    prompt = config.prompt
    assert (prompt.fragment_length, prompt.vocabulary, prompt.pool) == (2, ["a", "b", "c"], 5)
    assert (config.task.template, config.task.labels, config.task.test) == ("", [], 0)
    other = load("demo", ["estimator.name=loo"])  # has no model of the loss either
    assert (config.run, config.algorithm) == (other.run, other.algorithm)
    assert Config.from_toml(config.to_toml()) == config
    assert own.configured(config) == config
    materials = prepare(config, 3, own)
    assert (materials.shapes.classes, materials.template, materials.data) == (4, None, None)


@pytest.mark.parametrize("without", [Own(), Own.of(box()), Own.of(estimator=Plain)])
def test_what_is_not_given_is_missed(without: Own) -> None:
    config = Own.of(box(), Plain).configured(load("demo"))
    with pytest.raises(ConfigurationError, match=r"run it from Python, .* \(docs/python.md\)"):
        prepare(config, 3, without)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["budget.tokens=5"], "budget.tokens and budget.cost must be 0"),
        (["estimator.name=exact"], "'exact' needs llm.backend = 'synthetic'"),
    ],
)
def test_what_a_function_cannot_do_is_refused(settings: list[str], line: str) -> None:
    with pytest.raises(ConfigurationError, match=line):
        Own.of(box()).configured(load("synthetic", settings))


def test_a_black_box_is_a_loss_function() -> None:
    with pytest.raises(
        ConfigurationError, match=r"is a function; it must be an\s+adbt.LossFunction"
    ):
        Own.of(lambda worker, words, demonstrations: words[:, 0])
