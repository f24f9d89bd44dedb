import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.protocol.messages import (
    Assignment,
    Candidate,
    CostBounds,
    Costs,
    EvaluationReport,
    EvaluationRequest,
    Failure,
    Hello,
    LowerAssignment,
    LowerReport,
    MalformedMessage,
    Report,
    Reset,
    Restore,
    RowLosses,
    RowScores,
    Shapes,
    Split,
    Stop,
    ToServer,
)
from asyndbt_mpi.protocol.wire import HEADER, KINDS, LONGEST_TEXT, Codec, Header

SHAPES = Shapes(positions=3, words=5, classes=2, pool=4, samples=2)
CODEC = Codec(SHAPES, state=99, pools=True)
OF_MODEL = Codec(SHAPES, free_losses=False, rows=3)
RNG = np.random.default_rng(0)
FRAGMENT, POOL = RNG.random((3, 5)), RNG.random((2, 4))
LOSSES = np.array([-2.0, -1.0])
KNOWN = RNG.random((3, 5)), RNG.normal(size=(3, 5))
TRUST = np.array([0.5, 0.3, 0.2])
WORDS, SHOWN = np.array([4, 0, 2]), np.array([3, 1])
COSTS = Costs(80, 1234, compute_seconds=0.25, prompts=90, completion_tokens=81, unrecognised=3)

MESSAGES = [
    Assignment(7, 42, FRAGMENT, *KNOWN),
    LowerAssignment(9, 3, FRAGMENT, FRAGMENT + 1),
    EvaluationRequest(11, Split.RACE, Candidate.RANDOM, WORDS, SHOWN, rank=2, halvings=3),
    Stop(),
    Hello(POOL, "node-1: größer", CostBounds(80, 20, 120, 300, 280, 600, 8), "0f" * 32),
    Report(7, 42, -1.5, 0.1, 0.2, COSTS, 3.5, FRAGMENT, POOL, LOSSES, *KNOWN, TRUST),
    LowerReport(9, 3, -1.5, COSTS, FRAGMENT, SHOWN, LOSSES),
    EvaluationReport(
        11, Split.VALIDATION, Candidate.TUNED, 0.5, float("nan"), COSTS, np.zeros(2), WORDS, SHOWN
    ),
    Failure("d/dev.jsonl, line 3: größer than what the model reads", refuses=True),
    Reset(FRAGMENT),
    Restore(17, RNG.random(99)),
]


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other) and one.dtype == other.dtype
    if dataclasses.is_dataclass(one):
        fields = dataclasses.fields(one)
        return type(one) is type(other) and all(
            same(getattr(one, f.name), getattr(other, f.name)) for f in fields
        )
    return one == other or (one != one and other != other)


def test_every_kind_has_an_example() -> None:
    assert {type(message) for message in MESSAGES} == set(KINDS)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_round_trip(message) -> None:
    buffer = CODEC.encode(message)
    assert buffer.dtype == np.uint8
    to_server = isinstance(message, ToServer)
    assert len(buffer) <= (CODEC.longest_to_server if to_server else CODEC.longest_to_worker)
    assert same(CODEC.decode(buffer), message)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=64), st.booleans())
def test_every_digest_and_refusal_arrives(digest: str, refuses: bool) -> None:
    hello = Hello(POOL, "node-1: größer", digest=digest)
    assert CODEC.decode(CODEC.encode(hello)).digest == digest
    failure = Failure("größer", refuses)
    assert CODEC.decode(CODEC.encode(failure)) == failure


@pytest.mark.parametrize("digest", ["f" * 65, "größer"])
def test_a_digest_that_would_be_cut_or_changed_is_not_sent(digest: str) -> None:
    with pytest.raises(ValueError, match=r"64 characters|ascii"):
        CODEC.encode(Hello(POOL, "", digest=digest))


@given(st.binary(min_size=64, max_size=64))
def test_whatever_stands_for_a_digest_becomes_text(noise: bytes) -> None:
    buffer = CODEC.encode(Hello(POOL, ""))
    buffer[-64:] = np.frombuffer(noise, np.uint8)
    digest = CODEC.decode(buffer).digest
    assert "\0" not in digest
    digest.encode()


def test_the_buffer_is_independent_of_the_message() -> None:
    p = FRAGMENT.copy()
    buffer = CODEC.encode(Assignment(1, 0, p, *KNOWN))
    p[:] = -1
    assert np.array_equal(CODEC.decode(buffer).dual_gradient, FRAGMENT)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_wrong_length_is_refused(message) -> None:
    buffer = CODEC.encode(message)
    if not isinstance(message, Hello | Failure):  # these end with free text
        with pytest.raises(MalformedMessage, match="are due"):
            CODEC.decode(np.append(buffer, np.uint8(0)))
    if len(buffer) > HEADER.size and not isinstance(message, Failure):
        with pytest.raises(MalformedMessage, match="are due"):
            CODEC.decode(buffer[: HEADER.size + 3])


def test_another_runs_shapes_are_refused() -> None:
    other = Codec(Shapes(4, 5, 2, 4, 2))
    with pytest.raises(MalformedMessage, match=r"Report carries \d+ bytes of arrays, \d+ are due"):
        CODEC.decode(
            other.encode(Report(1, 0, 0, 0, 0, COSTS, 0, RNG.random((4, 5)), POOL, LOSSES))
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["p", "q", "loss"])
def test_a_report_that_is_not_finite_is_refused(name: str, value: float) -> None:
    bad = value if name == "loss" else np.full_like({"p": FRAGMENT, "q": POOL}[name], value)
    report = dataclasses.replace(MESSAGES[5], **{name: bad})
    with pytest.raises(MalformedMessage, match=rf"Report\.{name}"):
        CODEC.decode(CODEC.encode(report))


@pytest.mark.parametrize(
    ("name", "bad"),
    [("grad_p_norm", np.nan), ("grad_q_norm", np.inf), ("sent_time", np.nan),
     ("costs", Costs(-1, 0, 0.0)), ("costs", Costs(0, -1, 0.0)), ("costs", Costs(0, 0, np.nan)),
     ("costs", Costs(0, 0, -0.5)), ("costs", Costs(unrecognised=-1))],
)  # fmt: skip
def test_norms_times_and_costs_are_checked_too(name: str, bad) -> None:
    report = dataclasses.replace(MESSAGES[5], **{name: bad})
    with pytest.raises(MalformedMessage, match=r"Report\.\w+ is"):
        CODEC.decode(CODEC.encode(report))


def test_an_evaluation_without_a_finite_loss_is_refused() -> None:
    report = dataclasses.replace(MESSAGES[7], loss=float("nan"))
    with pytest.raises(MalformedMessage, match=r"EvaluationReport\.loss is nan"):
        CODEC.decode(CODEC.encode(report))


@given(st.binary(max_size=600))
def test_noise_is_refused_and_never_executed(noise: bytes) -> None:
    with pytest.raises(MalformedMessage):
        CODEC.decode(np.frombuffer(noise, np.uint8))


def test_a_pickle_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        CODEC.decode(np.frombuffer(pickle.dumps({"a": np.zeros(100)}), np.uint8))


@pytest.mark.parametrize("field", ["split", "candidate"])
def test_an_unknown_split_or_candidate_is_refused(field: str) -> None:
    buffer = CODEC.encode(MESSAGES[7])
    header = Header(*HEADER.unpack_from(buffer))
    HEADER.pack_into(buffer, 0, *header._replace(**{field: 99}))
    with pytest.raises(MalformedMessage, match="99"):
        CODEC.decode(buffer)


def test_absurd_counts_and_endless_texts_are_refused() -> None:
    report = dataclasses.replace(MESSAGES[5], costs=Costs(2**62, 0, 0.0))
    with pytest.raises(MalformedMessage, match=r"Report\.calls is"):
        CODEC.decode(CODEC.encode(report))
    long = np.append(CODEC.encode(Failure("x")), np.zeros(LONGEST_TEXT, np.uint8))
    with pytest.raises(MalformedMessage, match="are due"):
        CODEC.decode(long)


def test_a_text_is_one_that_a_log_can_hold() -> None:
    assert CODEC.decode(CODEC.encode(Hello(POOL, "a\0b"))).description == "a b"


REPORT, LOWER, REQUEST = MESSAGES[5], MESSAGES[6], MESSAGES[2]


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (REPORT, {"number": -1}),
        (REPORT, {"iteration": 2**62}),
        (REPORT, {"grad_p_norm": -1.0}),
        (REPORT, {"grad_q_norm": 1e200}),
        (REPORT, {"sent_time": -1e300}),
        (REPORT, {"p": np.full((3, 5), 1.7e308)}),
        (REPORT, {"q": np.full((2, 4), -1e9)}),
        (REPORT, {"loss": 1.7e308}),
        (REPORT, {"losses": np.array([1.7e308, 1.7e308])}),
        (REPORT, {"losses": np.array([-2.0, -2.0])}),
        (REPORT, {"costs": Costs(prompts=3, unrecognised=4)}),
        (LOWER, {"k": np.array([0, 4])}),
        (LOWER, {"k": np.array([-1, -1])}),
        (LOWER, {"loss": 2.6}),
        (LOWER, {"estimation": -1}),
        (MESSAGES[4], {"cost_bounds": CostBounds(assignment=-1)}),
        (MESSAGES[4], {"cost_bounds": CostBounds(test=2**41)}),
        (MESSAGES[7], {"accuracy": 1.1}),
        (MESSAGES[7], {"loss": -1e300}),
        (REQUEST, {"words": np.array([0, 1, 5])}),
        (REQUEST, {"words": np.array([0, 1, -1])}),
        (REQUEST, {"demonstrations": np.array([0, 4])}),
        (REQUEST, {"demonstrations": np.array([-1, 1])}),
        (REQUEST, {"rank": -1}),
        (REQUEST, {"halvings": -1}),
        (REQUEST, {"halvings": 63}),
        (MESSAGES[4], {"cost_bounds": CostBounds(race=-1)}),
        (MESSAGES[4], {"cost_bounds": CostBounds(race=2**41)}),
        (MESSAGES[4], {"cost_bounds": CostBounds(race_rows=-1)}),
        (MESSAGES[7], {"words": np.array([0, 1, 5])}),
        (MESSAGES[7], {"words": np.array([0, -1, 1])}),
        (MESSAGES[7], {"demonstrations": np.array([0, 4])}),
        (MESSAGES[7], {"demonstrations": np.array([0, -2])}),
        (MESSAGES[0], {"dual_gradient": np.full((3, 5), np.nan)}),
        (MESSAGES[10], {"answers": -1}),
        (MESSAGES[10], {"state": np.full(99, np.inf)}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else type(value).__name__,
)
def test_what_no_rank_can_mean_is_refused(message, changed: dict) -> None:
    with pytest.raises(MalformedMessage):
        CODEC.decode(CODEC.encode(dataclasses.replace(message, **changed)))


def test_losses_of_a_language_model_are_not_negative() -> None:
    codec = Codec(SHAPES, free_losses=False, pools=True)
    with pytest.raises(MalformedMessage, match=r"Report\.loss is -1\.5, outside \[0,"):
        codec.decode(codec.encode(REPORT))


LABELS, SCORES = np.array([1, 0, 0]), np.log([[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]])
OF_TEST = EvaluationReport(
    11, Split.TEST, Candidate.TUNED, -np.log([0.7, 0.6, 0.5]).mean(), 2 / 3, COSTS,
    np.log([0.2, 0.8]), WORDS, SHOWN, RowScores(LABELS, SCORES),
)  # fmt: skip
SPLITS = Split.VALIDATION, Split.TEST, Split.RACE


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_answers_on_rows_arrive_bit_for_bit(rows: int, split: Split) -> None:
    """Labels and probabilities of a worker's own rows stay with it."""
    some: RowScores | RowLosses = RowScores(LABELS[:rows], SCORES[:rows])
    if split is not Split.TEST:
        some = RowLosses(some.losses)
    loss = some.losses.mean()
    accuracy = min(1, 2 / rows)
    report = dataclasses.replace(OF_TEST, split=split, rows=some, loss=loss, accuracy=accuracy)
    buffer = OF_MODEL.encode(report)
    assert len(buffer) <= OF_MODEL.longest_to_server
    assert same(OF_MODEL.decode(buffer), report)
    row = 24 if split is Split.TEST else 8
    for wrong in (buffer[:-1], np.append(buffer, np.uint8(0)), buffer[:-row]):
        with pytest.raises(MalformedMessage, match="are due"):
            OF_MODEL.decode(wrong)


def test_losses_of_rows_are_those_of_their_labels() -> None:
    assert OF_TEST.rows is not None
    np.testing.assert_array_equal(OF_TEST.losses, -np.log([0.7, 0.6, 0.5]))
    np.testing.assert_array_equal(MESSAGES[7].losses, [0.5])  # of a function


@pytest.mark.parametrize("part", ["words", "demonstrations"])
def test_a_prompt_may_be_without_words_or_demonstrations(part: str) -> None:
    without = dataclasses.replace(OF_TEST, **{part: np.full_like(getattr(OF_TEST, part), -1)})
    assert same(OF_MODEL.decode(OF_MODEL.encode(without)), without)


def scores(values: object, labels: object = LABELS) -> RowScores:
    return RowScores(np.array(labels), np.array(values, dtype=float))


OF_RACE = dataclasses.replace(
    OF_TEST, split=Split.RACE, rows=RowLosses(np.array([0.1, 0.3])), loss=0.2
)
TOO_MANY = RowScores(np.tile(LABELS, 2), np.tile(SCORES, (2, 1)))


@pytest.mark.parametrize(
    ("report", "changed", "why"),
    [
        (OF_TEST, {"rows": None}, "has no rows of TEST"),
        (OF_TEST, {"split": Split.VALIDATION, "rows": None}, "has no rows of VALIDATION"),
        (OF_TEST, {"split": Split.RACE, "rows": None}, "has no rows of RACE"),
        (OF_TEST, {"rows": TOO_MANY}, "6 rows were scored, of at most 3"),
        (OF_TEST, {"loss": OF_TEST.loss + 1e-8}, "loss is .*, but its rows give"),
        (OF_TEST, {"accuracy": 1 / 3}, "accuracy is .*, but its rows give"),
        (OF_TEST, {"rows": scores(SCORES, [1, 0, 2])}, r"labels .* outside \[0, 2\)"),
        (OF_TEST, {"rows": scores(SCORES, [1, 0, -1])}, r"labels .* outside \[0, 2\)"),
        (OF_TEST, {"rows": scores(np.where(SCORES < -1, np.nan, SCORES))}, "log_probabilities"),
        (OF_TEST, {"rows": scores(np.where(SCORES < -1, -np.inf, SCORES))}, "log_probabilities"),
        (OF_TEST, {"rows": scores(np.where(SCORES < -1, 1.7e308, SCORES))}, "log_probabilities"),
        (OF_TEST, {"rows": scores(SCORES - 0.1)}, "not normalised"),
        (OF_RACE, {"rows": RowLosses(np.array([0.1, np.nan]))}, "losses holds a number outside"),
        (OF_RACE, {"rows": RowLosses(np.array([-0.1, 0.3]))}, "losses holds a number outside"),
        (OF_RACE, {"loss": 0.3}, "loss is 0.3, but its rows give 0.2"),
        (OF_TEST, {"bias": np.array([np.nan, -1.0])}, "bias holds"),
        (OF_TEST, {"bias": np.array([0.5, -1.0])}, "bias holds"),
        (OF_TEST, {"bias": np.array([-1.0, -1.0])}, "not that of mean"),
        (OF_TEST, {"bias": np.array([-np.inf, 0.0])}, "bias holds"),
    ],
)
def test_answers_that_no_model_can_give_are_refused(
    report: EvaluationReport, changed: dict, why: str
) -> None:
    with pytest.raises(MalformedMessage, match=why):
        OF_MODEL.decode(OF_MODEL.encode(dataclasses.replace(report, **changed)))


def test_a_function_has_no_rows() -> None:
    with pytest.raises(MalformedMessage, match="3 rows were scored, of at most 0"):
        CODEC.decode(CODEC.encode(OF_TEST))
    report = dataclasses.replace(OF_TEST, rows=None, loss=-7.0, accuracy=float("nan"))
    assert same(CODEC.decode(CODEC.encode(report)), report)


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_wrong_number_of_rows_is_refused(rows: int) -> None:
    buffer = OF_MODEL.encode(OF_TEST)
    HEADER.pack_into(buffer, 0, *Header(*HEADER.unpack_from(buffer))._replace(number=rows))
    if rows != 3:
        with pytest.raises(MalformedMessage, match=r"are due|were scored, of at most 3"):
            OF_MODEL.decode(buffer)


def test_a_failure_refuses_or_not() -> None:
    buffer = CODEC.encode(MESSAGES[8])
    HEADER.pack_into(buffer, 0, *Header(*HEADER.unpack_from(buffer))._replace(number=7))
    with pytest.raises(MalformedMessage, match=r"Failure\.refuses is 7"):
        CODEC.decode(buffer)
