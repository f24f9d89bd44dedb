"""A log may be a stranger's: is the file what this package writes, and nothing else?

HDF5 can do much that a log has no use for: show parts of other files as its own rows, lead links
anywhere, declare more rows than any disk holds, unfold a thousandfold. All of that is looked for
before a row is read, so that a log costs its reader no more than what follows from its size:

- the file is a regular one, and has the groups, datasets and attributes of `schema` at most, each
  an object of its own, with rows in this very file;
- rows that count are really stored, in all but p, q and z, which are read block by block;
- one row takes `room` at the most, a text `MOST_TEXT_BYTES`, and all texts of a dataset together
  no more than the file;
- what is compressed unfolds to no more than its chunk, or to `MOST_FOLDED_BYTES` times 1032.

HDF5 itself has to read the file for that. Against a fault of its own, this does not help.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import h5py
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z

from asyndbt_mpi import __version__
from asyndbt_mpi.inputs.toml import MOST_WRITTEN_BYTES
from asyndbt_mpi.log import schema
from asyndbt_mpi.log.checks.header import texts
from asyndbt_mpi.log.checks.heaps import MOST_TEXT_BYTES, REFERENCE, Heaps
from asyndbt_mpi.log.schema import Column
from asyndbt_mpi.log.storage.journal import JournaledFile
from asyndbt_mpi.protocol.messages import Shapes

MOST_CHUNK_BYTES = 1 << 20
"""Unless a single row takes more."""
MOST_FOLDED_BYTES = (1 << 18) + 4096
"""Of a compressed chunk; a larger one is unfolded by parts first. (gzip unfolds to 1032 times.)"""
LEAST_ROOM, ROOM_OF_A_BYTE = 1 << 26, 64
LEAST_HOLES, HOLES_OF_A_BYTE = 1 << 22, 8
"""Bytes of a file that may not be stored: zeros that a copy has left out, and room for a commit."""

LZF = 32000
PIPELINES: tuple[list[int], ...] = (
    [],
    [h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE],
    [h5z.FILTER_SHUFFLE, LZF],
)
ANCHORS = "iteration/active", "iteration/z"
"""Every log has them, with rows: so R, M and N are what the attributes say."""


class ForeignError(ValueError):
    """What the file has that no log has; the file's name is the caller's to add."""


def room(size: int) -> int:
    """Bytes that one row of a file of ``size`` bytes may take in memory."""
    return LEAST_ROOM + ROOM_OF_A_BYTE * size


# ---------------------------------------------------------------- the root


def format_of(file: h5py.File, source: JournaledFile) -> str:
    """The attribute of the root by which a log is known.

    Raises
    ------
    ForeignError
        It is not what it is in a log.
    """
    _check_holes(source)
    _check_lengths(file, "", source)
    return str(_attribute(file, "format") or "")


def _attribute(place: h5py.Group, name: str, kinds: Mapping[str, str] = schema.ATTRIBUTES) -> Any:
    """An attribute, None if there is none; its text is known not to be too long."""
    if not h5a.exists(place.id, name.encode()):
        return None
    found = h5a.open(place.id, name.encode())
    of_type, space, kind = found.get_type(), found.get_space(), kinds[name]
    single = space.get_simple_extent_type() == h5s.SCALAR
    if kind == "text":
        fits = _is_text(of_type)
    elif kind == "number":
        fits = of_type.get_class() in (h5t.INTEGER, h5t.FLOAT) and of_type.get_size() <= 8
    else:
        fits = _is_record(of_type)
    if not (single and fits):
        raise ForeignError(f"the attribute {name} is not a {kind}")
    return place.attrs[name]


def _check_holes(source: JournaledFile) -> None:
    """All that follows from a file's size is paid for in bytes that are stored."""
    size, stored = source.size, source.stored
    if size > LEAST_HOLES + HOLES_OF_A_BYTE * stored:
        raise ForeignError(
            f"has {size:,} bytes, of which only {stored:,} are stored; if that is intended, copy it"
            " with cp --sparse=never"
        )


def _check_lengths(file: h5py.File, path: str, source: JournaledFile) -> None:
    (address, _) = h5g.get_objinfo(file.id, f"/{path}".encode()).objno
    heaps = Heaps(source)
    try:
        for name, (length, heap) in texts(source, address).items():
            most = MOST_WRITTEN_BYTES if name == "config" else MOST_TEXT_BYTES
            if length > most:
                raise ForeignError(f"the attribute {name} has {length:,} bytes, more than {most:,}")
            heaps.check(heap)
    except ForeignError:
        raise
    except (ValueError, struct.error) as error:
        raise ForeignError(f"/{path} {error}") from error


def check(file: h5py.File, source: JournaledFile) -> None:
    """Look at everything that ``file``, which h5py reads from ``source``, consists of.

    Raises
    ------
    ForeignError
        The first thing that is wrong.
    """
    _check_holes(source)
    _check_lengths(file, "", source)
    _check_format(file)
    _check_attributes(file, "", schema.ATTRIBUTES)
    due = _due()
    stored = _Stored(source, _counts(file))
    addresses = {h5g.get_objinfo(file.id).objno}
    for path, address in _objects(file, due):
        if address in addresses:
            raise ForeignError(f"/{path} is a second name for something in the file")
        addresses.add(address)
        if path in due:
            found = h5d.open(file.id, path.encode())
            stored.check(path, due[path], found)
        if path == "stationarity":
            _check_lengths(file, path, source)
            _check_attributes(file, path, schema.STATIONARITY_ATTRIBUTES)
        else:
            _check_attributes(file, path, {})
    stored.check_counts()
    _check_anchors(file)


def _check_format(file: h5py.File) -> None:
    try:
        known = _attribute(file, "format") == schema.FORMAT
    except ForeignError:
        known = False
    if not known:
        raise ForeignError("an HDF5 file, but not an asyndbt log")
    version = _attribute(file, "format_version")
    if version != schema.FORMAT_VERSION:
        raise ForeignError(
            f"has format version {version}: the asyndbt_mpi that wrote it "
            f"({_attribute(file, 'package_version')}) can read it; this one ({__version__}) reads "
            f"version {schema.FORMAT_VERSION}"
        )
    if file.userblock_size:
        raise ForeignError("has a user block, which no log has")


def _check_attributes(file: h5py.File, path: str, due: Mapping[str, str]) -> None:
    number = h5a.get_num_attrs(h5o.open(file.id, f"/{path}".encode()))
    if number > len(due):
        raise ForeignError(f"/{path} has {number} attributes, but a log has {len(due)} there")
    if due:
        place = file[f"/{path}"]
        for name in place.attrs:
            if name not in due:
                raise ForeignError(f"/{path} has an attribute {name!r}, which no log has")
            _attribute(place, name, due)


@cache
def _due() -> dict[str, Column]:
    """The datasets that a log can have, by path."""
    columns = [column for group in schema.groups("l1").values() for column in group]
    columns += [Column(path, "", schema.TEXT) for path in schema.FIXED]
    columns += [Column(path, "", dtype) for path, dtype in schema.batch().items()]
    columns += schema.stationarity()
    return {column.path: column for column in columns}


def _objects(file: h5py.File, due: Mapping[str, Column]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Path and address of every object below the root, each of a kind that is due there."""
    groups = {path.rpartition("/")[0] for path in due}
    for group in sorted(groups):  # the root comes first, so that no link is followed
        if group and not file.id.links.exists(group.encode()):
            continue
        inside = h5g.open(file.id, f"/{group}".encode())
        names = {path.removeprefix(f"{group}/") for path in due if path.rpartition("/")[0] == group}
        names |= groups - {""} if not group else set()
        if inside.get_num_objs() > len(names):
            raise ForeignError(f"/{group} contains more than a log's does")
        for name in [each.decode(errors="backslashreplace") for each in inside]:
            path = f"{group}/{name}" if group else name
            if name not in names:
                raise ForeignError(f"/{path} is not part of a log")
            if inside.links.get_info(name.encode()).type != h5l.TYPE_HARD:
                raise ForeignError(f"/{path} is a link to something else")
            info = h5g.get_objinfo(inside, name.encode())
            if info.type != (h5g.DATASET if path in due else h5g.GROUP):
                raise ForeignError(f"/{path} is not what a log has there")
            yield path, info.objno


# ---------------------------------------------------------------- the datasets


def _counts(file: h5py.File) -> dict[str, int]:
    """How many rows of each group count in this file, by its attributes; those of batches -1.

    Raises
    ------
    ForeignError
        They are no numbers of rows.
    """
    records = [_attribute(file, name) for name in ("committed_rows", "kept_rows")]
    starts, committed = (_attribute(file, name) for name in ("starts", "committed"))
    counts: dict[str, int] = {}
    for record in records:
        if record is None:
            continue
        names = record.dtype.names
        if names != schema.ROWS_BY_GROUP.names:
            raise ForeignError(f"a bad attribute: rows of {names}, not of the log's groups")
        numbers = {group: int(record[group]) for group in names}
        if min(numbers.values()) < 0:
            raise ForeignError("a bad attribute: a negative number of rows")
        counts = counts or numbers
    if starts is not None and int(starts) < 1:
        raise ForeignError("a bad attribute: an impossible number of starts")
    kept = records[1]
    if kept is not None and any(int(kept[group]) > rows for group, rows in counts.items()):
        raise ForeignError("a bad attribute: more rows were kept than there are")
    if committed is not None and counts and not 0 <= int(committed) <= counts["iteration"]:
        raise ForeignError(
            f"a bad attribute: {int(committed)} iterations are committed,"
            f" but there are {counts['iteration']} rows"
        )
    return counts


class _Stored:
    """Are the rows that a file declares stored in it?  ``counts`` of each group are to be read."""

    def __init__(self, source: JournaledFile, counts: Mapping[str, int]) -> None:
        self.source = source
        self.size = source.size
        self.heaps = Heaps(source)
        self.counts = counts
        self.bytes = 0
        self.rows = dict.fromkeys(counts, 0)

    def check(self, path: str, column: Column, found: h5d.DatasetID) -> None:
        """Raise a `ForeignError` for what is wrong with one dataset."""
        is_text = _check_type(path, column, found.get_type())
        shape = found.shape
        if not shape:
            raise ForeignError(f"/{path} has a single value instead of rows")
        if len(shape) != 1 + len(column.axes):
            raise ForeignError(f"/{path} has rows of {len(shape) - 1} axes, not {len(column.axes)}")
        item = REFERENCE.size if is_text else found.get_type().get_size()
        row = item * math.prod(shape[1:])
        if row > room(self.size):
            raise ForeignError(
                f"/{path} has rows of {row:,} bytes, too long for a file of {self.size:,} bytes"
            )
        group = path.partition("/")[0]
        if shape[0] < self.counts.get(group, 0):
            raise ForeignError(
                f"/{path} has {shape[0]:,} rows, but {self.counts[group]:,} are said to count"
            )
        _check_layout(path, column, found, row, item)
        if column.iterate:  # maybe left out, and read in blocks: see `check_unfolding`
            return
        self.bytes += (stored := found.get_storage_size())
        if self.bytes > self.size:
            raise ForeignError(f"/{path} claims more bytes than the file has")
        read = min(shape[0], self.counts.get(group, shape[0]))
        if is_text:
            try:
                self.heaps.check_texts(found, read)
            except ValueError as error:
                raise ForeignError(f"/{path} {error}") from error
            if group in self.counts:
                return  # rows without a text take no room
        if read * row > stored:
            raise ForeignError(
                f"/{path} declares {read:,} rows, but only {stored:,} bytes are stored for them"
            )
        if group in self.counts:
            self.rows[group] = max(self.rows[group], read)

    def check_counts(self) -> None:
        """Raise a `ForeignError` where no column of a group has the rows that are said to count."""
        for group, count in self.counts.items():
            if count > self.rows[group]:
                raise ForeignError(
                    f"/{group} is said to have {count:,} rows, but has {self.rows[group]:,}"
                )


def _check_type(path: str, column: Column, of_type: h5t.TypeID) -> bool:
    """Whether it is text; which type exactly is due is for `verify` to say."""
    is_text, numeric = _is_text(of_type), (h5t.INTEGER, h5t.FLOAT, h5t.ENUM)
    if column.dtype.names:
        fits = _is_record(of_type)
    elif column.dtype == schema.TEXT:
        fits = is_text
    else:
        fits = of_type.get_class() in numeric and of_type.get_size() <= 8
    if not fits:
        raise ForeignError(f"/{path} has values of a type that no log has there")
    return is_text


def _is_text(of_type: h5t.TypeID) -> bool:
    return bool(of_type.get_class() == h5t.STRING and of_type.is_variable_str())


def _is_record(of_type: h5t.TypeID) -> bool:
    """Whether it is a record of whole numbers, of not too many."""
    return (
        of_type.get_class() == h5t.COMPOUND
        and of_type.get_size() <= MOST_TEXT_BYTES
        and all(
            of_type.get_member_class(index) == h5t.INTEGER
            for index in range(of_type.get_nmembers())
        )
    )


def _check_layout(path: str, column: Column, found: h5d.DatasetID, row: int, item: int) -> None:
    """Where the bytes are, and what has to be done to read them."""
    made = found.get_create_plist()
    layout = made.get_layout()
    if layout == h5d.VIRTUAL:
        raise ForeignError(f"/{path} is virtual: its rows are in other files")
    if layout == h5d.CONTIGUOUS and made.get_external_count():
        raise ForeignError(f"/{path} has its rows in another file")
    filters = [made.get_filter(index) for index in range(made.get_nfilters())]
    if layout != h5d.CHUNKED:
        if column.dtype == schema.TEXT:
            raise ForeignError(f"/{path} is not stored in chunks")
        return
    chunk = item * math.prod(made.get_chunk())
    if chunk > max(MOST_CHUNK_BYTES, row):
        raise ForeignError(f"/{path} has chunks of {chunk:,} bytes, which no log has")
    codes = [code for code, *_ in filters]
    if codes not in (PIPELINES if column.iterate else PIPELINES[:1]):
        raise ForeignError(f"/{path} has filters that no log has: {', '.join(map(str, codes))}")
    if codes[1:] == [LZF] and filters[1][2][2] != chunk:
        raise ForeignError(f"/{path} declares a wrong size for its unpacked chunks")


def _check_anchors(file: h5py.File) -> None:
    for path in ANCHORS:
        if path not in file:
            raise ForeignError(f"the dataset {path!r} is missing")


def check_rows(file: h5py.File, shapes: Shapes, workers: int, size: int) -> None:
    """Raise a `ForeignError` where rows have other shapes than the attributes say.

    Or where rows of such a run would be too long for a log of ``size`` bytes: whoever goes through
    a run again has such rows in memory, whether the log has any or not.
    """
    columns = [column for group in schema.groups("l2sq").values() for column in group]
    for column in (*columns, *schema.fixed()):
        due = column.row_shape(shapes, workers)
        if any(axis < 1 for axis in due):
            raise ForeignError(f"a bad attribute: rows of /{column.path} would have shape {due}")
        if math.prod(due) * 8 > room(size):
            raise ForeignError(
                f"is too small for a run of these sizes: one row of /{column.path} would take"
                f" {math.prod(due) * 8:,} bytes"
            )
        if column.path not in file:
            continue
        shape = file[column.path].shape
        if column.path in schema.FIXED:
            if shape != due:
                raise ForeignError(f"/{column.path} has {shape[0]} rows, not {due[0]}")
        elif shape[1:] != due:
            raise ForeignError(
                f"/{column.path} has rows of shape {shape[1:]}, but the attributes say {due}"
            )


def check_unfolding(dataset: h5py.Dataset, start: int, stop: int) -> None:
    """Raise a `ForeignError` if a compressed chunk with some of these rows is larger than it says.

    HDF5 unfolds a chunk to the end, whatever its size should be.
    """
    if dataset.compression is None:
        return
    size = dataset.dtype.itemsize * math.prod(dataset.chunks)
    step, rest = dataset.chunks[0], (0,) * (dataset.ndim - 1)
    for row in range(start - start % step, min(stop, len(dataset)), step):
        chunk = dataset.id.get_chunk_info_by_coord((row, *rest))
        if not chunk.size:
            continue
        fits = chunk.size <= max(MOST_FOLDED_BYTES, size + size // 64 + 64)
        if chunk.filter_mask:  # it was not worth it
            fits = chunk.size == size
        elif fits and chunk.size > MOST_FOLDED_BYTES and dataset.compression == "gzip":
            _, folded = dataset.id.read_direct_chunk((row, *rest))
            fits = len(zlib.decompressobj().decompress(folded, size + 1)) <= size
        if not fits:
            raise ForeignError(f"{dataset.name} unpacks to more than its rows, from row {row} on")
