"""The final tests of a run: what the answers say, and what is said of them."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.messages import Candidate, Split
from asyndbt_mpi.view import intervals
from asyndbt_mpi.view.accuracy import (
    accuracy_table,
    class_table,
    difference_lines,
    setback,
    verdict,
)
from asyndbt_mpi.view.outcomes import NAMES, Answers, Comparison, Outcome, compare, outcomes, score
from asyndbt_mpi.view.summary import classes_of_tests
from tests.helpers import asyndbt

Run = Callable[..., Path]
Found = dict[Candidate, Outcome]
ROWS = 30
LABELS = np.arange(ROWS) % 3


def outcome(correct: dict[int, int], first: int = 0) -> Outcome:
    """Of each worker so many right answers, from row ``first``; each right one has loss 0.5."""
    answers = {}
    for worker, count in correct.items():
        right = (np.arange(ROWS) >= first) & (np.arange(ROWS) < first + count)
        answers[worker] = Answers(
            LABELS, np.where(right, LABELS, (LABELS + 1) % 3), right, np.where(right, 0.5, 1.5)
        )
    return Outcome(
        {worker: float(each.right.mean()) for worker, each in answers.items()},
        {worker: float(each.losses.mean()) for worker, each in answers.items()},
        answers,
    )


def without_answers(known: Outcome) -> Outcome:
    return Outcome(known.accuracies, known.losses, {})


def found(workers: int = 2) -> Found:
    everyone = range(1, workers + 1)
    return {
        Candidate.UNTUNED: outcome({2: 12}),
        Candidate.RANDOM: outcome({v: 15 + v for v in everyone}),
        Candidate.TUNED: outcome({v: 21 + v for v in everyone}),
        Candidate.CONSENSUS: outcome(dict.fromkeys(everyone, 12)),
    }


def printed(table: Table | None) -> list[list[str]]:
    """The cells of a table that has not too many for 80 columns."""
    assert table is not None
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    text = console.export_text()
    assert "…" not in text
    lines = [line for line in text.splitlines() if line.startswith(("│", "┃"))]
    return [[cell.strip() for cell in line[1:-1].replace("┃", "│").split("│")] for line in lines]


@pytest.fixture
def log(virtual_run: Run) -> Log:
    return Log(virtual_run(run={"iterations": 8, "evaluate_every": 4}, workers=2))


def test_answers_are_judged_by_their_labels() -> None:
    """The second row is a tie, which is no right answer."""
    labels = np.array([0, 1, 2])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.4, 0.4, 0.2], [0.5, 0.3, 0.2]])
    answers = score(labels, np.log(probabilities))
    np.testing.assert_array_equal(answers.right, [True, False, False])
    np.testing.assert_allclose(answers.losses, -np.log([0.6, 0.4, 0.2]))


def test_prompts_are_compared_over_the_workers_with_both() -> None:
    first, second = outcome({1: 20, 2: 25, 4: 10}), outcome({4: 5, 2: 15})
    comparison = compare(first, second, shared=False)
    assert comparison is not None
    assert comparison.workers == [2, 4]
    assert comparison.accuracy.value == pytest.approx((25 + 10 - 15 - 5) / 2 / ROWS)
    assert comparison.loss.value == pytest.approx(-(25 + 10 - 15 - 5) / 2 / ROWS)
    assert comparison.accuracy == intervals.difference(first.right([2, 4]), second.right([2, 4]))


def test_a_prompt_that_is_the_same_for_all_is_compared_with_all() -> None:
    comparison = compare(outcome({1: 20, 2: 25}), outcome({3: 12}), shared=True)
    assert comparison is not None
    assert comparison.workers == [1, 2]
    assert comparison.accuracy.value == pytest.approx((20 + 25) / 2 / ROWS - 12 / ROWS)


def test_there_is_no_comparison_without_answers_or_a_worker_with_both() -> None:
    one, other = outcome({1: 20}), outcome({2: 20})
    assert compare(one, other, shared=False) is None
    assert compare(without_answers(one), one, shared=False) is None
    assert compare(one, without_answers(other), shared=True) is None


def test_every_accuracy_has_its_rows_and_its_interval(log: Log) -> None:
    table = accuracy_table(log, found())
    assert "On 30 test rows" in str(table.title)
    header, *lines = printed(table)
    assert header == ["prompt", "worker", "accuracy", "95 %", "loss"]
    low, high = (100 * end for end in intervals.accuracy(found()[Candidate.UNTUNED].right())[1:])
    assert lines[0] == ["untuned prompt", "all", "40.0", f"{low:.1f} to {high:.1f}", "1.100"]
    assert [line[:3] for line in lines[1:]] == [
        ["random demonstrations", "1", "53.3"], ["", "2", "56.7"], ["", "mean", "55.0"],
        ["tuned", "1", "73.3"], ["", "2", "76.7"], ["", "mean", "75.0"],
        ["tuned, consensus words", "1", "40.0"], ["", "2", "40.0"], ["", "mean", "40.0"],
    ]  # fmt: skip
    assert all(" to " in line[3] for line in lines)


@pytest.mark.parametrize("tuned", [{1: 22}, {1: 22, 9: 23}])
def test_of_many_workers_the_mean_is_shown(virtual_run: Run, tuned: dict[int, int]) -> None:
    """Also if but one of them was left to test."""
    log = Log(virtual_run(run={"iterations": 4, "evaluate_every": 2}, workers=9))
    lines = printed(accuracy_table(log, {Candidate.TUNED: outcome(tuned)}))
    assert [line[1] for line in lines] == ["worker", "mean"]
    assert lines[1][2] == f"{100 * np.mean(list(tuned.values())) / ROWS:.1f}"


def test_no_interval_is_made_up(log: Log) -> None:
    blind = {candidate: without_answers(each) for candidate, each in found().items()}
    table = accuracy_table(log, blind)
    assert "On the test rows" in str(table.title)
    header, first, *_ = printed(table)
    assert header == ["prompt", "worker", "accuracy", "loss"]
    assert first == ["untuned prompt", "all", "40.0", "1.100"]
    assert list(difference_lines(blind)) == []
    assert class_table(log, blind) is None
    half = {**found(), Candidate.TUNED: blind[Candidate.TUNED]}
    for line in printed(accuracy_table(log, half))[1:]:
        assert (" to " in line[3]) == (line[2] not in ("73.3", "76.7", "75.0"))


def test_a_task_that_classifies_nothing_has_losses_only(log: Log) -> None:
    header, *lines = printed(accuracy_table(log, outcomes(log)))
    assert header == ["prompt", "worker", "loss"]
    assert len(lines) == 10


def test_the_answers_of_a_log_are_those_of_its_tests(demo_run: Path) -> None:
    with Log(demo_run) as log:
        found = outcomes(log)
        assert list(found) == list(NAMES)
        for candidate, each in found.items():
            assert sorted(each.answers) == sorted(each.losses)
            assert len(each.losses) == (1 if candidate is Candidate.UNTUNED else 3)
            for worker, answers in each.answers.items():
                assert answers.right.shape == (40,)
                assert answers.right.mean() == pytest.approx(each.accuracies[worker])
                assert answers.losses.mean() == pytest.approx(each.losses[worker])


def test_labels_that_there_are_not_are_refused(demo_run: Path) -> None:
    with h5py.File(demo_run, "r+") as file:
        file["answer/label"][-1] = file["answer/log_probabilities"].shape[1]
    with Log(demo_run) as log, pytest.raises(LogError, match="/answer/label"):
        outcomes(log)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("answer/log_probabilities", float("nan"), "/answer/log_probabilities has values"),
        ("answer/log_probabilities", 0.5, "/answer/log_probabilities has values"),
        ("answer/log_probabilities", -9.0, "row .* of /evaluation is not what its answers give"),
        ("evaluation/accuracy", 0.999, "row .* of /evaluation is not what its answers give"),
        ("evaluation/loss", 0.999, "row .* of /evaluation is not what its answers give"),
    ],
)
def test_answers_that_do_not_give_the_means_are_refused(
    demo_run: Path, path: str, value: float, complaint: str
) -> None:
    with h5py.File(demo_run, "r+") as file:
        file[path][int(file["answer/evaluation"][-1]) if path.startswith("e") else -1] = value
    with Log(demo_run) as log, pytest.raises(LogError, match=complaint):
        outcomes(log)


@pytest.mark.parametrize("liar", [1, 3])
def test_whose_rows_have_other_labels_than_most_is_left_out(
    demo_run: Path, tmp_path: Path, liar: int
) -> None:
    """As in logs of servers that did not look at labels: nobody else's tests are lost by it."""
    with Log(demo_run) as log:
        honest = outcomes(log)
    with h5py.File(demo_run, "r+") as file:
        worker, split = file["evaluation/worker"][:], file["evaluation/split"][:]
        tests = np.flatnonzero((worker == liar) & (split == Split.TEST))
        rows = np.flatnonzero(np.isin(file["answer/evaluation"][:], tests))
        # Its losses and accuracies are the same with each class named as the next.
        scores = file["answer/log_probabilities"][rows]
        file["answer/label"][rows] = (file["answer/label"][rows] + 1) % scores.shape[1]
        file["answer/log_probabilities"][rows] = np.roll(scores, 1, axis=1)
    with Log(demo_run) as log:
        left = outcomes(log)
    assert {*left[Candidate.TUNED].answers} == {1, 2, 3} - {liar}
    for candidate, outcome in left.items():
        kept = {v: loss for v, loss in honest[candidate].losses.items() if v != liar}
        assert outcome.losses == kept
        assert [*outcome.answers] == [*kept]
    for command in ("show", "show --classes", "prompt", f"report --output {tmp_path / 'r.html'}"):
        name, *options = command.split()
        result = asyndbt(name, str(demo_run), *options, folder=tmp_path)
        assert (result.returncode, result.stderr) == (0, ""), command
    shown = asyndbt("verify", str(demo_run), folder=tmp_path)
    assert "have different labels from the first test" in shown.stdout + shown.stderr


def test_show_prints_intervals_and_on_request_classes(demo_run: Path, tmp_path: Path) -> None:
    summary = asyndbt("show", str(demo_run), folder=tmp_path)
    assert "On 40 test rows" in summary.stdout
    assert "tuned, against the untuned prompt, calibrated:\n" in summary.stdout
    assert " points, 95 %: " in summary.stdout
    assert "By right label" not in summary.stdout
    whole = asyndbt("show", str(demo_run), "--classes", folder=tmp_path)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert "│ reminder" in whole.stdout
    assert "always " in whole.stdout


def test_classes_are_refused_of_a_task_without(log: Log, tmp_path: Path) -> None:
    result = asyndbt("show", log.path, "--classes", folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    why = "its task is a function, which classifies nothing"
    assert result.stderr == f"asyndbt: {log.path}: no accuracy by class: {why}\n"
    result = asyndbt("show", log.path, "--prompts", folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"asyndbt: --prompts: {log.path}: its task is a function, which has no text\n"
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"run": {"evaluate_every": 0}}, "its run made no tests, as run.evaluate_every"),
        ({"task": {"test": 0}}, "its run made no tests, as .* task.test is 0"),
        ({}, "there are no tests in it yet"),
    ],
)
def test_why_there_are_no_classes(log: Log, changes, why: str) -> None:
    sections = {"llm": {"backend": "transformers"}, "run": {"evaluate_every": 2}, **changes}
    log.config = log.config.model_copy(
        update={
            name: getattr(log.config, name).model_copy(update=keys)
            for name, keys in sections.items()
        }
    )
    with pytest.raises(LogError, match=why):
        classes_of_tests(log)


def test_differences_are_told_in_words() -> None:
    lines = dict(line.split(":\n    ") for line in difference_lines(found()))
    assert list(lines) == [
        "tuned, against the untuned prompt",
        "tuned, against random demonstrations",
        "tuned, consensus words, against the untuned prompt",
        "tuned, consensus words, against random demonstrations",
    ]
    assert all(len(line) <= 76 for line in lines.values())
    tuned = lines["tuned, against the untuned prompt"]
    assert tuned.startswith("+35.0 points, 95 %: ")
    assert "(p < 0.001); loss -0.350, " in tuned  # 11 rows better, none worse: 2 / 2^11
    random = lines["tuned, against random demonstrations"]
    assert random.startswith("+20.0 points, 95 %: 6.7 to 33.3 (p = 0.016); ")  # 7 rows: 2 / 2^7
    same = lines["tuned, consensus words, against the untuned prompt"]
    assert same == "right on the same rows; loss +0.000, 0.000 to 0.000"


def test_tuned_prompts_that_are_worse_are_warned_of() -> None:
    assert setback(found()) == ""
    slightly = {**found(1), Candidate.TUNED: outcome({1: 15})}  # one row of 30 fewer
    assert setback(slightly) == ""
    worse = {**found(1), Candidate.TUNED: outcome({1: 8})}
    gain = intervals.difference(worse[Candidate.TUNED].right(), worse[Candidate.RANDOM].right())
    assert setback(worse).startswith(
        "on the test rows the tuned prompts are 13.3 points below the untuned prompt (95 %: 3.3 to"
        " 26.7) and 26.7 points below random demonstrations"
        f" (95 %: {-100 * gain.high:.1f} to {-100 * gain.low:.1f}): more rows"
    )
    # The words of the consensus are not what is recommended, and without answers nothing is sure.
    assert setback({**found(), Candidate.CONSENSUS: outcome({1: 2, 2: 2})}) == ""
    assert setback({**worse, Candidate.TUNED: without_answers(worse[Candidate.TUNED])}) == ""


def test_it_is_told_whose_answers_are_compared() -> None:
    some = {**found(3), Candidate.RANDOM: outcome({1: 15, 3: 16})}
    (line,) = (line for line in difference_lines(some) if line.startswith("tuned, against random"))
    assert line.startswith("tuned, against random demonstrations (workers 1, 3):")


def test_classes_are_counted_one_by_one(log: Log) -> None:
    """Of the 3 classes' 10 rows each; the second label has a name, the third has none."""
    section = log.config.task.model_copy(update={"labels": [" a[b]", "\x1b "]})
    log.config = log.config.model_copy(update={"task": section})
    table = class_table(log, {Candidate.TUNED: outcome({1: 12}), Candidate.RANDOM: outcome({1: 1})})
    header, *lines = printed(table)
    assert header == ["label", "rows", "tuned", "random"]
    assert [line[:2] for line in lines[::2]] == [["a[b]", "10"], [r"\x1b", "10"], ["2", "10"]]
    assert [line[2:] for line in lines[::2]] == [["40.0", "10.0"], ["40.0", "0.0"], ["40.0", "0.0"]]
    low, high = (100 * end for end in intervals.accuracy(np.arange(10)[None] < 4)[1:])
    assert lines[1][2] == f"{low:.0f} to {high:.0f}"
    assert table is not None
    assert str(table.caption) == "always a[b]: 33.3 per cent"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.2, "better"),
        (-0.2, -0.01, "worse"),
        (-0.1, 0.1, "cannot tell"),
        (0.0, 0.1, "cannot tell"),
        (0.0, 0.0, "same rows"),
    ],
)
def test_what_an_interval_says_in_words(low: float, high: float, said: str) -> None:
    gain = intervals.Interval((low + high) / 2, low, high)
    assert said in verdict(Comparison([1], gain, 0.5, gain))


def test_the_loss_may_tell_what_the_accuracy_cannot() -> None:
    unsure, lower = intervals.Interval(0.0, -0.1, 0.1), intervals.Interval(-0.2, -0.3, -0.1)
    higher, none = intervals.Interval(0.2, 0.1, 0.3), intervals.Interval(0.0, 0.0, 0.0)
    assert verdict(Comparison([1], unsure, 0.5, lower)) == (
        "these rows cannot tell which is right more often, but the loss is lower"
    )
    assert verdict(Comparison([1], unsure, 0.5, higher)).endswith("often, but the loss is higher")
    assert verdict(Comparison([1], unsure, 0.5, unsure)).endswith("right more often")
    assert verdict(Comparison([1], none, 1.0, lower)) == (
        "right on the same rows, but the loss is lower"
    )
    assert "loss" not in verdict(Comparison([1], higher, 0.01, lower))


def test_predicted_is_what_has_the_highest_probability_and_a_tie_is_wrong() -> None:
    logs = np.log([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]])
    found = score(np.array([0, 0, 1]), logs)
    assert found.right.tolist() == [True, False, False]
    assert found.predicted.tolist() == [0, 1, 2]
