import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.template import Template, without_space

REVIEW = "[[Note: {fragment}\n]]Review: {sentence1}\nSentiment:"
LABELS = [" negative", " positive"]


def test_the_fragment_and_its_part_come_and_go() -> None:
    template = Template(REVIEW, LABELS)
    row = Row({"sentence1": "Dull."}, 0)
    assert template.render(row, ["judge", "tone"]) == "Note: judge tone\nReview: Dull.\nSentiment:"
    assert template.render(row, None) == "Review: Dull.\nSentiment:"
    assert template.demonstrate(row, None) == "Review: Dull.\nSentiment: negative"
    assert template.columns == ["sentence1"]


def test_columns_are_shown_where_the_template_names_them() -> None:
    template = Template("{Review Text} / {t.en}[[ ({fragment}, {who})]]?", [" No", " Yes"])
    assert template.columns == ["Review Text", "t.en", "who"]
    row = Row({"t.en": "a", "Review Text": "b", "who": "d"}, 1)
    assert template.demonstrate(row, ["c"]) == "b / a (c, d)? Yes"
    assert template.render(row, None) == "b / a?"


@given(first=st.text(), second=st.text(), word=st.text(min_size=1))
@settings(deadline=None)
def test_whatever_is_put_in_survives(first: str, second: str, word: str) -> None:
    template = Template("<[[{fragment}|]]{sentence1}|{sentence2}>", LABELS)
    assert (
        template.render(Row({"sentence1": first, "sentence2": second}, 0), [word])
        == f"<{word}|{first}|{second}>"
    )


@pytest.mark.parametrize(
    "braces", ["{fragment}", "{sentence2}", "{}", "{{x}}", "[[a]]", r"\1 \g<0>"]
)
def test_placeholders_in_a_sentence_are_plain_text(braces: str) -> None:
    text = Template(REVIEW, LABELS).render(Row({"sentence1": braces}, 0), ["w"])
    assert text == f"Note: w\nReview: {braces}\nSentiment:"


def test_other_braces_and_brackets_of_a_template_are_plain_text() -> None:
    template = Template('{"text": {sentence1}} [yes/no] {}[[{fragment}]]', LABELS)
    assert template.render(Row({"sentence1": "a"}, 0), None) == '{"text": a} [yes/no] {}'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "exactly one part in double square brackets"),
        ("{sentence1} {fragment}", "exactly one part in double square brackets"),
        ("[[{fragment} {sentence1}", "exactly one part in double square brackets"),
        ("{fragment}]][[ {sentence1}", "exactly one part in double square brackets"),
        ("[[{fragment}]] {sentence1} [[x]]", "exactly one part in double square brackets"),
        ("[[{fragment} [[x]]]] {sentence1}", "exactly one part in double square brackets"),
        ("[[{fragment}]] x", "needs a column of the data outside"),
        ("[[{fragment} {sentence1}]]", "needs a column of the data outside"),
        ("[[Note: ]]{sentence1}", "needs {fragment} inside"),
        ("[[Note: ]]{sentence1}{fragment}", "needs {fragment} inside"),
        ("[[{fragment}]]{sentence1}{fragment}", "needs {fragment} inside"),
    ],
)
def test_a_wrong_template_is_explained(text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(fault)) as caught:
        Template(text, LABELS)
    assert str(caught.value).startswith("task.template: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ([], "task.labels = []: at least 2"),
        ([" yes"], "task.labels = [' yes']: at least 2"),
        ([" yes", ""], "task.labels[1] = '': must not be empty"),
        ([" yes", " "], "task.labels[1] = ' ': must not be empty"),
        ([" yes", " no", " yes"], "task.labels[2] = ' yes': must differ from the others"),
        ([" yes", "yes "], "must differ from the others, but reads the same as task.labels[0]"),
        ([" caf\u00e9", " cafe\u0301"], "must differ from the others"),
        ([" yes", " \uff59es"], "must differ from the others"),
        ([" yes", " ye\u200bs"], "must differ from the others"),
        ([" yes", "\u200b"], "must not be empty"),
    ],
)
def test_wrong_labels_are_explained(labels: list[str], fault: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(fault)):
        Template(REVIEW, labels)


@pytest.mark.parametrize("end", ["Sentiment:", "{sentence1}", "It is"])
def test_labels_without_their_space_are_told(end: str) -> None:
    for text in (f"[[{{fragment}}\n]]{{sentence1}} {end}", f"{{sentence1}} [[{{fragment}} ]]{end}"):
        assert without_space(Template(text, LABELS)) == ""
        assert without_space(Template(text, ["no", " yes", "0"])) == (
            "task.labels: 'no' (and 1 more) has no leading space, and task.template does not end"
            " with one: the model reads them as one word; write ' no'"
        )


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("{sentence1} [[{fragment}]]Topic: ", ["sport", "art"]),
        ("{sentence1} [[{fragment}]]Topic:\n", ["sport", "art"]),
        ("{sentence1} [[{fragment}]]Topic (", ["a)", "b)"]),
        ('{sentence1} [[{fragment}]]Topic: "', ['a"', 'b"']),
        ("{sentence1} [[{fragment}]]主题:", ["体育", "艺术"]),
        ("{sentence1} [[{fragment}]]Good:", ["😀", "!"]),
    ],
)
def test_labels_that_need_no_space(text: str, labels: list[str]) -> None:
    assert without_space(Template(text, labels)) == ""


def test_a_text_may_end_with_the_fragment() -> None:
    assert without_space(Template("{sentence1}: [[{fragment}]]", ["a", "b"])) != ""
    assert without_space(Template("{sentence1}: [[{fragment}\n]]", ["a", "b"])) == ""
