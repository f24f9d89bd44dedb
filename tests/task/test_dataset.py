import json
import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.task import dataset
from asyndbt_mpi.task.dataset import Row, load, locate

GOOD = b'{"sentence1": "a", "label": 0}\n'


def folder_with(path: Path, train: bytes, dev: bytes = GOOD) -> Path:
    (path / "train.jsonl").write_bytes(train)
    (path / "dev.jsonl").write_bytes(dev)
    return path


def test_rows_are_read_as_written(tmp_path: Path) -> None:
    # U+2028 is a line separator to str.splitlines, but not to JSON Lines.
    train = '{"sentence1": "a\u2028{b}", "sentence2": "c", "label": 1, "idx": 7}\r\n'
    data = load(folder_with(tmp_path, GOOD + train.encode()), classes=2, pairs=False)
    assert data.train == [Row("a", None, 0), Row("a\u2028{b}", None, 1)]
    assert data.dev == [Row("a", None, 0)]


def test_pairs_have_a_second_sentence(tmp_path: Path) -> None:
    pair = b'{"sentence1": "a", "sentence2": "b", "label": 1}'
    data = load(folder_with(tmp_path, pair, pair), classes=2, pairs=True)
    assert data.train == data.dev == [Row("a", "b", 1)]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert load(folder_with(tmp_path, b""), classes=2, pairs=False).train == []


def test_empty_lines_are_passed_over(tmp_path: Path) -> None:
    data = load(folder_with(tmp_path, GOOD + b"\n" + GOOD + b" \n", GOOD), 2, pairs=False)
    assert len(data.train) == 2


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "not valid JSON"),
        (b'{"sentence1": "\xff", "label": 0}', "utf-8"),
        (rb'{"sentence1": "\ud800", "label": 0}', "half of a surrogate pair"),
        (b'["a", 0]', "must be an object"),
        (b'{"label": 0}', "sentence1 is missing"),
        (b'{"sentence1": 5, "label": 0}', "sentence1 must be a text"),
        (b'{"sentence1": " ", "label": 0}', "sentence1 must not be empty"),
        (b'{"sentence1": "a"}', "label must be a whole number from 0 to 1"),
        (b'{"sentence1": "a", "label": 2}', "not 2"),
        (b'{"sentence1": "a", "label": -1}', "not -1"),
        (b'{"sentence1": "a", "label": true}', "not true"),
        (b'{"sentence1": "a", "label": 1.0}', "not 1.0"),
        (b'{"sentence1": "a", "label": "1"}', 'not "1"'),
        (b"[" * 200_000, "nested too deeply"),
        (
            b'{"sentence1": "a", "label": 0, "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
            "deeply",
        ),
        (b'{"sentence1": "a", "label": 0, "label": 1}', "the key 'label' occurs twice"),
        (b'{"sentence1": "a", "label": 0, "x": {"y": 1, "y": 1}}', "the key 'y' occurs twice"),
        (b'{"sentence1": "a", "label": 1' + b"0" * 5000 + b"}", "a whole number of 5001 digits"),
        (b'{"sentence1": "a", "label": 1' + b"0" * 4000 + b"}", "not the value given"),
        (b'{"sentence1": "a", "label": NaN}', "NaN is not a JSON number"),
        (b'{"sentence1": "a", "label": 0, "x": Infinity}', "Infinity is not a JSON number"),
        (b'\xef\xbb\xbf{"sentence1": "a", "label": 0}', "BOM"),
        (b'{"sentence1": "a\0b", "label": 0}', "not valid JSON"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, fault: str) -> None:
    folder = folder_with(tmp_path, GOOD, GOOD + line + b"\n" + GOOD)
    with pytest.raises(ConfigurationError, match=re.escape(fault)) as caught:
        load(folder, classes=2, pairs=False)
    assert str(caught.value).startswith(f"{tmp_path / 'dev.jsonl'}, line 2: ")
    assert "\n" not in str(caught.value)


def test_a_missing_second_sentence_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"train.jsonl, line 1: sentence2 is missing"):
        load(folder_with(tmp_path, GOOD), classes=2, pairs=True)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    with pytest.raises(ConfigurationError, match=r"task.path: cannot read .*dev.jsonl"):
        load(tmp_path, classes=2, pairs=False)


def test_path_goes_before_name(tmp_path: Path) -> None:
    assert locate(TaskSection(name="reviews", path=str(tmp_path))) == tmp_path


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    with pytest.raises(ConfigurationError, match=r"task.path = '.*none': no such folder"):
        locate(TaskSection(path=path))


def test_data_that_do_not_ship_need_a_path() -> None:
    with pytest.raises(ConfigurationError) as caught:
        locate(TaskSection(name="sst2"))
    assert str(caught.value) == (
        "task.path: preset data 'sst2' is not shipped; "
        "give the folder with train.jsonl and dev.jsonl"
    )


# ---------------------------------------------------------------- the shipped reviews


def test_reviews_are_balanced_unique_and_plain() -> None:
    data = load(locate(TaskSection(name="reviews")), classes=2, pairs=False)
    for rows in (data.train, data.dev):
        assert Counter(row.label for row in rows) == {0: 195, 1: 195}
    texts = [row.sentence1 for row in data.train + data.dev]
    assert len({re.sub(r"\W+", " ", text).casefold() for text in texts}) == 780
    assert all(text.isascii() and text.isprintable() for text in texts)
    assert all(text == text.strip() and "  " not in text for text in texts)


def test_reviews_are_no_near_duplicates() -> None:
    data = load(locate(TaskSection(name="reviews")), classes=2, pairs=False)
    words = [set(re.findall(r"[a-z']+", row.sentence1.lower())) for row in data.train + data.dev]
    for number, one in enumerate(words):
        assert all(len(one & other) <= 0.5 * len(one | other) for other in words[:number])


def test_reviews_hold_two_keys_only() -> None:
    folder = locate(TaskSection(name="reviews"))
    for name in ("train.jsonl", "dev.jsonl"):
        for line in (folder / name).read_text("utf-8").splitlines():
            assert list(json.loads(line)) == ["sentence1", "label"]


def test_no_text_is_quoted(tmp_path: Path) -> None:
    for line in (
        b'{"sentence1": ["secret"], "label": 0}',
        b'{"sentence1": {"secret": 1}, "label": 0}',
        b'{"sentence1": "secret", "label": "a secret that is longer than a label"}',
        b'{"sentence1": "secret", "label": ["secret"]}',
        b'{"sentence1": "secret',
        b'{"sentence1": "secret\xff", "label": 0}',
    ):
        with pytest.raises(ConfigurationError) as caught:
            load(folder_with(tmp_path, line), classes=2, pairs=False)
        assert "secret" not in str(caught.value)


def test_only_regular_files_of_a_bounded_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tmp_path, GOOD)
    train = folder / "train.jsonl"

    def refusal() -> str:
        with pytest.raises(ConfigurationError) as caught:
            load(folder, classes=2, pairs=False)
        return str(caught.value)

    with open(train, "wb") as file:
        file.truncate(2**40)
    assert "it is larger than 1 GiB" in refusal()
    train.unlink()
    os.mkfifo(train)
    assert "it is a pipe or a device" in refusal()
    train.unlink()
    train.symlink_to("/dev/zero")
    assert "it is a pipe or a device" in refusal()
    train.unlink()
    train.write_bytes(GOOD + b"x" * 200)
    monkeypatch.setattr(dataset, "LONGEST_LINE", 100)
    assert refusal().endswith("train.jsonl, line 2: is longer than 100 bytes")


def test_many_keys_take_little_time(tmp_path: Path) -> None:
    keys = "".join(f'"{number}": 1, ' for number in range(100_000))
    line = f'{{{keys}"99999": 2, "sentence1": "a", "label": 0}}'
    start = time.process_time()
    with pytest.raises(ConfigurationError, match="the key '99999' occurs twice"):
        load(folder_with(tmp_path, line.encode()), classes=2, pairs=False)
    assert time.process_time() - start < 5
