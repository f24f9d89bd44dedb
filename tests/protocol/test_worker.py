"""A worker driven by hand: assignment in, query out, answer in, report out."""

import numpy as np
import pytest

from asyndbt_mpi.algorithm.estimator import leave_one_out
from asyndbt_mpi.algorithm.simplex import project
from asyndbt_mpi.config import parse
from asyndbt_mpi.protocol.blackbox import Answer, Completed, DataSizes
from asyndbt_mpi.protocol.messages import (
    Assignment,
    Candidate,
    EvaluationReport,
    EvaluationRequest,
    LowerAssignment,
    LowerReport,
    Report,
    Shapes,
    Split,
    Stop,
)
from asyndbt_mpi.protocol.worker import Workers

SHAPES = Shapes(positions=3, words=4, classes=2, pool=5, samples=4)
DATA_SIZES = DataSizes(
    np.array([5, 3]), {Split.TRAIN: 12, Split.VALIDATION: 6, Split.TEST: 9, Split.RACE: 18}
)  # fmt: skip
CONFIG = parse(
    {
        "run": {"seed": 5},
        "steps": {"optimizer": "sgd", "p": 0.1, "q": 0.2, "lower_p": 0.3},
        "estimator": {"name": "loo", "samples": 6, "batch": 4},
    },
    "test",
)


class One(Workers):
    """A single worker, one message at a time."""

    def __init__(self, number: int = 1) -> None:
        super().__init__(CONFIG, SHAPES, {number: DATA_SIZES})
        self.number = number

    def ask(self, message):
        [query] = self.receive([(self.number, message)])
        return query

    def reply(self, answer, compute_seconds, sent_time):
        [reply] = self.answer([Completed(self.number, answer, compute_seconds, sent_time)])
        return reply


def worker(number: int = 1) -> One:
    return One(number)


def answer(losses) -> Answer:
    losses = np.asarray(losses, dtype=float)
    return Answer(losses, np.full(len(losses), 0.5), calls=24, prompt_tokens=100)


LOSSES = [0.5, -1.0, 2.0, 0.25, 0.0, 1.0]


def test_starts_uniform_over_what_it_holds() -> None:
    hello = worker().hello(1, "here")
    np.testing.assert_allclose(hello.q, [[0.2] * 5, [1 / 3] * 3 + [0, 0]])
    np.testing.assert_allclose(worker().p, 0.25)


def test_an_upper_step_is_19_and_20() -> None:
    v = worker()
    dual_gradient = np.random.default_rng(1).normal(size=(3, 4))
    p, q = v.p[0].copy(), v.q[0].copy()
    query = v.ask(Assignment(1, 0, dual_gradient))
    assert query.split is Split.TRAIN
    assert query.words.shape == (6, 3)
    assert query.demonstrations.shape == (6, 2)
    assert query.demonstrations[:, 1].max() < 3  # the second class has only three
    assert len(set(query.rows)) == 4
    report = v.reply(answer(LOSSES), 0.5, 2.0)
    assert isinstance(report, Report)
    losses = np.array(LOSSES)
    p_gradient = leave_one_out(p, query.words, losses)
    q_gradient = leave_one_out(q, query.demonstrations, losses)
    np.testing.assert_allclose(report.p, project(p - 0.1 * (p_gradient + dual_gradient)))
    allowed = np.arange(5) < np.array([[5], [3]])
    np.testing.assert_allclose(report.q, project(q - 0.2 * q_gradient, allowed))
    assert report.loss == pytest.approx(losses.mean())
    assert report.grad_p_norm == pytest.approx(np.linalg.norm(p_gradient))
    assert (report.costs.calls, report.costs.prompt_tokens) == (24, 100)
    assert (report.costs.compute_seconds, report.sent_time) == (0.5, 2.0)
    np.testing.assert_array_equal(report.p, v.p[0])


def test_a_lower_step_moves_only_the_scratch_copy() -> None:
    v = worker()
    generator = np.random.default_rng(1)
    scratch, dual_gradient = generator.dirichlet(np.ones(4), 3), generator.normal(size=(3, 4))
    before = v.p.copy(), v.q.copy()
    query = v.ask(LowerAssignment(0, 0, scratch, dual_gradient))
    assert len(np.unique(query.demonstrations, axis=0)) == 1  # one realisation k
    report = v.reply(answer(LOSSES), 0.5, 2.0)
    assert isinstance(report, LowerReport)
    gradient = leave_one_out(scratch, query.words, np.array(LOSSES))
    np.testing.assert_allclose(report.p, project(scratch - 0.3 * (gradient + dual_gradient)))
    np.testing.assert_array_equal(report.k, query.demonstrations[0])
    np.testing.assert_array_equal(v.p, before[0])
    np.testing.assert_array_equal(v.q, before[1])


def test_demonstrations_stay_the_same_over_the_rounds_of_an_estimation() -> None:
    v = worker()
    shown, words = [], []
    for number, estimation in [(0, 0), (1, 0), (2, 0), (3, 1), (6, 2), (9, 3)]:
        query = v.ask(LowerAssignment(number, estimation, v.p[0], np.zeros((3, 4))))
        shown.append(query.demonstrations[0].tolist())
        words.append(query.words.tolist())
        v.reply(answer(LOSSES), 0, 0)
    assert shown[0] == shown[1] == shown[2]
    assert len({tuple(k) for k in shown[2:]}) > 1
    assert words[0] != words[1]


def test_an_evaluation_scores_the_whole_split() -> None:
    v = worker()
    request = EvaluationRequest(
        4, Split.TEST, Candidate.TUNED, np.array([1, 2, 3]), np.array([0, 2])
    )
    query = v.ask(request)
    assert query.rows.tolist() == list(range(9))
    assert query.words.tolist() == [[1, 2, 3]]
    report = v.reply(answer([0.75]), 0, 0)
    assert isinstance(report, EvaluationReport)
    assert (report.loss, report.accuracy) == (0.75, 0.5)
    assert (report.iteration, report.candidate) == (4, Candidate.TUNED)


def test_a_step_is_a_function_of_state_and_assignment() -> None:
    one, other = worker(), worker()
    for number in (1, 2, 3):
        assignment = Assignment(number, 0, np.zeros((3, 4)))
        queries = [v.ask(assignment) for v in (one, other)]
        np.testing.assert_array_equal(queries[0].words, queries[1].words)
        np.testing.assert_array_equal(queries[0].rows, queries[1].rows)
        for v in (one, other):
            v.reply(answer(LOSSES), 0, 0)
        # Evaluations in between change nothing.
        other.ask(EvaluationRequest(
            0, Split.TEST, Candidate.TUNED, np.zeros(3, int), np.zeros(2, int)
        ))  # fmt: skip
        other.reply(answer([1.0]), 0, 0)
    np.testing.assert_array_equal(one.p, other.p)


def test_a_worker_with_fewer_rows_draws_as_it_would_alone() -> None:
    few = DataSizes(DATA_SIZES.pool, {**DATA_SIZES.rows, Split.TRAIN: 5})
    both, alone = (
        Workers(CONFIG, SHAPES, {1: few, 2: DATA_SIZES}),
        Workers(CONFIG, SHAPES, {1: few}),
    )
    for number in range(1, 30):
        message = Assignment(number, 0, np.zeros((3, 4)))
        queries = both.receive([(1, message), (2, message)])
        [query] = alone.receive([(1, message)])
        for name in ("rows", "words", "demonstrations"):
            np.testing.assert_array_equal(getattr(queries[0], name), getattr(query, name))
        assert sorted({*query.rows.tolist()} | {0, 1, 2, 3, 4}) == [0, 1, 2, 3, 4]
        assert len({*query.rows.tolist()}) == 4
        both.answer([Completed(v, answer(LOSSES), 0, 0) for v in (1, 2)])
        alone.answer([Completed(1, answer(LOSSES), 0, 0)])


def test_rows_are_drawn_evenly() -> None:
    v = worker()
    drawn = np.zeros(12)
    for number in range(1, 601):
        query = v.ask(Assignment(number, 0, np.zeros((3, 4))))
        drawn[query.rows] += 1
        v.reply(answer(LOSSES), 0, 0)
    np.testing.assert_allclose(drawn, 600 * 4 / 12, rtol=0.2)


def test_workers_draw_independently() -> None:
    queries = [worker(v).ask(Assignment(1, 0, np.zeros((3, 4)))) for v in (1, 2)]
    assert queries[0].words.tolist() != queries[1].words.tolist()


def test_stop_ends_it() -> None:
    v = worker()
    assert v.ask(Stop()) is None
    assert v.stopped


def test_misuse_is_an_error() -> None:
    v = worker()
    with pytest.raises(RuntimeError, match="without an assignment"):
        v.reply(answer(LOSSES), 0, 0)
    v.ask(Assignment(1, 0, np.zeros((3, 4))))
    with pytest.raises(RuntimeError, match="before the last one was answered"):
        v.ask(Assignment(2, 0, np.zeros((3, 4))))
