"""GLUE's own files and columns come to the same rows as JSON Lines with the presets' columns."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from asyndbt_mpi.assemble import Materials, prepare
from asyndbt_mpi.commands.data import report
from asyndbt_mpi.config import ConfigurationError, load
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.task import arrow
from asyndbt_mpi.task.sources import read_tables

Rows: TypeAlias = list[tuple[tuple[str, ...], int]]

PAIRS = {"mrpc", "qqp", "qnli"}
SMALL = (
    *("prompt.pool=2", "task.train_per_class=2", "task.validation_per_class=2", "task.test=4"),
    *("algorithm.active_workers=1", "algorithm.min_workers=1", "algorithm.max_delay=1"),
)
QNLI = ["entailment", "not_entailment"]


def rows(preset: str, part: str, count: int = 12) -> Rows:
    """Texts with quotation marks that are never closed, or that would be a whole cell."""
    ends = ['says "no', '"quoted"', "it's so", 'one "" two', 'a "b" c', '" at first']
    found = []
    for number in range(count):
        texts = [f"{preset} {part} {number} {ends[number % 6]}", f"other {number} {ends[-1]}"]
        found.append((tuple(texts[: 1 + (preset in PAIRS)]), number // 2 % 2))
    return found


def lines(*cells: Sequence[object]) -> bytes:
    return "".join("\t".join(map(str, each)) + "\n" for each in cells).encode()


def sst2(rows: Rows) -> bytes:
    return lines(("sentence", "label"), *((*texts, label) for texts, label in rows))


def cola(rows: Rows) -> bytes:
    return lines(*(("gj04", label, "" if label else "*", *texts) for texts, label in rows))


def mrpc(rows: Rows) -> bytes:
    header = "Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"
    body = lines(header, *((label, 702876, 702977, *texts) for texts, label in rows))
    return b"\xef\xbb\xbf" + body.replace(b"\n", b"\r\n")


def qqp(rows: Rows) -> bytes:
    header = "id", "qid1", "qid2", "question1", "question2", "is_duplicate"
    return lines(header, *((n, 1, 2, *texts, label) for n, (texts, label) in enumerate(rows)))


def qnli(rows: Rows) -> bytes:
    header = "index", "question", "sentence", "label"
    return lines(header, *((n, *texts, QNLI[label]) for n, (texts, label) in enumerate(rows)))


WRITE: dict[str, Callable[[Rows], bytes]] = {
    "sst2": sst2, "cola": cola, "mrpc": mrpc, "qqp": qqp, "qnli": qnli,
}  # fmt: skip

HUB = {
    "sst2": (["sentence"], ["negative", "positive"]),
    "cola": (["sentence"], ["unacceptable", "acceptable"]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"]),
    "qnli": (["question", "sentence"], QNLI),
}


def hub_rows(preset: str, rows: Rows) -> list[dict[str, Any]]:
    names, _ = HUB[preset]
    return [
        {**dict(zip(names, texts, strict=True)), "label": label, "idx": number}
        for number, (texts, label) in enumerate(rows)
    ]


def prepared(preset: str, path: object, *settings: str) -> Materials:
    return prepare(load(preset, [f"task.path={path}", *SMALL, *settings]), 1)


def refused(preset: str, path: object, *settings: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        prepared(preset, path, *settings)
    assert str(caught.value).isprintable()
    return str(caught.value)


def json_lines(folder: Path, preset: str) -> Materials:
    """The same rows, as the presets have them."""
    folder.mkdir()
    for part in ("train", "dev"):
        with (folder / f"{part}.jsonl").open("w") as file:
            for texts, label in rows(preset, part):
                cells = dict(zip(("sentence1", "sentence2"), texts, strict=False))
                file.write(json.dumps({**cells, "label": label}) + "\n")
    return prepared(preset, folder)


def tsv(folder: Path, preset: str, parts: Iterable[str] = ("train", "dev")) -> Path:
    for part in parts:
        (folder / f"{part}.tsv").write_bytes(WRITE[preset](rows(preset, part)))
    return folder


@pytest.mark.parametrize("preset", WRITE)
def test_a_folder_of_glue(tmp_path: Path, preset: str) -> None:
    expected = json_lines(tmp_path / "json", preset)
    assert expected.data_notes == []
    tsv(tmp_path, preset)
    # Without labels, for the benchmark's own server; it is not read.
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tx\n")
    found = prepared(preset, tmp_path)
    assert found.data_digest == expected.data_digest
    [note] = found.notes(load(preset))
    assert note.startswith("task.path: columns of GLUE (")
    assert "as sentence1" in note
    assert ("label not_entailment as 1" in note) == (preset == "qnli")


@pytest.mark.parametrize("preset", WRITE)
def test_the_wording_of_the_paper_reads_the_same_classes(tmp_path: Path, preset: str) -> None:
    tsv(tmp_path, preset)
    plain, paper = (prepared(preset, tmp_path, *each) for each in ((), ("task.wording=paper",)))
    assert plain.data == paper.data


def test_mrpc_as_its_authors_offer_it(tmp_path: Path) -> None:
    expected = json_lines(tmp_path / "json", "mrpc")
    for name, part in (("train", "train"), ("test", "dev")):
        path = tmp_path / f"msr_paraphrase_{name}.txt"
        path.write_bytes(mrpc(rows("mrpc", part)))
    assert prepared("mrpc", tmp_path).data_digest == expected.data_digest
    (tmp_path / "msr_paraphrase_test.txt").unlink()
    assert "but has msr_paraphrase_train.txt" in refused("mrpc", tmp_path)


@pytest.mark.parametrize("preset", HUB)
def test_columns_of_the_hub(tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = json_lines(tmp_path / "json", preset)
    names, classes = HUB[preset]

    def from_hub(path: str, wanted: Any) -> dict[str, arrow.Columns]:
        assert path == f"hf:nyu-mll/glue/{preset}"
        assert {*names, "label"} <= {*wanted}
        test = [{**row, "label": -1} for row in hub_rows(preset, rows(preset, "test"))]
        parts = {
            "train": hub_rows(preset, rows(preset, "train")),
            "validation": hub_rows(preset, rows(preset, "dev")),
            "test": test,
        }
        columns = [*names, "label", "idx"]
        return {
            part: arrow.Columns(columns, each, {"label": classes}) for part, each in parts.items()
        }

    monkeypatch.setattr(arrow, "from_hub", from_hub)
    found = prepared(preset, f"hf:nyu-mll/glue/{preset}")
    assert found.data_digest == expected.data_digest
    assert len(found.data_notes) == (preset != "mrpc")


@pytest.mark.parametrize("preset", HUB)
def test_a_data_set_of_the_hub_that_was_saved(tmp_path: Path, preset: str) -> None:
    datasets = pytest.importorskip("datasets")
    expected = json_lines(tmp_path / "json", preset)
    names, classes = HUB[preset]
    features = datasets.Features({
        **{name: datasets.Value("string") for name in names},
        "label": datasets.ClassLabel(names=classes),
        "idx": datasets.Value("int32"),
    })  # fmt: skip
    parts = {
        part: datasets.Dataset.from_list(hub_rows(preset, rows(preset, own)), features=features)
        for part, own in (("train", "train"), ("validation", "dev"))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert prepared(preset, tmp_path / "saved").data_digest == expected.data_digest


def test_one_file_is_split(tmp_path: Path) -> None:
    path = tmp_path / "questions.tsv"
    path.write_bytes(qqp(rows("qqp", "train", 40)))
    assert prepared("qqp", path).data_notes


def test_a_template_with_the_files_own_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('sentence\tlabel\n"a ""b"""\t0\nc\t1\n')
    own = TaskSection(path=str(path), template="[[{fragment}]]{sentence}")
    table = read_tables(own).train
    assert (table.columns, table.notes) == (["sentence", "label"], [])
    assert table.records[0].cells["sentence"] == 'a "b"'
    of_presets = own.model_copy(update={"template": "[[{fragment}]]{sentence1}"})
    table = read_tables(of_presets).train
    assert table.records[0].cells["sentence1"] == '"a ""b"""'


def test_labels_by_name_are_not_translated(tmp_path: Path) -> None:
    tsv(tmp_path, "qnli")
    labels = 'task.labels={ "entailment" = " Yes", "not_entailment" = " No" }'
    found = prepared("qnli", tmp_path, labels)
    assert found.data == prepared("qnli", tmp_path).data
    assert "not_entailment" not in found.data_notes[0]


def test_damaged_rows_are_left_out_with_a_note(tmp_path: Path) -> None:
    tsv(tmp_path, "qqp")
    many = rows("qqp", "train", 400)
    many[7] = (many[7][0][0], " "), 1
    content = qqp(many).splitlines(keepends=True)
    content[20:20] = [b"20\t1\t2\tcut off\n"]
    (tmp_path / "train.tsv").write_bytes(b"".join(content))
    found = prepared("qqp", tmp_path, "task.train_per_class=197", "prompt.pool=1")
    assert found.data_notes[1:] == [
        f"{tmp_path / 'train.tsv'}: 1 of 401 rows do not have 6 cells, the first is line 21:"
        " they are left out",
        f"{tmp_path / 'train.tsv'}: 1 of 400 rows have an empty text, the first is line 9:"
        " they are left out",
    ]
    assert found.data is not None
    assert found.data[1].class_counts == [200, 199]
    held = found.data[1]
    last = f"{tmp_path / 'train.tsv'}, line 402"
    assert last in {row.place for part in (held.train, *held.pool) for row in part}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (b"1\t1\t2\tcut off\n", "do not have 6 cells, the first is line 14; is the file whole?"),
        (b"1\t1\t2\ta\t\t0\n", "have an empty text, the first is line 14; is the file whole?"),
        (b"1\t1\t2\ta\tb\t2\n", "line 14: no label stands for label = \"2\" (1 row)"),
        (b"1\t1\t2\ta\xe9\tb\t1\n", "line 14: is not UTF-8 text"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_refused(tmp_path: Path, row: bytes, fault: str) -> None:
    tsv(tmp_path, "qqp")
    with (tmp_path / "train.tsv").open("ab") as file:
        file.write(row)
    assert fault in refused("qqp", tmp_path)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    tsv(tmp_path, "cola", ["train"])
    assert refused("cola", tmp_path) == (
        f"task.path: {tmp_path} needs {'train.* and dev.*, validation.* or test.*'} (.jsonl, .csv,"
        " .tsv or .parquet), but has train.tsv; a file that task.split divides is named itself"
    )


def test_a_class_with_too_few_rows_is_named(tmp_path: Path) -> None:
    tsv(tmp_path, "sst2")
    text = refused("sst2", tmp_path, "prompt.pool=50")
    assert "train.tsv has 6 rows of class 0 (' negative'), but the 1 workers need 52" in text


@pytest.mark.parametrize(
    ("preset", "content", "fault"),
    [
        ("sst2", b"text\tstars\nfine\t1\n", "{sentence1} is no column of"),
        ("mrpc", sst2(rows("sst2", "train")), "{sentence1} is no column of"),
        ("sst2", qnli(rows("qnli", "train")), "{sentence1} is no column of"),
        ("cola", b"gj04\t7\t\tA text.\n", "is no header"),
        ("mrpc", qqp(rows("qqp", "train")), "has GLUE's columns of qqp, but task.name is 'mrpc'"),
        ("sst2", cola(rows("cola", "train")), "has GLUE's columns of cola, but task.name"),
    ],
)
def test_an_unknown_layout_is_refused(
    tmp_path: Path, preset: str, content: bytes, fault: str
) -> None:
    for part in ("train", "dev"):
        (tmp_path / f"{part}.tsv").write_bytes(content)
    assert fault in refused(preset, tmp_path)


def test_the_report_of_the_data_tells_what_was_renamed(tmp_path: Path) -> None:
    tsv(tmp_path, "qqp")
    told = [*report("qqp", [f"task.path={tmp_path}", *SMALL])]
    assert (
        "note: task.path: columns of GLUE (qqp) are read: question1 as sentence1, question2 as"
        " sentence2, is_duplicate as label"
    ) in told
