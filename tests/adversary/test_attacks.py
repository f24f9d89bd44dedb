"""Each attack's formula, on numbers worked out by hand."""

import numpy as np
import pytest

from asyndbt_mpi.adversary.attacks import LIES, View
from asyndbt_mpi.adversary.colluders import Colluders
from asyndbt_mpi.algorithm.additive import prior_variance
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.messages import Costs, EvaluationReport, LowerReport, Report, Shapes
from tests.protocol.hand import configuration

SHAPES = Shapes(positions=1, words=2, classes=1, pool=1, samples=1)
VIEW = View(
    start=np.array([[0.5, 0.5]]),
    move=np.array([[0.2, -0.2]]),
    first=np.array([[0.9, 0.1]]),
    others=np.array([[[0.6, 0.4]], [[0.2, 0.8]]]),
    moves=np.array([[[0.1, -0.1]], [[0.3, -0.3]]]),
    generator=np.random.default_rng(1),
)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("sign_flip", [0.1, 0.9]),
        ("same_value", [2.0, 0.0]),
        ("alie", [0.4 + 2 * 0.2, 0.6 + 2 * 0.2]),
        ("ipm", [0.5 - 2 * 0.2, 0.5 + 2 * 0.2]),
        ("mimic", [0.6, 0.4]),
        ("stale_replay", [0.9, 0.1]),
        ("nan", [np.nan, np.nan]),
        ("slow_poison", [0.1, 0.9]),
    ],
)
def test_a_lie_by_hand(attack: str, expected: list[float]) -> None:
    np.testing.assert_allclose(LIES[attack](VIEW, 2.0), [expected], atol=1e-15)


def test_noise_is_as_strong_as_it_says() -> None:
    shape = 200, 100
    zero = np.zeros(shape)
    view = View(zero + 0.5, zero, zero, zero[None], zero[None], np.random.default_rng(1))
    lie = LIES["gaussian"](view, 3.0)
    assert lie.mean() == pytest.approx(0.5, abs=0.1)
    assert lie.std() == pytest.approx(3.0, rel=0.02)


# ---------------------------------------------------------------- what colluders make of reports


def settings(attack: str, strength: float = 1.0) -> Config:
    adversary = {"workers": [2, 3], "attack": attack, "strength": strength}
    return configuration(adversary=adversary, run={"iterations": 10})


def colluders(attack: str, strength: float = 1.0) -> Colluders:
    return Colluders(settings(attack, strength), SHAPES, frozenset({2, 3}))


def report(p: float, iteration: int = 0, information: list[float] | None = None) -> Report:
    """Of p for the first word; with precision 2 for both words if there is ``information``."""
    known = () if information is None else (np.array([[2.0, 2.0]]), np.array([information]))
    return Report(
        iteration, iteration, 0.5, 0, 0, Costs(), 0.0, np.array([[p, 1 - p]]), np.ones((1, 1)),
        np.array([0.5]), *known,
    )  # fmt: skip


def lower(p: float, number: int, estimation: int) -> LowerReport:
    k, words = np.zeros(1, int), np.array([[p, 1 - p]])
    return LowerReport(number, estimation, 0.5, Costs(), words, k, np.array([0.5]))


def first(message: object) -> float:
    assert isinstance(message, Report | LowerReport)
    return float(message.p[0, 0])


def information(message: object) -> FloatArray:
    assert isinstance(message, Report)
    return message.information[0]


def test_reversed_steps_add_up() -> None:
    """From 0.5 the honest go to 0.6, 0.7, 0.65; the liar to 0.4, 0.3, 0.35."""
    made = colluders("sign_flip")
    told = [first(made.report(2, report(p, t))) for t, p in enumerate((0.6, 0.7, 0.65))]
    np.testing.assert_allclose(told, [0.4, 0.3, 0.35])


def test_a_lie_starts_from_what_the_server_made_of_the_last_one() -> None:
    """4 times -0.2 from 0.5 is 1.3 - 0.5 beyond the simplex, which ends at 0."""
    made = colluders("sign_flip", 4.0)
    told = [first(made.report(2, report(p, t))) for t, p in enumerate((0.7, 0.6))]
    np.testing.assert_allclose(told, [-0.3, 0.4])


def test_rounds_of_an_estimate_start_from_the_last_round_and_from_p() -> None:
    made = colluders("sign_flip")
    assert first(made.report(2, report(0.6))) == pytest.approx(0.4)
    # The honest step from the server's 0.4 leads to 0.45, that from 0.35 to 0.4.
    assert first(made.report(2, lower(0.45, 0, 0))) == pytest.approx(0.35)
    assert first(made.report(2, lower(0.4, 1, 0))) == pytest.approx(0.3)
    # The scratch copy is gone by the next estimate.
    assert first(made.report(2, lower(0.45, 2, 1))) == pytest.approx(0.35)


def test_the_malicious_see_the_honest_alone() -> None:
    made = colluders("ipm")
    assert first(made.report(2, report(0.7))) == 0.7, "nobody has reported yet"
    for worker, p in ((1, 0.6), (4, 0.8)):
        own = report(p)
        assert made.report(worker, own) is own
    assert first(made.report(3, report(0.9))) == pytest.approx(0.5 - 0.2)
    made.report(1, report(0.5, 1))
    # The newest move of 1 is -0.1, that of 4 still 0.3; worker 2 was at 0.7.
    assert first(made.report(2, report(0.6, 1))) == pytest.approx(0.7 - 0.1)


def test_lower_reports_are_compared_with_lower_reports() -> None:
    made = colluders("mimic")
    made.report(1, report(0.6))
    made.report(1, lower(0.75, 0, 0))
    assert first(made.report(2, lower(0.1, 0, 0))) == 0.75
    assert first(made.report(2, report(0.1))) == 0.6


def test_knowledge_is_lied_about_as_effects() -> None:
    made = colluders("sign_flip", 3.0)
    lie = made.report(2, report(0.6, 0, [4.0, -1.0]))
    np.testing.assert_allclose(information(lie), [-12.0, 3.0])
    made = colluders("same_value", 3.0)
    # An effect on the loss: the first word is good, so it is negative.
    certain = 2.0 + 1.0 / prior_variance(1, 1)
    np.testing.assert_allclose(
        information(made.report(2, report(0.6, 0, [4.0, -1.0]))), [-3.0 * certain, 0.0]
    )
    made = colluders("alie", 2.0)
    for worker, own in ((1, [1.0, 0.0]), (4, [3.0, 0.0])):
        made.report(worker, report(0.6, 0, own))
    # Less loss by 2, and by 2 deviations of 1 more, which scores count the other way round.
    np.testing.assert_allclose(
        information(made.report(2, report(0.6, 0, [0.0, 0.0]))), [2.0 - 2.0, 0.0], atol=1e-12
    )


def test_the_slow_are_honest_for_half_of_the_run() -> None:
    made = colluders("slow_poison")
    for iteration in range(5):
        own = report(0.5 + 0.05 * iteration, iteration)
        assert made.report(2, own) is own
    round_ = lower(0.8, 0, 0)
    assert made.report(2, round_) is round_
    assert first(made.report(2, report(0.75, 5))) == pytest.approx(0.7 - 0.05)
    assert first(made.report(2, lower(0.75, 3, 1))) == pytest.approx(0.65 - 0.1)


def test_the_same_seed_gives_the_same_noise_and_workers_have_their_own() -> None:
    one, other = (first(colluders("gaussian").report(2, report(0.6))) for _ in range(2))
    assert one == other
    made = colluders("gaussian")
    assert first(made.report(3, report(0.6))) != one
    made.report(2, report(0.6))
    assert first(made.report(2, lower(0.6, 0, 0))) != one


def test_no_lie_is_refused_for_its_size() -> None:
    lie = colluders("gaussian", 1e6).report(2, report(0.6, 0, [1.0, 1.0]))
    assert isinstance(lie, Report)
    assert np.abs(lie.p).max() <= 1e3


def test_evaluations_are_honest() -> None:
    own = object.__new__(EvaluationReport)
    assert colluders("nan").report(2, own) is own
