import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.task.tables import Table, read_table

# Whatever a cell may hold; a row that is nothing but an empty cell is an empty line.
CELLS = st.text(
    st.characters(codec="utf-8") | st.sampled_from(",;\t\"'\n\r| {}\u2028"),
    max_size=12,
)
HEADER = ["text", "a title", "label"]


def written(rows: Iterable[list[str]], separator: str, ending: str) -> bytes:
    table = io.StringIO(newline="")
    # Python does not quote a lone \r unless it is part of the ending.
    quoting = csv.QUOTE_MINIMAL if ending == "\r\n" else csv.QUOTE_ALL
    writer = csv.writer(table, delimiter=separator, lineterminator=ending, quoting=quoting)
    writer.writerows(rows)
    return table.getvalue().encode()


def read(folder: Path, content: bytes, name: str = "rows.csv") -> Table:
    (folder / name).write_bytes(content)
    return read_table(folder / name)


def refused(folder: Path, content: bytes, name: str = "rows.csv") -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(folder, content, name)
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix(f"{folder / name}")


def cells(table: Table) -> list[list[str]]:
    return [list(record.cells.values()) for record in table.records]


@given(
    rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=5),
    separator=st.sampled_from([",", ";", "\t"]),
    ending=st.sampled_from(["\r\n", "\n"]),
    marked=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_what_python_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str]],
    separator: str,
    ending: str,
    marked: bool,
) -> None:
    rows = [row for row in rows if separator != "\t" or not _spans(row)]
    content = b"\xef\xbb\xbf" * marked + written([HEADER, *rows], separator, ending)
    table = read(tmp_path_factory.getbasetemp(), content)
    assert table.columns == HEADER
    assert cells(table) == rows
    names = {",": "commas", ";": "semicolons", "\t": "tabs"}
    mark = " with a byte order mark" * marked
    assert table.format == f"CSV, separated by {names[separator]}, UTF-8{mark}"


def _spans(row: list[str]) -> bool:
    """A cell of a table with tabs may hold a tab or a line break, but not both."""
    return any("\t" in cell and "\n" in cell for cell in row)


def test_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    table = read(tmp_path, b'text,label\n\n"one\ntwo\r\nthree",0\r\nlast,1\n')
    assert [(record.number, record.cells["label"]) for record in table.records] == [
        (3, "0"),
        (6, "1"),
    ]
    assert table.place(table.records[1]) == f"{tmp_path / 'rows.csv'}, line 6"


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (b"text,label", ["text", "label"]),
        (b"text;label", ["text", "label"]),
        (b"text\tlabel", ["text", "label"]),
        (b'text;"a, b";label', ["text", "a, b", "label"]),
        (b'"a;b",label', ["a;b", "label"]),
        (b"text", ["text"]),
        (b" text , label ", ["text", "label"]),
        (b",text,label", ["", "text", "label"]),
    ],
)
def test_the_separator_is_the_one_that_divides_the_header(
    tmp_path: Path, header: bytes, columns: list[str]
) -> None:
    assert read(tmp_path, header + b"\n").columns == columns


def test_a_tsv_is_separated_by_tabs(tmp_path: Path) -> None:
    table = read(tmp_path, b"a, b; c\tlabel\nx, y\t0\n", "rows.TSV")
    assert table.columns == ["a, b; c", "label"]
    assert table.format == "TSV, separated by tabs, UTF-8"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", ": is empty; the first line must name the columns"),
        (b"\n\n", ": is empty"),
        (b"text,label\na,0\nb\n", ", line 3: has 1 cells, but the header names 2 columns"),
        (b"text,label\na, b,0\n", ", line 2: has 3 cells, but the header names 2 columns"),
        (b'text,label\n"a,0\nb,1\n', ", line 2: unexpected end of data; quotation marks"),
        (b'text,label\n"a"b,0\n', ", line 2: ',' expected after '\"'; quotation marks"),
        (b'text\tlabel\n"a"b\t0\n', ", line 2: 'tab' expected after '\"'"),
        (b'text\tlabel\n"a\t0\nb"\t1\n', ", line 2: a quotation mark that opens a cell is not"),
        (b"text,text\na,0\n", ", line 1: two columns have the same name"),
        (b"text, text\na,0\n", ", line 1: two columns have the same name"),
        (b"3,secret\n1,secret\n", ", line 1: is no header, for a name of a column is a number"),
        (b"x,%s\n1,b\n" % (b"secret" * 11), ", line 1: is no header"),
        (b'"secret\nb",label\n', ", line 1: is no header"),
        (b"text;a,label\n", ", line 1: commas and semicolons divide the header into equally many"),
        (b"text,label\na,0\nsecret \xe9,1\n", ", line 3: is not UTF-8 text at byte 22 (0xe9)"),
        ("text,label\na,0\n".encode("utf-16"), "perhaps with: iconv -f UTF-16 -t UTF-8"),
        (b"caf\xe9,label\n", "perhaps with: iconv -f WINDOWS-1252 -t UTF-8"),
        (
            b"text,label\n" + b"x" * (2**24 + 1) + b",0\n",
            ", line 2: a cell has more than 16,777,216",
        ),
        (
            b"\xef\xbb\xbftext,label\nsecret \xe9,1\n",
            ", line 2: is not UTF-8 text at byte 21 (0xe9)",
        ),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    text = refused(tmp_path, content)
    assert fault in text
    assert "secret" not in text


def test_json_lines_have_the_columns_of_any_line(tmp_path: Path) -> None:
    lines = [{"b": 1, "a": "x"}, {"c": None, "a": "y"}]
    table = read(tmp_path, "\n".join(map(json.dumps, lines)).encode(), "rows.ndjson")
    assert table.columns == ["b", "a", "c"]
    assert [record.cells for record in table.records] == lines


def test_only_wanted_cells_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c\n1,2,3\n")
    table = read_table(path, {"c", "none"})
    assert table.columns == ["a", "b", "c"]
    assert table.records[0].cells == {"c": "3"}
