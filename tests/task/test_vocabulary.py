import os
import re
from pathlib import Path

import pytest

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.task.vocabulary import load_vocabulary, shipped


def test_a_list_is_cut_to_size() -> None:
    assert load_vocabulary(["a", "b", "c"], 2) == ["a", "b"]


def test_a_file_has_one_word_or_phrase_a_line(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("tone\nGefühl\nd'accord\nhow does it sound?", "utf-8")
    assert load_vocabulary(str(file), 4) == ["tone", "Gefühl", "d'accord", "how does it sound?"]


@pytest.mark.parametrize(
    ("name", "least"),
    [("instructions", 200), ("reviews", 120), ("english", 300)],
)
def test_shipped_vocabularies_are_plain_lower_case_words(name: str, least: int) -> None:
    words = load_vocabulary(name, least)
    assert len(words) == least
    assert all(re.fullmatch(r"[a-z]+", word) for word in words)


def test_words_for_requests_are_plain_words_and_phrases() -> None:
    words = load_vocabulary("requests", 81)
    assert all(re.fullmatch(r"[a-z]+(,? [a-z]+)*[?]?", word) for word in words)
    assert 4 <= sum(" " in word for word in words[:12]) <= 8


def test_everything_shipped_is_known() -> None:
    assert shipped() == ["english", "instructions", "requests", "reviews"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["a"], "prompt.vocabulary_size = 2: the vocabulary has only 1 words"),
        (["a", "b", "a"], "prompt.vocabulary, entry 3: 'a' is a repeat of number 1"),
        (["a", ""], "prompt.vocabulary, entry 2: empty"),
        (["a b", "c", "a b"], "prompt.vocabulary, entry 3: 'a b' is a repeat of number 1"),
        (
            ["a", "b  c"],
            "prompt.vocabulary, entry 2: 'b  c' has a blank at an end, or several in a row; remove it",
        ),
        (
            ["a", " b c"],
            "prompt.vocabulary, entry 2: ' b c' has a blank at an end, or several in a row; remove it",
        ),
        (
            ["a", "b "],
            "prompt.vocabulary, entry 2: 'b ' has a blank at an end, or several in a row; remove it",
        ),
        (
            ["a", " "],
            "prompt.vocabulary, entry 2: ' ' has a blank at an end, or several in a row; remove it",
        ),
        (["a", "b\tc"], "prompt.vocabulary, entry 2: 'b\\tc' contains a tab"),
        (["a", "b\n"], "prompt.vocabulary, entry 2: 'b\\n' contains a tab, a line break"),
        (["a", "b\u00a0c"], "prompt.vocabulary, entry 2: 'b\\xa0c' contains a tab, a line break"),
        (["a", "b\0"], "prompt.vocabulary, entry 2: 'b\\x00' contains a tab, a line break"),
    ],
)
def test_wrong_words_are_named(words: list[str], fault: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(fault)):
        load_vocabulary(words, 2)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the vocabulary has only 0 words"),
        (b"a\n\nb\n", "words.txt', line 2: empty"),
        (
            b"a\nb c \n",
            "words.txt', line 2: 'b c ' has a blank at an end, or several in a row; remove it",
        ),
        (b"a\nb\na\n", "words.txt', line 3: 'a' is a repeat of number 1"),
        (b"a\n\xff\n", "words.txt', line 2: not UTF-8 text"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=re.escape(fault)):
        load_vocabulary(str(file), 2)


def test_an_unknown_vocabulary_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="shipped are english, instructions, requests, reviews"
    ):
        load_vocabulary(str(tmp_path / "instruction"), 2)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_vocabulary(str(tmp_path), 2)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe, zeros = tmp_path / "pipe", tmp_path / "zeros"
    os.mkfifo(pipe)
    zeros.symlink_to("/dev/zero")
    faults = {pipe: "it is a pipe or", zeros: "it is a pipe or", tmp_path: "Is a directory"}
    for path, fault in faults.items():
        with pytest.raises(ConfigurationError, match=f"cannot be read: {fault}"):
            load_vocabulary(str(path), 2)


def test_a_word_is_no_page() -> None:
    with pytest.raises(ConfigurationError, match=r"entry 2: .* at most 100 characters") as caught:
        load_vocabulary(["a", "x y" * 10**6], 2)
    assert len(str(caught.value)) < 500
