import json
import os
import re
import time
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.task import jsonlines
from asyndbt_mpi.task.dataset import Dataset, Row, divide, load

GOOD = b'{"sentence1": "a", "label": 0}\n'
LABELS = [" a", " b"]


def folder_with(path: Path, train: bytes, dev: bytes = GOOD) -> Path:
    (path / "train.jsonl").write_bytes(train)
    (path / "dev.jsonl").write_bytes(dev)
    return path


def loaded(path: Path, *columns: str, seed: int = 0, **keys: Any) -> Dataset:
    task = TaskSection(**{"path": str(path), "labels": LABELS, **keys})
    return load(task, columns or ("sentence1",), seed)


def refused(path: Path, *columns: str, **keys: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded(path, *columns, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def row(text: str, label: int) -> Row:
    return Row({"sentence1": text}, label)


def test_rows_are_read_as_written(tmp_path: Path) -> None:
    # U+2028 is a line separator to str.splitlines, but not to JSON Lines.
    train = '{"sentence1": "a\u2028{b}", "sentence2": "c", "label": 1, "idx": 7}\r\n'
    data = loaded(folder_with(tmp_path, GOOD + train.encode()))
    assert data.train == [row("a", 0), row("a\u2028{b}", 1)]
    assert data.dev == [row("a", 0)]
    assert data.labels == LABELS
    assert data.train[1].place == f"{tmp_path / 'train.jsonl'}, line 2"


def test_only_the_columns_of_the_template_are_kept(tmp_path: Path) -> None:
    pair = b'{"sentence1": "a", "sentence2": "b", "other": [1], "label": 1}'
    data = loaded(folder_with(tmp_path, pair, pair), "sentence2", "sentence1")
    assert data.train == data.dev == [Row({"sentence1": "a", "sentence2": "b"}, 1)]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert loaded(folder_with(tmp_path, b"")).train == []


def test_empty_lines_are_passed_over(tmp_path: Path) -> None:
    data = loaded(folder_with(tmp_path, GOOD + b"\n" + GOOD + b" \n", GOOD))
    assert len(data.train) == 2


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "is a list, but every line must be one object"),
        (b"1", "must be an object"),
        (b'{"sentence1": "\xff", "label": 0}', "is not UTF-8 text at byte 15 (0xff); convert"),
        (rb'{"sentence1": "\ud800", "label": 0}', "half of a surrogate pair"),
        (b'{"label": 0}', "sentence1 is missing"),
        (b'{"sentence1": 5, "label": 0}', "sentence1 must be a text, not a number"),
        (b'{"sentence1": null, "label": 0}', "sentence1 must be a text, not null"),
        (b'{"sentence1": " ", "label": 0}', "sentence1 must not be empty"),
        (b'{"sentence1": "a"}', "label is missing"),
        (b'{"sentence1": "a", "label": 2}', 'no label stands for label = "2" (1 row)'),
        (b'{"sentence1": "a", "label": -1}', 'no label stands for label = "-1" (1 row)'),
        (b'{"sentence1": "a", "label": true}', "whole number or a text, not true or false"),
        (b'{"sentence1": "a", "label": 1.0}', "whole number or a text, not a number"),
        (b'{"sentence1": "a", "label": null}', "whole number or a text, not null"),
        (b'{"sentence1": "a", "label": ""}', "whole number or a text, not empty"),
        (b'{"sentence1": "a", "label": "c"}', 'no label stands for label = "c" (1 row)'),
        (
            b'{"sentence1": "a", "label": 0, "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
            "nested too deeply",
        ),
        (b'{"sentence1": "a", "label": 0, "label": 1}', "the key 'label' occurs twice"),
        (b'{"sentence1": "a", "label": 0, "x": {"y": 1, "y": 1}}', "the key 'y' occurs twice"),
        (b'{"sentence1": "a", "label": 1' + b"0" * 5000 + b"}", "a whole number of 5001 digits"),
        (b'{"sentence1": "a", "label": 1' + b"0" * 4000 + b"}", "label = a long text"),
        (b'{"sentence1": "a", "label": NaN}', "NaN is not a JSON number"),
        (b'{"sentence1": "a", "label": 0, "x": Infinity}', "Infinity is not a JSON number"),
        (b'\xef\xbb\xbf{"sentence1": "a", "label": 0}', "BOM"),
        (b'{"sentence1": "a\0b", "label": 0}', "not valid JSON"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, fault: str) -> None:
    text = refused(folder_with(tmp_path, GOOD, GOOD + line + b"\n" + GOOD))
    assert text.startswith(f"{tmp_path / 'dev.jsonl'}, line 2: ")
    assert fault in text


def test_no_text_is_quoted(tmp_path: Path) -> None:
    for line in (
        b'{"sentence1": ["secret"], "label": 0}',
        b'{"sentence1": {"secret": 1}, "label": 0}',
        b'{"sentence1": "secret", "label": "a secret that is longer than a label"}',
        b'{"sentence1": "secret", "label": ["secret"]}',
        b'{"sentence1": "secret',
        b'{"sentence1": "secret\xff", "label": 0}',
    ):
        assert "secret" not in refused(folder_with(tmp_path, line))


def test_texts_taken_for_labels_are_not_quoted(tmp_path: Path) -> None:
    lines = [json.dumps({"sentence1": f"secret {n}", "label": 0}) for n in range(30)]
    folder = folder_with(tmp_path, "\n".join(lines).encode())
    for labels in (LABELS, {"0": " a", "1": " b"}, []):
        text = refused(folder, label_column="sentence1", labels=labels)
        assert "secret" not in text
        assert "31 different" in text


def test_only_regular_files_of_a_bounded_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tmp_path, GOOD)
    train = folder / "train.jsonl"
    with open(train, "wb") as file:
        file.truncate(2**40)
    assert "it is larger than 1 GiB" in refused(folder)
    train.unlink()
    os.mkfifo(train)
    assert "it is a pipe or a device" in refused(folder)
    train.unlink()
    train.symlink_to("/dev/zero")
    assert "it is a pipe or a device" in refused(folder)
    train.unlink()
    train.write_bytes(GOOD + b"x" * 200)
    monkeypatch.setattr(jsonlines, "LONGEST_LINE", 100)
    assert refused(folder).endswith("train.jsonl, line 2: is longer than 100 bytes")


def test_many_keys_take_little_time(tmp_path: Path) -> None:
    keys = "".join(f'"{number}": 1, ' for number in range(100_000))
    line = f'{{{keys}"99999": 2, "sentence1": "a", "label": 0}}'
    start = time.process_time()
    assert "the key '99999' occurs twice" in refused(folder_with(tmp_path, line.encode()))
    assert time.process_time() - start < 5


# ---------------------------------------------------------------- files and folders


def test_path_goes_before_name(tmp_path: Path) -> None:
    assert len(loaded(folder_with(tmp_path, GOOD), name="reviews").train) == 1


@pytest.mark.parametrize("path", ["none", "none.csv", "none/train.csv"])
def test_a_missing_path_is_named(tmp_path: Path, path: str) -> None:
    text = refused(tmp_path / path)
    assert text.startswith(f"task.path = '{tmp_path / path}': no such file or folder")


def test_data_that_do_not_ship_need_a_path() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(TaskSection(name="sst2", labels=LABELS), ["sentence1"], 0)
    assert str(caught.value) == (
        "task.path: preset data 'sst2' is not shipped; give a file, or a folder with train.* and"
        " dev.*, validation.* or test.* (.jsonl, .csv, .tsv or .parquet)"
    )


def test_a_file_is_read_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_bytes(GOOD)
    assert "must end in .jsonl, .ndjson, .json, .csv, .tsv or .parquet" in refused(
        tmp_path / "rows.txt"
    )


@pytest.mark.parametrize(
    ("names", "parts", "unused"),
    [
        (["train.csv", "dev.jsonl", "README.md"], ("train.csv", "dev.jsonl"), 0),
        (["train.jsonl", "validation.csv"], ("train.jsonl", "validation.csv"), 0),
        (["train.csv", "test.csv"], ("train.csv", "test.csv"), 0),
        (["train.csv", "test.csv", "validation.csv"], ("train.csv", "validation.csv"), 1),
    ],
)
def test_a_folder_has_a_part_for_training_and_one_for_judging(
    tmp_path: Path, names: list[str], parts: tuple[str, str], unused: int
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(GOOD if name.endswith("jsonl") else b"sentence1,label\na,0\n")
    data = loaded(tmp_path)
    assert data.names == tuple(str(tmp_path / part) for part in parts)
    assert data.train == data.dev == [row("a", 0)]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["train.csv"], "but has train.csv; a file that task.split divides is named itself"),
        (["dev.csv", "validation.csv"], "but has dev.csv, validation.csv"),
        ([], "but has no table"),
        (["train.csv", "train.jsonl", "dev.csv"], "has train.csv and train.jsonl; keep one"),
        (["train.csv", "test.csv", "test.tsv"], "has test.csv and test.tsv; keep one"),
    ],
)
def test_a_folder_whose_parts_are_unclear_is_refused(
    tmp_path: Path, names: list[str], line: str
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert line in refused(tmp_path)


def write(path: Path, labels: list[Any]) -> Path:
    """Rows with the texts t0, t1, ... and these labels."""
    lines = [json.dumps({"text": f"t{n}", "label": label}) for n, label in enumerate(labels)]
    path.write_text("\n".join(lines))
    return path


@given(
    counts=st.lists(st.integers(0, 30), min_size=2, max_size=4),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 9),
)
@settings(deadline=None)
def test_a_file_is_split_by_class(counts: list[int], share: float, seed: int) -> None:
    rows = [row(str(n), label) for label, count in enumerate(counts) for n in range(count)]
    train, dev = divide(rows, share, seed)
    assert (train, dev) == divide(rows, share, seed)
    assert sorted(map(rows.index, train + dev)) == list(range(len(rows)))
    for part in (train, dev):
        assert [each for each in rows if each in part] == part
    for label, count in enumerate(counts):
        assert abs(sum(each.label == label for each in dev) - share * count) <= 0.5


def test_the_split_of_a_file_is_drawn_by_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [0, 1] * 50)
    one, other = (loaded(path, "text", seed=seed, split=0.2) for seed in (1, 2))
    assert Counter(each.label for each in one.dev) == {0: 10, 1: 10}
    assert one.dev != other.dev
    assert [each.texts["text"] for each in one.dev] != [f"t{n}" for n in range(20)]
    assert one.names == (f"{path} (80% of it)", f"{path} (20% of it)")


# ---------------------------------------------------------------- columns


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,Body,Review Text,label\n1,a,b,0\n")
    path = tmp_path / "rows.csv"
    assert refused(path, "review text") == (
        f"task.template: {{review text}} is no column of {path}; its columns are 'Review Text',"
        " 'id', 'Body', 'label'"
    )
    assert refused(path, "Body", label_column="lable") == (
        f"task.label_column = 'lable' is no column of {path}; its columns are 'label', 'id',"
        " 'Body', 'Review Text'"
    )


def test_a_column_may_be_missing_in_one_of_two_files(tmp_path: Path) -> None:
    other = b'{"sentence": "a", "label": 0}'
    assert "{sentence1} is no column of" in refused(folder_with(tmp_path, GOOD, other))
    assert f"{tmp_path / 'dev.jsonl'}; its columns are 'sentence'" in refused(tmp_path)


def test_any_column_holds_the_labels(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("Class Index,text\n1,a\n0,b\n")
    data = loaded(tmp_path / "rows.csv", "text", label_column="Class Index", split=0.1)
    assert data.train == [Row({"text": "a"}, 1), Row({"text": "b"}, 0)]


# ---------------------------------------------------------------- labels


def classes(path: Path, values: list[Any], labels: Any) -> tuple[list[int], list[str]]:
    data = loaded(write(path / "rows.jsonl", values), "text", labels=labels, split=0.01)
    return [each.label for each in data.train], data.labels


@pytest.mark.parametrize(
    ("values", "labels", "numbers"),
    [
        ([1, 0, 1], LABELS, [1, 0, 1]),
        (["1", "0", "1"], LABELS, [1, 0, 1]),
        (["b", " a", "b "], LABELS, [1, 0, 1]),
        ([2, 1, 2], [" 1", " 2"], [1, 0, 1]),
        ([0, 2, 1], [" 1", " 2", " 3"], [0, 2, 1]),
        ([0, 1], [" 0", " 1"], [0, 1]),
        (["x", "y"], {"y": " b", "x": " a"}, [1, 0]),
        ([3, 1, 2], {"1": " bad", "2": " fair", "3": " good"}, [2, 0, 1]),
        ([5, 1, 2], {"1": " bad", "2": " bad", "5": " good"}, [1, 0, 0]),
    ],
)
def test_values_stand_for_labels(
    tmp_path: Path, values: list[Any], labels: Any, numbers: list[int]
) -> None:
    assert classes(tmp_path, values, labels)[0] == numbers


def test_keys_that_differ_only_in_blanks_are_refused(tmp_path: Path) -> None:
    labels = {"a": " first", "a ": " second"}
    assert "differ only in blanks" in refused(
        write(tmp_path / "rows.jsonl", ["a"]), "text", labels=labels
    )


@pytest.mark.parametrize(
    ("values", "labels", "numbers"),
    [
        (["y", "x", "y"], [" x", " y"], [1, 0, 1]),
        ([10, 9, 0], [" 0", " 9", " 10"], [2, 1, 0]),
        (["World News", "a.b = 'c'"], [" World News", " a.b = 'c'"], [0, 1]),
    ],
)
def test_labels_are_taken_from_the_data(
    tmp_path: Path, values: list[Any], labels: list[str], numbers: list[int]
) -> None:
    assert classes(tmp_path, values, []) == (numbers, labels)


@pytest.mark.parametrize(
    ("values", "labels", "fault"),
    [
        (["x", "b", "x"], LABELS, 'no label stands for label = "x" (2 rows); known are "a", "b"; a'
         ' table names them: labels = { "x" = " a", ... }'),
        ([0, 1, 2, 2, -1], LABELS, 'label = "2" (2 rows), "-1" (1 row); known are "0", "1"'),
        (["A", "b"], LABELS, 'no label stands for label = "A" (1 row)'),
        (["x"], {"y": " b", "z": " a"}, 'label = "x" (1 row); known are "y", "z"'),
        (["x" * 61, "y"], {}, "values of more than 60 characters"),
        ([1, 2], [" 1", " 2", " 3"], "can be class numbers, counted from 0, or the labels"),
        ([0, 1], [" 1", " 0"], 'labels = { "0" = " 0", "1" = " 1" }'),
        (["Sport", "sport", "x"], [], 'only: "Sport" (1 row), "sport" (1 row); to make them one'
         ' class: labels = { "Sport" = " Sport", "sport" = " Sport" }'),
        (["x" * 61, "y"], [], "values of more than 60 characters"),
        (["a\tb", "y"], [], "must not contain the control character"),
        (list(range(500)) * 2, [], "500 different values in 1,000 rows, too many to be labels"),
        (list(range(50)), [], "50 different values in 50 rows, too many to be labels"),
    ],
)  # fmt: skip
def test_values_that_stand_for_no_label_are_counted(
    tmp_path: Path, values: list[Any], labels: Any, fault: str
) -> None:
    path = write(tmp_path / "rows.jsonl", values)
    assert fault in refused(path, "text", labels=labels)


def test_classes_are_those_of_both_parts(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ["x", "z"])
    write(tmp_path / "dev.jsonl", ["y", "z"])
    data = loaded(tmp_path, "text", labels=[])
    assert data.labels == [" x", " y", " z"]
    assert [each.label for each in data.train + data.dev] == [0, 2, 1, 2]


# ---------------------------------------------------------------- the shipped reviews


def test_reviews_are_balanced_unique_and_plain() -> None:
    data = load(TaskSection(name="reviews", labels=LABELS), ["sentence1"], 0)
    for rows in (data.train, data.dev):
        assert Counter(row.label for row in rows) == {0: 195, 1: 195}
    texts = [row.texts["sentence1"] for row in data.train + data.dev]
    assert len({re.sub(r"\W+", " ", text).casefold() for text in texts}) == 780
    assert all(text.isascii() and text.isprintable() for text in texts)
    assert all(text == text.strip() and "  " not in text for text in texts)


def test_reviews_are_no_near_duplicates() -> None:
    data = load(TaskSection(name="reviews", labels=LABELS), ["sentence1"], 0)
    words = [
        set(re.findall(r"[a-z']+", row.texts["sentence1"].lower())) for row in data.train + data.dev
    ]
    for number, one in enumerate(words):
        assert all(len(one & other) <= 0.5 * len(one | other) for other in words[:number])


def test_reviews_hold_two_keys_only() -> None:
    folder = resources.files("asyndbt_mpi.task") / "data" / "reviews"
    for name in ("train.jsonl", "dev.jsonl"):
        for line in (folder / name).read_text("utf-8").splitlines():
            assert list(json.loads(line)) == ["sentence1", "label"]
