"""Parquet, and data sets of the library `datasets`."""

import importlib
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs import hub
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.task import arrow
from asyndbt_mpi.task.dataset import Dataset, Row, load
from asyndbt_mpi.task.sources import read_tables

ROWS = [{"text": f"t{n}", "label": n % 2, "score": n / 2} for n in range(10)]


def loaded(path: object, labels: Any = ()) -> Dataset:
    return load(TaskSection(path=str(path), labels=labels or []), ["text"], 0)


def refused(path: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def texts(rows: list[Row]) -> set[str]:
    return {row.texts["text"] for row in rows}


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    importlib.import_module("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


def test_parquet_is_read_by_rows(parquet: Path) -> None:
    data = loaded(parquet, [" no", " yes"])
    assert texts(data.train + data.dev) == {row["text"] for row in ROWS}
    for row in data.train:
        assert row.label == int(row.texts["text"][1:]) % 2
        assert row.place == f"{parquet}, row {int(row.texts['text'][1:]) + 1}"


def test_all_cells_that_are_asked_for_are_texts_or_numbers(parquet: Path) -> None:
    table = read_tables(TaskSection(path=str(parquet))).train
    assert table.columns == ["text", "label", "score"]
    assert table.records[3].cells == {"text": "t3", "label": 1}


def test_a_damaged_parquet_file_is_refused(parquet: Path) -> None:
    parquet.write_bytes(parquet.read_bytes()[:-20])
    assert refused(parquet) == f"{parquet}: is not a valid Parquet file"


def test_a_column_that_parquet_lacks_is_named(parquet: Path) -> None:
    with pytest.raises(ConfigurationError, match="its columns are 'text', 'label', 'score'"):
        load(TaskSection(path=str(parquet)), ["texts"], 0)


def dataset(names: list[str], rows: list[dict[str, Any]]) -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=names),
        "score": datasets.Value("float64"),
    })  # fmt: skip
    return datasets.Dataset.from_list(rows, features=features)


@pytest.mark.parametrize("ending", ["", ".parquet"])
def test_classes_have_the_names_that_the_data_give_them(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    saved = dataset(["sport", "art"], ROWS)
    saved.to_parquet(path) if ending else saved.save_to_disk(path)
    by_number = {f"t{n}": n % 2 for n in range(10)}
    for labels, texts_of in (
        ([], [" art", " sport"]),
        ([" art", " sport"], [" art", " sport"]),
        ({"art": " a", "sport": " s"}, [" a", " s"]),
        ([" first", " second"], [" first", " second"]),
    ):
        data = loaded(path, labels)
        assert data.labels == texts_of
        swapped = labels != [" first", " second"]  # else they go by number
        for row in data.train + data.dev:
            assert row.label == by_number[row.texts["text"]] ^ swapped


def test_the_splits_of_a_saved_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {"train": ROWS[:6], "test": ROWS[6:8], "validation": ROWS[8:]}
    whole = {name: dataset(["a", "b"], rows) for name, rows in parts.items()}
    datasets.DatasetDict(whole).save_to_disk(tmp_path)
    data = loaded(tmp_path)
    assert (texts(data.train), texts(data.dev)) == ({f"t{n}" for n in range(6)}, {"t8", "t9"})
    assert read_tables(TaskSection(path=str(tmp_path))).unused == ["test"]


def test_a_data_set_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "state.json").write_text("{")
    assert refused(tmp_path).startswith(f"task.path = '{tmp_path}': cannot be loaded: ")


@pytest.mark.parametrize(
    ("path", "library"),
    [("rows.parquet", "pyarrow"), ("saved", "datasets"), ("hf:a/b", "datasets")],
)
def test_a_missing_library_is_named(
    tmp_path: Path, path: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> None:
        raise ImportError(name)

    (tmp_path / "rows.parquet").touch()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arrow.importlib, "import_module", none)
    text = refused(path)
    assert f'needs {library}, which is not installed: pip install "asyndbt_mpi[data]"' in text
    assert path in text


def test_a_hub_name_has_an_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "_library", lambda name, what: None)
    assert "is written hf:OWNER/NAME" in refused("hf:news")


def test_a_hub_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(arrow, "_library", lambda name, what: None)
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as silent:  # accepts, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        start = time.monotonic()
        text = refused("hf:owner/news")
    assert time.monotonic() - start < 5
    assert "127.0.0.1 cannot be reached from" in text
    assert "within 0.2 s; where it can, save the data set" in text
