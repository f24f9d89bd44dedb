"""The shipped requests to a household assistant."""

import json
import re
from collections import Counter
from importlib import resources
from itertools import combinations, pairwise

from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.task.dataset import Dataset, Row, load

LABELS = ["reminder", "music", "weather", "shopping", "travel", "cooking", "home"]
CLASSES = len(LABELS)


def requests() -> Dataset:
    return load(TaskSection(name="requests", labels=LABELS), ["sentence1"], seed=0)


def rows() -> list[Row]:
    data = requests()
    return data.train + data.dev


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.casefold())


def test_classes_are_balanced() -> None:
    data = requests()
    assert Counter(row.label for row in data.train) == dict.fromkeys(range(CLASSES), 90)
    assert Counter(row.label for row in data.dev) == dict.fromkeys(range(CLASSES), 70)


def test_rows_are_shuffled() -> None:
    data = requests()
    for part in (data.train, data.dev):
        # Sorted by class, hardly any row would have a neighbour of another one.
        changes = sum(one.label != other.label for one, other in pairwise(part))
        assert changes > 0.75 * len(part)


def test_texts_are_plain_and_short() -> None:
    for text in (row.texts["sentence1"] for row in rows()):
        assert text.isascii(), text
        assert text.isprintable(), text
        assert text == " ".join(text.split()), text
        assert 3 <= len(text.split()) <= 20, text


def test_no_text_occurs_twice() -> None:
    times = Counter(" ".join(words(row.texts["sentence1"])) for row in rows())
    assert [text for text, count in times.items() if count > 1] == []


def test_no_two_texts_are_near_duplicates() -> None:
    sets = [frozenset(words(row.texts["sentence1"])) for row in rows()]
    # |A & B| / |A | B| of the words, whatever the classes.
    near = [(a, b) for a, b in combinations(sets, 2) if len(a & b) > 0.5 * len(a | b)]
    assert near == []


def test_openings_are_not_a_pattern() -> None:
    openings = Counter((row.label, *words(row.texts["sentence1"])[:4]) for row in rows())
    assert [opening for opening, count in openings.items() if count > 4] == []
    first = Counter((row.label, words(row.texts["sentence1"])[0]) for row in rows())
    assert max(first.values()) <= 20  # of 160


def test_label_words_seldom_occur_in_the_texts() -> None:
    for label, word in enumerate(LABELS):
        texts = [words(row.texts["sentence1"]) for row in rows() if row.label == label]
        assert sum(word in text for text in texts) <= 0.1 * len(texts), word


def test_lines_hold_two_keys_only() -> None:
    folder = resources.files("asyndbt_mpi.task") / "data" / "requests"
    for name in ("train.jsonl", "dev.jsonl"):
        for line in (folder / name).read_text("utf-8").splitlines():
            assert list(json.loads(line)) == ["sentence1", "label"]
