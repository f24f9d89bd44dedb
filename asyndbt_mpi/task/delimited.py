"""CSV and TSV: a header with the names of the columns, then one row after another."""

import codecs
import csv
import io
from collections.abc import Iterator

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import not_utf8

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}

LONGEST_NAME = 60
"""Characters of a column's name: a longer one is a text, in a file without header."""

LONGEST_CELL = 2**24
"""Characters: more than any model reads."""

Rows = Iterator[tuple[int, dict[str, str]]]


def read(content: bytes, name: str) -> tuple[str, list[str], Rows]:
    """The format in words, the columns, and the line and cells of every row that is not empty.

    The separator of a .tsv is the tab; of a .csv it is the one that divides the header.

    Raises
    ------
    ConfigurationError
        The file is not UTF-8, or has no header, or the separator is not clear. While the rows are
        read: one of them is malformed. The message names the file ``name`` and the line.
    """
    text, marked = decoded(content, name)
    separator = "\t" if name.lower().endswith(".tsv") else _separator(text, name)
    header = _header(text, separator, name)
    encoding = "UTF-8 with a byte order mark" if marked else "UTF-8"
    kind = "TSV" if name.lower().endswith(".tsv") else "CSV"
    format = f"{kind}, separated by {SEPARATORS[separator]}, {encoding}"
    return format, header, _rows(text, separator, header, name)


def decoded(content: bytes, name: str) -> tuple[str, bool]:
    """The text of a file, and whether it began with a byte order mark.

    Raises
    ------
    ConfigurationError
        It is not UTF-8; the message names the file ``name`` and the line.
    """
    plain = content.removeprefix(codecs.BOM_UTF8)
    try:
        return plain.decode("utf-8"), len(plain) < len(content)
    except UnicodeDecodeError as error:
        error.start += len(content) - len(plain)
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{name}, line {line}: {not_utf8(content, error)}") from error


def _lines(text: str, separator: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """The first line and the cells of every record that is not empty."""
    csv.field_size_limit(LONGEST_CELL)
    # Without translation, so that line breaks within quotes stay as they are.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # Python's message quotes no text, only the separator.
            said = str(error).replace("\t", "tab")
            if "field limit" in said:
                said = f"a cell has more than {LONGEST_CELL:,} characters"
            raise ConfigurationError(
                f"{name}, line {line}: {said}; quotation marks around a cell must be closed, and"
                " those within it doubled"
            ) from error
        if cells:
            yield line, cells


def _separator(text: str, name: str) -> str:
    """The separator that divides the header into most columns."""
    found = {}
    for separator in SEPARATORS:
        try:
            found[separator] = len(next(_lines(text, separator, name))[1])
        except (ConfigurationError, StopIteration):
            continue
    most = max(found.values(), default=1)
    best = [separator for separator, columns in found.items() if columns == most]
    if most > 1 and len(best) > 1:
        raise ConfigurationError(
            f"{name}, line 1: {' and '.join(SEPARATORS[each] for each in best)} divide the header"
            f" into equally many columns ({most}); quote the names, or use tabs and the ending .tsv"
        )
    return best[0] if most > 1 else ","


def _header(text: str, separator: str, name: str) -> list[str]:
    line, cells = next(_lines(text, separator, name), (1, None))
    if cells is None:
        raise ConfigurationError(f"{name}: is empty; the first line must name the columns")
    names = [cell.strip() for cell in cells]
    # Not quoted, for they may be texts. One may be nameless: pandas writes its index that way.
    if any(len(each) > LONGEST_NAME or "\n" in each or _is_number(each) for each in names):
        raise ConfigurationError(
            f"{name}, line {line}: is no header, for a name of a column is a number or longer than"
            f" {LONGEST_NAME} characters; add a first line with the names of the columns"
        )
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{name}, line {line}: two columns have the same name")
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _rows(text: str, separator: str, header: list[str], name: str) -> Rows:
    lines = _lines(text, separator, name)
    next(lines)
    for line, cells in lines:
        if len(cells) != len(header):
            raise ConfigurationError(
                f"{name}, line {line}: has {len(cells)} cells, but the header names {len(header)}"
                " columns; a cell that contains the separator must be in quotation marks"
            )
        # A quotation mark that is text, and opens a cell, would swallow what comes before the next.
        if separator == "\t" and any("\t" in cell and "\n" in cell for cell in cells):
            raise ConfigurationError(
                f"{name}, line {line}: a quotation mark that opens a cell is not closed on its"
                " line; if it is part of the text, put the cell in quotation marks and double it"
            )
        yield line, dict(zip(header, cells, strict=True))
