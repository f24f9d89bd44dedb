"""CRC-32 of what a log says, by which an accident to it shows.

/batch has one for each column's rows of every batch; the attribute `SEAL` of the root is that of
its other attributes and of the columns of fixed length, that of /stationarity is of what was added
there. They are of the values that are read, so that a fault anywhere between the disk and the
reader counts. Whoever can write the file can write its checksums as well.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np

from asyndbt_mpi.log import schema
from asyndbt_mpi.log.schema import Column

SEAL = "checksum"


def of_rows(column: Column, rows: np.ndarray, before: int = 0) -> int:
    """Checksum of ``rows`` of a column that follow those whose checksum is ``before``.

    An iterate that was left out adds nothing. Text is str or, as it stands in the file, bytes.
    """
    if column.dtype == schema.TEXT:
        return of_some(column, rows.tolist(), before)
    if column.iterate:
        left_out = np.isnan(rows[:, 0, 0])
        if left_out.any():  # else no copy is made
            rows = rows[~left_out]
    return _of_array(rows, before)


def of_some(column: Column, values: Iterable[Any], before: int = 0) -> int:
    """As `of_rows`, of a value for each row, None where it is left out."""
    if column.dtype == schema.TEXT:
        return zlib.crc32(b"".join(_bytes_of(text or b"") + b"\0" for text in values), before)
    for value in values:
        if value is not None:
            before = _of_array(np.asarray(value, column.dtype), before)
    return before


def of_attribute(value: object) -> int:
    """Checksum of an attribute's value."""
    return zlib.crc32(_bytes_of(value))


def parts(file: h5py.File) -> dict[str, int]:
    """Checksums of all that the seal covers, by name of the attribute or path of the column."""
    found = {name: of_attribute(value) for name, value in file.attrs.items() if name != SEAL}
    for column in schema.fixed():
        found[column.path] = of_rows(column, file[column.path][:])
    return found


def of_parts(found: Mapping[str, int]) -> np.uint32:
    """The seal."""
    lines = (f"{name}\0{checksum}\0" for name, checksum in sorted(found.items()))
    return np.uint32(zlib.crc32("".join(lines).encode(errors="surrogateescape")))


def seal(file: h5py.File) -> None:
    """Seal the root as it is in the file."""
    file.attrs.modify(SEAL, of_parts(parts(file)))


def of_stationarity(group: h5py.Group) -> np.uint32:
    """Checksum of what was added to the log."""
    checksum = of_attribute(group.attrs.get("kind", ""))
    for name in ("iteration", *schema.STATIONARITY):
        checksum = _of_array(group[name][:], checksum)
    return np.uint32(checksum)


def _of_array(array: np.ndarray, before: int) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data, before)


def _bytes_of(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    return np.asarray(value).tobytes()
