import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.baselines import adaicl, pmi, similar, trial
from asyndbt_mpi.baselines.methods import METHODS
from asyndbt_mpi.baselines.result import Result, read
from asyndbt_mpi.commands import baseline as commands
from asyndbt_mpi.commands.baseline import Asked, baseline
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.llm.base import Prompt, Scores
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.log.reader import Log
from tests.conftest import Opinionated

CALLS = 1500
SMALL = "task.test=20", "prompt.pool=4", "task.train_per_class=5", "task.validation_per_class=5"
LOGGED = {
    "bdpl", "cendbt", "asyndbt", "local", "synchronous", "words_only", "demonstrations_only",
}  # fmt: skip
UNITED = {"cendbt", "bdpl", "words_only", "demonstrations_only"}
CALLED = LOGGED | {"random_search", "successive_halving", "fedone", "adaicl"}


class Recording(Opinionated):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Prompt] = []

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        self.asked += prompts
        return super().label_log_probabilities(prompts, labels)


def vectors(texts: Sequence[str]) -> np.ndarray:
    """Letters of each text, counted."""
    found = np.array([[1.0 + text.count(letter) for letter in "abcdefgh"] for text in texts])
    scaled: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return scaled


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> Recording:
    kept = Recording()
    monkeypatch.setattr(commands, "language_model", lambda *_: kept)
    monkeypatch.setattr(commands, "rows_fit", lambda *_: True)
    monkeypatch.setattr(commands, "encoder", lambda _: vectors)
    return kept


def run(method: str, folder: Path, *settings: str, calls: int = CALLS) -> Result:
    path = folder / f"{method}.json"
    return baseline(Asked(method, "reviews", (*SMALL, *settings), 3, calls, "letters", "", path))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_predicts_the_same_rows_within_its_calls(method: str, tmp_path: Path) -> None:
    found = run(method, tmp_path)
    assert read(tmp_path / f"{method}.json") == found
    assert found.labels == run("manual", tmp_path).labels
    assert len(found.labels) == 20
    assert len(found.log_probabilities) == (1 if method in UNITED else 3)
    for _, scores in found.scores().values():
        np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-4)
    assert (found.tuning.calls > 0) == (method in CALLED)
    assert found.tuning.calls <= CALLS
    assert (found.tests.calls > 0) == (method != "roberta")
    assert (tmp_path / f"{method}.h5").exists() == (method in LOGGED)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_costs_the_same_whoever_asked_before(method: str, tmp_path: Path) -> None:
    def without_seconds(found: Result) -> dict[str, object]:
        content = found.model_dump()
        for part in ("tuning", "tests"):
            content[part].pop("seconds")
        return content

    first, again = (run(method, tmp_path) for _ in range(2))
    assert without_seconds(first) == without_seconds(again)


def test_the_tuned_prompts_answers_are_those_of_the_log(tmp_path: Path) -> None:
    found = run("asyndbt", tmp_path)
    with Log(tmp_path / "asyndbt.h5") as log:
        assert log.status == "finished"
        assert log.committed == found.details["iterations"]
        of_tests = log["evaluation/llm_calls"][log["evaluation/split"] == 2].sum()
        # The model's comparison with itself, before the run, is neither.
        assert found.tuning.calls == log["event/llm_calls"].sum() - of_tests > 0


def test_words_of_bdpl_come_without_demonstrations(tmp_path: Path, model: Recording) -> None:
    run("bdpl", tmp_path)
    assert {prompt.context for prompt in model.asked} == {""}


def test_a_part_of_cendbts_prompt_is_shown_without_the_other(
    tmp_path: Path, model: Recording
) -> None:
    run("cendbt", tmp_path)
    with Log(tmp_path / "cendbt.h5") as log:
        found = (log["evaluation/split"] == 2) & (log["evaluation/candidate"] == 0)
        (words,) = log["evaluation/words"][found]
        fragment = " ".join(log.vocabulary[word] for word in words)
    run("words_only", tmp_path)
    tests = model.asked[-20:]
    assert {prompt.context for prompt in tests} == {""}
    assert all(fragment in prompt.query for prompt in tests)
    run("demonstrations_only", tmp_path)
    tests = model.asked[-20:]
    (context,) = {prompt.context for prompt in tests}
    assert context.count("sentiment:") == 2
    assert not any(word in prompt.query for prompt in tests for word in [fragment, "  "])


def test_bdpl_and_fedone_choose_among_words_of_public_texts(
    tmp_path: Path, model: Recording
) -> None:
    texts = tmp_path / "texts.txt"
    words = [f"zebra{number}" for number in range(16)]
    texts.write_text("\n".join(words) + "\n")
    for method in ("bdpl", "fedone"):
        asked = Asked(method, "reviews", SMALL, 3, CALLS, "letters", str(texts),
                      tmp_path / f"{method}.json")  # fmt: skip
        model.asked.clear()
        baseline(asked)
        shown = [prompt.query for prompt in model.asked if "zebra" in prompt.query]
        # A run also tests the prompt without words.
        assert len(shown) == len(model.asked) if method == "fedone" else len(shown) > 100
        few = dataclasses.replace(asked, texts=str(tmp_path / "few.txt"))
        Path(few.texts).write_text("one two\n")
        with pytest.raises(ConfigurationError, match=r"--texts .*few\.txt.*but 8 are needed"):
            baseline(few)
    with Log(tmp_path / "bdpl.h5") as log:
        assert set(log.vocabulary) < set(words)


def test_kate_shows_five_rows_of_the_pool_the_nearest_one_last(
    tmp_path: Path, model: Recording
) -> None:
    run("kate", tmp_path)
    for prompt in model.asked:
        shown = prompt.context.split("\n\n")[:-1]
        assert len(shown) == similar.SHOWN
        texts = [text.splitlines()[0].removeprefix("Review: ") for text in [*shown, prompt.query]]
        near = vectors(texts[:-1]) @ vectors(texts[-1:])[0]
        assert near.argmax() == len(near) - 1


LEAST = {"adaicl": 3 * 8, "random_search": 3 * 20, "successive_halving": 3 * 20}
"""Three workers: 4 demonstrations, 5 training and 5 validation rows of each of two classes."""


@pytest.mark.parametrize("method", sorted(CALLED))
def test_too_few_calls_are_refused_before_a_model_is_loaded(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = LEAST.get(method, 2 * 3)
    settings = "estimator.samples=2", "estimator.batch=3"
    if method in LEAST:
        run(method, tmp_path, *settings, calls=least)  # the bound is not too high
    monkeypatch.delattr(commands, "language_model")
    expected = f"--calls: {least - 1} are too few for {method}, which needs at least {least}"
    with pytest.raises(ConfigurationError, match=expected):
        run(method, tmp_path, *settings, calls=least - 1)


@pytest.mark.parametrize("method", sorted(CALLED - LEAST.keys()))
def test_calls_for_less_than_an_iteration_are_refused(method: str, tmp_path: Path) -> None:
    settings = "estimator.samples=2", "estimator.batch=3", "task.calibration=content_free"
    with pytest.raises(ConfigurationError, match=r"--calls: .*too few for one"):
        run(method, tmp_path, *settings, calls=6)


def test_functions_and_runs_without_tests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"task\.test = 0"):
        run("manual", tmp_path, "task.test=0")
    asked = Asked("manual", "synthetic", (), 3, None, "letters", "", tmp_path / "manual.json")
    with pytest.raises(ConfigurationError, match="compared on language models"):
        baseline(asked)


def test_a_result_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    with pytest.raises(ConfigurationError, match="cannot read"):
        read(path)
    path.write_text('{"format": "asyndbt baseline 2"}')
    with pytest.raises(ConfigurationError, match="no result of `asyndbt baseline`: method"):
        read(path)


def test_each_prompt_is_counted_once_and_with_its_own_tokens() -> None:
    counted = trial.Counted(Opinionated())
    prompts = [Prompt("", "ab"), Prompt("a", "b"), Prompt("", "abc")]
    counted.label_log_probabilities(prompts, [" no", " yes"])
    assert counted.spent.calls == 2
    assert counted.spent.prompt_tokens == counted.tokens("ab") + counted.tokens("abc")


def test_each_text_is_counted_once_whoever_asked_before() -> None:
    model = CachedModel(Opinionated(), 10)
    for _ in range(2):
        counted = trial.Counted(model)
        written = counted.write(["ab", "c", "ab"], 5)
        spent = counted.spent
        assert (written.calls, spent.calls) == (2, 2)
        assert spent.prompt_tokens == counted.tokens("ab") + counted.tokens("c")
        assert spent.completion_tokens == len(written.texts[0]) + len(written.texts[1])


# ---------------------------------------------------------------- rules of selection


def test_neighbours_by_cosine() -> None:
    on_circle = np.array([[math.cos(a), math.sin(a)] for a in (0.0, 0.1, 1.0, 3.0)])
    found = similar.nearest(on_circle[[1]], on_circle, 3)
    assert found.tolist() == [[1, 0, 2]]


def test_a_row_covers_its_neighbours_and_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaicl, "NEIGHBOURS", 1)
    # The nearest neighbour of 0 is 1, that of 1 is 2, of 2 it is 1; 3 and 4 are each other's.
    angles = (0.0, 0.30, 0.50, 2.0, 2.1)
    found = adaicl.shown_for(np.array([[math.cos(a), math.sin(a)] for a in angles]))
    assert [np.flatnonzero(row).tolist() for row in found] == [
        [0], [0, 1, 2], [1, 2], [3, 4], [3, 4],
    ]  # fmt: skip


def test_hard_rows_are_the_half_the_model_is_least_sure_of() -> None:
    sure = np.array([0.9, 0.6, 0.7, 0.5, 0.8])
    assert np.flatnonzero(adaicl.hard(sure, [])).tolist() == [1, 2, 3]
    assert np.flatnonzero(adaicl.hard(sure, [3])).tolist() == [1, 2]


def test_the_cover_is_greedy_and_reaches_over_hard_rows_only() -> None:
    shows = np.eye(6, dtype=bool)
    # 0 is shown for 1, and 1 for 2; 3 for 4, and 4 for 5.
    shows[0, 1] = shows[1, 2] = shows[3, 4] = shows[4, 5] = True
    everything = np.ones(6, dtype=bool)
    assert adaicl.cover(everything, shows, 6) == [0, 3]
    assert adaicl.cover(everything, shows, 1) == [0]
    easy = everything.copy()
    easy[1] = False
    assert adaicl.cover(easy, shows, 6) == [3, 0, 2]  # 2 is behind an easy row
    assert adaicl.cover(~everything, shows, 6) == []


def test_information_of_neighbouring_words() -> None:
    words, pairs = (
        Counter(["a", "b", "a", "b", "a", "c"]),
        Counter({("a", "b"): 2, ("b", "a"): 2, ("a", "c"): 1}),
    )
    # p(a b) = 2/5, p(a) = 3/6, p(b) = 2/6
    assert pmi.information(("a", "b"), words, pairs) == pytest.approx(math.log(0.4 / (1 / 6)))


def test_phrases_are_cut_where_neighbours_are_strangers() -> None:
    texts = ["new york is big", "new york is old", "is it new york", "big is it"]
    # log p(a b) / (p(a) p(b)) is 1.92 for new york, and 1.23 for york is.
    found = pmi.vocabulary(texts, 5, threshold=1.5)
    assert found[:3] == ["new york", "big", "is it"]
    assert not any("york is" in phrase for phrase in found)
    with pytest.raises(ValueError, match="phrases, but 99 are needed"):
        pmi.vocabulary(texts, 99)
