"""What a chain of thought concludes with, by hand."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndbt_mpi.baselines import zero_shot_cot as method
from asyndbt_mpi.baselines.conclusion import conclusion
from asyndbt_mpi.baselines.result import Result
from asyndbt_mpi.commands import baseline as commands
from asyndbt_mpi.commands.baseline import Asked
from asyndbt_mpi.llm.base import Written
from asyndbt_mpi.llm.servers.written import OTHER_LABELS

MOOD = [" negative", " positive"]
YES_NO = [" No", " Yes"]
LETTERS = ["A", "B", "C"]
STARS = ["1", "2", "3", "12"]
NESTED = ["equivalent", "not_equivalent"]
DIFFERENT = ["different", "equivalent"]
GRADES = ["good", "good enough", "bad"]


@pytest.mark.parametrize(
    ("text", "labels", "named"),
    [
        # Closed forms, as elsewhere.
        ("positive", MOOD, " positive"),
        ("The film is praised. The final answer is: positive.", MOOD, " positive"),
        ("Final answer: B", LETTERS, "B"),
        ("Analysis: it lacks a verb.\n\nFinal Answer: No", YES_NO, " No"),
        # Behind "answer", in the last sentence that names one.
        ("The plot is thin, so the answer must surely be negative overall.", MOOD, " negative"),
        (
            "One answer is negative. On reflection, my answer here is positive too.",
            MOOD,
            " positive",
        ),
        ("So the final answer is positive, not negative.", MOOD, " positive"),
        ("The answer here is not positive but negative.", MOOD, " negative"),
        ("The answer, then:\n\n**Positive**\n\nThe negative words are few.", MOOD, " positive"),
        ("The answer to whether it is positive is negative.", MOOD, " negative"),
        ("I say the answer is: No, because the verb is missing.", YES_NO, " No"),
        ("So my answer would be option B, as it has most.", LETTERS, "B"),
        ("Thus the answer is 12, out of 20 at most.", STARS, "12"),
        # The last one named at all.
        ("Some words are negative, but the whole is positive", MOOD, " positive"),
        ("I find it positive. Still, the ending makes it negative", MOOD, " negative"),
        ("It has a verb.\nYes, the sentence is well formed", YES_NO, " Yes"),
        ("It has no verb.\nNo", YES_NO, " No"),
        ("There is no error.", YES_NO, None),
        ("A fine film, 2 hours long.", LETTERS, None),
        ("1. The cast\n2. The plot", STARS, None),
        ("Of all films of 1999 it has 3.5 or 12% of the votes", STARS, None),
        # Whole words only.
        ("It is written positively.", MOOD, None),
        ("It is non-positive throughout", MOOD, None),
        ("A positive-sounding text", MOOD, None),
        # Labels that are parts of others.
        ("I think they are not equivalent here", NESTED, "not_equivalent"),
        ("I think they are equivalent here", NESTED, "equivalent"),
        ("I would call the work good enough on the whole", GRADES, "good enough"),
        ("I would call the work good on the whole", GRADES, "good"),
        ("Alles in allem ein grosser Spaß", ["Ernst", "Spaß"], "Spaß"),
        # Denied.
        ("It is not positive", MOOD, None),
        ("It isn't really a positive text", MOOD, None),
        ("I find them not quite equivalent", DIFFERENT, None),
        ("It seems positive at first. In the end it is not positive.", MOOD, None),
        ("It seems negative at first, then positive, but is not positive.", MOOD, " negative"),
        ("It is not positive at first. In the end it is positive here", MOOD, " positive"),
        ("The answer was positive once. Now the answer is not positive.", MOOD, None),
        ("It is anything but positive", MOOD, None),
        ("There are no positive words", MOOD, None),
        ("It is not long, but positive", MOOD, " positive"),
        ("I do not know but positive is likely", MOOD, " positive"),
        # Asked, supposed, or listed.
        ("Is the answer positive?", MOOD, None),
        ("Let us see whether the sentence is positive.", MOOD, None),
        ("The text can be positive or negative.", MOOD, None),
        ("It is neither positive nor negative", MOOD, None),
        ("The answer is positive/negative", MOOD, None),
        ("Options are A, B and C.", LETTERS, None),
        ("Is it negative or positive? I hear praise, so positive it is", MOOD, " positive"),
        # Nothing.
        ("", MOOD, None),
        ("The film was shot in Rome.", MOOD, None),
    ],
)
def test_the_conclusion(text: str, labels: list[str], named: str | None) -> None:
    found = conclusion(text, labels)
    assert (None if found is None else labels[found]) == named
    back = conclusion(text, labels[::-1])
    assert (None if back is None else labels[::-1][back]) == named


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("I would say the work is good", None),  # "good enough", perhaps
        ("I would say the work is good, and", "good"),
        ("It is bad. I would say that it is good", "bad"),
    ],
)
def test_a_text_that_was_cut_off(text: str, named: str | None) -> None:
    found = conclusion(text, GRADES, cut=True)
    assert (None if found is None else GRADES[found]) == named
    assert conclusion(text, GRADES) is not None


@given(
    st.lists(
        st.sampled_from(
            [
                "positive",
                "negative",
                "not",
                "or",
                "answer",
                "is",
                "the",
                "The",
                "whether",
                "\n",
                ".",
                ",",
                "?",
                ":",
                "(",
                "*",
                "'",
            ]
        ),
        max_size=25,
    ).map(" ".join)
)
def test_only_what_is_there_is_named(text: str) -> None:
    found = conclusion(text, MOOD)
    assert found is None or MOOD[found].strip() in text
    assert conclusion(text, [label.upper() for label in MOOD]) == found


def test_long_texts_take_no_time() -> None:
    for piece in ("not ", "positive or ", "answer is ", "whether " * 3, "a" * 3, "'\"(*"):
        conclusion(piece * 2000, MOOD)


# ---------------------------------------------------------------- the method


class Says:
    """Writes the same few texts in turn, and cannot score."""

    description, digest, at_once = "says", "0a", None

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.asked: list[str] = []

    def write(self, prompts: Sequence[str], most_tokens: int) -> Written:
        assert most_tokens == method.MOST_TOKENS
        self.asked += prompts
        count = len(prompts)
        texts = [self.texts[number % len(self.texts)] for number in range(count)]
        cut = [text.endswith("...") for text in texts]
        return Written(texts, [2] * count, cut, count, count, 2 * count)

    def longest(self, text: str) -> int:
        return len(text)


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Says:
    model = Says("Sad. The final answer is negative.", "Hm...", "Who knows?")
    monkeypatch.setattr(commands, "language_model", lambda *_: model)
    monkeypatch.setattr(commands, "rows_fit", lambda *_: True)
    return model


def run(folder: Path, *settings: str) -> Result:
    small = (
        *settings,
        "task.test=6",
        "prompt.pool=4",
        "task.train_per_class=5",
        "task.validation_per_class=5",
    )
    path = folder / "cot.json"
    return commands.baseline(Asked("zero_shot_cot", "reviews", small, 2, 1, "none", "", path))


def test_an_answer_has_the_share_of_written_ones_and_none_leaves_all_equal(
    tmp_path: Path, says: Says
) -> None:
    found = run(tmp_path)
    named = [math.log(1 - OTHER_LABELS), math.log(OTHER_LABELS)]
    none = [math.log(0.5)] * 2
    assert set(found.log_probabilities) == {"1", "2"}
    for scores in found.log_probabilities.values():
        np.testing.assert_allclose(scores, [named, none, none] * 2, atol=1e-6)
    assert found.details == {"answers without a label": 4, "answers cut off": 2}


@pytest.mark.parametrize(
    ("template", "label"),
    [("Review: {sentence1}\nMood:", 0), ("The review: {sentence1}. So?", 1), ("{sentence1}:", 1)],
)
def test_rows_that_the_model_goes_on_with_are_not_read(
    tmp_path: Path, says: Says, template: str, label: int
) -> None:
    says.texts = ("Sad. The final answer is negative.\n\nReview: Fine.\nAnswer: positive",)
    found = run(tmp_path, "task.template=" + json.dumps("[[{fragment}]]" + template))
    for scores in found.log_probabilities.values():
        np.testing.assert_array_equal(np.argmax(scores, axis=1), label)


def test_workers_with_the_same_rows_pay_once(tmp_path: Path, says: Says) -> None:
    found = run(tmp_path)
    assert found.tuning.calls == 0
    assert (found.tests.calls, found.tests.completion_tokens) == (6, 12)
    assert found.tests.prompt_tokens == sum(map(len, says.asked))


def test_the_request_follows_the_manual_prompt(tmp_path: Path, says: Says) -> None:
    run(tmp_path)
    for text in says.asked:
        assert text.startswith("Review: ")
        assert text.endswith("\nsentiment:" + method.REQUEST)
